"""`Bucket` on Google Cloud Storage, with preconditions, verified CRC32C and one deadline per call.

Imports Google's client on first use. Knows no path and no job.
"""

import base64
import contextlib
import functools
import io
import struct
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from worker.core import retry
from worker.firebase.errors import translated
from worker.storage.store import ObjectEncoded, ObjectInfo, ObjectTooLarge

CONNECT_SECONDS = 2.5
READ_SECONDS = 4.0
"""Longest silence of the server during a request; a slow upload that still makes progress is never cut off."""

T = TypeVar("T")


class FirebaseBucket:
    """Implements `Bucket` on Google Cloud Storage."""

    def __init__(self, bucket: Any) -> None:
        self._bucket = bucket
        self.name: str = bucket.name

    def info(self, path: str, *, deadline: float) -> ObjectInfo | None:
        """As `Bucket.info`."""
        blob = _within(deadline, functools.partial(self._bucket.get_blob, path))
        return _object_info(blob) if blob is not None else None

    def upload(
        self,
        path: str,
        data: bytes,
        *,
        content_type: str,
        metadata: Mapping[str, str],
        replaces: int,
        deadline: float,
        delete_at: datetime | None = None,
    ) -> ObjectInfo | None:
        """As `Bucket.upload`. Retries until the deadline, which the precondition makes safe."""
        from google.api_core.exceptions import BadRequest, PreconditionFailed

        blob = self._bucket.blob(path)
        blob.metadata = dict(metadata)
        blob.cache_control = "private, max-age=31536000"
        if delete_at is not None:
            blob.custom_time = delete_at

        def once(**bounds: Any) -> ObjectInfo | None:
            try:
                blob.upload_from_string(
                    data, content_type=content_type, if_generation_match=replaces, checksum="crc32c", **bounds
                )
            except PreconditionFailed:
                return None
            return _object_info(blob)

        # The request is well formed: a BadRequest means that it was damaged in transit.
        return _within(deadline, once, passing=(BadRequest,))

    def take_over(
        self,
        path: str,
        metadata: Mapping[str, str],
        *,
        seen: ObjectInfo,
        deadline: float,
        delete_at: datetime | None = None,
    ) -> ObjectInfo | None:
        """As `Bucket.take_over`."""
        from google.api_core.exceptions import NotFound, PreconditionFailed

        blob = self._bucket.blob(path)
        blob.metadata = dict(metadata)
        if delete_at is not None and (seen.delete_at is None or seen.delete_at < delete_at):
            blob.custom_time = delete_at
        as_seen = {"if_generation_match": seen.generation, "if_metageneration_match": seen.metageneration}

        def once(**bounds: Any) -> ObjectInfo | None:
            try:
                blob.patch(**as_seen, **bounds)
            except (NotFound, PreconditionFailed):
                return None
            return _object_info(blob)

        return _within(deadline, once)

    def delete(self, path: str, *, generation: int, metageneration: int, deadline: float) -> None:
        """As `Bucket.delete`."""
        from google.api_core.exceptions import NotFound, PreconditionFailed

        as_left = {"if_generation_match": generation, "if_metageneration_match": metageneration}

        def once(**bounds: Any) -> None:
            with contextlib.suppress(NotFound, PreconditionFailed):
                self._bucket.blob(path).delete(**as_left, **bounds)

        _within(deadline, once)

    def read(self, path: str, *, max_bytes: int, deadline: float) -> tuple[ObjectInfo, bytes] | None:
        """As `Bucket.read`. Checks size and encoding before it downloads."""
        blob = _within(deadline, functools.partial(self._bucket.get_blob, path))
        if blob is None:
            return None
        if blob.content_encoding not in {None, "", "identity"}:
            raise ObjectEncoded
        if blob.size > max_bytes:
            raise ObjectTooLarge

        def once(**bounds: Any) -> bytes:
            into = _Bounded(max_bytes)
            # Raw, because the client would decode without a limit: 241 bytes of Brotli become 300 MB.
            blob.download_to_file(into, raw_download=True, if_generation_match=blob.generation, **bounds)
            return into.getvalue()

        return _object_info(blob), _within(deadline, once)

    def crc32c(self, data: bytes) -> str:
        """Base64 of the big-endian CRC32C."""
        import google_crc32c

        return base64.b64encode(struct.pack(">I", google_crc32c.value(data))).decode()


class _Bounded(io.BytesIO):
    """A buffer that raises once it would exceed `most` bytes, whatever size was announced."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._left = most

    def write(self, data: Any) -> int:
        self._left -= len(data)
        if self._left < 0:
            raise ObjectTooLarge
        return super().write(data)


def _within(deadline: float, call: Callable[..., T], passing: tuple[type[Exception], ...] = ()) -> T:
    """Call `call`, and repeat it on transient errors until the deadline.

    Google's own retries are off: they give the last attempt as much time as the first, past any deadline.
    """

    def once() -> T:
        bounds = tuple(retry.seconds_left(deadline, most) for most in (CONNECT_SECONDS, READ_SECONDS))
        with translated("storage", passing):
            return call(timeout=bounds, retry=None)

    return retry.until(deadline, once, longest_pause=2.0)


def _object_info(blob: Any) -> ObjectInfo:
    return ObjectInfo(
        generation=int(blob.generation or 0),
        size=int(blob.size or 0),
        crc32c=blob.crc32c or "",
        metadata=dict(blob.metadata or {}),
        content_type=blob.content_type or "",
        metageneration=int(blob.metageneration or 1),
        delete_at=blob.custom_time,
    )
