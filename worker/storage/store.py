"""The Protocol of a bucket: conditional writes, metadata changes and deletes, and bounded reads.

Knows generations and checksums; knows no path, no job and no Google client.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


class ObjectTooLarge(Exception):
    """An object has more bytes than the caller allows."""


class ObjectEncoded(Exception):
    """An object has a content encoding. Its decoded size is unbounded, so it is not read."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object's state in the bucket."""

    generation: int
    size: int
    crc32c: str
    """Base64 of the big-endian checksum, as Google writes it."""
    metadata: Mapping[str, str]
    content_type: str = ""
    metageneration: int = 1
    """Grows with each change of the metadata: a takeover changes them, so the earlier owner's delete fails."""
    delete_at: datetime | None = None
    """When the bucket's lifecycle rule deletes it; None: never."""


class Bucket(Protocol):
    """One bucket. Calls block until `deadline` (`time.monotonic`) at the latest, and retry transient errors.

    Raises:
        BackendError: `unreachable` or `refused`.
    """

    name: str

    def info(self, path: str, *, deadline: float) -> ObjectInfo | None:
        """Return the object's state, or None if it does not exist."""
        ...

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
        """Write the object if its generation is still `replaces` (0: no object); otherwise return None."""
        ...

    def take_over(
        self,
        path: str,
        metadata: Mapping[str, str],
        *,
        seen: ObjectInfo,
        deadline: float,
        delete_at: datetime | None = None,
    ) -> ObjectInfo | None:
        """Change the metadata of the object if it is still as `seen`; otherwise return None.

        `delete_at` can only be postponed: Cloud Storage refuses to advance or remove it.
        """
        ...

    def delete(self, path: str, *, generation: int, metageneration: int, deadline: float) -> None:
        """Delete the object if it is unchanged; no effect if it is gone, replaced or taken over."""
        ...

    def read(self, path: str, *, max_bytes: int, deadline: float) -> tuple[ObjectInfo, bytes] | None:
        """Return the object's state and its bytes as stored; None if it does not exist.

        Raises:
            ObjectTooLarge, ObjectEncoded: at most `max_bytes` were read.
        """
        ...

    def crc32c(self, data: bytes) -> str:
        """Return the checksum of `data` in the bucket's form."""
        ...
