"""Warnings about where a result departs from its request: fields without effect, and values that were changed.

Knows a request, its params and its model; knows no pixels. Departures that appear only while a job runs (a truncated
prompt, a cropped picture) are reported there.
"""

import math
import re
from collections.abc import Collection, Iterator

from worker.api.loras import LORA_FIELDS
from worker.api.params import LANCZOS, ImageParams, ModelDefaults, Params, VideoParams
from worker.api.prompt_weights import has_weights
from worker.api.request import ImageRequest, PictureRequest, Request, UpscaleRequest, VideoRequest
from worker.api.sizes import ASPECT_RATIOS, IMAGE_SIZES, RESOLUTIONS

_VISIBLE = 0.05
"""Relative deviation from which a duration or a shape counts as changed."""
_WEIGHTS: tuple[tuple[str, str], ...] = (
    # Times and ratios in brackets are not weights: after a digit, a weight needs a decimal point.
    (
        r"\([^()]{1,400}(?:(?<!\d):\s{0,3}-?\d{0,3}\.?\d{1,3}|:\s{0,3}-?\d{0,3}\.\d{1,3})\s{0,3}\)",
        "(word:1.3): it changes no weight without prompt_weighting",
    ),
    (r"\({2}[^()]|\[{2}[^][]", "((word)): it changes no weight without prompt_weighting"),
    (r"\\[()[\]]", r"\(: the backslash is a letter, too"),
    (r"(?<!\S)BREAK(?![^\s,])", "BREAK: it begins no new chunk without prompt_weighting"),
)
"""Syntax that only `prompt_weighting` reads -> what it does not do here."""
_LETTERS: tuple[tuple[str, str], ...] = (
    (r"(?i:<(?:lora|lyco|locon|hypernet):)", "<lora:…>: no LoRA is loaded by it (loras names them)"),
    (r"<[A-Za-z][\w-]{1,63}>|\bembedding:\w", "<embedding>: none is loaded by it"),
    (r"(?<!\b[Cc])(?<=[\w)])\+{2,9}(?![\w+])|\)(?:\d?\.\d{1,3}|--{1,8})(?![\w.-])", "word++: it changes no weight"),
    (r"\[[^][|]{0,400}(?<!\d):\s{0,3}[\d.]{1,5}\]|\[[^][|]{1,200}\|[^][]{1,200}\]", "[a:b:0.5]: it switches nothing"),
    (r"\{[^{}|]{0,200}\|[^{}]{1,200}\}|(?<!\w)__[a-z][\w/-]{0,60}__(?!\w)", "{a|b}: nothing is chosen by it"),
    (r"(?<!\S)--(?:ar|aspect|v|niji|no|s|stylize|q|seed|chaos|style|iw)(?=\s)", "--ar: it sets nothing"),
)
"""Prompt syntax of other programs -> what it does not do here."""


def departures(
    request: Request, params: Params, defaults: ModelDefaults, style: Collection[str] = ()
) -> tuple[str, ...]:
    """Return warnings about `request`, each beginning with the field that it is about.

    `style` are the fields of the style that was applied to it.
    """
    if isinstance(params, ImageParams) and params.draws_nothing:
        return (*_quality(request), *_upscale(request, params), *_undrawn(request, style))
    said = [*_few_steps(params, defaults), *_guidance(request, params), *_letters(request, params), *_quality(request)]
    said += [*_weights(request, params), *_loras(params)]
    if isinstance(params, ImageParams):
        said += _upscale(request, params)
    if isinstance(request, ImageRequest) and isinstance(params, ImageParams):
        said += _image(request, params)
    elif isinstance(request, VideoRequest) and isinstance(params, VideoParams):
        said += _video(request, params, defaults)
    return tuple(said)


def _few_steps(params: Params, defaults: ModelDefaults) -> Iterator[str]:
    if not defaults.few_steps:
        return
    made = "this acceleration" if params.acceleration else "this model"
    if params.num_inference_steps != defaults.num_inference_steps:
        yield (
            f"num_inference_steps: {made} was made for {defaults.num_inference_steps} "
            f"({params.num_inference_steps} were asked for)"
        )
    if params.acceleration and isinstance(params, ImageParams) and params.scheduler != defaults.scheduler:
        own = "the model's own" if defaults.scheduler is None else defaults.scheduler.value
        yield f"scheduler: {made} was made for {own}"
    # A scale up to 1 means no guidance.
    if max(params.guidance_scale, 1.0) != max(defaults.guidance_scale, 1.0):
        yield (
            f"{_guidance_field(params)}: {made} was made for {defaults.guidance_scale:g} "
            f"({params.guidance_scale:g} was asked for)"
        )


def _guidance_field(params: Params) -> str:
    return "video_guidance_scale" if isinstance(params, VideoParams) else "guidance_scale"


def _guidance(request: Request, params: Params) -> Iterator[str]:
    """Up to a scale of 1 the negative prompt is unused: https://arxiv.org/abs/2207.12598, equation 6."""
    scale, field = params.guidance_scale, _guidance_field(params)
    if request.negative_prompt and scale <= 1:
        yield f"negative_prompt: has no effect with a {field} of {scale:g}; above 1 it has"
    if 0 < scale < 1 and getattr(request, field, None) is not None:
        yield f"{field}: {scale:g} is the same as 1: no guidance"


