"""Loads the pictures that a request refers to.

Knows the allowed sources: inline data, the public internet, the user's own folders. Does not know models and their
sizes, how a download or a bucket works, or how bytes become pixels. Every error names the field.
"""

import base64
import contextlib
import copy
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from worker.api.field_types import DATA_URI
from worker.api.request import ImageRequest, Request
from worker.core import messages, timing
from worker.core.config import Settings
from worker.core.errors import (
    CallerError,
    DownloadFailed,
    FieldProblem,
    Forbidden,
    Internal,
    InvalidImage,
    InvalidInput,
    StorageUnavailable,
    UrlBlocked,
    combined,
)
from worker.core.types import Sources
from worker.media import decode
from worker.media.reader import Clear
from worker.sources.http import Fetcher

if TYPE_CHECKING:
    from PIL import Image

USER_FOLDERS = ("uploads", "generating")
LISTED_PIXELS = 2048 * 2048
"""Pixel limit of a picture in a list (`controlnets`, `ip_adapters`): the largest image that it can control, and far
more than an image encoder uses."""
MAX_OBJECT_NAME_BYTES = 1024
"""Cloud Storage's limit for an object name."""

_REFUSALS = (InvalidInput, Forbidden, UrlBlocked, DownloadFailed, InvalidImage)
"""What is said of a picture; any other error is of the job."""
_OBJECT_URL = re.compile(r"gs://(?P<bucket>[a-z0-9][a-z0-9._-]{1,220}[a-z0-9])/(?P<path>.+)", re.DOTALL)
_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
_ESCAPED = tuple((f"%{ord(character):02X}".encode(), character.encode()) for character in "+/=\r\n\t ")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class ReadObject(Protocol):
    """Reads one object of the configured bucket."""

    def __call__(self, path: str, max_bytes: int, seconds: float) -> bytes:
        """Return the object's bytes, within `seconds`.

        Raises:
            DownloadFailed: there is no such object, or it is larger than `max_bytes`.
            StorageUnavailable: the storage does not answer.
        """
        ...


class SourceLoader:
    """Loads a request's pictures. Blocking: call it in a thread."""

    def __init__(
        self, settings: Settings, read_object: ReadObject | None = None, fetcher: Fetcher | None = None
    ) -> None:
        self._settings = settings
        self._read_object = read_object
        self._fetcher = fetcher or Fetcher(settings.max_input_image_bytes)
        if settings.on_platform:
            decode.start()

    def load(
        self, request: Request, user_id: str | None, raise_if_stopped: Callable[[], None] = lambda: None
    ) -> Sources:
        """Load the request's pictures in their own size: RGB, the mask as L (white = repaint).

        A picture that is named twice is read once. All pictures share `timing.SOURCES_SECONDS`; waiting while other
        jobs' pictures are decoded does not count. If one is refused, the others are read nevertheless.

        Args:
            request: names the pictures.
            user_id: the verified user in whose folders a gs:// path may lie; None: gs:// is refused.
            raise_if_stopped: called before each picture and during downloads; its errors propagate.

        Raises:
            InvalidInput, Forbidden, UrlBlocked, DownloadFailed, InvalidImage: naming each field that is wrong.
            StorageUnavailable: the bucket does not answer.
            Internal: the decoder cannot be started.
        """
        shared, warnings, wrong = _SharedTime(), list[str](), list[CallerError]()
        loaded: dict[str, Image.Image] = {}
        for picture, fields in _named_pictures(request).items():
            try:
                decoded = self._picture(picture, ", ".join(fields), user_id, raise_if_stopped, shared)
            except _REFUSALS as error:
                # The others are read nevertheless, so that one round of corrections is enough. A copy has no traceback,
                # whose frames would keep the file.
                wrong.append(copy.copy(error))
                if shared.left <= 0:
                    break
                continue
            except (StorageUnavailable, Internal):
                if not wrong:
                    raise
                break
            loaded |= dict.fromkeys(fields, decoded.image)
            warnings += decoded.warnings
        if wrong:
            raise combined(wrong)
        listed = {field: loaded[field] for field in request.pictures() if "." in field}
        return Sources(
            loaded.get("image_url"),
            loaded.get("mask_url"),
            loaded.get("end_image_url"),
            controls=tuple(image for field, image in listed.items() if field.startswith("controlnets.")),
            references=tuple(image for field, image in listed.items() if field.startswith("ip_adapters.")),
            warnings=tuple(warnings),
        )

    def _picture(
        self,
        picture: "_Named",
        what: str,
        user_id: str | None,
        raise_if_stopped: Callable[[], None],
        shared: "_SharedTime",
    ) -> decode.Picture:
        """Read and decode one picture."""
        most, most_declared = self._settings.max_input_image_pixels, self._settings.max_declared_image_pixels
        with shared.used():
            data = self._read(picture.ref, what, user_id, raise_if_stopped, shared.left)
        _check_time(what, shared.left)
        return decode.decode_image(
            data,
            what,
            min(most, LISTED_PIXELS) if picture.is_listed else most,
            most_declared,
            mask=picture.is_mask,
            clear=picture.clear,
            seconds=min(shared.left, decode.DECODE_SECONDS),
            raise_if_stopped=raise_if_stopped,
            timed=shared.used,
        )

    def _read(
        self, ref: str, what: str, user_id: str | None, raise_if_stopped: Callable[[], None], seconds: float
    ) -> bytes:
        raise_if_stopped()
        _check_time(what, seconds)
        if header := DATA_URI.match(ref):
            return _decode_base64(ref[header.end() :], what, self._settings.max_input_image_bytes)
        if ref.startswith("gs://"):
            return self._read_own_object(ref, what, user_id, seconds)
        return self._fetcher.fetch(ref, what, raise_if_stopped, seconds)

    def _read_own_object(self, ref: str, what: str, user_id: str | None, seconds: float) -> bytes:
        bucket = self._settings.firebase_storage_bucket
        if self._read_object is None or not bucket:
            raise InvalidInput([FieldProblem(what, "invalid_input.gs_without_firebase")])
        if user_id is None:
            raise InvalidInput([FieldProblem(what, "invalid_input.gs_without_user")])
        path = own_object_path(ref, what, bucket=bucket, user_id=user_id)
        limit = self._settings.max_input_image_bytes
        try:
            data = self._read_object(path, limit, seconds)
        except DownloadFailed as error:
            escaped = error.message_id == "download_failed.no_object" and _ESCAPE.search(path)
            problem = messages.text("download_failed.no_object_escaped", got=escaped[0]) if escaped else error.message
            raise DownloadFailed(
                "download_failed.of_field", field=what, problem=problem, retryable=error.retryable
            ) from None
        if len(data) > limit:
            raise InvalidImage("invalid_image.too_large", field=what, most=limit)
        return data


