"""`job["input"]` -> one of the five request models, or one message that names every bad field.

A union tagged by `task_type`. Knows fields, types and ranges (section 1 of the contract); knows no model, no network,
no files and no document. What depends on the model in use (native size, steps) stays None here; `params` fills it.
"""

import difflib
import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from worker.errors import FieldProblem, InvalidInput

MAX_PROMPT_CHARACTERS = 4000
MAX_ID_TOKEN_CHARACTERS = 8192
MAX_IMAGE_REF_CHARACTERS = 28_000_000
"""A data URI of the largest source image (20 MiB) in base64."""


class Scheduler(StrEnum):
    """The schedulers a client may choose, by the names RunPod's SDXL worker made common."""

    DDIM = "DDIM"
    PNDM = "PNDM"
    KLMS = "KLMS"
    K_EULER = "K_EULER"
    K_EULER_ANCESTRAL = "K_EULER_ANCESTRAL"
    DPM_SOLVER_MULTISTEP = "DPMSolverMultistep"
    DPM_SOLVER_SINGLESTEP = "DPMSolverSinglestep"
    DPM_SOLVER_MULTISTEP_KARRAS = "DPMSolverMultistepKarras"
    DPM_SOLVER_SDE_MULTISTEP_KARRAS = "DPMSolverSDEMultistepKarras"
    HEUN = "HEUN"
    UNIPC = "UniPC"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose generation it is: the two ids that make up every path."""

    user_id: str
    file_uid: str


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
_DATA_URI = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,", re.IGNORECASE)


def _clean_text(text: str) -> str:
    # A lone surrogate cannot be encoded as UTF-8: it would break the result, the document and the log alike.
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise PydanticCustomError("text", "must be valid Unicode text (it holds a lone surrogate)")
    return _CONTROL.sub("", text).strip()


def _prompt(text: str) -> str:
    text = _clean_text(text)
    if not 1 <= len(text) <= MAX_PROMPT_CHARACTERS:
        raise PydanticCustomError(
            "prompt",
            "must have 1 to {most} characters (got {got})",
            {"most": MAX_PROMPT_CHARACTERS, "got": len(text)},
        )
    return text


def _negative_prompt(text: str) -> str:
    text = _clean_text(text)
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise PydanticCustomError(
            "prompt",
            "must have at most {most} characters (got {got})",
            {"most": MAX_PROMPT_CHARACTERS, "got": len(text)},
        )
    return text


def _identifier(text: str) -> str:
    if not _IDENTIFIER.match(text):
        raise PydanticCustomError("identifier", "must be 1 to 128 of the characters A-Z a-z 0-9 _ -")
    return text


def _image_ref(text: str) -> str:
    if not (text.startswith(("https://", "gs://")) or _DATA_URI.match(text)):
        raise PydanticCustomError(
            "image_ref",
            "must be an https:// URL, a data:image/...;base64, URI or a gs:// path of your own uploads",
        )
    return text


def _number(value: object) -> object:
    # JSON has one number type: 20.0 and 20 are the same to a client. A string or a boolean is not a number.
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _multiple(of: int) -> AfterValidator:
    def check(value: int) -> int:
        if value % of:
            raise PydanticCustomError("multiple", "must be a multiple of {of} (got {got})", {"of": of, "got": value})
        return value

    return AfterValidator(check)


def _frames(value: int) -> int:
    if value % 4 != 1:
        low = max(5, value - (value - 1) % 4)
        high = min(121, low + 4)
        raise PydanticCustomError(
            "frames",
            "must be 4k + 1; the nearest are {low} and {high} (got {got})",
            {"low": low, "high": high, "got": value},
        )
    return value


Integer = Annotated[int, BeforeValidator(_number)]
Identifier = Annotated[str, AfterValidator(_identifier)]
ImageRef = Annotated[str, Field(max_length=MAX_IMAGE_REF_CHARACTERS), AfterValidator(_image_ref)]
ImageSide = Annotated[Integer, Field(ge=64, le=2048), _multiple(8)]
VideoSide = Annotated[Integer, Field(ge=64, le=1280), _multiple(16)]
Strength = Annotated[float, Field(gt=0, le=1)]


class BaseRequest(BaseModel):
    """The fields that every task has."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    inline_fields: ClassVar[tuple[str, ...]] = ()

    prompt: Annotated[str, AfterValidator(_prompt)]
    negative_prompt: Annotated[str, AfterValidator(_negative_prompt)] = ""
    seed: Annotated[Integer, Field(ge=0, le=4_294_967_295)] | None = None
    num_inference_steps: Annotated[Integer, Field(ge=1, le=100)] | None = None
    user_id: Identifier | None = None
    file_uid: Identifier | None = None
    use_cloud_storage: bool = False
    id_token: Annotated[str, Field(min_length=1, max_length=MAX_ID_TOKEN_CHARACTERS)] | None = None

    @model_validator(mode="after")
    def _cloud_needs_an_owner(self) -> "BaseRequest":
        if self.use_cloud_storage:
            missing = [name for name in ("user_id", "file_uid") if getattr(self, name) is None]
            if missing:
                raise PydanticCustomError(
                    "owner",
                    "{fields}: required when use_cloud_storage is true",
                    {"fields": ", ".join(missing)},
                )
        return self

    @property
    def owner(self) -> Owner | None:
        """The owner of a cloud job; None for a job whose result goes back inline."""
        if self.use_cloud_storage and self.user_id and self.file_uid:
            return Owner(self.user_id, self.file_uid)
        return None

    def public(self) -> dict[str, Any]:
        """The request as the document keeps it: no `id_token`, a short placeholder for inline image data."""
        data = self.model_dump(mode="json", exclude={"id_token"})
        for name in self.inline_fields:
            if data[name].startswith("data:"):
                data[name] = f"(inline image, {len(data[name])} characters)"
        return data


