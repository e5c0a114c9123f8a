"""A finished result: its files, where they are, and what is said with them. Pure."""

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
    """What a client can open now."""

    manifest: Manifest
    """What is known of the result beside its files (`response.manifest`)."""
    files: tuple[Artifact, ...]
    uris: tuple[str, ...]
    """One for each file: its URL, or its `data:` URI."""
    warnings: tuple[str, ...] = ()
    taken_over: tuple[StoredObject, ...] = ()
    """Objects of an earlier attempt that are this one's now."""

    @classmethod
    def stored(cls, manifest: Manifest, files: Sequence[Artifact], warnings: Sequence[str] = ()) -> Self:
        """A result whose files all have their URL."""
        return cls(manifest, tuple(files), tuple(str(file.url) for file in files), tuple(warnings))

    @property
    def storage(self) -> StorageKind:
        """`firebase`, or `base64` for a result that goes inline."""
        return "firebase" if all(file.url is not None for file in self.files) else "base64"

    def generation_data(
        self, *, timings: Mapping[str, float], warnings: Sequence[str], usage: Usage | None = None
    ) -> GenerationData:
        """What the document keeps of it."""
        return response.generation_data(
            self.manifest,
            storage=self.storage,
            uris=self.uris,
            files=[file.entry() for file in self.files],
            timings=timings,
            warnings=warnings,
            usage=usage,
        )
