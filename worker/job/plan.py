"""Plans a request: its model, its params, its price and its estimated time, before any model is touched.

Jobs and quotes share this code. Knows no document and no GPU; reads only a model's small files.
"""

import asyncio
import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from worker.api import response
from worker.api.acceleration import accelerated
from worker.api.cost import job_cost, job_units
from worker.api.departures import departures
from worker.api.field_types import MAX_IMAGE_SIDE, MAX_VIDEO_SIDE
from worker.api.layout import Drawn
from worker.api.loras import WantedLora, lora_params, wanted_loras
from worker.api.params import ImageParams, ModelDefaults, Params, VideoParams
from worker.api.request import (
    MAX_PROBLEMS,
    NAMES,
    Img2ImgRequest,
    Img2VideoRequest,
    InpaintRequest,
    Request,
    UpscaleRequest,
    names_of,
    parse,
)
from worker.api.resolve import SourceShape, resolve
from worker.api.shapes import Manifest
from worker.api.styles import styled
from worker.core import timing
from worker.core.errors import FieldProblem, InvalidInput, JobError
from worker.core.types import Sources
from worker.engine.estimate import Estimate
from worker.job.services import Services

_LARGE = 1 << 16
"""Factor that makes sample shapes so large that borders around them do not matter."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that this worker accepts, resolved."""

    request: Request
    """With its style applied."""
    defaults: ModelDefaults
    params: Params
    estimate: Estimate | None
    """None: the model's weights are not on this machine yet."""
    warnings: tuple[str, ...]
    loras: tuple[WantedLora, ...] = ()
    """LoRAs to apply; their files may not be fetched yet."""
    added: Mapping[str, Any] = field(default_factory=dict)
    """Entries of `params` that describe the LoRAs and the acceleration."""
    unmoved: tuple[str, ...] = ()
    """The `warnings` that do not depend on the size."""

    @property
    def units(self) -> int:
        """The price of the job, on any card."""
        return job_units(self.params, self.defaults)

    @property
    def manifest(self) -> Manifest:
        """The result without its files."""
        return response.manifest(self.params, self.model)

    @property
    def model(self) -> str:
        """The name in the response's `model`."""
        upscale = self.params.upscale if isinstance(self.params, ImageParams) else None
        return upscale.upscaler if upscale is not None and self.params.draws_nothing else self.defaults.name


async def read(raw: object, services: Services) -> Request:
    """Validate `job["input"]`. What is refused is also told which of its names this worker does not have.

    Raises:
        InvalidInput: as `parse`, and as `plan` does for the fields that are valid by themselves.
    """
    try:
        return parse(raw)
    except InvalidInput as error:
        more = await _unserved(raw, services, {problem.field for problem in error.problems})
        raise InvalidInput([*error.problems, *more][:MAX_PROBLEMS]) from None


async def _unserved(raw: object, services: Services, wrong: Collection[str]) -> Sequence[FieldProblem]:
    """Return the names in an invalid request that this worker does not have, beside the fields that are `wrong`."""
    names = names_of(raw)
    if names is None:
        return ()
    try:
        await plan(names, services)
    except InvalidInput as error:
        return [
            one
            for one in error.problems
            if one.field.partition(".")[0] in NAMES
            and not any(one.field == field or one.field.startswith(f"{field}.") for field in wrong)
        ]
    except JobError:
        return ()
    return ()