class ImageRequest(BaseRequest):
    """What the image tasks share."""

    width: ImageSide | None = None
    height: ImageSide | None = None
    num_images: Annotated[Integer, Field(ge=1, le=4)] = 1
    guidance_scale: Annotated[float, Field(ge=0, le=30)] | None = None
    scheduler: Annotated[Scheduler, Field(strict=False)] | None = None
    output_format: Literal["png", "jpeg", "webp"] = "png"
    high_noise_frac: Annotated[float, Field(ge=0, le=1)] | None = None
    refiner_inference_steps: Annotated[Integer, Field(ge=1, le=100)] | None = None


class Text2ImgRequest(ImageRequest):
    """Images from words."""

    task_type: Literal["text2img"] = "text2img"


class Img2ImgRequest(ImageRequest):
    """Images from an image and words."""

    inline_fields = ("image_url",)

    task_type: Literal["img2img"]
    image_url: ImageRef
    strength: Strength = 0.6


class InpaintRequest(ImageRequest):
    """A part of an image, drawn again: white in the mask is repainted."""

    inline_fields = ("image_url", "mask_url")

    task_type: Literal["inpaint"]
    image_url: ImageRef
    mask_url: ImageRef
    strength: Strength = 0.99


class VideoRequest(BaseRequest):
    """What the video tasks share."""

    video_width: VideoSide | None = None
    video_height: VideoSide | None = None
    num_frames: Annotated[Integer, Field(ge=5, le=121), AfterValidator(_frames)] | None = None
    fps: Annotated[Integer, Field(ge=1, le=60)] | None = None
    video_guidance_scale: Annotated[float, Field(ge=0, le=30)] | None = None
    flow_shift: Annotated[float, Field(ge=0.1, le=20)] | None = None


class Text2VideoRequest(VideoRequest):
    """A clip from words."""

    task_type: Literal["text2video"]


class Img2VideoRequest(VideoRequest):
    """A clip that starts from an image."""

    inline_fields = ("image_url",)

    task_type: Literal["img2video"]
    image_url: ImageRef


Request = Text2ImgRequest | Img2ImgRequest | InpaintRequest | Text2VideoRequest | Img2VideoRequest
Source = Img2ImgRequest | InpaintRequest | Img2VideoRequest

REQUESTS: dict[str, type[Request]] = {
    get_args(model.model_fields["task_type"].annotation)[0]: model for model in get_args(Request)
}
DEFAULT_TASK = "text2img"
_ADAPTERS = {task: TypeAdapter(model) for task, model in REQUESTS.items()}
_FIELD_TASKS = {
    field: [task for task, model in REQUESTS.items() if field in model.model_fields]
    for field in {name for model in REQUESTS.values() for name in model.model_fields}
}


def parse(raw: object) -> Request:
    """Validate `job["input"]`.

    Raises:
        InvalidInput: naming every field that is wrong, with its value in a short form and what would be right.
    """
    if not isinstance(raw, dict):
        raise InvalidInput([FieldProblem("input", f"must be an object with at least a prompt (got {_short(raw)})")])
    task = raw.get("task_type", DEFAULT_TASK)
    if not isinstance(task, str) or task not in REQUESTS:
        raise InvalidInput([FieldProblem("task_type", f"must be one of {', '.join(REQUESTS)} (got {_short(task)})")])
    try:
        return _ADAPTERS[task].validate_python({**raw, "task_type": task})
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=True)
        raise InvalidInput([_problem(detail, task) for detail in details[:MAX_PROBLEMS]]) from None


