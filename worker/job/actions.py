"""The two actions beside a job: `quote` (the price of a request) and `capabilities` (what the worker serves).

Both are answered for anyone, from settings and small files. They touch no model, document, picture or user data, and do
not wait for the GPU.
"""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from worker.api import fingerprint, sizes
from worker.api.acceleration import levels
from worker.api.cost import job_units
from worker.api.field_types import MAX_PROMPT_CHARACTERS, FormatName
from worker.api.params import ModelDefaults, public_params
from worker.api.request import ACTIONS, UPSCALE_FACTORS
from worker.api.shapes import Capabilities, Quote, ServedLora, ServedModel, ServedStyle
from worker.api.styles import tasks_of
from worker.core.config import ListedLora, Settings
from worker.core.errors import JobError
from worker.core.types import Scheduler, TaskType
from worker.engine.protocol import Generator
from worker.job.plan import dearest, plan, read
from worker.job.preview import reason_for_none
from worker.job.services import Services

CONTRACT_VERSION = 2
"""The version of the wire contract: docs/api.md."""
WORKER_VERSION = "1.0.0"


def is_action(job_input: object) -> bool:
    """Whether the input names a known action. An unknown `action` is refused as an invalid job."""
    action = job_input.get("action") if isinstance(job_input, dict) else None
    return isinstance(action, str) and action in ACTIONS


async def answer(job_input: Any, services: Services) -> Quote | Capabilities:
    """Answer an action.

    Raises:
        InvalidInput: the quoted request is not valid.
        ModelUnavailable: no model here serves the quoted request.
    """
    asked = dict(job_input)
    if asked.pop("action") == "quote":
        return await _quote(asked, services)
    # In a thread: it reads the small files of all models.
    has_document = services.documents is not None
    preview = reason_for_none(services.settings, has_document=has_document) is None
    return await asyncio.to_thread(_capabilities, services.generator, services.settings, preview=preview)


async def _quote(job_input: Mapping[str, Any], services: Services) -> Quote:
    """The price of a request, or the error that its job would end with. An open size is priced at its dearest."""
    planned = await plan(await read(job_input, services), services)
    seconds = planned.estimate.seconds if planned.estimate is not None else None
    dear = await asyncio.to_thread(dearest, planned, services)
    return {
        "units": job_units(dear, planned.defaults),
        "estimated_seconds": None if seconds is None else round(seconds, 1),
        "params": public_params(planned.params),
    }


def _capabilities(generator: Generator, settings: Settings, *, preview: bool) -> Capabilities:
    models = {task.value: found for task in TaskType if (found := _models(generator, task, settings))}
    return {
        "tasks": [task for task in TaskType if task in models],
        "models": models,
        "styles": list(_styles(models, settings)),
        "loras": [_lora(name, lora) for name, lora in (settings.loras or {}).items()],
        "controlnet_types": list(generator.controlnet_types()),
        "upscale_factors": list(UPSCALE_FACTORS),
        "size_presets": {
            "image_size": list(sizes.IMAGE_SIZES),
            "aspect_ratio": list(sizes.ASPECT_RATIOS),
            "resolution": list(sizes.RESOLUTIONS),
        },
        "schedulers": list(Scheduler),
        "output_formats": list(get_args(FormatName)),
        "preview": preview,
        "limits": {
            "prompt_characters": MAX_PROMPT_CHARACTERS,
            "image_pixels": settings.max_image_pixels,
            "upscaled_pixels": settings.max_upscaled_pixels,
            "job_cost": settings.max_job_cost,
            "input_image_bytes": settings.max_input_image_bytes,
            "input_image_pixels": settings.max_input_image_pixels,
            "result_bytes": settings.max_result_bytes,
            "job_timeout_seconds": settings.job_timeout_seconds,
        },
        "versions": {"contract": CONTRACT_VERSION, "worker": WORKER_VERSION, "fingerprint": fingerprint.VERSION},
    }


def _styles(models: Mapping[str, list[ServedModel]], settings: Settings) -> Iterator[ServedStyle]:
    """Styles that a request can use here: those with a served task, and with a served model if they name one."""
    for name, style in (settings.styles or {}).items():
        served = [
            task
            for task in tasks_of(style, settings.loras or {})
            if style.get("model") in {None, *(one["name"] for one in models.get(task, ()))} and task in models
        ]
        if served:
            yield {"name": name, "tasks": served}


def _lora(name: str, lora: ListedLora) -> ServedLora:
    """What an app may show of a LoRA; its source stays private to the operator."""
    return {
        "name": name,
        "family": lora.family,
        "trigger_words": list(lora.trigger_words),
        "licence": lora.licence,
    }


def _models(generator: Generator, task: TaskType, settings: Settings) -> list[ServedModel]:
    """The models that serve a task, the default first; a configured model that cannot serve it is left out."""
    found = []
    for name in generator.models(task) or (None,):
        try:
            found.append(_model(name, task, generator.describe(task, name), settings))
        except JobError:
            continue
    return found


def _model(name: str | None, task: TaskType, defaults: ModelDefaults, settings: Settings) -> ServedModel:
    fast = levels(defaults, settings.accelerations or {}, video=task.is_video)
    native = defaults.width, defaults.height

    def size(ratio: float) -> sizes.Size:
        if task.is_video:
            return sizes.video_size(ratio, native[0] * native[1], native, defaults.size_multiple)
        return sizes.image_size(ratio, native, defaults.size_multiple)

    shapes: dict[str, list[int]] = {name: list(size(ratio)) for name, ratio in sizes.ASPECT_RATIOS.items()}
    said: ServedModel = {
        "name": name or defaults.name,
        "width": defaults.width,
        "height": defaults.height,
        "size_multiple": defaults.size_multiple,
        "num_inference_steps": defaults.num_inference_steps,
        "guidance_scale": defaults.guidance_scale,
        "few_steps": defaults.few_steps,
        "aspect_ratios": shapes,
        "accelerations": list(fast) if task is not TaskType.UPSCALE else [],
    }
    if task.is_video:
        said |= {"num_frames": defaults.num_frames, "fps": defaults.fps}
        if task is TaskType.IMG2VIDEO:
            said["end_image"] = defaults.end_image
        return said
    return {
        **said,
        "scheduler": defaults.scheduler,
        "schedulers": list(Scheduler if defaults.schedulers is None else defaults.schedulers),
        "has_refiner": defaults.has_refiner,
        "has_ip_adapter": defaults.has_ip_adapter,
        "makes_depth": defaults.makes_depth,
        "upscaler": defaults.upscaler,
        "image_sizes": {name: shapes[shape] for name, shape in sizes.IMAGE_SIZES.items()},
    }
