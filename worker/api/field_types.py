"""The value types of request fields: their limits, and the error for a value outside them.

Knows texts, ids, picture references and numbers; knows no field by name and no task.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue

from worker.api.validation_errors import finding, short
from worker.core import messages

MAX_PROMPT_CHARACTERS = 4000
MAX_ID_TOKEN_CHARACTERS = 8192
FormatName = Literal["png", "jpeg", "webp"]
LONGEST_SIDE: Mapping[FormatName, int] = {"jpeg": 65_500, "webp": 16_383}
"""Longest side in pixels that a format, or its only encoder, allows; PNG has no relevant limit."""
QUALITY: Mapping[FormatName, int] = {"jpeg": 95, "webp": 90}
"""Of a file whose request names none; PNG has no quality."""
VideoQuality = Literal["low", "medium", "high", "maximum"]
MAX_REFERENCE_CHARACTERS = 8192
"""Limit of a picture reference that is not inline data."""
MAX_LORA_PATH_CHARACTERS = 2048
MAX_INLINE_CHARACTERS = 29_000_000
"""A data URI of 20 MiB in base64, wrapped at 76 characters: more than RunPod takes, so a larger picture needs a URL."""

_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_INVISIBLE = re.compile(
    r"[\s\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0"
    r"\ufff0-\ufffc\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]*"
)
"""Invisible characters: joiners, direction marks, blanks that Unicode does not class as space, tags, and the
placeholder of a picture in a text (U+FFFC), such as iOS's stickers and Genmoji."""
_FILE_UID = re.compile(r"(?!__.*__\Z)[A-Za-z0-9_-]{1,128}\Z")
_USER_ID = re.compile(r"(?!__.*__\Z|\.\.?\Z)[A-Za-z0-9_.:@+|-]{1,128}\Z")
"""Custom sign-in creates uids such as `auth0|abc`. Firestore reserves ids of the form `__x__`, and rejects `.` and
`..`: https://firebase.google.com/docs/firestore/quotas#limits."""
_WEIGHT_NAME = re.compile(r"(?!~|.{214})(?:(?!\.{1,2}/)[^/\\]+/)*[^/\\]+\.safetensors\Z")
"""The path of a file in a repository, in any script."""
DATA_URI = re.compile(r"data:.{0,1000}?;\s*base64\s*,", re.IGNORECASE | re.DOTALL)
"""The prefix of inline data, with any media type or none (RFC 2397); the data follow it."""
BARE_BASE64 = re.compile(
    r"(?:/|_|%2F)9j(?:/|_|%2F)|iVBORw0KGgo|UklGR|R0lGOD|Qk[0-3][A-Za-z0-9+/_%-]{5,9}AAAA"
    r"|AAAA[A-Za-z0-9+/_-]{2}Z0eX|SUkqA|TU0AK"
)
"""The start of a picture in base64: JPEG, PNG, WebP, GIF, BMP, HEIC or AVIF, TIFF."""
_REFERENCE = re.compile(r"(?:https|gs)://", re.IGNORECASE)
_NO_REFERENCE = (
    (re.compile(r"data:", re.IGNORECASE), messages.text("invalid_input.is_no_base64")),
    (re.compile(r"http://", re.IGNORECASE), messages.text("invalid_input.is_http")),
    (re.compile(r"(?:data|https?|gs)%3a", re.IGNORECASE), messages.text("invalid_input.is_percent_encoded")),
    (re.compile(r"//\w"), messages.text("invalid_input.is_without_scheme")),
    (re.compile(r"/?(?:uploads|generating)/"), messages.text("invalid_input.is_without_bucket")),
    (
        re.compile(
            r"(?:blob|file|filesystem|content|ph|assets-library|asset|capacitor|ionic|rct-image-store):"
            r"|/?(?:storage|sdcard|data|var|private|users|home|tmp)/|[a-z]:[\\/](?!/)",
            re.IGNORECASE,
        ),
        messages.text("invalid_input.is_local_file"),
    ),
    (re.compile(r"(?:image/[\w.+-]+)?;?\s*base64\s*,", re.IGNORECASE), messages.text("invalid_input.is_bare_base64")),
    (BARE_BASE64, messages.text("invalid_input.is_bare_base64")),
    (re.compile(r"[A-Za-z0-9+/_-]{64}"), messages.text("invalid_input.is_bare_base64")),
)
"""What clients send instead of a reference -> what to tell them."""