MAX_PROBLEMS = 25
"""A message that names every one of ten thousand unknown keys helps nobody."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What can be told of a request that may not be valid as a whole: enough to answer it and to write its document."""

    task_type: str | None
    user_id: str | None
    file_uid: str | None
    owner: Owner | None
    id_token: str | None


def envelope(raw: object) -> Envelope:
    """Read the ids off a request without trusting the rest of it; never raises."""
    data = raw if isinstance(raw, dict) else {}

    def identifier(name: str) -> str | None:
        value = data.get(name)
        return value if isinstance(value, str) and _IDENTIFIER.match(value) else None

    task, token = data.get("task_type", DEFAULT_TASK), data.get("id_token")
    user_id, file_uid = identifier("user_id"), identifier("file_uid")
    wants_cloud = data.get("use_cloud_storage") is True
    return Envelope(
        task_type=task if isinstance(task, str) and task in REQUESTS else None,
        user_id=user_id,
        file_uid=file_uid,
        owner=Owner(user_id, file_uid) if wants_cloud and user_id and file_uid else None,
        id_token=token if isinstance(token, str) and len(token) <= MAX_ID_TOKEN_CHARACTERS else None,
    )


def _problem(detail: ErrorDetails, task: str) -> FieldProblem:  # noqa: PLR0912 - a table of cases
    field = str(detail["loc"][0]) if detail["loc"] else ""
    value, context = detail.get("input"), detail.get("ctx") or {}
    match detail["type"]:
        case "missing":
            return FieldProblem(field, f"is required for {task}")
        case "extra_forbidden":
            return FieldProblem(_short_name(field), _unknown(field, task))
        case "int_type" | "int_from_float" | "float_type" | "finite_number" | "int_parsing_size":
            kind = "a whole number" if detail["type"].startswith("int") else "a finite number"
            return FieldProblem(field, f"must be {kind} (got {_short(value)})")
        case "greater_than_equal":
            return FieldProblem(field, f"must be at least {context['ge']} (got {_short(value)})")
        case "greater_than":
            return FieldProblem(field, f"must be greater than {context['gt']} (got {_short(value)})")
        case "less_than_equal":
            return FieldProblem(field, f"must be at most {context['le']} (got {_short(value)})")
        case "string_type":
            return FieldProblem(field, f"must be a string (got {_short(value)})")
        case "bool_type":
            return FieldProblem(field, f"must be true or false (got {_short(value)})")
        case "enum" | "literal_error":
            return FieldProblem(field, f"must be one of {_choices(field)} (got {_short(value)})")
        case "string_too_long" | "string_too_short":
            return FieldProblem(
                field, f"must have 1 to {context.get('max_length', 1)} characters (got {len(str(value))})"
            )
        case "string_unicode":
            return FieldProblem(field, "must be valid Unicode text")
        case "owner":
            return FieldProblem("", detail["msg"])
        case "identifier" | "image_ref":
            return FieldProblem(field, f"{detail['msg']} (got {_short(value)})")
        case _:
            return FieldProblem(field, detail["msg"])


def _unknown(field: str, task: str) -> str:
    if field in _FIELD_TASKS:
        return f"is not a field of {task} (it belongs to {', '.join(_FIELD_TASKS[field])})"
    known = REQUESTS[task].model_fields
    close = difflib.get_close_matches(field[:40], known, n=1) or [name for name in known if field and field in name]
    return "is not a known field" + (f"; did you mean {close[0]}?" if close else "")


def _choices(field: str) -> str:
    return ", ".join(Scheduler) if field == "scheduler" else "png, jpeg, webp"


def _short_name(name: str) -> str:
    return name if re.fullmatch(r"[\x20-\x7e]{1,40}", name) else json.dumps(name[:30])


def _short(value: object) -> str:
    """A value in at most some 40 printable characters: long, nested and unprintable ones are described instead."""
    if isinstance(value, str):
        text = json.dumps(value[:24])
        return text if len(value) <= 24 else f"{text} and {len(value) - 24} more characters"
    if isinstance(value, dict):
        return f"an object of {len(value)} keys"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)} items"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)[:40]
