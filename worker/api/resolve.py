"""Resolves a request and a model's defaults into the concrete parameters of a job, or refuses it.

Pure arithmetic. Knows no weights, no I/O and no torch.
"""

import math
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from worker.api.cost import job_cost, upscaling_cost
from worker.api.field_types import LONGEST_SIDE, QUALITY
from worker.api.layout import LONGEST_CLIP, LONGEST_IMAGE, Borders, Layout, Native, Shares, followed, laid_out
from worker.api.params import (
    LANCZOS,
    ControlParams,
    Draft,
    ImageParams,
    ModelDefaults,
    Params,
    ReferenceParams,
    Upscale,
    VideoParams,
)
from worker.api.request import (
    MAX_SHORT_STEPS,
    SHORT_SCHEDULERS,
    BaseRequest,
    ImageRequest,
    Img2ImgRequest,
    Img2VideoRequest,
    InpaintRequest,
    PictureRequest,
    Request,
    Text2ImgRequest,
    Text2VideoRequest,
    UpscaleRequest,
    VideoRequest,
)
from worker.api.sizes import ASPECT_RATIOS, IMAGE_SIZES, RESOLUTIONS, Size, frame_count, image_size, video_size
from worker.api.validation_errors import not_one_of
from worker.core.errors import FieldProblem, InvalidInput
from worker.core.types import Scheduler

SEED_RANGE = 2**32
PREPROCESSED = ("canny", "scribble", "tile")
"""Control image types that every worker can make from a photo or drawing; `depth` needs a `DEPTH_MODEL`."""
UPSCALE_STRENGTH = 0.3
"""Share of the schedule that redraws details after Lanczos; the same as in a draft's second pass."""
_TOLD_BELOW = 1.1
"""An image with this many times fewer pixels than the native size is declared to the model as larger."""
_DRAFTED_ABOVE = 2
"""Up to this many times the native pixels are drawn in one pass."""