def _weights(request: Request, params: Params) -> Iterator[str]:
    read = [params.wanted] if params.guidance_scale <= 1 else [params.wanted, params.unwanted]
    if request.prompt_weighting and not any(map(has_weights, read)):
        yield "prompt_weighting: has no effect; no weight stands in what is read"
    elif request.prompt_weighting and isinstance(params, VideoParams) and max(map(len, read)) > 1:
        yield "BREAK: begins no new chunk in a prompt of a clip"


def _letters(request: Request, params: Params) -> Iterator[str]:
    for field in ("prompt", "negative_prompt"):
        if field == "negative_prompt" and params.guidance_scale <= 1:
            continue
        text = getattr(request, field)
        forms = _LETTERS if request.prompt_weighting else (*_LETTERS, *_WEIGHTS)
        found = [(match.start(), what) for form, what in forms if (match := re.search(form, text))]
        if found:
            form, _, effect = min(found)[1].rpartition(": ")
            yield f"{field}: {form} is read as letters; {effect}"


def _quality(request: Request) -> Iterator[str]:
    if isinstance(request, PictureRequest) and request.output_quality is not None and request.output_format == "png":
        yield "output_quality: has no effect on png, which loses nothing; jpeg and webp have a quality"


def _upscale(request: Request, params: ImageParams) -> Iterator[str]:
    if not isinstance(request, PictureRequest):
        return
    if params.upscale is None:
        if request.upscale_creativity is not None:
            yield "upscale_creativity: has no effect without an upscale_factor"
        return
    creativity, steps = params.upscale.creativity, params.num_inference_steps
    if 0 < creativity * steps < 1:
        yield f"upscale_creativity: {creativity:g} of {steps} steps is less than one step; one draws the details anew"
    if params.upscale.upscaler == LANCZOS and params.upscale.creativity:
        yield (
            "upscale_factor: this worker has no upscaler; the picture was enlarged by Lanczos, and the model drew its "
            f"details anew (upscale_creativity {params.upscale.creativity:g})"
        )
    elif params.upscale.upscaler == LANCZOS:
        yield (
            "upscale_factor: this worker has no upscaler; the picture was enlarged by Lanczos, which adds no details "
            "(an upscale_creativity above 0 draws them anew)"
        )


def _undrawn(request: Request, style: Collection[str]) -> Iterator[str]:
    """Fields for a model, where none draws."""
    if not isinstance(request, UpscaleRequest):
        return
    fields = (
        "prompt",
        "negative_prompt",
        "prompt_weighting",
        "style",
        "model",
        "seed",
        "num_inference_steps",
        "preview",
    )
    given = [name for name in fields if getattr(request, name) != UpscaleRequest.model_fields[name].default]
    if set(style) - set(fields) and "style" in given:
        given.remove("style")  # it also says how the file is made
    if given:
        verb = "has" if len(given) == 1 else "have"
        yield f"{', '.join(given)}: {verb} no effect without an upscale_creativity above 0"


def _loras(params: Params) -> Iterator[str]:
    for field in LORA_FIELDS:
        for index, lora in enumerate(getattr(params, field, None) or ()):
            if lora.scale == 0:
                yield f"{field}.{index}: {lora.name} has no effect with a scale of 0"


def _image(request: ImageRequest, params: ImageParams) -> Iterator[str]:
    for index, entry in enumerate(request.controlnets):
        if entry.conditioning_scale == 0:
            yield f"controlnets.{index}: has no effect with a conditioning_scale of 0"
    for index, reference in enumerate(request.ip_adapters):
        if reference.scale == 0:
            yield f"ip_adapters.{index}: has no effect with a scale of 0"
    shape = IMAGE_SIZES[request.image_size] if request.image_size else request.aspect_ratio
    if shape is not None:
        yield from _shape("image_size" if request.image_size else "aspect_ratio", ASPECT_RATIOS[shape], params)


def _video(request: VideoRequest, params: VideoParams, defaults: ModelDefaults) -> Iterator[str]:
    if request.flow_shift is not None and not defaults.takes_flow_shift:
        yield "flow_shift: has no effect; this model's scheduler chooses its own"
    if request.aspect_ratio is not None:
        yield from _shape("aspect_ratio", ASPECT_RATIOS[request.aspect_ratio], params)
    if request.resolution is not None:
        wanted = math.prod(RESOLUTIONS[request.resolution])
        if abs(params.width * params.height / wanted - 1) > 2 * _VISIBLE:
            yield f"resolution: {request.resolution} became {params.width} x {params.height} in this shape"
    if request.duration is not None:
        seconds = params.num_frames / params.fps
        if abs(seconds / request.duration - 1) > _VISIBLE:
            yield (
                f"duration: {request.duration:g} s became {seconds:.2f} s, {params.num_frames} frames at {params.fps} "
                "a second; num_frames is 4k + 1, 5 to 121"
            )


def _shape(field: str, ratio: float, params: Params) -> Iterator[str]:
    if abs(math.log(params.width / params.height / ratio)) > _VISIBLE:
        yield f"{field}: the nearest size that this model draws is {params.width} x {params.height}"
