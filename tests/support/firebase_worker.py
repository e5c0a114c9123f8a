"""One worker with a painter for a model and the real Firebase adapters, behind proxies that fail on command."""

import io
from typing import Any

from PIL import Image

from tests.support.fakes import PaintingGenerator
from tests.support.faulty_firebase import FaultyFirebase
from tools import showing
from tools.emulators.firebase import environment
from worker.auth.caller import Identity
from worker.core.config import load_settings
from worker.core.stop import StopSignal
from worker.firebase.app import Firebase
from worker.job.context import Job
from worker.job.gpu_queue import GpuThread
from worker.job.runner import run
from worker.job.services import Services
from worker.sources.loader import SourceLoader
from worker.sources.lora_files import LoraFiles
from worker.storage.results import Storage

OBJECT = "generating/user/image/file.png"

DOCUMENT = "generations/user/files/file"


class Worker:
    """One worker with a painter for a model and the real Firebase adapters."""

    def __init__(self, firebase: FaultyFirebase) -> None:
        self.firebase = firebase
        with environment(firebase.env):
            settings = load_settings()
            connected = Firebase(settings)
            connected.connect()
        assert connected.bucket is not None
        storage = Storage(connected.bucket, settings.storage_emulator_host)
        self.services = Services(
            settings=settings,
            generator=PaintingGenerator(),
            gpu=GpuThread(),
            sources=SourceLoader(settings, storage.read_object),
            loras=LoraFiles(settings),
            documents=connected.documents,
            storage=storage,
            identity=Identity(None, None, required=False),
            worker_id="worker-1",
        )

    async def job(self, **fields: Any) -> dict[str, Any]:
        asked = {"prompt": "a fox", "use_cloud_storage": True, "user_id": "user", "file_uid": "file", "seed": 7}
        return await run(Job("job-1", {**asked, **fields}), self.services, StopSignal())

    def uploads(self) -> list[Any]:
        return [seen for seen in self.firebase.storage_proxy.requests if seen.method == "POST"]

    def objects(self) -> list[str]:
        return [blob.name for blob in self.firebase.objects.list_blobs()]

    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = self.firebase.documents.document(DOCUMENT).get().to_dict()
        return found


def check_inline(response: dict[str, Any]) -> None:
    assert response["storage"] == "base64", response
    picture = Image.open(io.BytesIO(showing.content(response["image_url"])))
    assert picture.size == (64, 64)
    assert response["warnings"]