def own_object_path(ref: str, what: str, *, bucket: str, user_id: str) -> str:
    """Return the object name of a gs:// reference to the user's own folders.

    Raises:
        InvalidInput: not a name that an app's upload could have.
        Forbidden: another bucket, or outside `uploads/{user_id}/` and `generating/{user_id}/`.
    """
    match = _OBJECT_URL.fullmatch(ref)
    path = match["path"] if match else ""
    parts = path.split("/")
    if (
        not match
        or _UNPRINTABLE.search(path)
        or "\\" in path
        or any(part in {"", ".", ".."} for part in parts)
        or len(path.encode()) > MAX_OBJECT_NAME_BYTES
    ):
        raise InvalidInput([FieldProblem(what, "invalid_input.gs_path")])
    if match["bucket"] != bucket:
        raise Forbidden("forbidden.bucket", field=what)
    if len(parts) == 1 and "%2f" in path.lower():
        raise InvalidInput([FieldProblem(what, "invalid_input.gs_escaped")])
    if len(parts) < 3 or parts[0] not in USER_FOLDERS or parts[1] != user_id:
        raise Forbidden("forbidden.folder", field=what)
    return path


class _SharedTime:
    """The time that all pictures of a job have together."""

    def __init__(self) -> None:
        self.left = timing.SOURCES_SECONDS

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """The body's seconds count, even if it raises."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.left -= time.monotonic() - started


@dataclass(frozen=True, slots=True)
class _Named:
    """A picture that a request names, and how it is read."""

    ref: str
    is_mask: bool
    is_listed: bool
    clear: Clear


def _named_pictures(request: Request) -> dict[_Named, list[str]]:
    """Picture -> the fields that name it."""
    found, clear_of = dict[_Named, list[str]](), _clear_of(request)
    for field, ref in request.pictures().items():
        picture = _Named(ref, field == "mask_url", "." in field, clear_of.get(field, "white"))
        found.setdefault(picture, []).append(field)
    return found


def _clear_of(request: Request) -> dict[str, Clear]:
    """Field of a control picture -> what transparency becomes in it: in one that is made already, nothing (black)."""
    found: dict[str, Clear] = {}
    for index, entry in enumerate(request.controlnets if isinstance(request, ImageRequest) else ()):
        if entry.type == "scribble" and entry.preprocess:
            found[f"controlnets.{index}.image_url"] = "contrast"
        elif entry.type != "tile" and not entry.preprocess:
            found[f"controlnets.{index}.image_url"] = "black"
    return found


def _check_time(what: str, seconds: float) -> None:
    if seconds <= 0:
        raise DownloadFailed("download_failed.out_of_time", field=what, seconds=timing.SOURCES_SECONDS)


def _decode_base64(text: str, what: str, max_bytes: int) -> bytes:
    """Decode base64 as clients send it: standard or URL-safe, padded or not, wrapped, percent-encoded.

    A space inside is refused: it may have been a `+` that form encoding replaced.
    """
    data = text.strip().encode(errors="replace")
    if b"%" in data:
        for escape, character in _ESCAPED:
            data = data.replace(escape, character).replace(escape.lower(), character)
    data = data.translate(_STANDARD_ALPHABET, b"\r\n\t")
    if b" " in data:
        raise InvalidInput([FieldProblem(what, "invalid_input.base64_blanks")])
    digits = data.rstrip(b"=")
    # Checked before decoding, so that oversized data takes no more memory.
    length = 3 * len(digits) // 4
    if length > max_bytes:
        raise InvalidInput([FieldProblem(what, "invalid_input.too_many_bytes", most=max_bytes, got=length)])
    padding = len(data) - len(digits)
    try:
        # Python's strict decoder accepts surplus padding.
        plausible = padding == 0 or (padding < 3 and len(data) % 4 == 0)
        decoded = base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True) if plausible else None
    except ValueError:
        decoded = None
    if decoded is None:
        raise InvalidInput([FieldProblem(what, "invalid_input.base64")])
    return decoded
