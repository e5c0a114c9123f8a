"""Measures what compiling the denoising blocks saves and costs on this machine, and advises whether to use it.

    python benchmarks/compile.py [--task text2img] [--model FOLDER] [--mode regional] [--steps N] [--repeat 3] [--quick]

Runs two workers in succession, each in its own process with an empty torch cache (with `--quick`: a cache without
graphs). The first compiles; the second starts with the compiled code that the first kept. Each runs the same job
uncompiled and compiled, and reports the compile time, the longest wait that compiling could cause a job, and the number
of graphs that were not kept. On a GPU this shows what `COMPILE` is worth for your own model; without one it runs the
built-in model at a small size, whose times mean nothing for a GPU. Writes nothing outside a temporary folder.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from worker.api.params import Params
from worker.api.request import parse
from worker.api.resolve import resolve
from worker.core.config import load_settings
from worker.core.types import Sources, TaskType
from worker.engine.engine import Engine
from worker.engine.protocol import GeneratedImage
from worker.job.progress import Unattended

WORTH = 1.05
"""Minimum speed-up: less is within the noise between two runs."""


def main() -> None:
    """Print one row per worker, and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="text2img", choices=["text2img", "text2video"])
    parser.add_argument("--model", default=None, help="a model for it; else the one that the environment names")
    parser.add_argument("--mode", default="regional", choices=["regional", "full"])
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--size", type=int, nargs=2, default=None, metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a small job, once")
    parser.add_argument("--worker", default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        print(json.dumps(_worker(given, Path(given.worker))))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: _started(Path(folder), name) for name in ("first", "second")}
    first, second = rows["first"], rows["second"]
    print(f"{first['model']}, {given.task}, {first['job']}, COMPILE={given.mode}, {first['device']}")
    heads = f"{'compiling s':>11} {'longest wait s':>14} {'not found':>9} {'as it is s':>10} {'compiled s':>10}"
    print(f"{'worker':<8} {heads}")
    for name, row in rows.items():
        times = f"{row['compiling']:>11.1f} {row['longest']:>14.1f} {row['missed']:>9} {row['plain']:>10.2f}"
        print(f"{name:<8} {times} {row['compiled']:>10.2f}")
    ratio, away = first["plain"] / first["compiled"], max(first["away"], second["away"])
    print(f"as it is / compiled: {ratio:.2f}x; pixels differ by at most {away} of 255; graphs: {first['graphs']}")
    print(_verdict(given.mode, ratio, away, second["missed"], first))


def _verdict(mode: str, ratio: float, away: int, missed: int, first: dict[str, Any]) -> str:
    if not first["ready"]:
        return "leave it off: it could not be compiled here (the log above says why)"
    if away > 1:
        return "leave it off: the pixels are others"
    if ratio < WORTH:
        return "leave it off: it is no faster here"
    pays = first["compiling"] / (first["plain"] - first["compiled"])
    kept = "" if not missed else "; nothing was kept, so every start compiles: see COMPILE_CACHE_DIR"
    return f"turn it on: COMPILE={mode}; the first worker has its time back after {pays:.0f} such jobs{kept}"


def _started(folder: Path, name: str) -> dict[str, Any]:
    """Run a worker that starts with only what earlier ones kept, and return its report."""
    cache = folder / ("torch" if "--quick" in sys.argv else name)
    for graphs in ("fxgraph", "aotautograd"):
        shutil.rmtree(cache / graphs, ignore_errors=True)
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache)}
    command = [sys.executable, __file__, *sys.argv[1:], "--worker", str(folder / "kept")]
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        sys.exit(ended.returncode)
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def _worker(given: argparse.Namespace, kept: Path) -> dict[str, Any]:
    import torch
    from torch._dynamo.utils import counters

    video = given.task == "text2video"
    named = {"wan_model" if video else "sdxl_model": given.model} if given.model else {}
    engine = Engine(load_settings(compile=given.mode, compile_cache_dir=kept, **named))
    asked: dict[str, Any] = {"task_type": given.task, "prompt": "a big red star, blue background", "seed": 7}
    size = given.size or ((64, 64) if given.quick and not video else None)
    if size is not None:
        names = ("video_width", "video_height") if video else ("width", "height")
        asked |= dict(zip(names, size, strict=True))
    if given.quick and video:
        asked |= {"num_frames": 5}
    if given.steps or given.quick:
        asked |= {"num_inference_steps": given.steps or 2}
    request = parse(asked)
    defaults = engine.describe(TaskType(given.task))
    params = resolve(request, defaults, max_image_pixels=2**24, max_job_cost=2**62)
    engine.prepare(request, params, Unattended())
    repeat = 1 if given.quick else given.repeat
    _run(engine, request, params)  # the first run is slower, and records what to compile
    plain, pixels = min((_run(engine, request, params) for _ in range(repeat)), key=lambda one: one[0])
    pieces = []
    while True:
        started = time.perf_counter()
        if not engine.use_idle_moment():
            break
        pieces.append(time.perf_counter() - started)
    compiled, same = min((_run(engine, request, params) for _ in range(repeat)), key=lambda one: one[0])
    states = [one.state for entry in engine._cache.entries for one in entry.compiled.values()]
    return {
        "model": defaults.name,
        "job": f"{params.width}x{params.height}, {params.num_inference_steps} steps",
        "device": torch.cuda.get_device_name() if engine.registry.cuda else "CPU",
        "compiling": sum(pieces),
        "longest": max(pieces, default=0.0),
        "missed": counters["inductor"]["fxgraph_cache_miss"],
        "graphs": counters["stats"]["unique_graphs"],
        "ready": bool(states) and all(state == "ready" for state in states),
        "plain": plain,
        "compiled": compiled,
        "away": int(np.abs(pixels.astype(np.int16) - same.astype(np.int16)).max()),
    }


def _run(engine: Engine, request: Any, params: Params) -> tuple[float, NDArray[np.uint8]]:
    """Return the seconds of the whole run, and its pixels."""
    started = time.perf_counter()
    made = list(engine.generate(request, params, Sources(), Unattended()))
    seconds = time.perf_counter() - started
    return seconds, np.stack([one.pixels if isinstance(one, GeneratedImage) else one.frames for one in made])


if __name__ == "__main__":
    main()
