"""What a bucket must be able to do: look, write on a condition, change metadata, delete what was seen, read.

Knows generations and checksums; knows no path, no job and no Google client.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


class ObjectTooLarge(Exception):
    """An object has more bytes than may be read."""


class ObjectEncoded(Exception):
    """An object is stored with a content encoding: what it unfolds to is bounded by nothing, so it is not read."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What the bucket says of an object."""

    generation: int
    size: int
    crc32c: str
    """Base64 of the big-endian checksum, as Google writes it."""
    metadata: Mapping[str, str]
    content_type: str = ""
    metageneration: int = 1
    """Grows with each change of the metadata: who takes an object over changes it, so that nobody else deletes it."""
    delete_at: datetime | None = None
    """After this the bucket's lifecycle rule deletes it; None: it stays."""


class Bucket(Protocol):
    """One bucket. Calls block until `deadline` (on `time.monotonic`) at the latest, and retry what may pass by itself.

    Raises:
        BackendError: `unreachable` or `refused`.
    """

    name: str

    def info(self, path: str, *, deadline: float) -> ObjectInfo | None:
        """The object, or None."""
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
        """Write the object if its generation is still `replaces` (0: there is none); None: it is not."""
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
        """Change the metadata of the object if it is still as `seen`; None: it is not.

        `delete_at` is put off to then, and never moved forward: Cloud Storage refuses that, and to take it away.
        """
        ...

    def delete(self, path: str, *, generation: int, metageneration: int, deadline: float) -> None:
        """Delete exactly this object as it was left; nothing happens where it is gone, replaced or taken over."""
        ...

    def read(self, path: str, *, max_bytes: int, deadline: float) -> tuple[ObjectInfo, bytes] | None:
        """The object, and its bytes as they are stored; None where there is none.

        Raises:
            ObjectTooLarge, ObjectEncoded: nothing, or no more than `max_bytes`, was read.
        """
        ...

    def crc32c(self, data: bytes) -> str:
        """The checksum of `data` as the bucket would give it."""
        ...
