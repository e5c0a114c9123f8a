"""The dependencies of a job: their Protocols, and the one value that holds them all.

Knows no implementation. `handler.build` passes the real ones, tests pass ones that misbehave.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from worker.api.loras import WantedLora
from worker.api.request import Request
from worker.auth.caller import Identity
from worker.core.config import Settings
from worker.core.types import LoraFile, Sources
from worker.delivery.spool import Spool
from worker.document.store import DocumentStore
from worker.engine.protocol import Generator
from worker.job.gpu_queue import GpuThread
from worker.media.credentials import Signer
from worker.sources.lora_cache import InUse
from worker.storage.results import Storage
from worker.telemetry import spans


class SourceImages(Protocol):
    """Loads the client's pictures."""

    def load(self, request: Request, user_id: str | None, raise_if_stopped: Callable[[], None]) -> Sources:
        """Fetch and decode the pictures; only the folders of `user_id` in the bucket may be read.

        Raises:
            UrlBlocked, DownloadFailed, InvalidImage, InvalidInput, Forbidden, StorageUnavailable.
        """
        ...


class Loras(Protocol):
    """Fetches LoRA files."""

    def load(
        self, wanted: Sequence[WantedLora], in_use: InUse, raise_if_stopped: Callable[[], None]
    ) -> tuple[LoraFile, ...]:
        """Fetch the files that are not cached; they stay on disk as long as `in_use` lives.

        Raises:
            UrlBlocked, DownloadFailed, InvalidInput, ModelUnavailable, DiskFull.
        """
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a job needs. None: not configured."""

    settings: Settings
    generator: Generator
    gpu: GpuThread
    sources: SourceImages
    loras: Loras
    documents: DocumentStore | None
    storage: Storage | None
    identity: Identity
    worker_id: str
    spool: Spool | None = None
    telemetry: spans.Telemetry = spans.OFF
    signer: Signer | None = None