def _clean_text(text: str) -> str:
    # A lone surrogate cannot be encoded as UTF-8: it would break the result, the document and the log alike.
    if _SURROGATE.search(text):
        raise finding("invalid_input.surrogate")
    text = text.strip()
    # A text that is refused for its length is not cleaned first: a megabyte of control characters takes a while.
    if len(text) > 2 * MAX_PROMPT_CHARACTERS:
        return text
    text = _CONTROL.sub("", text).strip()
    return "" if _INVISIBLE.fullmatch(text) else text


def _prompt(text: str) -> str:
    text = _clean_text(text)
    if not 1 <= len(text) <= MAX_PROMPT_CHARACTERS:
        raise finding("invalid_input.length", most=MAX_PROMPT_CHARACTERS, got=len(text))
    return text


def _negative_prompt(text: str) -> str:
    text = _clean_text(text)
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise finding("invalid_input.too_long", most=MAX_PROMPT_CHARACTERS, got=len(text))
    return text


def user_id(value: object) -> str | None:
    """Return a valid user id without surrounding spaces, safe as one path segment; None: invalid."""
    return _id(_USER_ID, value)


def file_uid(value: object) -> str | None:
    """As `user_id`, for a generation's `file_uid`."""
    return _id(_FILE_UID, value)


def _id(pattern: re.Pattern[str], value: object) -> str | None:
    plain = value.strip(" ") if isinstance(value, str) else ""
    return plain if pattern.match(plain) else None


def _user_id(text: str) -> str:
    if (plain := user_id(text)) is None:
        raise finding("invalid_input.user_id", got=short(text))
    return plain


def _file_uid(text: str) -> str:
    if (plain := file_uid(text)) is None:
        raise finding("invalid_input.identifier", got=short(text))
    return plain


def _image_ref(ref: str) -> str:
    ref = ref.strip()
    if DATA_URI.match(ref):
        return ref
    if scheme := _REFERENCE.match(ref):
        if len(ref) > MAX_REFERENCE_CHARACTERS:
            raise finding("invalid_input.long_reference", most=MAX_REFERENCE_CHARACTERS, got=len(ref))
        return scheme[0].lower() + ref[scheme.end() :]
    for begins, problem in _NO_REFERENCE:
        if begins.match(ref):
            raise finding("invalid_input.no_reference", problem=problem, got=short(ref))
    raise finding("invalid_input.image_ref", got=short(ref))


def _lora_path(path: str) -> str:
    path = path.strip()
    if not 1 <= len(path) <= MAX_LORA_PATH_CHARACTERS:
        raise finding("invalid_input.length", most=MAX_LORA_PATH_CHARACTERS, got=len(path))
    if not path.isprintable():
        raise finding("invalid_input.lora_path", got=short(path))
    return path


def _weight_name(name: str) -> str:
    name = name.strip()
    if not name.isprintable() or not _WEIGHT_NAME.match(name):
        raise finding("invalid_input.weight_name", got=short(name))
    return name


def _number(value: object) -> object:
    # JSON has one number type, so 20.0 is 20. A string or a boolean is not a number.
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _drawn_at_random(value: object) -> object:
    # -1 is how other services request a random seed. (True is not -1.)
    return None if value == -1 else value


def _format_name(value: object) -> object:
    if not isinstance(value, str):
        return value
    name = value.lower() if len(value) <= 8 else value
    return "jpeg" if name == "jpg" else name


