"""Measures what `ATTENTION` and `QUANTIZE` save and change on this machine, and advises whether to use it.

    python benchmarks/switches.py [--task text2img] [--model FOLDER] [--steps N] [--size W H] [--frames 33]
                                  [--repeat 3] [--quick]

Each row is a new engine, after the previous one has freed its memory: it runs the same job once to warm up, then takes
the best of the repeats. `plain/this` is the speed-up, `weights` the memory of the networks, `placed` their placement,
and PSNR in dB is over all pixels (above 40 the difference is invisible; below 25 it is a different image, which may be
as good). On a GPU this shows what each setting is worth for your own model. Without one the built-in model runs at a
small size: its pixels and bytes show that the settings work, and its times mean nothing. Writes nothing.
"""

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from worker.api.request import parse
from worker.api.resolve import resolve
from worker.core.config import load_settings
from worker.core.types import Sources, TaskType
from worker.engine.engine import Engine
from worker.engine.protocol import GeneratedImage
from worker.engine.speed.attention import missing
from worker.job.progress import Unattended

WORTH = 1.05
"""Minimum speed-up: less is within the noise between two runs."""
ALIKE = 25.0
"""PSNR in dB below which it is a different image."""
ROWS: tuple[dict[str, Any], ...] = (
    {},
    {"attention": "native"},
    {"attention": "cudnn"},
    {"attention": "flash3"},
    {"quantize": "int8"},
    {"quantize": "fp8"},
)
PLACES = ("offloaded", "partly", "resident")
"""From slowest to fastest."""


@dataclass(frozen=True)
class Row:
    """The measurements of one setting."""

    pixels: NDArray[np.uint8]
    seconds: float
    weights: int
    placed: str
    on_card: bool


def main() -> None:
    """Print one row per setting, with advice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="text2img", choices=["text2img", "text2video"])
    parser.add_argument("--model", default=None, help="a model for it; else the one that the environment names")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--size", type=int, nargs=2, default=None, metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--prompt", default="a big red star on the left, blue background")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few steps, once, and not warmed up")
    given = parser.parse_args()
    print(f"{'way':<18} {'plain/this':>10} {'weights':>9} {'placed':>10} {'PSNR dB':>8}  turn it on?")
    plain: Row | None = None
    for way in ROWS:
        name = ", ".join(f"{variable.upper()}={value}" for variable, value in way.items()) or "plain"
        row = _row(given, way)
        if isinstance(row, str):
            print(f"{name:<18} {row}", flush=True)
            continue
        plain = plain or row
        quality = _psnr(plain.pixels, row.pixels)
        ratio, weights = f"{plain.seconds / row.seconds:.2f}x", f"{row.weights / 2**20:.0f} MiB"
        shown = "same" if math.isinf(quality) else f"{quality:.1f}"
        said = _verdict(plain, row, quality) if way else ""
        print(f"{name:<18} {ratio:>10} {weights:>9} {row.placed:>10} {shown:>8}  {said}", flush=True)


def _row(given: argparse.Namespace, way: dict[str, Any]) -> Row | str:
    """Measure one setting; return the reason if it is not available here."""
    task = TaskType(given.task)
    named = {} if given.model is None else {"wan_model" if task.is_video else "sdxl_model": given.model}
    engine = Engine(load_settings(**named, **way))
    if (lacks := missing(way.get("attention", "auto"), cuda=engine.registry.cuda)) is not None:
        return lacks
    asked: dict[str, Any] = {"task_type": given.task, "prompt": given.prompt, "seed": 7}
    steps, size = (4, given.size or (128, 128)) if given.quick else (given.steps, given.size)
    asked |= {} if steps is None else {"num_inference_steps": steps}
    names = ("video_width", "video_height") if task.is_video else ("width", "height")
    asked |= {} if size is None else dict(zip(names, size, strict=True))
    asked |= {"num_frames": 5 if given.quick else given.frames} if task.is_video else {}
    request = parse(asked)
    params = resolve(request, engine.describe(task), max_image_pixels=2**24, max_job_cost=2**62)
    best, pixels, placed = math.inf, None, ""
    for turn in range(1 if given.quick else 1 + given.repeat):
        placed = engine.prepare(request, params, Unattended()).mode
        started = time.perf_counter()
        (made,) = engine.generate(request, params, Sources(), Unattended())
        pixels = made.pixels if isinstance(made, GeneratedImage) else made.frames
        if turn or given.quick:
            best = min(best, time.perf_counter() - started)
    assert pixels is not None
    weights = sum(entry.offloader.bytes for entry in engine._cache.entries)
    engine.unload()
    return Row(pixels, best, weights, placed, engine.registry.cuda)


def _verdict(plain: Row, row: Row, quality: float) -> str:
    if not row.on_card:
        return "ask a card"
    if quality < ALIKE:
        return "look at the pictures first: they are others"
    if PLACES.index(row.placed) > PLACES.index(plain.placed):
        return f"yes: it is {row.placed} now, which was {plain.placed}"
    if plain.seconds >= WORTH * row.seconds:
        return "yes: it is faster"
    if row.weights < plain.weights:
        return f"where {(plain.weights - row.weights) / 2**20:.0f} MiB of memory are needed"
    return "no"


def _psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    error = float(np.mean((one.astype(np.float32) - other.astype(np.float32)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


if __name__ == "__main__":
    main()
