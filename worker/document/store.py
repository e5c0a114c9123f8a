"""What a store of documents must be able to do: read, create, and change only what has not changed since it was read.

Knows versions and the server's time; knows no field and no Firestore.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Protocol


class FieldValue(Enum):
    """Values that the server fills in."""

    SERVER_TIME = "server time"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A document as it was at `read_at` (server time); `fields` is None where there is none."""

    fields: Mapping[str, Any] | None
    version: object
    read_at: datetime


class DocumentStore(Protocol):
    """Documents by path, with compare-and-swap. Every call is bounded by `timeout` seconds and retries nothing.

    Raises:
        BackendError: no answer, or a refusal; a write with what cannot be stored is `invalid`. After `unreachable` a
            write may have happened all the same.
    """

    def read(self, path: str, *, timeout: float) -> Snapshot:
        """The document now."""
        ...

    def create(self, path: str, fields: Mapping[str, Any], *, timeout: float) -> object | None:
        """Write a new document; its version, or None where one exists already."""
        ...

    def update(self, path: str, fields: Mapping[str, Any], *, unchanged: object, timeout: float) -> object | None:
        """Change fields, keep the others; the new version, or None where the document is not `unchanged` any more."""
        ...

    def now(self) -> datetime | None:
        """The server's time, as far as its last answer tells it; None where it does not. Asks nobody."""
        ...

    def written_at(self, version: object) -> datetime:
        """When this version was written (server time). Asks nobody."""
        ...
