"""Validates `job["input"]` as one of the six request models, or raises one error that names every bad field.

The request is a union tagged by `task_type`. Values that depend on the model in use (native size, steps) stay None
here; `resolve` fills them in. Knows fields, their ranges and which task has them (docs/api.md); knows no model, no
network, no files and no document.
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from worker.api.excerpt import excerpt
from worker.api.field_types import (
    MAX_ID_TOKEN_CHARACTERS,
    MAX_PROMPT_CHARACTERS,
    Border,
    FileUid,
    FrameCount,
    IdToken,
    ImageRef,
    ImageSide,
    Integer,
    LoraPath,
    NegativePrompt,
    OptionalPrompt,
    OutputFormat,
    Prompt,
    Seed,
    Strength,
    Told,
    UserId,
    VideoQuality,
    VideoSide,
    WeightName,
    at_most,
    file_uid,
    user_id,
)
from worker.api.prompt_weights import MAX_PASSAGES, MAX_WEIGHT, heaviest, weighted
from worker.api.sizes import AspectRatio, ImageSizeName, Resolution
from worker.api.validation_errors import finding, not_one_of, problem, short
from worker.core.errors import FieldProblem, InvalidInput
from worker.core.types import Allowed, ControlType, Owner, Scheduler, TaskType

ZERO_SNR_SCHEDULERS = (
    Scheduler.DDIM,
    Scheduler.K_EULER,
    Scheduler.K_EULER_ANCESTRAL,
    Scheduler.DPM_SOLVER_MULTISTEP,
    Scheduler.DPM_SOLVER_MULTISTEP_KARRAS,
    Scheduler.DPM_SOLVER_SDE_MULTISTEP_KARRAS,
    Scheduler.UNIPC,
    Scheduler.LCM,
    Scheduler.TCD,
    Scheduler.K_EULER_TRAILING,
)
"""Schedulers that can start from pure noise, as zero terminal SNR needs (https://arxiv.org/abs/2305.08891)."""
TWICE_A_STEP = (Scheduler.HEUN,)
"""Second-order schedulers: two network calls per step (Karras et al. 2022, arXiv:2206.00364, algorithm 1)."""
SHORT_SCHEDULERS = (Scheduler.LCM, Scheduler.TCD)
"""Schedulers that choose their steps from the few on which a consistency model was trained."""
MAX_SHORT_STEPS = 50


ACTIONS = ("quote", "capabilities")
"""Values of `action`, for requests other than jobs; a job has no `action`."""
MAX_PROBLEMS = 25
"""Maximum number of problems in one message, since a request may have thousands of unknown keys."""
UPSCALE_FACTORS = (2, 4)
MAX_NAME = 200
"""Maximum characters of a model's or style's name; the operator configures which names exist."""


class Entry(BaseModel):
    """An object in a list of the request."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _given(cls, value: object) -> object:
        """Drop nulls, and refuse unknown keys with a list of the known ones."""
        if not isinstance(value, dict):
            raise finding("invalid_input.entry_object", keys=", ".join(cls.model_fields), got=short(value))
        if unknown := list(itertools.islice((key for key in value if key not in cls.model_fields), MAX_PROBLEMS)):
            got = ", ".join(map(short, unknown))
            raise finding("invalid_input.entry_key", keys=", ".join(cls.model_fields), got=got)
        return {key: one for key, one in value.items() if one is not None}


class Lora(Entry):
    """Low-rank weights that are added to the model's own."""

    path: LoraPath
    """A name on the operator's list or, if the operator allows it, a hub id or an `https://` URL."""
    scale: Annotated[float, Field(ge=-4, le=4)] = 1.0
    weight_name: WeightName | None = None
    """The file to use of a hub repository that has several."""


class ControlNet(Entry):
    """A picture that controls the composition of the result."""

    type: ControlType
    image_url: ImageRef
    preprocess: bool = True
    """Whether the control picture is derived from a photo; False: the picture already is one."""
    conditioning_scale: Annotated[float, Field(ge=0, le=2)] = 1.0
    start_percentage: Annotated[float, Field(ge=0, le=1)] = 0.0
    end_percentage: Annotated[float, Field(ge=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _some_step(self) -> "ControlNet":
        if self.start_percentage >= self.end_percentage:
            raise finding("invalid_input.control_span", start=self.start_percentage, end=self.end_percentage)
        return self


class IpAdapter(Entry):
    """A picture whose subject or style the result takes on."""

    image_url: ImageRef
    scale: Annotated[float, Field(ge=0, le=2)] = 0.6
    type: Literal["subject", "style"] = "subject"


Loras = Annotated[tuple[Annotated[Lora, Field(strict=False)], ...], Field(strict=False), *at_most(4)]
ControlNets = Annotated[tuple[Annotated[ControlNet, Field(strict=False)], ...], Field(strict=False), *at_most(3)]
IpAdapters = Annotated[tuple[Annotated[IpAdapter, Field(strict=False)], ...], Field(strict=False), *at_most(2)]


def _factor(value: int) -> int:
    if value not in UPSCALE_FACTORS:
        raise finding("invalid_input.upscale_factor", got=value)
    return value


class BaseRequest(BaseModel):
    """The fields of every task."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    reference_fields: ClassVar[tuple[str, ...]] = ()
    """Fields that name pictures, other than those in lists."""
    one_of_these: ClassVar[tuple[tuple[str, tuple[str, ...]], ...]] = ()
    """Each field with the fields that exclude it, because they say the same in another way."""

    prompt: Prompt
    negative_prompt: NegativePrompt = ""
    prompt_weighting: bool = False
    style: Annotated[str, Field(max_length=MAX_NAME)] | None = None
    model: Annotated[str, Field(max_length=MAX_NAME)] | None = None
    seed: Seed = None
    num_inference_steps: Annotated[Integer, Field(ge=1, le=100)] | None = None
    acceleration: Allowed | None = None
    """What may be traded for speed; None: the operator's default."""
    user_id: UserId | None = None
    file_uid: FileUid | None = None
    use_cloud_storage: bool = False
    preview: bool = False
    """Whether the document shows small previews during generation."""
    id_token: IdToken | None = None

    @property
    def owner(self) -> Owner | None:
        """The owner of a cloud job; None: the result is returned inline."""
        if self.use_cloud_storage and self.user_id and self.file_uid:
            return Owner(self.user_id, self.file_uid)
        return None

    def public(self) -> dict[str, Any]:
        """Return the request as the document stores it: no `id_token`, placeholders for inline data, at most 64 KiB."""
        return excerpt(self.model_dump(mode="json", exclude={"id_token"}), whole=("prompt", "negative_prompt"))

    def pictures(self) -> dict[str, str]:
        """Return the picture references by their field, as an error names it (`controlnets.0.image_url`)."""
        return {name: ref for name in self.reference_fields if (ref := getattr(self, name)) is not None}

    @property
    def reads_bucket(self) -> bool:
        """Whether a picture reference is a gs:// path."""
        return any(ref.startswith("gs://") for ref in self.pictures().values())


UpscaleFactor = Annotated[Integer, AfterValidator(_factor), Told(enum=list(UPSCALE_FACTORS))]
Creativity = Annotated[float, Field(ge=0, le=0.5)]


class PictureRequest(BaseRequest):
    """The common fields of tasks whose result is a picture."""

    output_format: OutputFormat = "png"
    output_quality: Annotated[Integer, Field(ge=1, le=100)] | None = None
    upscale_factor: UpscaleFactor | None = None
    upscale_creativity: Creativity | None = None
    """Share of the schedule that draws details anew at the larger size; None: 0 if the worker has an upscaler."""


class ImageRequest(PictureRequest):
    """The common fields of the image tasks."""

    one_of_these = (("image_size", ("width", "height")), ("aspect_ratio", ("width", "height", "image_size")))

    width: ImageSide | None = None
    height: ImageSide | None = None
    image_size: ImageSizeName | None = None
    aspect_ratio: AspectRatio | None = None
    num_images: Annotated[Integer, Field(ge=1, le=4)] = 1
    guidance_scale: Annotated[float, Field(ge=0, le=30)] | None = None
    scheduler: Annotated[Scheduler, Field(strict=False)] | None = None
    loras: Loras = ()
    controlnets: ControlNets = ()
    ip_adapters: IpAdapters = ()
    high_noise_frac: Annotated[float, Field(ge=0, le=1)] | None = None
    refiner_inference_steps: Annotated[Integer, Field(ge=1, le=100)] | None = None

    def pictures(self) -> dict[str, str]:
        """As `BaseRequest.pictures`, with those of `controlnets` and `ip_adapters`."""
        controls = {f"controlnets.{k}.image_url": entry.image_url for k, entry in enumerate(self.controlnets)}
        references = {f"ip_adapters.{k}.image_url": entry.image_url for k, entry in enumerate(self.ip_adapters)}
        return super().pictures() | controls | references


class Text2ImgRequest(ImageRequest):
    """Images from a prompt."""

    task_type: Literal[TaskType.TEXT2IMG] = TaskType.TEXT2IMG


class Img2ImgRequest(ImageRequest):
    """Images from a picture and a prompt."""

    reference_fields = ("image_url",)

    task_type: Literal[TaskType.IMG2IMG]
    image_url: ImageRef
    strength: Strength = 0.6


class Outpaint(BaseModel):
    """How many pixels the canvas grows on each side."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    left: Border = 0
    right: Border = 0
    up: Border = 0
    down: Border = 0

    @model_validator(mode="before")
    @classmethod
    def _sides(cls, value: object) -> object:
        """Drop nulls."""
        if not isinstance(value, dict):
            raise finding("invalid_input.outpaint_object", got=short(value))
        given = ((side, pixels) for side, pixels in value.items() if pixels is not None or side not in cls.model_fields)
        return dict(itertools.islice(given, MAX_PROBLEMS))

    @model_validator(mode="after")
    def _grows(self) -> "Outpaint":
        if not (self.left or self.right or self.up or self.down):
            raise finding("invalid_input.outpaint")
        return self


class InpaintRequest(ImageRequest):
    """A partly repainted picture: white in the mask is repainted, grey in proportion."""

    reference_fields = ("image_url", "mask_url")

    task_type: Literal[TaskType.INPAINT]
    image_url: ImageRef
    outpaint: Annotated[Outpaint, Field(strict=False)] | None = None
    mask_url: Annotated[ImageRef | None, Field(validate_default=True)] = None
    mask_blur: Annotated[float, Field(ge=0, le=64)] = 0.0
    inpaint_area: Literal["whole", "masked"] = "whole"
    strength: Strength = 0.99

    @field_validator("mask_url")
    @classmethod
    def _something_is_repainted(cls, value: str | None, info: ValidationInfo) -> str | None:
        # If `outpaint` is invalid, its own error is enough.
        if value is None and info.data.get("outpaint", ...) is None:
            raise finding("invalid_input.required", task=TaskType.INPAINT)
        return value


class UpscaleRequest(PictureRequest):
    """A picture, enlarged."""

    reference_fields = ("image_url",)

    task_type: Literal[TaskType.UPSCALE]
    image_url: ImageRef
    upscale_factor: UpscaleFactor
    prompt: OptionalPrompt = ""
    """Describes the picture for a model that draws its details anew."""


class VideoRequest(BaseRequest):
    """The common fields of the video tasks."""

    one_of_these = (
        ("aspect_ratio", ("video_width", "video_height")),
        ("resolution", ("video_width", "video_height")),
        ("duration", ("num_frames",)),
    )

    video_width: VideoSide | None = None
    video_height: VideoSide | None = None
    aspect_ratio: AspectRatio | None = None
    resolution: Resolution | None = None
    duration: Annotated[float, Field(gt=0, le=120)] | None = None
    num_frames: FrameCount | None = None
    fps: Annotated[Integer, Field(ge=1, le=60)] | None = None
    video_guidance_scale: Annotated[float, Field(ge=0, le=30)] | None = None
    flow_shift: Annotated[float, Field(ge=0.1, le=20)] | None = None
    video_quality: VideoQuality = "high"
    loras: Loras = ()
    high_noise_loras: Loras = ()
    low_noise_loras: Loras = ()


class Text2VideoRequest(VideoRequest):
    """A clip from a prompt."""

    task_type: Literal[TaskType.TEXT2VIDEO]


class Img2VideoRequest(VideoRequest):
    """A clip that starts from a picture, and may end with one."""

    reference_fields = ("image_url", "end_image_url")

    task_type: Literal[TaskType.IMG2VIDEO]
    image_url: ImageRef
    end_image_url: ImageRef | None = None


Request = Text2ImgRequest | Img2ImgRequest | InpaintRequest | UpscaleRequest | Text2VideoRequest | Img2VideoRequest

REQUESTS: dict[TaskType, type[Request]] = {
    get_args(model.model_fields["task_type"].annotation)[0]: model for model in get_args(Request)
}
DEFAULT_TASK = TaskType.TEXT2IMG
_ADAPTERS = {task: TypeAdapter(model) for task, model in REQUESTS.items()}
_FIELDS = {task: tuple(model.model_fields) for task, model in REQUESTS.items()}
_KNOWN = {"action", *itertools.chain.from_iterable(_FIELDS.values())}
NAMES = (
    *("model", "style", "scheduler", "loras", "high_noise_loras", "low_noise_loras", "controlnets", "ip_adapters"),
    *("high_noise_frac", "refiner_inference_steps", "end_image_url", "upscale_creativity"),
)
"""Fields that ask for what a worker may not have, whatever the other fields say."""
_ANYTHING: Mapping[str, Any] = dict.fromkeys(("image_url", "mask_url"), "https://a.example/") | {
    "prompt": "a",
    "upscale_factor": UPSCALE_FACTORS[0],
}
_ENTRIES: Mapping[str, dict[str, Any]] = {
    "loras": {"path": "a"},
    "high_noise_loras": {"path": "a"},
    "low_noise_loras": {"path": "a"},
    "controlnets": {"type": "canny", "image_url": _ANYTHING["image_url"]},
    "ip_adapters": {"image_url": _ANYTHING["image_url"]},
}
_ENTRY_NAMES = ("type", "preprocess", "path", "weight_name", "scale")


def parse(raw: object) -> Request:
    """Validate `job["input"]`.

    Raises:
        InvalidInput: naming every field that is wrong, with its value in a short form and what would be right.
    """
    if not isinstance(raw, dict):
        raise InvalidInput([FieldProblem("input", "invalid_input.object", got=short(raw))])
    named = raw.get("task_type")
    task = _task(named)
    if task is None:
        raise InvalidInput([not_one_of("task_type", tuple(REQUESTS), named)])
    if raw.get("action") is not None:
        raise InvalidInput([not_one_of("action", ACTIONS, raw["action"])])
    read, request, problems = _worth_reading(raw, task), None, list[FieldProblem]()
    try:
        request = _ADAPTERS[task].validate_python({**read, "task_type": task})
        read = dict(request)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=True)
        problems = [problem(detail, task, _FIELDS) for detail in details[:MAX_PROBLEMS]]
    # Reported together with problems of single fields, so that one round of corrections is enough.
    problems += _of_several(read, REQUESTS[task])
    if request is None or problems:
        raise InvalidInput(problems[:MAX_PROBLEMS])
    return request


def names_of(raw: object) -> Request | None:
    """Return a request with the valid `NAMES` of an invalid one, and something valid wherever one is required.

    It serves to say what of them is not served, in the same message. None: not even its task is known.
    """
    task = _task(raw.get("task_type")) if isinstance(raw, dict) else None
    if task is None or not isinstance(raw, dict):
        return None
    own = REQUESTS[task].model_fields
    read: dict[str, Any] = {name: value for name, value in _ANYTHING.items() if name in own} | {"task_type": task}
    read |= {name: _name(name, raw[name]) for name in NAMES if name in own and raw.get(name) is not None}
    with contextlib.suppress(ValidationError):
        return _ADAPTERS[task].validate_python(_without_errors(read, task))
    return None


def _name(field: str, value: object) -> object:
    if field == "end_image_url":
        return _ANYTHING["image_url"]
    if field not in _ENTRIES or not isinstance(value, list):
        return value
    kept = (entry if isinstance(entry, dict) else {} for entry in value[:MAX_PROBLEMS])
    return [_ENTRIES[field] | {key: entry[key] for key in _ENTRY_NAMES if entry.get(key) is not None} for entry in kept]


def _without_errors(read: dict[str, Any], task: TaskType) -> dict[str, Any]:
    """Drop what is not valid; in an entry of a list, what is required becomes anything, so that the others stay."""
    try:
        _ADAPTERS[task].validate_python(read)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            match detail["loc"]:
                case (str(field), int(index), str(key)) if field in read and key in read[field][index]:
                    anything = _ENTRIES[field]
                    read[field][index] = {name: one for name, one in read[field][index].items() if name != key}
                    read[field][index] |= {key: anything[key]} if key in anything else {}
                case (field, *_):
                    read.pop(str(field), None)
    return read


def _of_several(read: Mapping[str, Any], model: type[Request]) -> Iterator[FieldProblem]:
    """Yield problems between fields, for those that are valid by themselves."""
    if read.get("use_cloud_storage") is True:
        missing = [name for name in ("user_id", "file_uid") if read.get(name) is None]
        if missing:
            yield FieldProblem("", "invalid_input.owner", fields=", ".join(missing))
    for name, others in model.one_of_these:
        given = [other for other in others if read.get(other) is not None]
        if given and read.get(name) is not None:
            yield FieldProblem("", "invalid_input.several_sizes", fields=", ".join([*given, name]))
    for field in ("prompt", "negative_prompt") if read.get("prompt_weighting") is True else ():
        text = read.get(field)
        passages = weighted(text) if isinstance(text, str) and len(text) <= MAX_PROMPT_CHARACTERS else ()
        if len(passages) > MAX_PASSAGES:
            most = MAX_PASSAGES - 1
            yield FieldProblem("", "invalid_input.prompt_breaks", fields=field, most=most, got=len(passages) - 1)
        if abs(weight := heaviest(passages)) > MAX_WEIGHT:
            yield FieldProblem("", "invalid_input.prompt_weight", fields=field, most=MAX_WEIGHT, got=round(weight, 2))


def _task(value: object) -> TaskType | None:
    if value is None:
        return DEFAULT_TASK
    return TaskType(value) if isinstance(value, str) and value in REQUESTS else None


def _worth_reading(raw: dict[Any, Any], task: TaskType) -> dict[Any, Any]:
    """Return the task's own fields, and as many unknown ones as a message can name.

    `null` in a field of any task means that it is not given: clients that serialise whole structures send it.
    """
    own = REQUESTS[task].model_fields
    given = (name for name in raw if name not in own and not (raw[name] is None and name in _KNOWN))
    unknown = itertools.islice(given, MAX_PROBLEMS)
    return {name: raw[name] for name in (*(name for name in own if raw.get(name) is not None), *unknown)}


@dataclass(frozen=True, slots=True)
class Envelope:
    """The parts of a possibly invalid request that are needed to answer it and to write its document."""

    task_type: TaskType | None
    user_id: str | None
    file_uid: str | None
    owner: Owner | None
    id_token: str | None


def envelope(raw: object) -> Envelope:
    """Read the ids of a request without validating the rest; never raises."""
    data = raw if isinstance(raw, dict) else {}
    token = data.get("id_token")
    user, file = user_id(data.get("user_id")), file_uid(data.get("file_uid"))
    wants_cloud = data.get("use_cloud_storage") is True
    return Envelope(
        task_type=_task(data.get("task_type")),
        user_id=user,
        file_uid=file,
        owner=Owner(user, file) if wants_cloud and user and file else None,
        id_token=token if isinstance(token, str) and len(token) <= MAX_ID_TOKEN_CHARACTERS else None,
    )