async def plan(request: Request, services: Services) -> Plan:
    """Resolve a request against its model and this worker's limits.

    Raises:
        ModelUnavailable: no model serves the task.
        InvalidInput: the model cannot do it, it exceeds a limit, it cannot end in time on this card, or it names a
            style or a LoRA that this worker does not have.
    """
    generator, settings = services.generator, services.settings
    styles, listed, wrong = settings.styles or {}, settings.loras or {}, list[FieldProblem]()
    loras: tuple[WantedLora, ...] = ()
    with _noted(wrong):
        request = styled(request, styles, listed)
    is_open = bool(wrong and styles)
    with _noted(wrong):
        loras = wanted_loras(request, listed, settings.lora_sources or ())
    if is_open:
        raise InvalidInput(wrong)  # the style that was meant may choose the model, and what it is asked for
    with _noted(wrong):
        # In threads: these read the model's small files, and the headers of weights that are not loaded yet.
        described = await asyncio.to_thread(generator.describe, request.task_type, request.model)
        usual = None if settings.acceleration == "none" else settings.acceleration
        fast = accelerated(request, loras, described, settings.accelerations or {}, listed, usual=usual)
        defaults, loras = fast.defaults, fast.loras
        added = {**lora_params(loras), **fast.params}
        params = replace(_resolved(request, defaults, services), **added)
    if wrong:
        raise InvalidInput(wrong)
    estimate = await asyncio.to_thread(generator.estimate, request, params)
    if not isinstance(request, UpscaleRequest):
        # The size of an upscale is that of its source: `follow` checks it.
        check_time(estimate, params, settings.job_timeout_seconds)
    warnings = (*fast.warnings, *_said(request, params, defaults, services))
    return Plan(request, defaults, params, estimate, warnings, loras, added, fast.warnings)


@contextlib.contextmanager
def _noted(wrong: list[FieldProblem]) -> Iterator[None]:
    """In the body, what is wrong with a request is noted, so that the caller hears of all of it at once."""
    try:
        yield
    except InvalidInput as error:
        wrong += error.problems


async def follow(planned: Plan, sources: Sources, services: Services) -> Plan:
    """Plan again, now that the size of the source is known. The seed stays.

    Raises:
        InvalidInput: with the size of its source the job exceeds a limit.
    """
    request, before, defaults = planned.request, planned.params, planned.defaults
    shape = await asyncio.to_thread(_shape, request, sources)
    seed = before.seed if isinstance(before, VideoParams) else before.seeds[0]
    params = replace(_resolved(request, defaults, services, shape, seed), **planned.added)
    estimate = planned.estimate
    if params != before:
        estimate = await asyncio.to_thread(services.generator.estimate, request, params)
    # Also if nothing has changed: `plan` does not check an upscale.
    check_time(estimate, params, services.settings.job_timeout_seconds)
    warnings = (*planned.unmoved, *_said(request, params, defaults, services))
    return replace(planned, params=params, estimate=estimate, warnings=warnings)


def dearest(planned: Plan, services: Services) -> Params:
    """The most expensive params that the job can have, if its price depends on a picture that was not read yet."""
    request, defaults = planned.request, planned.defaults
    found = [planned.params]
    for shape in _deciding(request, defaults, services):
        with contextlib.suppress(InvalidInput):  # a source of that shape would be refused
            found.append(replace(_resolved(request, defaults, services, shape), **planned.added))
    if isinstance(request, InpaintRequest) and request.inpaint_area == "masked":
        # The mask decides which part is drawn: at most as many pixels as the model's native size.
        most = Drawn(defaults.width, defaults.height, (0, 0, defaults.width, defaults.height))
        found = [replace(params, drawn=most) for params in found if isinstance(params, ImageParams)]
    return max(found, key=job_cost)


def _deciding(request: Request, defaults: ModelDefaults, services: Services) -> Iterator[SourceShape]:
    """Source shapes to try, if the shape changes the price."""
    if isinstance(request, Img2ImgRequest | InpaintRequest):
        width, height, most = request.width, request.height, MAX_IMAGE_SIDE
        free = bool(request.upscale_factor) and not (request.image_size or request.aspect_ratio)
    elif isinstance(request, Img2VideoRequest):
        width, height, most = request.video_width, request.video_height, MAX_VIDEO_SIDE
        free = request.resolution is not None and request.aspect_ratio is None
    else:
        return
    # So large that borders do not change the shape.
    sides = range(_LARGE * defaults.size_multiple, _LARGE * most + 1, _LARGE * defaults.size_multiple)
    if (width is None) != (height is None):
        yield from (
            SourceShape(_LARGE * width if width else side, _LARGE * height if height else side) for side in sides
        )
    elif width is None and free:
        for side in sides:
            yield SourceShape(side, _LARGE * most)
            yield SourceShape(_LARGE * most, side)
        if isinstance(request, InpaintRequest):
            yield from _canvases(request, defaults, services)


