"""A request and a model's defaults -> the concrete parameters of a job, and what the job costs.

Pure arithmetic. Knows no weights, no I/O and no torch; what is decided here is what the response's `params` says.
"""

import math
import secrets
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from worker.api.field_types import LONGEST_SIDE, VideoQuality
from worker.api.layout import (
    LONGEST_CLIP,
    LONGEST_IMAGE,
    Borders,
    Drawn,
    Layout,
    Native,
    Shares,
    followed,
    laid_out,
)
from worker.api.prompt_weights import Passages, plain, weighted
from worker.api.request import (
    MAX_SHORT_STEPS,
    SHORT_SCHEDULERS,
    TWICE_A_STEP,
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
from worker.core.errors import FieldProblem, InvalidInput
from worker.core.types import ControlType, Level, Quantized, Scheduler

SEED_RANGE = 2**32
EndImage = Literal["no", "optional", "required"]
PIXEL_STEPS_A_UNIT = 1_000_000
STEPS_BESIDE = 1
"""What decoding a picture and encoding what it starts from count as. By engine/estimate.py's FLOP, with two calls of a
network a step: 0.9 steps to decode and 0.4 to encode with SDXL at 1024 x 1024; to decode 0.5 with Wan 2.1 1.3B at
832 x 480 and 2 with Wan 2.2 TI2V 5B at 1280 x 704."""
OTHER_MODEL = {"image": 30_000_000, "video": 120_000_000}
"""What loading another model than the worker's first counts as, in pixel-steps: one picture of SDXL's own size, four
for the larger files of Wan. What fits side by side is the card's, and a price does not depend on the card."""


@dataclass(frozen=True, slots=True)
class ModelDefaults:
    """What a configured model says of itself, read from its small JSON files, without loading it."""

    name: str
    """What the response's `model` says: `demo`, a hub id, or the name of a folder or file."""
    width: int
    height: int
    """Native size in pixels."""
    num_inference_steps: int
    guidance_scale: float
    size_multiple: int = 8
    """Width and height must be multiples of this: 8 for SDXL, 16 for Wan 2.1, 32 for Wan 2.2 TI2V."""
    num_frames: int = 81
    fps: int = 16
    has_refiner: bool = False
    is_first: bool = True
    """Whether it is the model that the worker has for who asks for nothing else: another one is loaded beside it, or in
    its place."""
    has_ip_adapter: bool = False
    makes_depth: bool = False
    """Whether the depth of a photo can be told here."""
    scheduler: Scheduler | None = None
    """What runs where the request names none; None: the scheduler in the model's own files."""
    schedulers: tuple[Scheduler, ...] | None = None
    """Those that a request may name; None: all."""
    prediction_type: str | None = None
    """What the network was trained to give (`v_prediction`); None: the noise, as in SDXL base."""
    timestep_spacing: str | None = None
    """How the steps are taken from the schedule (`trailing`); None: as in SDXL base."""
    original_inference_steps: int | None = None
    """Of LCM: the steps of the schedule that the few are chosen from; None: as the model's own files say."""
    few_steps: bool = False
    """Distilled to `num_inference_steps` and `guidance_scale`, and worse at any other."""
    negative_prompt: str = ""
    """Stands in for an empty one of the request."""
    guidance_scale_2: float | None = None
    """Of Wan's low-noise expert; None: there is none, or it takes the same."""
    flow_shift: float | None = None
    """None: by the size."""
    takes_flow_shift: bool = True
    """Whether its scheduler has any use for one."""
    end_image: EndImage = "no"
    """Whether an img2video may, or has to, say what it ends with."""
    micro_conditioning: Literal["native", "requested"] = "native"
    """What SDXL is told of the picture's size: see `_told_size`."""
    guidance_rescale: float = 0.0
    """Share of guidance's overexposure that is taken back: https://arxiv.org/abs/2305.08891, section 3.4."""
    draft_strength: float | None = None
    """For sizes far beyond the native one: share of the noise schedule that is run at full size, 0 < s <= 1, after a
    draft at about the native size. None: in one pass at any size."""
    upscaler: str | None = None
    """The network that enlarges what this model has drawn; None: there is none."""
    draws: bool = True
    """False: an upscaler alone."""
    quantize: Quantized | None = None
    """In which numbers its large layers are kept; None: in those that it runs in."""
    warnings: tuple[str, ...] = ()
    """Said with every result of this model."""


@dataclass(frozen=True, slots=True)
class Draft:
    """The first of two passes: the whole schedule at about the native size. What it made is enlarged and finished."""

    width: int
    height: int
    strength: float
    """Share of the schedule that the second pass runs at full size."""


@dataclass(frozen=True, slots=True)
class Upscale:
    """What becomes of a finished picture: it is enlarged, and where that is wanted its details are drawn anew."""

    factor: int
    width: int
    height: int
    """Of the result."""
    upscaler: str
    """The network's name, or `lanczos`."""
    creativity: float = 0.0
    """Share of the schedule that the model runs at the larger size."""
    tile: tuple[int, int] | None = None
    """Width and height of the tiles in which it does, at most; None: it does not."""

    @property
    def overlap(self) -> int:
        """Pixels that two tiles share, in which one is faded into the other: an eighth of a tile."""
        return 0 if self.tile is None else min(self.tile) // 8

    @property
    def tiles(self) -> tuple[int, int]:
        """How many there are across and down."""
        if self.tile is None:
            return 0, 0
        across, down = (
            1 if side <= tile else math.ceil((-(-side // 8) * 8 - self.overlap) / (tile - self.overlap))
            for side, tile in ((self.width, self.tile[0]), (self.height, self.tile[1]))
        )
        return across, down

    def steps(self, schedule: int) -> int:
        """Of each tile, on a schedule of so many."""
        return max(1, int(schedule * self.creativity))

    def strength(self, schedule: int) -> float:
        """The share of such a schedule that is run: one step at least."""
        # The margin is for the multiplication that makes it a step again.
        return min(1.0, max(self.creativity, (1 + 1e-6) / schedule))


LANCZOS = "lanczos"


@dataclass(frozen=True, slots=True)
class StepCache:
    """Which denoising steps of a clip are not computed in full."""

    kind: Literal["first_block", "sea"]
    threshold: float
    """How much may have changed since the last one that was, 0 ... 1; 0: nothing."""


@dataclass(frozen=True, slots=True)
class ReferenceParams:
    """How a picture beside the prompt is used."""

    type: Literal["subject", "style"]
    scale: float


@dataclass(frozen=True, slots=True)
class LoraParams:
    """A LoRA as it is called towards anybody, and by how much it counts."""

    name: str
    scale: float


@dataclass(frozen=True, slots=True)
class ControlParams:
    """One picture that says where things are, as the request has it, without the picture."""

    type: ControlType
    preprocess: bool = True
    conditioning_scale: float = 1.0
    start_percentage: float = 0.0
    end_percentage: float = 1.0

    @property
    def span(self) -> float:
        """Share of a pass in which it counts, 0 ... 1."""
        return self.end_percentage - self.start_percentage if self.conditioning_scale else 0.0

    def counts(self, call: int, calls: int) -> bool:
        """Whether one of the calls of a pass, 0 ... `calls` - 1, is in its span: all of it has to be."""
        return call / calls >= self.start_percentage and (call + 1) / calls <= self.end_percentage


PREPROCESSED = ("canny", "scribble", "tile")
"""Types of control picture that every worker makes of a photo or a drawing; one with a `DEPTH_MODEL` makes `depth`."""
CONTROLNET_SHARE = 0.45
"""Work of a ControlNet's call in those of the UNet's: 3.02 of 6.76 TFLOP, as torch counts them for SDXL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """What is to be seen, and what is not."""

    prompt: str
    negative_prompt: str
    negative_prompt_of: Literal["model"] | None = None
    """Whose negative prompt it is; None: the request's."""
    prompt_weighting: Literal[True] | None = None
    """Whether brackets in the request's prompts are weights; None: they are letters."""
    style: str | None = None
    """The operator's style that the prompts are framed in."""
    loras: tuple[LoraParams, ...] | None = None
    acceleration: Level | None = None
    """What was traded for speed; None: nothing."""
    quantize: Quantized | None = None
    """In which numbers the large layers were kept; None: in those that they run in."""

    @property
    def wanted(self) -> Passages:
        """The prompt, read."""
        return weighted(self.prompt) if self.prompt_weighting else plain(self.prompt)

    @property
    def unwanted(self) -> Passages:
        """The negative prompt, read; a model's own has no weights."""
        weights = self.prompt_weighting and self.negative_prompt_of is None
        return weighted(self.negative_prompt) if weights else plain(self.negative_prompt)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageParams(Prompts):
    """One image job with nothing left open. Image k starts from `seeds[k]`."""

    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: Scheduler | None
    """None: the model's own."""
    seeds: tuple[int, ...]
    prediction_type: str | None = None
    timestep_spacing: str | None = None
    """Both as found in the model, where they are not SDXL base's."""
    original_inference_steps: int | None = None
    """Of LCM: the steps of the schedule that the few are chosen from; None: as the model's own files say."""
    guidance_rescale: float | None = None
    """None: guidance is left as it is."""
    micro_conditioning: tuple[int, int] | None = None
    """Width and height that the model is told; None: those of the picture."""
    strength: float | None = None
    """Share of the noise schedule that is run, 0 < s <= 1; None for text2img."""
    high_noise_frac: float | None = None
    """Share of the schedule that the base model runs before the refiner takes over; None: no refiner."""
    refiner_inference_steps: int | None = None
    """Length of the schedule of which the refiner runs the last part; None: no refiner."""
    draft: Draft | None = None
    """Of a text2img of two passes; None: one."""
    mask_blur: float | None = None
    """Standard deviation, in pixels of the output, of what the mask is feathered with; None: no mask."""
    inpaint_area: Literal["whole", "masked"] | None = None
    outpaint: Borders | None = None
    """What is drawn beside the source; None: nothing."""
    drawn: Drawn | None = None
    """What the model draws of an inpainting, where that is not all of it at its own size."""
    controlnets: tuple[ControlParams, ...] | None = None
    ip_adapters: tuple[ReferenceParams, ...] | None = None
    """One for each picture whose subject or style the result takes on."""
    upscale: Upscale | None = None
    """What the picture is made larger by; None: it stays as it is drawn."""
    enlarges: bool = False
    """Whether the picture is the client's own, of which nothing is drawn at this size."""

    @property
    def final_size(self) -> tuple[int, int]:
        """Width and height of the result."""
        return (self.width, self.height) if self.upscale is None else (self.upscale.width, self.upscale.height)

    @property
    def draws_nothing(self) -> bool:
        """Whether no model but an upscaler has a part in it."""
        return self.enlarges and self.upscale is not None and not self.upscale.creativity

    @property
    def drawn_size(self) -> tuple[int, int]:
        """Width and height that the model draws."""
        return (self.width, self.height) if self.drawn is None else (self.drawn.width, self.drawn.height)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoParams(Prompts):
    """One video job with nothing left open."""

    width: int
    height: int
    num_frames: int
    fps: int
    num_inference_steps: int
    guidance_scale: float
    flow_shift: float
    seed: int
    guidance_scale_2: float | None = None
    """Of the low-noise expert, where there is one; None: the same."""
    high_noise_loras: tuple[LoraParams, ...] | None = None
    low_noise_loras: tuple[LoraParams, ...] | None = None
    draft: Draft | None = None
    """Of a text2video of two passes; None: one."""
    video_quality: VideoQuality = "high"
    step_cache: StepCache | None = None
    """None: every step is computed in full."""
    ends: bool = False
    """Whether it goes to a picture of the client's."""


Params = ImageParams | VideoParams


@dataclass(frozen=True, slots=True)
class SourceShape:
    """What the size of a job depends on, of the pictures that it starts from."""

    width: int
    height: int
    masked: Shares | None = None
    """The smallest box with all that the mask repaints; None: there is no mask, or it repaints nothing."""

    @property
    def size(self) -> tuple[int, int]:
        """In pixels."""
        return self.width, self.height


PRIVATE = {"prompt", "negative_prompt", "seeds", "seed", "enlarges", "ends"}
"""What the response's `params` never show: it stands beside them, or is ours."""
_OF_DRAWING = {
    *("negative_prompt_of", "prompt_weighting", "style", "num_inference_steps", "guidance_scale", "scheduler"),
    *("prediction_type", "timestep_spacing", "guidance_rescale", "quantize"),
}
UPSCALE_STRENGTH = 0.3
"""Share of the schedule that draws details anew where Lanczos alone would leave none; as of a draft's second pass."""
_TOLD_BELOW = 1.1
"""From so many times fewer pixels than the native ones on, a model is told another size than the picture's."""
_DRAFTED_ABOVE = 2
"""So many times the native pixels are still made in one pass."""


def public_params(params: Params) -> dict[str, Any]:
    """`params` as the response shows them: what was really used, without the texts and the seeds beside them."""
    unused = _OF_DRAWING if isinstance(params, ImageParams) and params.draws_nothing else set()
    left_out = PRIVATE | unused
    return {key: value for key, value in asdict(params).items() if key not in left_out and value is not None}


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
    """Fill what the request left open from the model's defaults, and refuse what is too large.

    Args:
        request: what was asked for.
        defaults: the model's.
        max_image_pixels: width x height of an image, at most.
        max_job_cost: see `job_cost`.
        max_upscaled_pixels: width x height of what an image is enlarged to, at most.
        source: the picture that the job starts from, whose shape the output has where the request does not say
            another; None: there is none, or it is not known yet, and the model's native size stands for it.
        seed: what an earlier call has drawn for this request.

    Raises:
        InvalidInput: a size the model cannot make, too many pixels, or a cost over `max_job_cost`.
    """
    if seed is None:
        seed = secrets.randbelow(SEED_RANGE) if request.seed is None else request.seed
    if isinstance(request, ImageRequest):
        params: Params = _image_params(request, defaults, seed, source, max_image_pixels)
        pixels = params.width * params.height
        if pixels > max_image_pixels:
            raise InvalidInput(
                [FieldProblem("width", "invalid_input.too_many_pixels", most=max_image_pixels, got=pixels)]
            )
    elif isinstance(request, UpscaleRequest):
        params = _enlarging(request, defaults, seed, source, max_upscaled_pixels)
    else:
        params = _video_params(request, defaults, seed, source)
    if isinstance(request, PictureRequest) and isinstance(params, ImageParams):
        params = replace(params, upscale=_upscale(request, params, defaults, max_upscaled_pixels))
    cost = job_cost(params, defaults)
    # How large a client's picture becomes is not known before it is here: `source` brings the question back.
    if cost > max_job_cost and not (isinstance(request, UpscaleRequest) and source is None):
        upscale = params.upscale if isinstance(params, ImageParams) else None
        if isinstance(params, ImageParams) and upscale and cost - _upscaling_cost(params, upscale) <= max_job_cost:
            raise InvalidInput(
                [FieldProblem("upscale_factor", "invalid_input.upscale_cost", most=max_job_cost, got=cost)]
            )
        problem = FieldProblem(
            "num_inference_steps",
            "invalid_input.video_cost" if isinstance(params, VideoParams) else "invalid_input.image_cost",
            most=max_job_cost,
            got=cost,
        )
        raise InvalidInput([problem])
    return params


def job_cost(params: Params, defaults: ModelDefaults | None = None) -> int:
    """Pixels x frames x (denoising steps + `STEPS_BESIDE`) x images, and `OTHER_MODEL`: what GPU time grows with.

    HEUN's steps count twice; each control picture adds `CONTROLNET_SHARE` to the steps in its span. `defaults` are
    those of the job's model; without them it is taken for the worker's first. An upscaler counts as one step over the
    pixels that it makes: its share of the work is smaller, but it and the file of so many pixels keep the card and the
    line waiting. What is drawn anew there counts as all that is drawn, the overlap of its tiles included.
    """
    cost = 0 if isinstance(params, ImageParams) and params.enlarges else _drawing_cost(params)
    if isinstance(params, ImageParams) and params.upscale is not None:
        cost += _upscaling_cost(params, params.upscale)
    draws = not (isinstance(params, ImageParams) and params.draws_nothing)
    if defaults is not None and not defaults.is_first and draws:
        cost += OTHER_MODEL["video" if isinstance(params, VideoParams) else "image"]
    return cost


def _upscaling_cost(params: ImageParams, upscale: Upscale) -> int:
    cost = upscale.width * upscale.height
    if upscale.tile is not None:
        sides = zip((upscale.width, upscale.height), upscale.tiles, strict=True)
        painted = math.prod(side + (count - 1) * upscale.overlap for side, count in sides)
        calls = 2 if params.scheduler in TWICE_A_STEP else 1
        cost += painted * (upscale.steps(params.num_inference_steps) * calls + STEPS_BESIDE)
    return cost * len(params.seeds)


def _drawing_cost(params: Params) -> int:
    steps, calls = float(params.num_inference_steps), 1
    if isinstance(params, VideoParams):
        times, (width, height) = params.num_frames, (params.width, params.height)
    else:
        times, (width, height) = len(params.seeds), params.drawn_size
        calls = 2 if params.scheduler in TWICE_A_STEP else 1
        if params.refiner_inference_steps is not None and params.high_noise_frac is not None:
            refined = params.refiner_inference_steps * (1 - params.high_noise_frac)
            steps = round(steps * params.high_noise_frac + refined)
    controls = (params.controlnets or ()) if isinstance(params, ImageParams) else ()
    beside = 1 + CONTROLNET_SHARE * sum(entry.span for entry in controls)
    steps *= beside
    drafted = 0.0
    if params.draft is not None:
        drafted = params.draft.width * params.draft.height
        drafted *= params.num_inference_steps * beside * calls + STEPS_BESIDE
        steps *= params.draft.strength
    return round(drafted + width * height * (steps * calls + STEPS_BESIDE)) * times


def job_units(params: Params, defaults: ModelDefaults | None = None) -> int:
    """What a job is worth, whichever card runs it: its cost in millions of pixel-steps, rounded up."""
    return max(1, math.ceil(job_cost(params, defaults) / PIXEL_STEPS_A_UNIT))


def _asked_image_size(request: ImageRequest, defaults: ModelDefaults) -> tuple[int | None, int | None]:
    """Width and height by name, by shape or side by side; None: the request leaves it open."""
    shape = IMAGE_SIZES[request.image_size] if request.image_size else request.aspect_ratio
    if shape is None:
        return request.width, request.height
    return image_size(ASPECT_RATIOS[shape], (defaults.width, defaults.height), defaults.size_multiple)


def _asked_video_size(
    request: VideoRequest, defaults: ModelDefaults, source: Size | None = None
) -> tuple[int | None, int | None]:
    """As `_asked_image_size`; a resolution without a shape takes that of the source, as far as there is one."""
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
    request: ImageRequest, defaults: ModelDefaults, seed: int, source: SourceShape | None, most_pixels: int
) -> ImageParams:
    layout = _layout(request, defaults, source, most_pixels)
    width, height = layout.width, layout.height
    steps = request.num_inference_steps or defaults.num_inference_steps
    refine = request.high_noise_frac is not None or request.refiner_inference_steps is not None
    if refine and not defaults.has_refiner:
        field = "high_noise_frac" if request.high_noise_frac is not None else "refiner_inference_steps"
        raise InvalidInput([FieldProblem(field, "invalid_input.no_refiner")])
    if request.ip_adapters and not defaults.has_ip_adapter:
        raise InvalidInput([FieldProblem("ip_adapters", "invalid_input.no_ip_adapter")])
    inpaint = request if isinstance(request, InpaintRequest) else None
    # An output that is more than what is drawn has any size.
    if layout.drawn is None:
        _check_multiple(defaults.size_multiple, width=width, height=height)
    drawn = (width, height) if layout.drawn is None else (layout.drawn.width, layout.drawn.height)
    scheduler = request.scheduler or defaults.scheduler
    _check_scheduler(request, defaults, scheduler, steps)
    guidance = defaults.guidance_scale if request.guidance_scale is None else request.guidance_scale
    fewest = min(steps, request.refiner_inference_steps or steps)
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
        refiner_inference_steps=(request.refiner_inference_steps or steps) if refine else None,
        draft=_draft(defaults, width, height, fewest) if isinstance(request, Text2ImgRequest) else None,
        mask_blur=inpaint.mask_blur if inpaint is not None else None,
        inpaint_area=inpaint.inpaint_area if inpaint is not None else None,
        outpaint=layout.outpaint,
        drawn=layout.drawn,
        controlnets=_controls(request, defaults) or None,
        ip_adapters=tuple(ReferenceParams(entry.type, entry.scale) for entry in request.ip_adapters) or None,
    )


def _enlarging(
    request: UpscaleRequest, defaults: ModelDefaults, seed: int, source: SourceShape | None, most_pixels: int
) -> ImageParams:
    """A picture that is there; while its size is not known, one of the model's that may be made so large."""
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
        guidance_rescale=defaults.guidance_rescale or None,
        enlarges=True,
    )


def _upscale(request: PictureRequest, params: ImageParams, defaults: ModelDefaults, most_pixels: int) -> Upscale | None:
    """How the picture of these parameters is made larger; None: it is not.

    Raises:
        InvalidInput: it would have too many pixels, or details are to be drawn where nothing draws.
    """
    if (factor := request.upscale_factor) is None:
        return None
    width, height = params.width * factor, params.height * factor
    if width * height > most_pixels:
        problem = FieldProblem(
            "upscale_factor",
            "invalid_input.upscaled_pixels",
            width=width,
            height=height,
            pixels=width * height,
            most=most_pixels,
            got=factor,
        )
        raise InvalidInput([problem])
    longest = LONGEST_SIDE.get(request.output_format)
    if longest is not None and max(width, height) > longest:
        problem = FieldProblem(
            "output_format",
            "invalid_input.format_side",
            width=width,
            height=height,
            most=longest,
            got=request.output_format,
        )
        raise InvalidInput([problem])
    creativity = request.upscale_creativity
    if creativity is None:
        creativity = 0.0 if defaults.upscaler is not None else UPSCALE_STRENGTH
    if not creativity:
        return Upscale(factor, width, height, defaults.upscaler or LANCZOS)
    if not defaults.draws:
        raise InvalidInput([FieldProblem("upscale_creativity", "invalid_input.no_image_model")])
    # In one piece up to what is drawn in one pass, else in tiles of the size that the model draws best.
    native, multiple = (defaults.width, defaults.height), defaults.size_multiple
    whole = width * height <= _DRAFTED_ABOVE * math.prod(native)
    tile = tuple(-(-side // multiple) * multiple for side in (width, height)) if whole else native
    return Upscale(factor, width, height, defaults.upscaler or LANCZOS, creativity, (tile[0], tile[1]))


def _controls(request: ImageRequest, defaults: ModelDefaults) -> tuple[ControlParams, ...]:
    made_here = (*PREPROCESSED, "depth") if defaults.makes_depth else PREPROCESSED
    problems = [
        FieldProblem(
            f"controlnets.{index}.preprocess",
            "invalid_input.no_preprocessing",
            choices=", ".join(made_here),
            got=entry.type,
        )
        for index, entry in enumerate(request.controlnets)
        if entry.preprocess and entry.type not in made_here
    ]
    if problems:
        raise InvalidInput(problems)
    return tuple(ControlParams(**entry.model_dump(exclude={"image_url"})) for entry in request.controlnets)


def _layout(request: ImageRequest, defaults: ModelDefaults, source: SourceShape | None, most_pixels: int) -> Layout:
    """The output's size, and what is where in it."""
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
    _check_end_image(request, defaults)
    native = Native(defaults.width, defaults.height, defaults.size_multiple, LONGEST_CLIP)
    size = None if source is None else source.size
    width, height = followed(_asked_video_size(request, defaults, size), native, size, most_pixels=LONGEST_CLIP**2)
    _check_multiple(defaults.size_multiple, video_width=width, video_height=height)
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
        # Wan 2.1's own advice: 3.0 up to 480p, 5.0 above (https://github.com/Wan-Video/Wan2.1, "sample_shift").
        flow_shift=request.flow_shift or defaults.flow_shift or (3.0 if min(width, height) <= 480 else 5.0),
        seed=seed,
        draft=_draft(defaults, width, height, steps) if isinstance(request, Text2VideoRequest) else None,
        video_quality=request.video_quality,
        ends=isinstance(request, Img2VideoRequest) and request.end_image_url is not None,
    )


def _draft(defaults: ModelDefaults, width: int, height: int, steps: int) -> Draft | None:
    """The first pass for a size far beyond the model's own, in that size's proportions."""
    native = defaults.width * defaults.height
    if not defaults.draft_strength or width * height <= _DRAFTED_ABOVE * native:
        return None
    multiple, scale = defaults.size_multiple, math.sqrt(native / (width * height))
    small = [max(1, round(side * scale / multiple)) * multiple for side in (width, height)]
    # At least one step of so few; the margin is for the multiplication that brings them back.
    strength = min(1.0, max(defaults.draft_strength, (1 + 1e-6) / steps))
    return Draft(small[0], small[1], strength)


def _prompts(request: BaseRequest, defaults: ModelDefaults, guidance: float) -> dict[str, Any]:
    """What a job's parameters say of its prompts."""
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
    """The request's own, or where it is empty and counts, the model's; and whose it is."""
    if request.negative_prompt or not defaults.negative_prompt or guidance <= 1:
        return request.negative_prompt, None
    return defaults.negative_prompt, "model"


def _told_size(defaults: ModelDefaults, width: int, height: int) -> tuple[int, int] | None:
    """The size that SDXL is told where it is not the picture's own.

    SDXL was trained with the size of each picture before it was scaled, so that small, blurry ones could stay in the
    set without teaching it blur (https://arxiv.org/abs/2307.01952, section 2.2); and with the size that it draws, which
    was always one of about its native pixels (section 2.3; the fewest in appendix I are 0.94 times as many). Who asks
    for 512 x 512 wants a sharp small picture, not one that looks enlarged. So below the native pixels both are told in
    proportion, as if drawn at the native size; from there on they are the picture's own, bit for bit as ever.
    `micro_conditioning: "requested"` tells the picture's own always.
    """
    scale = math.sqrt(defaults.width * defaults.height / (width * height))
    if defaults.micro_conditioning == "requested" or scale**2 < _TOLD_BELOW:
        return None
    return round(width * scale), round(height * scale)


def _check_scheduler(request: ImageRequest, defaults: ModelDefaults, scheduler: Scheduler | None, steps: int) -> None:
    usable = defaults.schedulers
    if request.scheduler is not None and usable is not None and request.scheduler not in usable:
        if not usable:
            raise InvalidInput([FieldProblem("scheduler", "invalid_input.own_scheduler", got=request.scheduler)])
        choices = ", ".join(usable)
        raise InvalidInput(
            [FieldProblem("scheduler", "invalid_input.model_scheduler", choices=choices, got=request.scheduler)]
        )
    if scheduler in SHORT_SCHEDULERS:
        # The few are chosen from so many; the refiner has a schedule of its own.
        asked = {
            "num_inference_steps": (steps, defaults.original_inference_steps or MAX_SHORT_STEPS),
            "refiner_inference_steps": (request.refiner_inference_steps or 0, MAX_SHORT_STEPS),
        }
        if problems := [
            FieldProblem(name, "invalid_input.short_schedule", most=most, scheduler=scheduler, got=got)
            for name, (got, most) in asked.items()
            if got > most
        ]:
            raise InvalidInput(problems)


def _check_end_image(request: VideoRequest, defaults: ModelDefaults) -> None:
    if not isinstance(request, Img2VideoRequest):
        return
    if request.end_image_url is not None and defaults.end_image == "no":
        raise InvalidInput([FieldProblem("end_image_url", "invalid_input.no_end_image")])
    if request.end_image_url is None and defaults.end_image == "required":
        raise InvalidInput([FieldProblem("end_image_url", "invalid_input.end_image")])


def _check_multiple(multiple: int, **sides: int) -> None:
    wrong = [
        FieldProblem(name, "invalid_input.model_multiple", of=multiple, got=side)
        for name, side in sides.items()
        if side % multiple
    ]
    if wrong:
        raise InvalidInput(wrong)
