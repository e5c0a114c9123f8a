"""The concrete parameters of a job and the defaults of a configured model: the values that every stage reads.

Frozen values. `resolve` builds the parameters of a request, `cost` prices them, and the response shows them as
`params`. Knows no I/O and no torch.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from worker.api.field_types import VideoQuality
from worker.api.layout import Borders, Drawn
from worker.api.prompt_weights import Passages, plain, weighted
from worker.core.types import ControlType, Level, Quantized, Scheduler

EndImage = Literal["no", "optional", "required"]
LANCZOS = "lanczos"
"""The upscaler's name where no network is configured: the resampling filter."""


@dataclass(frozen=True, slots=True)
class ModelDefaults:
    """A configured model's defaults and abilities, read from its small JSON files without loading it."""

    name: str
    """The response's `model`: `demo`, a hub id, or the name of a folder or file."""
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
    """Whether requests that name no model use it; any other model is loaded beside it or in its place."""
    has_ip_adapter: bool = False
    makes_depth: bool = False
    """Whether this worker can estimate the depth of a photo."""
    control_types: tuple[ControlType, ...] | None = None
    """Types of control picture that a request may use; None: they cannot be read, which a request that uses one is
    told."""
    scheduler: Scheduler | None = None
    """The default scheduler; None: the one in the model's own files."""
    schedulers: tuple[Scheduler, ...] | None = None
    """Schedulers that a request may name; None: all."""
    prediction_type: str | None = None
    """What the network predicts (`v_prediction`); None: the noise, as in SDXL base."""
    timestep_spacing: str | None = None
    """How the steps are spaced in the schedule (`trailing`); None: as in SDXL base."""
    original_inference_steps: int | None = None
    """For LCM: length of the schedule from which the few steps are chosen; None: as in the model's own files."""
    few_steps: bool = False
    """Whether it was distilled for `num_inference_steps` and `guidance_scale`, and is worse at other values."""
    negative_prompt: str = ""
    """Used if the request has none."""
    guidance_scale_2: float | None = None
    """Guidance of Wan's low-noise expert; None: no such expert, or the same guidance."""
    has_experts: bool | None = None
    """Whether it has one network for high noise and one for low; None: its weights are not on this machine yet."""
    flow_shift: float | None = None
    """How far the schedule is shifted to high noise levels; None: chosen by the size."""
    takes_flow_shift: bool = True
    """Whether its scheduler can be shifted."""
    end_image: EndImage = "no"
    """Whether an img2video request may or must give the end image."""
    most_chunks: int | None = None
    """Chunks of a prompt that it reads; None: all."""
    micro_conditioning: Literal["native", "requested"] = "native"
    """The image size that SDXL is conditioned on: see `resolve`."""
    guidance_rescale: float = 0.0
    """Share of guidance's overexposure that is corrected: https://arxiv.org/abs/2305.08891, section 3.4."""
    draft_strength: float | None = None
    """For sizes far beyond the native one: the share of the noise schedule that runs at full size, 0 < s <= 1, after a
    draft at about the native size. None: one pass at any size."""
    upscaler: str | None = None
    """The network that enlarges this model's images; None: there is none."""
    draws: bool = True
    """False: only an upscaler."""
    quantize: Quantized | None = None
    """The 8-bit format of its large layers in memory; None: not quantized."""
    warnings: tuple[str, ...] = ()
    """Added to every result of this model."""


@dataclass(frozen=True, slots=True)
class Draft:
    """The first of two passes: the whole schedule at about the native size; the second enlarges and finishes it."""

    width: int
    height: int
    strength: float
    """Share of the schedule that the second pass runs at full size."""


