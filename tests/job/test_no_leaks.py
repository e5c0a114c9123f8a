"""Twenty jobs in a row through the real engine: no job affects another, and nothing is left behind."""

import asyncio
import gc
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import handler
from tools import showing
from worker.core.config import load_settings
from worker.core.types import Progress
from worker.job.services import Services

pytestmark = [
    pytest.mark.e2e,
    # diffusers' schedulers pass tensors to NumPy in a way that NumPy 2 deprecates; that cannot be changed here.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

SIDE = 64
PICTURE = showing.data_uri(showing.source_picture(SIDE, SIDE))
MASK = showing.data_uri(showing.centre_mask(SIDE, SIDE))
IMAGE = {"prompt": "a red circle on blue", "width": SIDE, "height": SIDE, "num_inference_steps": 3, "seed": 5}
VIDEO = {"prompt": "a red circle", "video_width": SIDE, "video_height": SIDE, "num_frames": 5, "seed": 5}
VIDEO |= {"num_inference_steps": 2, "fps": 5, "task_type": "text2video"}
REFINED = {"high_noise_frac": 0.5, "refiner_inference_steps": 4}
IMG2IMG = {**IMAGE, "task_type": "img2img", "image_url": PICTURE}
INPAINT = {**IMAGE, "task_type": "inpaint", "image_url": PICTURE, "mask_url": MASK}
IMG2VIDEO = {**VIDEO, "task_type": "img2video", "image_url": PICTURE}

A: list[dict[str, Any]] = [IMAGE, INPAINT, VIDEO]
"""Jobs that run before and after all others."""

BETWEEN: list[dict[str, Any]] = [
    {**IMAGE, "scheduler": "DDIM", "seed": 6},
    {**IMAGE, **REFINED, "num_images": 2},
    {**IMG2VIDEO, "flow_shift": 9.0},
    {**IMG2IMG, "scheduler": "K_EULER_ANCESTRAL", "strength": 0.8},
    {**VIDEO, "flow_shift": 1.0, "num_frames": 9},
    {**INPAINT, **REFINED, "scheduler": "KLMS", "strength": 1.0, "outpaint": {"left": 32}, "width": 96},
    {**IMAGE, "width": 63},
    {**IMAGE, "scheduler": "DPMSolverMultistep", "guidance_scale": 0.0, "output_format": "webp"},
    {**IMAGE, "num_inference_steps": 50, "prompt": "cancelled at its third step"},
    {**IMG2IMG, "scheduler": "UniPC", "width": 96, "height": 72, "output_format": "jpeg"},
    {**VIDEO, "video_guidance_scale": 1.0, "seed": 9, "negative_prompt": "fog"},
    {**IMAGE, "scheduler": "HEUN", "num_images": 3, "negative_prompt": "fog"},
    {**IMG2VIDEO, "video_width": 96, "num_inference_steps": 4},
    {**INPAINT, "scheduler": "PNDM", "mask_blur": 6, "inpaint_area": "masked"},
]


class Census:
    """Threads, file descriptors and temporary files of this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def count(self) -> tuple[list[str], int, list[Path]]:
        gc.collect()
        # These pools are bounded and keep their threads.
        pools = ("asyncio_", "sources_")
        names = [thread.name for thread in threading.enumerate() if not thread.name.startswith(pools)]
        return sorted(names), len(os.listdir("/dev/fd")), list(self._folder.rglob("*"))


@pytest.fixture
def services() -> Services:
    models = dict.fromkeys(("sdxl_model", "sdxl_refiner", "wan_model", "wan_i2v_model"), "demo")
    return handler.build(load_settings(**models))


async def serve(
    services: Services, job_input: dict[str, Any], watch: Callable[[Progress], None] | None = None
) -> dict[str, Any]:
    return await handler.serve({"id": "job", "input": job_input}, services, watch)


async def cancelled_at_step(services: Services, job_input: dict[str, Any], step: int) -> int:
    """Stop a job as RunPod does at a step; returns how far it got."""
    seen: list[int] = []
    reached = asyncio.Event()

    def watch(progress: Progress) -> None:
        if progress.stage == "generating":
            seen.append(progress.step)
            if progress.step >= step:
                reached.set()

    job = asyncio.create_task(serve(services, job_input, watch))
    await reached.wait()
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    return max(seen)


async def test_the_first_job_gives_the_same_bytes_after_all_others_and_nothing_is_left(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    process = Census(tmp_path)
    first = [showing.uris(await serve(services, job)) for job in A]
    assert all(first)
    before: tuple[list[str], int, list[Path]] | None = None
    for number, job in enumerate(BETWEEN):
        if job["num_inference_steps"] == 50:
            assert await cancelled_at_step(services, job, 3) < 50
            continue
        response = await serve(services, job)
        assert response.get("error_code") == ("invalid_input" if job.get("width") == 63 else None), response
        if number == 5:  # every task has run once by now, so everything that is created once exists
            before = process.count()
    last = [showing.uris(await serve(services, job)) for job in A]
    assert len(A) + len(BETWEEN) + len(A) == 20
    assert last == first
    assert process.count() == before