class Told:
    """Adds keywords to a value's JSON Schema that pydantic cannot derive from its validators."""

    def __init__(self, **said: Any) -> None:
        self._said = said

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(core_schema), **self._said}


def _multiple(of: int) -> AfterValidator:
    def check(value: int) -> int:
        if value % of:
            raise finding("invalid_input.multiple", of=of, got=value)
        return value

    return AfterValidator(check)


def at_most(most: int) -> tuple[BeforeValidator, Told]:
    """Limit the length of a list, checked before its entries are validated."""

    def check(value: object) -> object:
        if isinstance(value, list) and len(value) > most:
            raise finding("invalid_input.list_length", most=most, got=len(value))
        return value

    return BeforeValidator(check), Told(maxItems=most)


def _frames(value: int) -> int:
    if value % 4 != 1:
        low = max(5, value - (value - 1) % 4)
        high = min(121, low + 4)
        raise finding("invalid_input.frames", low=low, high=high, got=value)
    return value


Prompt = Annotated[str, AfterValidator(_prompt), Told(minLength=1, maxLength=MAX_PROMPT_CHARACTERS)]
OptionalPrompt = Annotated[str, AfterValidator(_negative_prompt), Told(maxLength=MAX_PROMPT_CHARACTERS)]
"""The prompt of a task that does not require one."""
NegativePrompt = Annotated[str, AfterValidator(_negative_prompt), Told(maxLength=MAX_PROMPT_CHARACTERS)]
IdToken = Annotated[str, Field(min_length=1, max_length=MAX_ID_TOKEN_CHARACTERS)]
Integer = Annotated[int, BeforeValidator(_number)]
Seed = Annotated[
    Annotated[Integer, Field(ge=0, le=4_294_967_295), Told(minimum=-1)] | None, BeforeValidator(_drawn_at_random)
]
UserId = Annotated[str, AfterValidator(_user_id), Told(pattern=r"^(?!__.*__$|\.\.?$)[A-Za-z0-9_.:@+|-]{1,128}$")]
FileUid = Annotated[str, AfterValidator(_file_uid), Told(pattern=r"^(?!__.*__$)[A-Za-z0-9_-]{1,128}$")]
OutputFormat = Annotated[FormatName, BeforeValidator(_format_name)]
ImageRef = Annotated[
    str,
    Field(max_length=MAX_INLINE_CHARACTERS),
    AfterValidator(_image_ref),
    Told(pattern=rf"^((https|gs)://.{{1,{MAX_REFERENCE_CHARACTERS - 8}}}$|data:[^,]{{0,999}};base64,)"),
]
LoraPath = Annotated[str, AfterValidator(_lora_path), Told(minLength=1, maxLength=MAX_LORA_PATH_CHARACTERS)]
_USUAL_NAME = r"[A-Za-z0-9_][A-Za-z0-9 ._()+-]*"
WeightName = Annotated[
    str, AfterValidator(_weight_name), Told(pattern=rf"^(?!.{{214}})({_USUAL_NAME}/)*{_USUAL_NAME}\.safetensors$")
]
MAX_IMAGE_SIDE, MAX_VIDEO_SIDE = 2048, 1280
ImageSide = Annotated[Integer, Field(ge=64, le=MAX_IMAGE_SIDE), _multiple(8), Told(multipleOf=8)]
VideoSide = Annotated[Integer, Field(ge=64, le=MAX_VIDEO_SIDE), _multiple(16), Told(multipleOf=16)]
Border = Annotated[Integer, Field(ge=0, le=2048), _multiple(8), Told(multipleOf=8)]
Strength = Annotated[float, Field(gt=0, le=1)]
FrameCount = Annotated[Integer, Field(ge=5, le=121), AfterValidator(_frames), Told(enum=list(range(5, 122, 4)))]
