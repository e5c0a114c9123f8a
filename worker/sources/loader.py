"""`image_url` and `mask_url` -> pictures in memory, safely.

Knows where a picture may come from: inline, the public internet, the user's own folders. Does not know models or the
sizes they like, how a download or a bucket works, or how bytes become pixels. Every error names the field.
"""

import base64
import re
from collections.abc import Callable
from typing import Protocol

from worker.api.field_types import DATA_URI
from worker.api.request import InpaintRequest, Source
from worker.core import messages
from worker.core.config import Settings
from worker.core.errors import DownloadFailed, FieldProblem, Forbidden, InvalidImage, InvalidInput
from worker.core.types import Sources
from worker.media import decode
from worker.sources.http import Fetcher

USER_FOLDERS = ("uploads", "generating")
MAX_OBJECT_NAME_BYTES = 1024
"""Cloud Storage's own limit for the name of an object."""

_OBJECT_URL = re.compile(r"gs://(?P<bucket>[a-z0-9][a-z0-9._-]{1,220}[a-z0-9])/(?P<path>.+)", re.DOTALL)
_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
_ESCAPED = tuple((f"%{ord(character):02X}".encode(), character.encode()) for character in "+/=\r\n\t ")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class ReadObject(Protocol):
    """Reads one object of the configured bucket."""

    def __call__(self, path: str, max_bytes: int) -> bytes:
        """The object's bytes.

        Raises:
            DownloadFailed: there is no such object, or it is larger than `max_bytes`.
            StorageUnavailable: the storage does not answer.
        """
        ...


class SourceLoader:
    """Loads what a request refers to. Blocking: call it in a thread."""

    def __init__(
        self, settings: Settings, read_object: ReadObject | None = None, fetcher: Fetcher | None = None
    ) -> None:
        self._settings = settings
        self._read_object = read_object
        self._fetcher = fetcher or Fetcher(settings.max_input_image_bytes)
        if settings.on_platform:
            decode.start()

    def load(
        self, request: Source, user_id: str | None, raise_if_stopped: Callable[[], None] = lambda: None
    ) -> Sources:
        """The request's pictures in their own size: the image RGB, the mask L (white = repaint).

        Args:
            request: one of the requests that have an `image_url`.
            user_id: whose folders a gs:// path may lie in, as far as that is established; None: nobody's.
            raise_if_stopped: asked before each picture and during downloads; what it raises is passed on.

        Raises:
            InvalidInput, Forbidden, UrlBlocked, DownloadFailed, InvalidImage: each names the field.
            StorageUnavailable: the bucket does not answer.
            Internal: the decoder cannot be started.
        """
        limits = (self._settings.max_input_image_pixels, self._settings.max_declared_image_pixels)
        data = self._read(request.image_url, "image_url", user_id, raise_if_stopped)
        left = decode.DECODE_SECONDS
        image = decode.decode_image(data, "image_url", *limits, seconds=left, raise_if_stopped=raise_if_stopped)
        if not isinstance(request, InpaintRequest) or request.mask_url is None:
            return Sources(image.image, warnings=image.warnings)
        data = self._read(request.mask_url, "mask_url", user_id, raise_if_stopped)
        left -= image.seconds
        mask = decode.decode_mask(data, "mask_url", *limits, seconds=left, raise_if_stopped=raise_if_stopped)
        return Sources(image.image, mask.image, image.warnings + mask.warnings)

    def _read(self, ref: str, what: str, user_id: str | None, raise_if_stopped: Callable[[], None]) -> bytes:
        raise_if_stopped()
        if header := DATA_URI.match(ref):
            return _decode_base64(ref[header.end() :], what, self._settings.max_input_image_bytes)
        if ref.startswith("gs://"):
            return self._read_own_object(ref, what, user_id)
        return self._fetcher.fetch(ref, what, raise_if_stopped)

    def _read_own_object(self, ref: str, what: str, user_id: str | None) -> bytes:
        bucket = self._settings.firebase_storage_bucket
        if self._read_object is None or not bucket:
            raise InvalidInput([FieldProblem(what, "invalid_input.gs_without_firebase")])
        if user_id is None:
            raise InvalidInput([FieldProblem(what, "invalid_input.gs_without_user")])
        path = own_object_path(ref, what, bucket=bucket, user_id=user_id)
        limit = self._settings.max_input_image_bytes
        try:
            data = self._read_object(path, limit)
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
    """The object's name out of a gs:// reference, if it is the user's own.

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


def _decode_base64(text: str, what: str, max_bytes: int) -> bytes:
    """Base64 as clients make it: with the URL's alphabet, without padding, in lines, percent-encoded.

    A blank inside is refused: it may as well be a `+` that a form's encoding took.
    """
    data = text.strip().encode(errors="replace")
    if b"%" in data:
        for escape, character in _ESCAPED:
            data = data.replace(escape, character).replace(escape.lower(), character)
    data = data.translate(_STANDARD_ALPHABET, b"\r\n\t")
    if b" " in data:
        raise InvalidInput([FieldProblem(what, "invalid_input.base64_blanks")])
    digits = data.rstrip(b"=")
    # Checked before anything is decoded: what is refused for its length costs no more memory.
    length = 3 * len(digits) // 4
    if length > max_bytes:
        raise InvalidInput([FieldProblem(what, "invalid_input.too_many_bytes", most=max_bytes, got=length)])
    padding = len(data) - len(digits)
    try:
        # Python's strict decoder still lets surplus padding pass.
        plausible = padding == 0 or (padding < 3 and len(data) % 4 == 0)
        decoded = base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True) if plausible else None
    except ValueError:
        decoded = None
    if decoded is None:
        raise InvalidInput([FieldProblem(what, "invalid_input.base64")])
    return decoded
