"""The concrete parameters of a job, and what a configured model says of itself: the values that every stage reads.

Frozen values without I/O and torch. `resolve` makes the parameters of a request, `cost` counts what they come to; what
they say is what the response's `params` says.
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
"""What an upscaler is called where there is no network: a resampling filter."""


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
    """Whether the worker uses it where a request names no model; any other is loaded beside it, or in its place."""
    has_ip_adapter: bool = False
    makes_depth: bool = False
    """Whether the depth of a photo can be told here."""
    scheduler: Scheduler | None = None
    """The scheduler where the request names none; None: the one in the model's own files."""
    schedulers: tuple[Scheduler, ...] | None = None
    """Schedulers that a request may name; None: all."""
    prediction_type: str | None = None
    """What the network was trained to give (`v_prediction`); None: the noise, as in SDXL base."""
    timestep_spacing: str | None = None
    """How the steps are taken from the schedule (`trailing`); None: as in SDXL base."""
    original_inference_steps: int | None = None
    """For LCM: how many steps the schedule has that its few are chosen from; None: as the model's own files say."""
    few_steps: bool = False
    """Distilled to `num_inference_steps` and `guidance_scale`, and worse at any other."""
    negative_prompt: str = ""
    """Stands in for an empty one of the request."""
    guidance_scale_2: float | None = None
    """Guidance of Wan's low-noise expert; None: there is none, or it takes the same."""
    flow_shift: float | None = None
    """How far the schedule is shifted to high noise levels; None: by the size."""
    takes_flow_shift: bool = True
    """Whether its scheduler can be shifted."""
    end_image: EndImage = "no"
    """Whether an img2video may, or has to, say what it ends with."""
    micro_conditioning: Literal["native", "requested"] = "native"
    """What SDXL is told of the picture's size: see `resolve`."""
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
    """The eight-bit numbers that its large layers are kept in; None: those that it runs in."""
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
    """How a finished picture is enlarged, and whether its details are redrawn."""

    factor: int
    width: int
    height: int
    """Size of the result in pixels."""
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
        """How many tiles there are across and down; 0, 0 where nothing is drawn anew."""
        if self.tile is None:
            return 0, 0
        across, down = (
            1 if side <= tile else math.ceil((-(-side // 8) * 8 - self.overlap) / (tile - self.overlap))
            for side, tile in ((self.width, self.tile[0]), (self.height, self.tile[1]))
        )
        return across, down

    def steps(self, schedule: int) -> int:
        """Denoising steps of each tile, where the schedule has so many."""
        return max(1, int(schedule * self.creativity))

    def strength(self, schedule: int) -> float:
        """Share of such a schedule that is run, 0 < s <= 1: one step at least."""
        # The margin is for the multiplication that turns the share into steps again.
        return min(1.0, max(self.creativity, (1 + 1e-6) / schedule))


@dataclass(frozen=True, slots=True)
class StepCache:
    """Which denoising steps of a clip are not computed in full."""

    kind: Literal["first_block", "sea"]
    threshold: float
    """How much may have changed since the last step that was computed in full, 0 ... 1; 0: nothing."""


@dataclass(frozen=True, slots=True)
class ReferenceParams:
    """How a picture beside the prompt is used."""

    type: Literal["subject", "style"]
    scale: float


@dataclass(frozen=True, slots=True)
class LoraParams:
    """The public name of a LoRA, and its scale."""

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
        """Whether call 0 ... `calls` - 1 of a pass lies in its span, as a whole."""
        return call / calls >= self.start_percentage and (call + 1) / calls <= self.end_percentage


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseParams:
    """What image and video jobs share: the prompts, and what is done to the model for this job."""

    prompt: str
    negative_prompt: str
    negative_prompt_of: Literal["model"] | None = None
    """Where the negative prompt comes from; None: the request."""
    prompt_weighting: Literal[True] | None = None
    """Whether brackets in the request's prompts are weights; None: they are letters."""
    style: str | None = None
    """The operator's style that the prompts are framed in."""
    loras: tuple[LoraParams, ...] | None = None
    acceleration: Level | None = None
    """What was traded for speed; None: nothing."""
    quantize: Quantized | None = None
    """The eight-bit numbers that the large layers were kept in; None: those that they run in."""

    @property
    def draws_nothing(self) -> bool:
        """Whether no model but an upscaler has a part in the job."""
        return False

    @property
    def texts(self) -> tuple[tuple[str, bool], tuple[str, bool]]:
        """Both prompts, and whether brackets in them are weights."""
        weights = bool(self.prompt_weighting)
        return (self.prompt, weights), (self.negative_prompt, weights and self.negative_prompt_of is None)

    @property
    def wanted(self) -> Passages:
        """The prompt, read."""
        return _read(*self.texts[0])

    @property
    def unwanted(self) -> Passages:
        """The negative prompt, read; a model's own has no weights."""
        return _read(*self.texts[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageParams(BaseParams):
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
    """For LCM: how many steps the schedule has that its few are chosen from; None: as the model's own files say."""
    guidance_rescale: float | None = None
    """None: guidance is left as it is."""
    micro_conditioning: tuple[int, int] | None = None
    """Width and height that the model is told; None: those of the picture."""
    strength: float | None = None
    """Share of the noise schedule that is run, 0 < s <= 1; None for text2img."""
    high_noise_frac: float | None = None
    """Share of the schedule that the base model runs before the refiner takes over; None: no refiner."""
    refiner_inference_steps: int | None = None
    """Steps of the schedule whose last part the refiner runs; None: no refiner."""
    draft: Draft | None = None
    """The first of two passes of a text2img; None: there is one pass."""
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
    output_quality: int | None = None
    """Of the file, 1 ... 100; None: its format has none."""
    enlarges: bool = False
    """Whether the picture is the client's own: nothing is drawn at this size."""

    @property
    def final_size(self) -> tuple[int, int]:
        """Width and height of the result."""
        return (self.width, self.height) if self.upscale is None else (self.upscale.width, self.upscale.height)

    @property
    def draws_nothing(self) -> bool:
        """Whether no model but an upscaler has a part in the job."""
        return self.enlarges and self.upscale is not None and not self.upscale.creativity

    @property
    def drawn_size(self) -> tuple[int, int]:
        """Width and height that the model draws."""
        return (self.width, self.height) if self.drawn is None else (self.drawn.width, self.drawn.height)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoParams(BaseParams):
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
    """Guidance of the low-noise expert; None: there is none, or it takes the same."""
    high_noise_loras: tuple[LoraParams, ...] | None = None
    low_noise_loras: tuple[LoraParams, ...] | None = None
    draft: Draft | None = None
    """The first of two passes of a text2video; None: there is one pass."""
    video_quality: VideoQuality = "high"
    step_cache: StepCache | None = None
    """None: every step is computed in full."""
    ends: bool = False
    """Whether the clip ends with a picture of the client's."""


Params = ImageParams | VideoParams


PRIVATE = {"prompt", "negative_prompt", "seeds", "seed", "enlarges", "ends"}
"""What the response's `params` never show: it stands beside them, or is the worker's own."""
_OF_DRAWING = {
    *("negative_prompt_of", "prompt_weighting", "style", "num_inference_steps", "guidance_scale", "scheduler"),
    *("prediction_type", "timestep_spacing", "original_inference_steps", "guidance_rescale", "quantize"),
}
"""What says nothing of a job in which no model draws."""


def public_params(params: Params) -> dict[str, Any]:
    """`params` as the response shows them: what was really used, without the texts and the seeds beside them."""
    left_out = PRIVATE | _OF_DRAWING if params.draws_nothing else PRIVATE
    return {key: value for key, value in asdict(params).items() if key not in left_out and value is not None}


def _read(text: str, weights: bool) -> Passages:
    return weighted(text) if weights else plain(text)
