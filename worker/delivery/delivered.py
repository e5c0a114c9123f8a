"""A finished result: its files, their URIs and its warnings. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from worker.api import response
from worker.api.shapes import GenerationData, Manifest, StorageKind
from worker.core.types import Usage
from worker.media.artifact import Artifact
from worker.storage.results import StoredObject


@dataclass(frozen=True, slots=True)
class Delivered:
    """A result that the client can open."""

    manifest: Manifest
    """The result's model and params (`response.manifest`)."""
    files: tuple[Artifact, ...]
    uris: tuple[str, ...]
    """One per file: its URL, or its `data:` URI."""
    warnings: tuple[str, ...] = ()
    taken_over: tuple[StoredObject, ...] = ()
    """Objects of an earlier attempt that this attempt now owns."""

    @classmethod
    def stored(cls, manifest: Manifest, files: Sequence[Artifact], warnings: Sequence[str] = ()) -> Self:
        """Make a result whose files all have a URL."""
        return cls(manifest, tuple(files), tuple(str(file.url) for file in files), tuple(warnings))

    @property
    def storage(self) -> StorageKind:
        """`firebase`, or `base64` for an inline result."""
        return "firebase" if all(file.url is not None for file in self.files) else "base64"

    def generation_data(
        self, *, timings: Mapping[str, float], warnings: Sequence[str], usage: Usage | None = None
    ) -> GenerationData:
        """Return the document's `generation_data`."""
        return response.generation_data(
            self.manifest,
            storage=self.storage,
            uris=self.uris,
            files=[file.entry() for file in self.files],
            timings=timings,
            warnings=warnings,
            usage=usage,
        )