@dataclass(frozen=True, slots=True)
class SourceShape:
    """The properties of a job's input images on which its size depends."""

    width: int
    height: int
    masked: Shares | None = None
    """The bounding box of what the mask repaints; None: there is no mask, or it repaints nothing."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.width, self.height


def resolve(
    request: Request,
    defaults: ModelDefaults,
    *,
    max_image_pixels: int,
    max_job_cost: int,
    max_upscaled_pixels: int = 16_777_216,
    source: SourceShape | None = None,
    seed: int | None = None,
) -> Params:
    """Fill in what the request leaves open from the model's defaults, and refuse what is too large.

    Args:
        request: the request.
        defaults: the model's defaults.
        max_image_pixels: maximum width x height of an image.
        max_job_cost: see `job_cost`.
        max_upscaled_pixels: maximum width x height of an enlarged image.
        source: shape of the job's input image, which the output takes unless the request sets another; None: there is
            no input image, or its shape is not known yet, and the model's native size is used instead.
        seed: the seed that an earlier call drew for this request.

    Raises:
        InvalidInput: a size the model cannot make, too many pixels, or a cost over `max_job_cost`.
    """
    if seed is None:
        seed = secrets.randbelow(SEED_RANGE) if request.seed is None else request.seed
    wrong: list[FieldProblem] = []
    if isinstance(request, ImageRequest):
        params: Params = _image_params(request, defaults, seed, source, max_image_pixels, wrong=wrong)
    elif isinstance(request, UpscaleRequest):
        params = _enlarging(request, defaults, seed, source, max_upscaled_pixels)
    else:
        params = _video_params(request, defaults, seed, source)
    if isinstance(request, PictureRequest) and isinstance(params, ImageParams):
        params = replace(params, upscale=_upscale(request, params, defaults, max_upscaled_pixels, wrong))
    _refuse(*wrong)
    # The size of a client's image is unknown until it is downloaded: the call with `source` checks the cost.
    if source is not None or not isinstance(request, UpscaleRequest):
        _check_cost(params, defaults, max_job_cost)
    return params


def _check_cost(params: Params, defaults: ModelDefaults, most: int) -> None:
    """Refuse a job that costs more than `most`, naming the field to lower: the upscale, if the job fits without it."""
    if (cost := job_cost(params, defaults)) <= most:
        return
    if isinstance(params, VideoParams):
        problem = FieldProblem("num_inference_steps", "invalid_input.video_cost", most=most, got=cost)
    elif params.upscale is not None and cost - upscaling_cost(params) <= most:
        problem = FieldProblem("upscale_factor", "invalid_input.upscale_cost", most=most, got=cost)
    else:
        problem = FieldProblem("num_inference_steps", "invalid_input.image_cost", most=most, got=cost)
    raise InvalidInput([problem])


def _asked_image_size(request: ImageRequest, defaults: ModelDefaults) -> tuple[int | None, int | None]:
    """Return width and height, given by name, by aspect ratio or as sides; None: left open."""
    shape = IMAGE_SIZES[request.image_size] if request.image_size else request.aspect_ratio
    if shape is None:
        return request.width, request.height
    return image_size(ASPECT_RATIOS[shape], (defaults.width, defaults.height), defaults.size_multiple)


def _asked_video_size(
    request: VideoRequest, defaults: ModelDefaults, source: Size | None
) -> tuple[int | None, int | None]:
    """As `_asked_image_size`; a resolution without an aspect ratio takes that of the source, if there is one."""
    if request.aspect_ratio is None and request.resolution is None:
        return request.video_width, request.video_height
    native = defaults.width, defaults.height
    pixels = math.prod(RESOLUTIONS[request.resolution] if request.resolution else native)
    if request.aspect_ratio is not None:
        ratio = ASPECT_RATIOS[request.aspect_ratio]
    elif source is not None:
        ratio = source[0] / source[1]
    else:
        ratio = ASPECT_RATIOS["16:9" if native[0] >= native[1] else "9:16"]
    return video_size(ratio, pixels, native, defaults.size_multiple)


def _image_params(
    request: ImageRequest,
    defaults: ModelDefaults,
    seed: int,
    source: SourceShape | None,
    most_pixels: int,
    *,
    wrong: list[FieldProblem],
) -> ImageParams:
    """Return the parameters of an image job; what is wrong with it is added to `wrong`."""
    layout = _layout(request, defaults, source, most_pixels)
    width, height = layout.width, layout.height
    steps = request.num_inference_steps or defaults.num_inference_steps
    refine = request.high_noise_frac is not None or request.refiner_inference_steps is not None
    refiner_steps = (request.refiner_inference_steps or steps) if refine else None
    inpaint = request if isinstance(request, InpaintRequest) else None
    drawn = (width, height) if layout.drawn is None else (layout.drawn.width, layout.drawn.height)
    scheduler = request.scheduler or defaults.scheduler
    wrong += (
        *_not_here(request, defaults),
        *_too_many_pixels(width, height, most_pixels),
        # If only a part of the output is drawn, the output may have any size.
        *(_no_multiples(defaults.size_multiple, width=width, height=height) if layout.drawn is None else ()),
        *_unusable(request.scheduler, defaults),
        *_too_long_schedules(scheduler, defaults, steps, refiner_steps),
        *_unserved_controls(request, defaults),
    )
    guidance = defaults.guidance_scale if request.guidance_scale is None else request.guidance_scale
    fewest = min(steps, refiner_steps or steps)
    return ImageParams(
        **_prompts(request, defaults, guidance),
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance_scale=guidance,
        scheduler=scheduler,
        seeds=tuple((seed + k) % SEED_RANGE for k in range(request.num_images)),
        prediction_type=defaults.prediction_type,
        timestep_spacing=defaults.timestep_spacing,
        original_inference_steps=defaults.original_inference_steps,
        guidance_rescale=defaults.guidance_rescale or None,
        micro_conditioning=_told_size(defaults, *drawn),
        strength=request.strength if isinstance(request, Img2ImgRequest | InpaintRequest) else None,
        high_noise_frac=(0.8 if request.high_noise_frac is None else request.high_noise_frac) if refine else None,
        refiner_inference_steps=refiner_steps,
        draft=_draft(defaults, width, height, fewest) if isinstance(request, Text2ImgRequest) else None,
        mask_blur=inpaint.mask_blur if inpaint is not None else None,
        inpaint_area=inpaint.inpaint_area if inpaint is not None else None,
        outpaint=layout.outpaint,
        drawn=layout.drawn,
        controlnets=tuple(ControlParams(**entry.model_dump(exclude={"image_url"})) for entry in request.controlnets)
        or None,
        ip_adapters=tuple(ReferenceParams(entry.type, entry.scale) for entry in request.ip_adapters) or None,
        output_quality=_output_quality(request),
    )


def _enlarging(
    request: UpscaleRequest, defaults: ModelDefaults, seed: int, source: SourceShape | None, most_pixels: int
) -> ImageParams:
    """Return parameters to enlarge a client's image. Until its size is known: the native size, within the limit."""
    width, height = (defaults.width, defaults.height) if source is None else source.size
    if source is None:
        scale = min(1.0, math.sqrt(most_pixels / (width * height)) / request.upscale_factor)
        width, height = max(1, int(width * scale)), max(1, int(height * scale))
    return ImageParams(
        **_prompts(request, defaults, defaults.guidance_scale),
        width=width,
        height=height,
        num_inference_steps=request.num_inference_steps or defaults.num_inference_steps,
        guidance_scale=defaults.guidance_scale,
        scheduler=defaults.scheduler,
        seeds=(seed,),
        prediction_type=defaults.prediction_type,
        timestep_spacing=defaults.timestep_spacing,
        original_inference_steps=defaults.original_inference_steps,
        guidance_rescale=defaults.guidance_rescale or None,
        output_quality=_output_quality(request),
        enlarges=True,
    )


