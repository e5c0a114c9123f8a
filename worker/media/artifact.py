"""The type of a produced file, and its codecs for responses, documents, spool entries and object metadata.

A file's thumbnail is a field of it. Knows no store and no request.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from worker.api.shapes import FileEntry

CONTENT_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp", "mp4": "video/mp4"}
"""The wire contract's format names -> content types."""
SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp", "video/mp4": ".mp4"}
"""Content type -> file name suffix, with its dot."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One produced file; `width` and `height` in pixels."""

    content_type: str
    size: int
    """Bytes."""
    width: int
    height: int
    seed: int = 0
    nsfw: bool | None = None
    """Whether the content safety check flagged it; None, and left out by the codecs: no check ran."""
    url: str | None = None
    """Its download URL; None: not stored, or inline."""
    storage_path: str | None = None
    """Its object name in the bucket; None: not stored."""
    data: bytes = field(default=b"", repr=False)
    """Its bytes, if this worker holds them."""
    blurhash: str | None = None
    """A thumbnail's BlurHash, about 30 characters, to show until it has loaded (https://blurha.sh)."""
    thumbnail: "Artifact | None" = None
    """Its thumbnail, or a clip's poster; None: it is one itself, or its thumbnail was removed."""

    @classmethod
    def encoded(cls, data: bytes, content_type: str, width: int, height: int) -> Self:
        """Make an artifact of a newly encoded file; the job adds the seed."""
        return cls(content_type, len(data), width, height, data=data)

    @property
    def suffix(self) -> str:
        """Its file name suffix, with the dot."""
        return SUFFIXES[self.content_type]

    def entry(self) -> FileEntry:
        """Return its JSON: an entry of `files` in responses, documents and spool entries."""
        shown = self.thumbnail
        entry: FileEntry = {
            "url": self.url,
            "storage_path": self.storage_path,
            "content_type": self.content_type,
            "bytes": self.size,
            "width": self.width,
            "height": self.height,
            "seed": self.seed,
            "thumbnail_url": None if shown is None else shown.url,
            "thumbnail_path": None if shown is None else shown.storage_path,
            "blurhash": None if shown is None else shown.blurhash,
        }
        if self.content_type == CONTENT_TYPES["mp4"]:
            entry["poster_url"], entry["poster_path"] = entry["thumbnail_url"], entry["thumbnail_path"]
        if self.nsfw is not None:
            entry["nsfw"] = self.nsfw
        return entry

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any], data: bytes = b"") -> Self:
        """The inverse of `entry`, without the thumbnail; `data` are the bytes, if available.

        Raises:
            KeyError: a field is missing.
        """
        return cls(
            content_type=entry["content_type"],
            size=entry["bytes"],
            width=entry["width"],
            height=entry["height"],
            seed=entry["seed"],
            nsfw=entry.get("nsfw"),
            url=entry["url"],
            storage_path=entry["storage_path"],
            data=data,
        )

    def metadata(self) -> dict[str, str]:
        """Return its custom metadata; content type and size are properties of the object itself."""
        said: dict[str, Any] = {name: getattr(self, name) for name in ("seed", "width", "height", "nsfw", "blurhash")}
        return {name: json.dumps(value) for name, value in said.items() if value is not None}

    @classmethod
    def from_metadata(
        cls, metadata: Mapping[str, str], *, content_type: str, size: int, url: str, storage_path: str
    ) -> Self:
        """The inverse of `metadata`, for a stored object.

        Raises:
            KeyError, ValueError: the metadata are not ours.
        """
        return cls(
            content_type=content_type,
            size=size,
            width=int(metadata["width"]),
            height=int(metadata["height"]),
            seed=int(metadata["seed"]),
            nsfw={"true": True, "false": False}.get(metadata.get("nsfw", "")),
            url=url,
            storage_path=storage_path,
            blurhash=json.loads(metadata.get("blurhash", "null")),
        )


def flagged(files: Sequence[Artifact]) -> tuple[str, ...]:
    """Return a warning for each file that the content safety check flagged."""
    return tuple(f"content safety: file {index} was flagged" for index, file in enumerate(files) if file.nsfw)