@dataclass(frozen=True, slots=True)
class Upscale:
    """How a finished image is enlarged, and whether its details are redrawn."""

    factor: int
    width: int
    height: int
    """Size of the result in pixels."""
    upscaler: str
    """The network's name, or `lanczos`."""
    creativity: float = 0.0
    """Share of the schedule that the model runs at the larger size; 0: details are not redrawn."""
    tile: tuple[int, int] | None = None
    """Maximum width and height of the tiles that it redraws; None: it redraws nothing."""

    @property
    def overlap(self) -> int:
        """Pixels in which two neighbouring tiles overlap and are blended: an eighth of a tile."""
        return 0 if self.tile is None else min(self.tile) // 8

    @property
    def tiles(self) -> tuple[int, int]:
        """The number of tiles across and down; 0, 0 if nothing is redrawn."""
        if self.tile is None:
            return 0, 0
        across, down = (
            1 if side <= tile else math.ceil((-(-side // 8) * 8 - self.overlap) / (tile - self.overlap))
            for side, tile in ((self.width, self.tile[0]), (self.height, self.tile[1]))
        )
        return across, down

    def steps(self, schedule: int) -> int:
        """Return the denoising steps of each tile, for a schedule of that many steps."""
        return max(1, int(schedule * self.creativity))

    def strength(self, schedule: int) -> float:
        """Return the share of such a schedule that runs, 0 < s <= 1: at least one step."""
        # The margin keeps the multiplication that turns the share back into steps from rounding down.
        return min(1.0, max(self.creativity, (1 + 1e-6) / schedule))


@dataclass(frozen=True, slots=True)
class StepCache:
    """How the denoising steps of a video that are not computed in full are chosen."""

    kind: Literal["first_block", "sea"]
    threshold: float
    """Largest change since the last step computed in full that still reuses it, 0 ... 1; 0: none."""


@dataclass(frozen=True, slots=True)
class ReferenceParams:
    """How a reference image is used."""

    type: Literal["subject", "style"]
    scale: float


@dataclass(frozen=True, slots=True)
class LoraParams:
    """The public name of a LoRA, and its scale."""

    name: str
    scale: float


@dataclass(frozen=True, slots=True)
class ControlParams:
    """One ControlNet entry of the request, without its image."""

    type: ControlType
    preprocess: bool = True
    conditioning_scale: float = 1.0
    start_percentage: float = 0.0
    end_percentage: float = 1.0

    @property
    def span(self) -> float:
        """Share of a pass in which it is applied, 0 ... 1."""
        return self.end_percentage - self.start_percentage if self.conditioning_scale else 0.0

    def counts(self, call: int, calls: int) -> bool:
        """Whether call `call` (0 ... `calls` - 1) of a pass lies wholly within its span."""
        return call / calls >= self.start_percentage and (call + 1) / calls <= self.end_percentage


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseParams:
    """The parameters of both image and video jobs: prompts, and how the model is modified for this job."""

    prompt: str
    negative_prompt: str
    negative_prompt_of: Literal["model"] | None = None
    """The origin of the negative prompt; None: the request."""
    prompt_weighting: Literal[True] | None = None
    """Whether brackets in the request's prompts are weights; None: they are plain text."""
    style: str | None = None
    """The operator's style that was applied."""
    loras: tuple[LoraParams, ...] | None = None
    acceleration: Level | None = None
    """The acceleration that was applied; None: no quality was traded for speed."""
    quantize: Quantized | None = None
    """The 8-bit format of the large layers in memory; None: not quantized."""

    @property
    def draws_nothing(self) -> bool:
        """Whether the job uses no model except an upscaler."""
        return False

    @property
    def texts(self) -> tuple[tuple[str, bool], tuple[str, bool]]:
        """Both prompts, each with whether brackets in it are weights."""
        weights = bool(self.prompt_weighting)
        return (self.prompt, weights), (self.negative_prompt, weights and self.negative_prompt_of is None)

    @property
    def wanted(self) -> Passages:
        """The parsed prompt."""
        return _read(*self.texts[0])

    @property
    def unwanted(self) -> Passages:
        """The parsed negative prompt; a model's own has no weights."""
        return _read(*self.texts[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageParams(BaseParams):
    """One image job with every value resolved. Image k starts from `seeds[k]`."""

    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: Scheduler | None
    """None: the model's own."""
    seeds: tuple[int, ...]
    prediction_type: str | None = None
    timestep_spacing: str | None = None
    """Both as in the model, if they differ from SDXL base."""
    original_inference_steps: int | None = None
    """For LCM: length of the schedule from which the few steps are chosen; None: as in the model's own files."""
    guidance_rescale: float | None = None
    """None: guidance is not rescaled."""
    micro_conditioning: tuple[int, int] | None = None
    """The width and height that the model is conditioned on; None: those of the image."""
    strength: float | None = None
    """Share of the noise schedule that runs, 0 < s <= 1; None for text2img."""
    high_noise_frac: float | None = None
    """Share of the schedule that the base model runs before the refiner takes over; None: no refiner."""
    refiner_inference_steps: int | None = None
    """Steps of the schedule of which the refiner runs the last part; None: no refiner."""
    draft: Draft | None = None
    """The first of two passes of a text2img job; None: there is one pass."""
    mask_blur: float | None = None
    """Standard deviation of the mask's feathering, in output pixels; None: no mask."""
    inpaint_area: Literal["whole", "masked"] | None = None
    outpaint: Borders | None = None
    """The borders that are drawn around the source; None: none."""
    drawn: Drawn | None = None
    """The part of an inpainting that the model draws; None: the whole output, at the output's size."""
    controlnets: tuple[ControlParams, ...] | None = None
    ip_adapters: tuple[ReferenceParams, ...] | None = None
    """One per reference image, whose subject or style the result takes on."""
    upscale: Upscale | None = None
    """How the image is enlarged; None: it keeps its size."""
    output_quality: int | None = None
    """Quality of the file, 1 ... 100; None: its format has none."""
    enlarges: bool = False
    """Whether the job enlarges the client's own image: nothing is drawn at this size."""

    @property
    def final_size(self) -> tuple[int, int]:
        """Width and height of the result."""
        return (self.width, self.height) if self.upscale is None else (self.upscale.width, self.upscale.height)

    @property
    def draws_nothing(self) -> bool:
        """Whether the job uses no model except an upscaler."""
        return self.enlarges and self.upscale is not None and not self.upscale.creativity

    @property
    def drawn_size(self) -> tuple[int, int]:
        """Width and height of what the model draws."""
        return (self.width, self.height) if self.drawn is None else (self.drawn.width, self.drawn.height)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoParams(BaseParams):
    """One video job with every value resolved."""

    width: int
    height: int
    num_frames: int
    fps: int
    num_inference_steps: int
    guidance_scale: float
    flow_shift: float
    seed: int
    guidance_scale_2: float | None = None
    """Guidance of the low-noise expert; None: no such expert, or the same guidance."""
    high_noise_loras: tuple[LoraParams, ...] | None = None
    low_noise_loras: tuple[LoraParams, ...] | None = None
    draft: Draft | None = None
    """The first of two passes of a text2video job; None: there is one pass."""
    video_quality: VideoQuality = "high"
    step_cache: StepCache | None = None
    """None: every step is computed in full."""
    ends: bool = False
    """Whether the video ends with an image of the client."""
    most_chunks: int | None = None
    """Chunks of a prompt that the model reads; None: all."""


Params = ImageParams | VideoParams


PRIVATE = {"prompt", "negative_prompt", "seeds", "seed", "enlarges", "ends", "most_chunks"}
"""Never in the response's `params`: they are shown beside them, or are internal to the worker."""
_OF_DRAWING = {
    *("negative_prompt_of", "prompt_weighting", "style", "num_inference_steps", "guidance_scale", "scheduler"),
    *("prediction_type", "timestep_spacing", "original_inference_steps", "guidance_rescale", "quantize"),
}
"""Meaningless for a job in which no model draws."""


def public_params(params: Params) -> dict[str, Any]:
    """Return `params` as the response shows them: the values that were used, without the prompts and seeds."""
    left_out = PRIVATE | _OF_DRAWING if params.draws_nothing else PRIVATE
    return {key: value for key, value in asdict(params).items() if key not in left_out and value is not None}


def _read(text: str, weights: bool) -> Passages:
    return weighted(text) if weights else plain(text)
