"""One type for a produced file, and one codec for what is known of it: in a response, a document, the spool, an object.

A file that stands beside another one (its thumbnail) is a field of it. Knows no store and no request.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from worker.api.shapes import FileEntry

CONTENT_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp", "mp4": "video/mp4"}
"""The contract's names of formats -> content types."""
SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp", "video/mp4": ".mp4"}
"""Content type -> what the name of such a file ends in, with its dot."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One produced file. `width` and `height` are pixels."""

    content_type: str
    size: int
    """Bytes."""
    width: int
    height: int
    seed: int = 0
    nsfw: bool | None = None
    """Whether the content safety check flagged it; None, and in no codec: none ran."""
    url: str | None = None
    """Where it is served; None while it is not, and for a file that goes inline."""
    storage_path: str | None = None
    """Its name in the bucket, as long as it has one."""
    data: bytes = field(default=b"", repr=False)
    """Its bytes, where this worker holds them."""
    blurhash: str | None = None
    """Of a thumbnail: its colours in some 30 characters, to show until it is here (https://blurha.sh)."""
    thumbnail: "Artifact | None" = None
    """A small picture of it, of a clip its poster; None: it is one itself, or it has none any more."""

    @classmethod
    def encoded(cls, data: bytes, content_type: str, width: int, height: int) -> Self:
        """A file that was just encoded; its seed is the job's to add."""
        return cls(content_type, len(data), width, height, data=data)

    @property
    def suffix(self) -> str:
        """What its name ends in, with the dot."""
        return SUFFIXES[self.content_type]

    def entry(self) -> FileEntry:
        """As JSON: an entry of `files` in the response and the document, and in the spool."""
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
        """The inverse of `entry`, without the thumbnail; `data` are the bytes where they are at hand.

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
        """What the object in the bucket says of it in its custom metadata; type and size are the object's own."""
        said: dict[str, Any] = {name: getattr(self, name) for name in ("seed", "width", "height", "nsfw", "blurhash")}
        return {name: json.dumps(value) for name, value in said.items() if value is not None}

    @classmethod
    def from_metadata(
        cls, metadata: Mapping[str, str], *, content_type: str, size: int, url: str, storage_path: str
    ) -> Self:
        """The inverse of `metadata`, for an object that is there.

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
    """A warning for each file that the content safety check flagged."""
    return tuple(f"content safety: file {index} was flagged" for index, file in enumerate(files) if file.nsfw)
