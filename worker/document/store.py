"""The Protocol of a document store: read, create, and compare-and-swap updates.

Knows versions and the server's time; knows no field and no Firestore.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Protocol


class FieldValue(Enum):
    """Sentinels for values that the server applies."""

    SERVER_TIME = "server time"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A document as of `read_at` (server time); `fields` is None if it does not exist."""

    fields: Mapping[str, Any] | None
    version: object
    read_at: datetime


class DocumentStore(Protocol):
    """Documents by path, with compare-and-swap. Each call takes at most `timeout` seconds and does not retry.

    Raises:
        BackendError: no answer, or a refusal; `invalid` if the content cannot be stored. After `unreachable` a write
            may still have been applied.
    """

    def read(self, path: str, *, timeout: float) -> Snapshot:
        """Read the document."""
        ...

    def create(self, path: str, fields: Mapping[str, Any], *, timeout: float) -> object | None:
        """Write a new document; returns its version, or None if one exists already."""
        ...

    def update(self, path: str, fields: Mapping[str, Any], *, unchanged: object, timeout: float) -> object | None:
        """Merge `fields` into the document; returns its new version, or None if it is no longer `unchanged`."""
        ...

    def now(self) -> datetime | None:
        """The server's time, derived from its last response; None: not known. Sends nothing."""
        ...

    def written_at(self, version: object) -> datetime:
        """When this version was written (server time). Sends nothing."""
        ...
