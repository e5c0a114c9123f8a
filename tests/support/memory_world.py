"""A worker with everything in memory, and the request that most tests send it."""

import time
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support import tokens
from tests.support.fakes import (
    MemoryBucket,
    MemoryDocumentStore,
    PaintingGenerator,
    TokenUsers,
)
from tools import showing
from worker.auth.caller import Identity
from worker.auth.tickets import Tickets
from worker.core.config import Settings, load_settings
from worker.core.stop import StopSignal
from worker.core.types import Progress
from worker.delivery.own_objects import OwnObjects
from worker.delivery.spool import Spool
from worker.job.context import Job
from worker.job.gpu_queue import GpuThread
from worker.job.runner import run
from worker.job.services import Services
from worker.sources.loader import SourceLoader
from worker.sources.lora_files import LoraFiles
from worker.storage.results import Storage
from worker.telemetry.spans import OFF, Telemetry

PATH = "generations/user/files/file"

CLOUD = tokens.CLOUD


class World:
    """A worker with everything in memory."""

    def __init__(self, generator: PaintingGenerator | None = None, **settings: Any) -> None:
        self.generator = generator or PaintingGenerator()
        self.documents, self.bucket = MemoryDocumentStore(), MemoryBucket()
        self.settings: Settings = load_settings(firebase_storage_bucket=self.bucket.name, **settings)
        self.gpu = GpuThread()
        self.loras = LoraFiles(self.settings)
        self.firebase = True
        self.progress: list[Progress] = []
        self.telemetry: Telemetry = OFF

    def services(self) -> Services:
        storage = Storage(self.bucket, retention=self.settings.retention) if self.firebase else None
        return Services(
            settings=self.settings,
            generator=self.generator,
            gpu=self.gpu,
            sources=SourceLoader(self.settings, OwnObjects(storage, self.documents) if storage else None),
            loras=self.loras,
            documents=self.documents if self.firebase else None,
            storage=storage,
            identity=Identity(
                TokenUsers() if self.firebase else None, Tickets(tokens.SECRET), required=self.settings.require_id_token
            ),
            worker_id="worker-1",
            telemetry=self.telemetry,
        )

    async def run(self, job_input: object, job_id: str = "job-1", stop: StopSignal | None = None) -> dict[str, Any]:
        return await run(Job(job_id, job_input), self.services(), stop or StopSignal(), self.progress.append)

    @property
    def document(self) -> dict[str, Any]:
        return self.documents.stored[PATH][0]

    @property
    def paths(self) -> list[str]:
        """Return the paths of the results; those of thumbnails are in `thumbnails`."""
        return sorted(path for path in self.bucket.objects if "/thumbs/" not in path)

    @property
    def thumbnails(self) -> list[str]:
        return sorted(path for path in self.bucket.objects if "/thumbs/" in path)


def data_uri(size: tuple[int, int] = (64, 64)) -> str:
    return showing.data_uri(Image.new("RGB", size, (128, 128, 128)))


def ticket(job_input: dict[str, Any], **more: Any) -> str:
    """Return a ticket as the app's backend would have signed it three hours ago."""
    made = int(time.time()) - 3 * tokens.HOUR
    return tokens.signed(tokens.claims(job_input, iat=made, exp=made + 25 * tokens.HOUR, **more))


class VolumeWorld(World):
    """A worker with an outbox, and pictures too large for a response."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(PaintingGenerator(side=256), max_result_bytes=20_000, **settings)
        self.spool = Spool(folder, retention=self.settings.retention)

    def services(self) -> Any:
        services = super().services()
        return type(services)(**{name: getattr(services, name) for name in services.__slots__} | {"spool": self.spool})

    def deliver(self) -> int:
        return self.spool.deliver(Storage(self.bucket, retention=self.settings.retention), self.documents)
