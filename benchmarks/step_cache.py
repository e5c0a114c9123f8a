"""Measures what skipping denoising steps of Wan saves, and how much the video then differs from the full computation.

    python benchmarks/step_cache.py [--model FOLDER] [--steps 30] [--frames 33] [--width 832 --height 480] [--quick]

On a GPU this shows what a threshold is worth for your own model; without one it runs the built-in model at a small
size. One run compares all rows with the same seed and prompt: the share of predictions computed in full, the speed
relative to the plain run, and the PSNR in dB over all pixels of all frames (above 40 the difference is invisible; below
25 it is a different video). Writes nothing.
"""

import argparse
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from worker.api.params import StepCache, VideoParams
from worker.api.request import parse
from worker.api.resolve import resolve
from worker.core.config import load_settings
from worker.core.types import Sources, TaskType
from worker.engine.engine import Engine
from worker.engine.protocol import GeneratedClip
from worker.job.progress import Unattended

ROWS = [None, *(StepCache("first_block", share) for share in (0.0, 0.02, 0.05, 0.1, 0.2))]
ROWS += [StepCache("sea", share) for share in (0.1, 0.25, 0.5)]


def main() -> None:
    """Print one row per cache and threshold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="a text-to-video model of Wan")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--width", type=int, default=None)
    parser.add_argument("--height", type=int, default=None)
    parser.add_argument("--prompt", default="a big red star on the left moving right, blue background")
    parser.add_argument("--quick", action="store_true", help="few steps, few rows")
    given = parser.parse_args()
    settings = load_settings(**({"wan_model": given.model} if given.model else {}))
    engine = Engine(settings)
    steps, frames = (6, 5) if given.quick else (given.steps, given.frames)
    asked = {"video_width": given.width, "video_height": given.height, "num_frames": frames}
    request = parse(
        {"task_type": "text2video", "prompt": given.prompt, "seed": 7, "num_inference_steps": steps}
        | {name: value for name, value in asked.items() if value is not None}
    )
    defaults = engine.describe(TaskType.TEXT2VIDEO)
    params = resolve(request, defaults, max_image_pixels=2**24, max_job_cost=2**62)
    assert isinstance(params, VideoParams)
    size = f"{params.width}x{params.height}, {params.num_frames} frames"
    print(f"{defaults.name}, {size}, {params.num_inference_steps} steps")
    print(f"{'cache':<12} {'threshold':>9} {'computed':>9} {'plain/this':>10} {'PSNR dB':>8}")
    plain: NDArray[np.uint8] | None = None
    plain_seconds = plain_calls = 0.0
    for cache in [ROWS[0], ROWS[3], ROWS[-1]] if given.quick else ROWS:
        frames_, seconds, calls = _run(engine, request, replace(params, step_cache=cache))
        if plain is None:
            plain, plain_seconds, plain_calls = frames_, seconds, calls
        kind, threshold = (cache.kind, f"{cache.threshold:g}") if cache else ("none", "")
        share, ratio = f"{calls / plain_calls:.0%}", f"{plain_seconds / seconds:.2f}x"
        print(f"{kind:<12} {threshold:>9} {share:>9} {ratio:>10} {_psnr(plain, frames_):>8}", flush=True)


def _run(engine: Engine, request: Any, params: VideoParams) -> tuple[NDArray[np.uint8], float, int]:
    """Return the frames, the seconds of the whole run, and the number of predictions that reached the last block."""
    import torch

    last: set[Any] = set()
    computed: list[int] = []

    def count(module: Any, _inputs: Any) -> None:
        if type(module).__name__ == "WanTransformer3DModel":
            last.add(module.blocks[-1].ffn)
        elif module in last:
            computed.append(1)

    engine.prepare(request, params, Unattended())
    hook = torch.nn.modules.module.register_module_forward_pre_hook(count)
    started = time.perf_counter()
    try:
        (clip,) = engine.generate(request, params, Sources(), Unattended())
    finally:
        hook.remove()
    assert isinstance(clip, GeneratedClip)
    return clip.frames, time.perf_counter() - started, len(computed)


def _psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> str:
    error = float(np.mean((one.astype(np.float32) - other.astype(np.float32)) ** 2))
    return "same" if error == 0 else f"{10 * math.log10(255**2 / error):.1f}"


if __name__ == "__main__":
    main()
