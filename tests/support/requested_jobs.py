"""Image jobs of the engine, built from the fields of a request as a client would send them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.engine_jobs import Recorder, sources_of
from worker.api.params import Params
from worker.api.request import Request, parse
from worker.api.resolve import resolve
from worker.core.types import Sources, TaskType
from worker.engine.engine import Engine
from worker.engine.protocol import GeneratedImage

URL = "https://example.com/a.png"
"""Stands for a picture in `Sources`."""


@dataclass
class Job:
    """A request, and the pictures and files that its references stand for."""

    fields: dict[str, Any]
    sources: Sources
    adapters: set[str] = field(default_factory=set)
    """Names of the adapters that were added to it."""


def small_job(task: TaskType = TaskType.TEXT2IMG, **changes: Any) -> Job:
    """Return a job of 64 x 64 and three steps; keywords are fields of the request."""
    fields: dict[str, Any] = {"task_type": task, "prompt": "a red circle", "seed": 7, "num_inference_steps": 3}
    prefix = "video_" if task.is_video else ""
    fields |= {f"{prefix}width": 64, f"{prefix}height": 64}
    if task not in {TaskType.TEXT2IMG, TaskType.TEXT2VIDEO}:
        fields |= {"image_url": URL, "strength": 0.7}
    if task is TaskType.INPAINT:
        fields["mask_url"] = URL
    return Job(fields | changes, sources_of(task))


def resolved(engine: Engine, job: Job) -> tuple[Request, Params]:
    """Return the request, and the parameters that it resolves to with this engine's model."""
    request = parse(job.fields)
    defaults = engine.describe(request.task_type, request.model)
    return request, resolve(request, defaults, max_image_pixels=2**20, max_job_cost=10**9)


def started(engine: Engine, job: Job, control: Recorder | None = None) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures of a job one after the other."""
    request, params = resolved(engine, job)
    for made in engine.generate(request, params, job.sources, control or Recorder()):
        assert isinstance(made, GeneratedImage)
        yield made.pixels


def run(engine: Engine, job: Job, control: Recorder | None = None) -> list[NDArray[np.uint8]]:
    """Return all pictures of a job."""
    return list(started(engine, job, control))