def _output_quality(request: PictureRequest) -> int | None:
    """What the file is encoded at; None: its format has no quality."""
    usual = QUALITY.get(request.output_format)
    return None if usual is None else request.output_quality or usual


def _upscale(
    request: PictureRequest,
    params: ImageParams,
    defaults: ModelDefaults,
    most_pixels: int,
    wrong: list[FieldProblem],
) -> Upscale | None:
    """Return how the image of these parameters is enlarged; None: it keeps its size. Adds what is wrong to `wrong`."""
    if (factor := request.upscale_factor) is None:
        return None
    width, height = params.width * factor, params.height * factor
    wrong += _too_large(request, factor, (width, height), most_pixels)
    creativity = request.upscale_creativity
    if creativity is None:
        creativity = 0.0 if defaults.upscaler is not None else UPSCALE_STRENGTH
    if not creativity:
        return Upscale(factor, width, height, defaults.upscaler or LANCZOS)
    if not defaults.draws:
        wrong.append(FieldProblem("upscale_creativity", "invalid_input.no_image_model"))
    if not isinstance(request, ImageRequest):  # of an image task they have been checked
        wrong += _too_long_schedules(params.scheduler, defaults, params.num_inference_steps)
    # In one piece up to the size that is drawn in one pass, else in tiles of the native size.
    native, multiple = (defaults.width, defaults.height), defaults.size_multiple
    whole = width * height <= _DRAFTED_ABOVE * math.prod(native)
    tile = tuple(-(-side // multiple) * multiple for side in (width, height)) if whole else native
    return Upscale(factor, width, height, defaults.upscaler or LANCZOS, creativity, (tile[0], tile[1]))


def _too_large(request: PictureRequest, factor: int, size: tuple[int, int], most_pixels: int) -> Iterator[FieldProblem]:
    """Yield what an enlarged image is too large for."""
    (width, height), pixels = size, math.prod(size)
    if pixels > most_pixels:
        yield FieldProblem(
            "upscale_factor",
            "invalid_input.upscaled_pixels",
            width=width,
            height=height,
            pixels=pixels,
            most=most_pixels,
            got=factor,
        )
    longest = LONGEST_SIDE.get(request.output_format)
    if longest is not None and max(size) > longest:
        yield FieldProblem(
            "output_format",
            "invalid_input.format_side",
            width=width,
            height=height,
            most=longest,
            got=request.output_format,
        )


def _unserved_controls(request: ImageRequest, defaults: ModelDefaults) -> Iterator[FieldProblem]:
    """Yield a problem for each control image of a type that this worker has no network for, or cannot make."""
    served = defaults.control_types
    if request.controlnets and served == ():
        yield FieldProblem("controlnets", "invalid_input.no_controlnet")
        return
    made_here = (*PREPROCESSED, "depth") if defaults.makes_depth else PREPROCESSED
    for index, entry in enumerate(request.controlnets):
        if served is not None and entry.type not in served:
            yield not_one_of(f"controlnets.{index}.type", served, entry.type)
        elif entry.preprocess and entry.type not in made_here:
            field, choices = f"controlnets.{index}.preprocess", ", ".join(made_here)
            yield FieldProblem(field, "invalid_input.no_preprocessing", choices=choices, got=entry.type)


def _layout(request: ImageRequest, defaults: ModelDefaults, source: SourceShape | None, most_pixels: int) -> Layout:
    """Return the output's size, and where in it the source lies and the model draws."""
    asked, size = _asked_image_size(request, defaults), None if source is None else source.size
    native = Native(defaults.width, defaults.height, defaults.size_multiple, LONGEST_IMAGE)
    if not isinstance(request, InpaintRequest) or (request.outpaint is None and request.inpaint_area == "whole"):
        return Layout(*followed(asked, native, size, most_pixels=most_pixels))
    grown, nothing = request.outpaint, (0.0, 0.0, 0.0, 0.0)
    return laid_out(
        asked,
        native,
        size,
        most_pixels=most_pixels,
        borders=None if grown is None else Borders(grown.left, grown.right, grown.up, grown.down),
        only=((source and source.masked) or nothing) if request.inpaint_area == "masked" else None,
        blur=request.mask_blur,
    )


def _video_params(request: VideoRequest, defaults: ModelDefaults, seed: int, source: SourceShape | None) -> VideoParams:
    native = Native(defaults.width, defaults.height, defaults.size_multiple, LONGEST_CLIP)
    size = None if source is None else source.size
    width, height = followed(_asked_video_size(request, defaults, size), native, size, most_pixels=LONGEST_CLIP**2)
    _refuse(
        *_end_image(request, defaults),
        *_no_experts(request, defaults),
        *_no_multiples(defaults.size_multiple, video_width=width, video_height=height),
    )
    steps = request.num_inference_steps or defaults.num_inference_steps
    asked = request.video_guidance_scale
    guidance = defaults.guidance_scale if asked is None else asked
    fps = request.fps or defaults.fps
    frames = request.num_frames or defaults.num_frames
    if request.duration is not None:
        frames = frame_count(request.duration, fps)
    return VideoParams(
        **_prompts(request, defaults, guidance),
        width=width,
        height=height,
        num_frames=frames,
        fps=fps,
        num_inference_steps=steps,
        guidance_scale=guidance,
        guidance_scale_2=defaults.guidance_scale_2 if asked is None else None,
        # Wan 2.1 recommends 3.0 up to 480p, 5.0 above (https://github.com/Wan-Video/Wan2.1, "sample_shift").
        flow_shift=request.flow_shift or defaults.flow_shift or (3.0 if min(width, height) <= 480 else 5.0),
        seed=seed,
        draft=_draft(defaults, width, height, steps) if isinstance(request, Text2VideoRequest) else None,
        video_quality=request.video_quality,
        ends=isinstance(request, Img2VideoRequest) and request.end_image_url is not None,
        most_chunks=defaults.most_chunks,
    )


def _draft(defaults: ModelDefaults, width: int, height: int, steps: int) -> Draft | None:
    """Return the first pass for a size far beyond the native one, in the same proportions; None: one pass."""
    native = defaults.width * defaults.height
    if not defaults.draft_strength or width * height <= _DRAFTED_ABOVE * native:
        return None
    multiple, scale = defaults.size_multiple, math.sqrt(native / (width * height))
    small = [max(1, round(side * scale / multiple)) * multiple for side in (width, height)]
    # At least one step; the margin keeps the multiplication back into steps from rounding down.
    strength = min(1.0, max(defaults.draft_strength, (1 + 1e-6) / steps))
    return Draft(small[0], small[1], strength)


def _prompts(request: BaseRequest, defaults: ModelDefaults, guidance: float) -> dict[str, Any]:
    """Return the prompt fields of a job's parameters, and its quantization."""
    negative, whose = _negative_prompt(request, defaults, guidance)
    return {
        "prompt": request.prompt,
        "negative_prompt": negative,
        "negative_prompt_of": whose,
        "prompt_weighting": request.prompt_weighting or None,
        "style": request.style,
        "quantize": defaults.quantize,
    }


def _negative_prompt(
    request: BaseRequest, defaults: ModelDefaults, guidance: float
) -> tuple[str, Literal["model"] | None]:
    """Return the negative prompt and its origin: the model's, if the request has none and guidance uses one."""
    if request.negative_prompt or not defaults.negative_prompt or guidance <= 1:
        return request.negative_prompt, None
    return defaults.negative_prompt, "model"


def _told_size(defaults: ModelDefaults, width: int, height: int) -> tuple[int, int] | None:
    """Return the size that SDXL is conditioned on; None: the image's own.

    SDXL is conditioned on each training image's size before scaling, so that small, blurry images could stay in the set
    without teaching it blur (https://arxiv.org/abs/2307.01952, section 2.2), and on the size that it draws, which in
    training always had about its native pixels (section 2.3; the fewest in appendix I are 0.94 times as many). A
    request for 512 x 512 wants a sharp small image, not one that looks enlarged. So for fewer pixels than the native
    size both are scaled up in proportion, as if drawn at the native size; otherwise they are the image's own.
    `micro_conditioning: "requested"` always gives the image's own.
    """
    scale = math.sqrt(defaults.width * defaults.height / (width * height))
    if defaults.micro_conditioning == "requested" or scale**2 < _TOLD_BELOW:
        return None
    return round(width * scale), round(height * scale)


def _refuse(*problems: FieldProblem) -> None:
    """Raise all problems at once, if there are any."""
    if problems:
        raise InvalidInput(problems)


def _not_here(request: ImageRequest, defaults: ModelDefaults) -> Iterator[FieldProblem]:
    if not defaults.has_refiner:
        for field in ("high_noise_frac", "refiner_inference_steps"):
            if getattr(request, field) is not None:
                yield FieldProblem(field, "invalid_input.no_refiner")
    if request.ip_adapters and not defaults.has_ip_adapter:
        yield FieldProblem("ip_adapters", "invalid_input.no_ip_adapter")


def _too_many_pixels(width: int, height: int, most: int) -> Iterator[FieldProblem]:
    if (pixels := width * height) > most:
        yield FieldProblem("width", "invalid_input.too_many_pixels", most=most, got=pixels)


def _unusable(asked: Scheduler | None, defaults: ModelDefaults) -> Iterator[FieldProblem]:
    usable = defaults.schedulers
    if asked is None or usable is None or asked in usable:
        return
    if usable:
        yield FieldProblem("scheduler", "invalid_input.model_scheduler", choices=", ".join(usable), got=asked)
    else:
        yield FieldProblem("scheduler", "invalid_input.own_scheduler", got=asked)


def _too_long_schedules(
    scheduler: Scheduler | None, defaults: ModelDefaults, steps: int, refiner_steps: int | None = None
) -> Iterator[FieldProblem]:
    if scheduler not in SHORT_SCHEDULERS:
        return
    # These schedulers choose their steps from a short schedule; the refiner has its own.
    for name, got, most in (
        ("num_inference_steps", steps, defaults.original_inference_steps or MAX_SHORT_STEPS),
        ("refiner_inference_steps", refiner_steps or 0, MAX_SHORT_STEPS),
    ):
        if got > most:
            yield FieldProblem(name, "invalid_input.short_schedule", most=most, scheduler=scheduler, got=got)


def _end_image(request: VideoRequest, defaults: ModelDefaults) -> Iterator[FieldProblem]:
    if not isinstance(request, Img2VideoRequest):
        return
    if request.end_image_url is not None and defaults.end_image == "no":
        yield FieldProblem("end_image_url", "invalid_input.no_end_image")
    if request.end_image_url is None and defaults.end_image == "required":
        yield FieldProblem("end_image_url", "invalid_input.end_image")


def _no_experts(request: VideoRequest, defaults: ModelDefaults) -> Iterator[FieldProblem]:
    for field in ("high_noise_loras", "low_noise_loras"):
        if defaults.has_experts is False and any(entry.scale for entry in getattr(request, field)):
            yield FieldProblem(field, "invalid_input.no_experts")


def _no_multiples(multiple: int, **sides: int) -> Iterator[FieldProblem]:
    for name, side in sides.items():
        if side % multiple:
            yield FieldProblem(name, "invalid_input.model_multiple", of=multiple, got=side)
