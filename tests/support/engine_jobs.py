"""The job's side of a run, small jobs and pictures; no torch."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from PIL import Image

from worker.api.params import ImageParams, VideoParams
from worker.core.errors import Cancelled
from worker.core.types import Preview, Progress, Sources


class Recorder:
    """A `Control` that records everything it is told, and cancels the job once step `cancel_at` has been reported."""

    def __init__(self, cancel_at: int | None = None) -> None:
        self.cancel_at = cancel_at
        self.progress: list[Progress] = []
        self.warnings: list[str] = []

    def raise_if_stopped(self) -> None:
        if self.cancel_at is not None and self.steps and self.steps[-1] >= self.cancel_at:
            raise Cancelled

    def untimed(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def report(self, progress: Progress) -> None:
        self.progress.append(progress)

    def warn(self, warning: str) -> None:
        self.warnings.append(warning)

    def viewer(self) -> Callable[[Preview], None] | None:
        return None

    @property
    def steps(self) -> list[int]:
        return [progress.step for progress in self.progress if progress.stage == "generating" and progress.part is None]


def image_params(**changes: Any) -> ImageParams:
    """Return a small image job: 64 x 64, 3 steps."""
    values: dict[str, Any] = {
        "prompt": "a red circle",
        "negative_prompt": "",
        "width": 64,
        "height": 64,
        "num_inference_steps": 3,
        "guidance_scale": 5.0,
        "scheduler": None,
        "seeds": (7,),
    }
    return ImageParams(**(values | changes))


def video_params(**changes: Any) -> VideoParams:
    """Return a small video job: 64 x 64, 5 frames, 2 steps."""
    values: dict[str, Any] = {
        "prompt": "a red circle",
        "negative_prompt": "",
        "width": 64,
        "height": 64,
        "num_frames": 5,
        "fps": 15,
        "num_inference_steps": 2,
        "guidance_scale": 5.0,
        "flow_shift": 3.0,
        "seed": 7,
    }
    return VideoParams(**(values | changes))


def picture(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    """Return a picture whose pixels all differ."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def stripe_mask(width: int = 64, height: int = 64) -> Image.Image:
    """Return a mask that is white in the middle third of the columns and black elsewhere."""
    mask = Image.new("L", (width, height))
    mask.paste(255, (width // 3, 0, 2 * width // 3, height))
    return mask


def sources_of(task_type: str) -> Sources:
    """Return the source pictures of a small job of this task."""
    return Sources(
        image=picture() if task_type in {"img2img", "inpaint", "upscale", "img2video"} else None,
        mask=stripe_mask() if task_type == "inpaint" else None,
    )