def _canvases(request: InpaintRequest, defaults: ModelDefaults, services: Services) -> Iterator[SourceShape]:
    """Source shapes that, with the outpainted borders, are as large as the limits allow."""
    settings, factor, beside = services.settings, request.upscale_factor or 1, request.outpaint
    pixels = min(settings.max_image_pixels, settings.max_upscaled_pixels // factor**2)
    for width in range(defaults.size_multiple, MAX_IMAGE_SIDE + 1, defaults.size_multiple):
        size = width, min(MAX_IMAGE_SIDE, pixels // width)
        if beside is not None:
            size = size[0] - beside.left - beside.right, size[1] - beside.up - beside.down
        if min(size) > 0:
            yield SourceShape(*size)


def _resolved(
    request: Request,
    defaults: ModelDefaults,
    services: Services,
    source: SourceShape | None = None,
    seed: int | None = None,
) -> Params:
    settings = services.settings
    limits = {"max_image_pixels": settings.max_image_pixels, "max_job_cost": settings.max_job_cost}
    limits["max_upscaled_pixels"] = settings.max_upscaled_pixels
    return resolve(request, defaults, **limits, source=source, seed=seed)


def _said(request: Request, params: Params, defaults: ModelDefaults, services: Services) -> tuple[str, ...]:
    of_model = () if params.draws_nothing else defaults.warnings
    style = (services.settings.styles or {}).get(request.style or "", {})
    return (*of_model, *departures(request, params, defaults, style))


def _shape(request: Request, sources: Sources) -> SourceShape:
    """The shape of the source picture, with the masked box if the size depends on it."""
    assert sources.image is not None  # noqa: S101 - checked by the caller
    masked = None
    if isinstance(request, InpaintRequest) and request.inpaint_area == "masked" and sources.mask is not None:
        from worker.engine.resize import masked_box  # imports Pillow

        masked = masked_box(sources.mask)
    return SourceShape(*sources.image.size, masked)


def check_time(estimate: Estimate | None, params: Params, limit: float) -> None:
    """Refuse a job that cannot end within `limit` seconds on this card.

    Raises:
        InvalidInput: it cannot end in time, and the message says how many steps could; or one denoising step takes
            longer than `MAX_STEP_SECONDS`, during which a job cannot be cancelled.
    """
    if estimate is None or estimate.seconds is None:
        return
    if estimate.basis == "card" and estimate.longest_step > timing.MAX_STEP_SECONDS:
        field = "video_width" if isinstance(params, VideoParams) else "width"
        problem = FieldProblem(
            field,
            "invalid_input.step_too_long",
            seconds=round(estimate.longest_step),
            card=estimate.card,
            most=round(timing.MAX_STEP_SECONDS),
            got=params.width,
        )
        raise InvalidInput([problem])
    if not estimate.exceeds(limit):
        return
    asked, seconds, card = params.num_inference_steps, round(estimate.seconds), estimate.card
    problem = FieldProblem(
        "num_inference_steps",
        "invalid_input.too_slow_at_any_steps",
        seconds=seconds,
        card=card,
        limit=round(limit),
        got=asked,
    )
    if steps := estimate.steps_within(limit, asked):
        problem = FieldProblem(
            "num_inference_steps",
            "invalid_input.too_slow",
            seconds=seconds,
            card=card,
            limit=round(limit),
            steps=steps,
            got=asked,
        )
    raise InvalidInput([problem])
