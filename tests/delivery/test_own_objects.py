"""A job may start from its user's own files, except from a result whose document is not completed."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fakes import MemoryBucket, MemoryDocumentStore, PaintingGenerator, is_down
from tests.support.memory_world import CLOUD, PATH, World
from worker.api.params import Params
from worker.api.request import Request
from worker.core.errors import DownloadFailed, StorageUnavailable
from worker.core.types import Control, Sources
from worker.delivery.own_objects import OwnObjects
from worker.engine.protocol import Generated
from worker.storage.results import Storage

FIRST = "generating/user/image/file_0.png"


class Waiting(PaintingGenerator):
    """Holds the first job's second image back until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def generate(self, request: Request, params: Params, sources: Sources, control: Control) -> Iterator[Generated]:
        for generated in super().generate(request, params, sources, control):
            yield generated
            assert self.go_on.wait(60)


def starting_from(path: str) -> dict[str, Any]:
    return {
        **CLOUD,
        "file_uid": "other",
        "task_type": "img2img",
        "image_url": f"gs://demo-bucket/{path}",
    }


async def test_no_job_starts_from_the_first_picture_of_a_job_that_may_still_be_cancelled() -> None:
    """For the price of a step it would have got each of four, the last of which the user then cancels."""
    world = World(Waiting())
    assert isinstance(world.generator, Waiting)
    stored = threading.Event()
    world.bucket.after = lambda _call, path: stored.set() if path == FIRST else None
    first = asyncio.create_task(world.run({**CLOUD, "num_images": 2}))
    assert await asyncio.to_thread(stored.wait, 60)
    early = await world.run(starting_from(FIRST), job_id="job-2")
    thumbnail = await world.run(starting_from(FIRST.replace("file_0.png", "thumbs/file_0.webp")), job_id="job-3")
    world.generator.go_on.set()
    assert (early["error_code"], thumbnail["error_code"]) == ("download_failed", "download_failed")
    assert early["retryable"], "it will be completed soon"
    assert "not completed" in early["error"]
    assert "error" not in await first
    late = await world.run(starting_from(FIRST), job_id="job-4")
    assert late["storage"] == "firebase"


def result(bucket: MemoryBucket, path: str, file_uid: str) -> None:
    metadata = {"file_uid": file_uid}
    bucket.upload(path, b"pixels", content_type="image/png", metadata=metadata, replaces=0, deadline=0)


@pytest.mark.parametrize("status", ["queued", "processing", "failed", None, 7])
def test_a_result_is_nobodys_source_until_its_document_is_completed(status: object) -> None:
    documents, bucket = MemoryDocumentStore(), MemoryBucket()
    read = OwnObjects(Storage(bucket), documents)
    result(bucket, FIRST, "file")
    if status is not None:
        documents.write_as_app(PATH, {"status": status})
    with pytest.raises(DownloadFailed, match="not completed") as caught:
        read(FIRST, 100)
    assert caught.value.retryable == (status in {"queued", "processing"}), "whether it may succeed later"
    documents.write_as_app(PATH, None)
    documents.write_as_app(PATH, {"status": "completed"})
    assert read(FIRST, 100) == b"pixels"


def test_whose_result_it_is_is_told_by_the_object_and_not_by_its_name() -> None:
    """The only picture of `file_0`, a completed job whose object its user deleted, has the same name."""
    documents, bucket = MemoryDocumentStore(), MemoryBucket()
    documents.write_as_app("generations/user/files/file_0", {"status": "completed"})
    documents.write_as_app(PATH, {"status": "processing"})
    result(bucket, FIRST, "file")
    with pytest.raises(DownloadFailed, match="not completed"):
        OwnObjects(Storage(bucket), documents)(FIRST, 100)


@pytest.mark.parametrize("made_for", ["../other/files/file", "__file__", "a/b", ""])
def test_an_object_that_names_no_generation_is_no_result_of_a_completed_one(made_for: str) -> None:
    documents, bucket = MemoryDocumentStore(), MemoryBucket()
    result(bucket, FIRST, made_for)
    with pytest.raises(DownloadFailed, match="not completed"):
        OwnObjects(Storage(bucket), documents)(FIRST, 100)


def test_an_upload_is_read_whatever_its_user_wrote_beside_it() -> None:
    bucket = MemoryBucket()
    result(bucket, "uploads/user/a.png", "file")
    assert OwnObjects(Storage(bucket), MemoryDocumentStore())("uploads/user/a.png", 100) == b"pixels"


def test_where_firestore_does_not_answer_a_result_is_not_read() -> None:
    documents, bucket = MemoryDocumentStore(), MemoryBucket()
    documents.before = is_down("firestore")
    result(bucket, FIRST, "file")
    with pytest.raises(StorageUnavailable):
        OwnObjects(Storage(bucket), documents)(FIRST, 100, seconds=0.3)


def test_without_documents_there_is_none_to_ask() -> None:
    bucket = MemoryBucket()
    result(bucket, FIRST, "file")
    assert OwnObjects(Storage(bucket), None)(FIRST, 100) == b"pixels"
