"""The outbox: results that could be neither uploaded nor returned are delivered later, once, with their document."""

import json
import os
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.fakes import MemoryBucket, MemoryDocumentStore, PaintingGenerator, is_down
from tests.support.memory_world import CLOUD, PATH, VolumeWorld, World, ticket
from worker.core.errors import BackendError
from worker.core.types import Owner
from worker.delivery.spool import DELIVERED, Spool
from worker.document.transitions import WORKER_LOST
from worker.media.artifact import Artifact
from worker.storage.results import ObjectOwner, Storage

OWNER = Owner("user", "file")


async def kept(tmp_path: Path, **job: Any) -> VolumeWorld:
    world = VolumeWorld(tmp_path / "outbox")
    world.bucket.before = is_down("storage", "refused")
    response = await world.run({**CLOUD, **job})
    assert response["error_code"] == "storage_unavailable"
    assert "is kept and will be delivered later" in response["error"]
    assert response["retryable"] is False
    assert world.document["error"]["code"] == "storage_unavailable"
    return world


async def test_a_kept_result_is_delivered_with_its_document_when_storage_is_back(tmp_path: Path) -> None:
    world = await kept(tmp_path, num_images=2)
    assert world.deliver() == 0, "nothing can be delivered while the storage is away"
    world.bucket.before = lambda *_: None
    assert world.deliver() == 1
    assert world.paths == ["generating/user/image/file_0.png", "generating/user/image/file_1.png"]
    document = world.document
    assert (document["status"], document["generation_data"]["storage"]) == ("completed", "firebase")
    assert "error" not in document
    data = document["generation_data"]
    assert (data["seeds"], data["warnings"]) == ([7, 8], [DELIVERED])
    assert data["images"][0] == data["image_url"] == data["files"][0]["url"]
    assert list((tmp_path / "outbox").iterdir()) == []
    assert world.deliver() == 0
    world.generator.lingers = True
    again = await world.run({**CLOUD, "num_images": 2}, job_id="job-2")
    assert again["images"] == data["images"]
    assert world.generator.generated == 2


@pytest.mark.parametrize("call", ["read", "update"])
async def test_a_result_whose_files_are_up_but_whose_document_cannot_be_written_stays_until_it_can(
    tmp_path: Path, call: str
) -> None:
    world = await kept(tmp_path)
    world.bucket.before = lambda *_: None
    world.bucket.after = lambda *_: setattr(world.documents, "before", is_down("firestore", calls=(call,)))
    assert world.deliver() == 0
    assert world.paths == ["generating/user/image/file.png"], "its file was uploaded"
    assert len(list((tmp_path / "outbox").iterdir())) == 1, "and it is still there"
    world.documents.before = lambda *_: None
    assert world.deliver() == 1
    assert world.document["status"] == "completed"
    assert list((tmp_path / "outbox").iterdir()) == []


async def test_without_a_volume_the_caller_is_told_to_try_again() -> None:
    world = World(PaintingGenerator(side=256), max_result_bytes=20_000)
    world.bucket.before = is_down("storage", "refused")
    response = await world.run(CLOUD)
    assert (response["error_code"], response["retryable"]) == ("storage_unavailable", True)
    assert "too large to be returned" in response["error"]


@pytest.mark.parametrize("change", [None, {"status": "completed"}, {"attempt": 2}], ids=["deleted", "done", "again"])
async def test_nobody_gets_a_result_they_do_not_wait_for_any_more(
    tmp_path: Path, change: dict[str, Any] | None
) -> None:
    world = await kept(tmp_path)
    world.bucket.before = lambda *_: None
    world.documents.write_as_app(PATH, change)
    before = dict(world.documents.stored)
    assert world.deliver() == 0
    assert world.documents.stored == before
    assert world.paths == []
    assert list((tmp_path / "outbox").iterdir()) == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("reaped", [False, True])
async def test_a_job_that_could_not_even_write_its_failure_is_delivered_when_its_lease_is_over(
    tmp_path: Path, reaped: bool
) -> None:
    world = VolumeWorld(tmp_path / "outbox")
    world.bucket.before = is_down("storage", "refused")
    world.documents.after = lambda *_: setattr(world.documents, "before", is_down("firestore"))  # from the claim on
    response = await world.run(CLOUD)
    assert "is kept and will be delivered later" in response["error"]
    world.bucket.before = world.documents.before = world.documents.after = lambda *_: None
    assert world.document["status"] == "processing"
    assert world.deliver() == 0, "its worker may still be about to write"
    assert len(list((tmp_path / "outbox").iterdir())) == 1
    past = {"expires_at": datetime.now(UTC) - timedelta(seconds=1)}
    lost = {"status": "failed", "error": {"code": WORKER_LOST}, "claim": {"nonce": "", "deaths": 1}}
    world.documents.write_as_app(PATH, past | (lost if reaped else {}))
    assert world.deliver() == 1
    assert (world.document["status"], world.document["generation_data"]["seed"]) == ("completed", 7)
    assert not {"error", "expires_at", "progress"} & set(world.document)
    assert len(world.paths) == 1


@pytest.mark.usefixtures("impatient")
async def test_a_job_that_firestore_never_knew_of_is_delivered_with_a_new_document(tmp_path: Path) -> None:
    world = VolumeWorld(tmp_path / "outbox")
    world.bucket.before, world.documents.before = is_down("storage", "refused"), is_down("firestore")
    response = await world.run(CLOUD)
    assert "is kept and will be delivered later" in response["error"]
    world.bucket.before = world.documents.before = lambda *_: None
    assert not world.documents.stored
    assert world.deliver() == 1
    document = world.document
    assert (document["status"], document["job_id"], document["attempt"]) == ("completed", "job-1", 1)
    assert document["usage"]["units"] == 1
    assert document["request_data"]["prompt"] == "a fox"
    assert len(world.paths) == 1


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("deleted", ["before", "while its files go up", "never"])
async def test_a_result_whose_slip_was_deleted_is_not_delivered(tmp_path: Path, deleted: str) -> None:
    """Firestore was down while the job ran; the order slip that its app had made shows that the result is wanted."""
    world = VolumeWorld(tmp_path / "outbox")
    world.documents.write_as_app(PATH, {"status": "queued"})
    world.bucket.before, world.documents.before = is_down("storage", "refused"), is_down("firestore")
    response = await world.run({**CLOUD, "id_token": ticket(CLOUD, slip=True)})
    assert "is kept and will be delivered later" in response["error"]
    world.bucket.before = world.documents.before = lambda *_: None
    if deleted == "before":
        world.documents.write_as_app(PATH, None)
    elif deleted != "never":
        world.bucket.after = lambda *_: world.documents.write_as_app(PATH, None)
    assert world.deliver() == (deleted == "never")
    assert (PATH in world.documents.stored, len(world.paths)) == ((True, 1) if deleted == "never" else (False, 0))
    assert list((tmp_path / "outbox").iterdir()) == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fields", [{"status": "completed"}, {"status": "failed", "error": {"code": "cancelled"}}])
async def test_what_another_job_made_of_a_document_meanwhile_is_left_alone(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    world = VolumeWorld(tmp_path / "outbox")
    world.bucket.before, world.documents.before = is_down("storage", "refused"), is_down("firestore")
    await world.run(CLOUD)
    world.bucket.before = world.documents.before = lambda *_: None
    world.documents.write_as_app(PATH, {**fields, "job_id": "job-2", "attempt": 1})
    before = dict(world.documents.stored)
    assert world.deliver() == 0
    assert (world.documents.stored, world.paths) == (before, [])


async def test_a_kept_result_whose_name_was_taken_meanwhile_ends_in_words(tmp_path: Path) -> None:
    world = await kept(tmp_path)
    world.bucket.before = lambda *_: None
    path = "generating/user/image/file.png"
    Storage(world.bucket).put(path, item(), replace(provenance(), file_uid="another"), time.monotonic() + 5)
    assert world.deliver() == 0
    document = world.document
    assert (document["status"], document["error"]["code"]) == ("failed", "idempotency_mismatch")
    assert "use a new file_uid" in document["error"]["message"]
    assert (document["error"]["retryable"], document["usage"]["units"]) == (False, 1)
    assert world.bucket.objects[path][0] == item().data
    assert list((tmp_path / "outbox").iterdir()) == []


async def test_a_label_that_the_user_sets_meanwhile_is_kept(tmp_path: Path) -> None:
    world = await kept(tmp_path)
    world.documents.write_as_app(PATH, {"favorite": True})
    world.bucket.before = lambda *_: None
    assert world.deliver() == 1
    assert world.document["favorite"] is True


def item(size: int = 10) -> Artifact:
    return Artifact("image/png", size, 8, 8, seed=1, storage_path="generating/user/image/file.png", data=b"x" * size)


def provenance() -> ObjectOwner:
    return ObjectOwner("job-1", 1, "hash", "2026-01-01T00:00:00.000000Z", json.dumps({"model": "m"}))


def test_the_outbox_is_bounded_in_bytes(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=5000)
    assert spool.keep(OWNER, provenance(), [item(2000)], {}) is True
    assert spool.keep(OWNER, provenance(), [item(4000)], {}) is False
    assert len(list(tmp_path.iterdir())) == 1


def test_the_outbox_is_bounded_in_age(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert spool.keep(OWNER, provenance(), [item()], {})
    (entry,) = tmp_path.iterdir()
    entry.rename(tmp_path / f"{int(time.time()) - 3 * 86400}-old")
    assert spool.deliver(Storage(MemoryBucket()), MemoryDocumentStore()) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_entry(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert Spool(tmp_path / "file" / "outbox").keep(OWNER, provenance(), [item()], {}) is False
    assert Spool(tmp_path / "nowhere").deliver(Storage(MemoryBucket()), MemoryDocumentStore()) == 0


def waiting() -> MemoryDocumentStore:
    """Return a store with the document that waits for the result of `provenance`."""
    documents = MemoryDocumentStore()
    fields = {"status": "failed", "error": {"code": "storage_unavailable"}, "job_id": "job-1", "attempt": 1}
    documents.write_as_app(PATH, fields)
    return documents


@pytest.mark.parametrize("broken", ["a description that ends early", "no description", "no file"])
def test_an_entry_that_cannot_be_read_is_dropped_and_the_next_one_delivered(tmp_path: Path, broken: str) -> None:
    """A worker that dies while it removes what it has delivered leaves a part of it."""
    spool = Spool(tmp_path)
    spool.keep(OWNER, provenance(), [item()], {})
    (entry,) = tmp_path.iterdir()
    entry = entry.rename(tmp_path / f"{int(time.time()) - 5}-broken")
    if broken == "no file":
        (entry / "0").unlink()
    else:
        (entry / "entry.json").unlink()
    if broken == "a description that ends early":
        (entry / "entry.json").write_text("{")
    spool.keep(OWNER, provenance(), [item()], {})
    assert spool.deliver(Storage(MemoryBucket()), waiting()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_entry_of_a_newer_worker_that_was_rolled_back_is_delivered(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.keep(OWNER, provenance(), [item()], {})
    (entry,) = tmp_path.iterdir()
    said = json.loads((entry / "entry.json").read_text())
    for part in (said, said["owner"], said["object_owner"], *said["files"]):
        part["what_comes_tomorrow"] = {"is": "not known yet"}
    (entry / "entry.json").write_text(json.dumps(said))
    documents = waiting()
    assert spool.deliver(Storage(MemoryBucket()), documents) == 1
    assert documents.stored[PATH][0]["status"] == "completed"


def test_an_entry_that_is_refused_keeps_no_other_one_waiting(tmp_path: Path) -> None:
    """Its document was never claimed, so the document of that name may be another job's, and stays."""
    spool, bucket = Spool(tmp_path), MemoryBucket()
    theirs = replace(provenance(), job_id="job-2", fingerprint="another")
    Storage(bucket).put("generating/user/image/file.png", item(20), theirs, time.monotonic() + 5)
    spool.keep(OWNER, replace(provenance(), claimed=False), [item()], {})
    (refused,) = tmp_path.iterdir()
    refused = refused.rename(tmp_path / f"{int(time.time()) - 5}-refused")
    second = replace(item(), storage_path="generating/user/image/second.png")
    spool.keep(Owner("user", "second"), replace(provenance(), claimed=False), [second], {})
    documents = MemoryDocumentStore()
    assert spool.deliver(Storage(bucket), documents) == 1
    assert documents.stored["generations/user/files/second"][0]["status"] == "completed"
    assert list(tmp_path.iterdir()) == [refused]
    assert bucket.objects["generating/user/image/file.png"][0] == item(20).data


def test_an_entry_that_can_be_neither_delivered_nor_put_back_stays_with_its_files(tmp_path: Path) -> None:
    spool, documents = Spool(tmp_path), waiting()
    spool.keep(OWNER, provenance(), [item()], {})
    (entry,) = tmp_path.iterdir()

    def goes_down(_call: str, _path: str) -> None:
        (entry / "in the way").mkdir(parents=True)
        raise BackendError("firestore", "unreachable")

    documents.before = goes_down
    assert spool.deliver(Storage(MemoryBucket()), documents) == 0
    assert {path.name for path in (tmp_path / f"taken-{entry.name}").iterdir()} == {"0", "entry.json"}


def test_what_other_workers_do_in_the_folder_costs_no_result(tmp_path: Path) -> None:
    spool, over = Spool(tmp_path), threading.Event()
    for _ in range(10):
        spool.keep(OWNER, provenance(), [item()], {})

    def take_and_put_back() -> None:
        while not over.is_set():
            for entry in [path for path in tmp_path.iterdir() if path.name[:1].isdigit()]:
                entry.rename(tmp_path / f"taken-{entry.name}").rename(entry)

    other = threading.Thread(target=take_and_put_back)
    other.start()
    try:
        kept = [spool.keep(OWNER, provenance(), [item()], {}) for _ in range(40)]
    finally:
        over.set()
        other.join()
    assert all(kept)


async def test_an_entry_whose_document_takes_nothing_keeps_no_other_one_waiting(tmp_path: Path) -> None:
    world = await kept(tmp_path)
    takes_nothing = is_down("firestore", "invalid", ["update"])
    response = await world.run({**CLOUD, "file_uid": "second"})
    assert "is kept and will be delivered later" in response["error"]
    world.bucket.before = lambda *_: None
    world.documents.before = lambda call, path: takes_nothing(call, path) if path == PATH else None
    assert world.deliver() == 1
    assert world.documents.stored["generations/user/files/second"][0]["status"] == "completed"
    assert len(list((tmp_path / "outbox").iterdir())) == 1, "the first one waits for room"
    world.documents.before = lambda *_: None
    assert world.deliver() == 1
    assert world.document["status"] == "completed"


def test_an_entry_that_a_dead_worker_had_taken_is_taken_back(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.keep(OWNER, provenance(), [item()], {})
    (entry,) = tmp_path.iterdir()
    taken = entry.rename(tmp_path / f"taken-{entry.name}")
    assert spool.deliver(Storage(MemoryBucket()), MemoryDocumentStore()) == 0
    assert taken.exists(), "a living worker's entry is left alone"
    os.utime(taken, (time.time() - 3600,) * 2)
    assert spool.deliver(Storage(MemoryBucket()), waiting()) == 1


async def test_what_is_delivered_late_is_kept_for_the_operators_days_from_then_on(tmp_path: Path) -> None:
    world = VolumeWorld(tmp_path / "outbox", retention_days=3)
    world.bucket.before = is_down("storage", "refused")
    await world.run(CLOUD)
    world.bucket.before = lambda *_: None
    assert world.deliver() == 1
    ends = [world.document["delete_at"], *(info.delete_at for _, info, _ in world.bucket.objects.values())]
    assert len(ends) == 3
    assert all(abs(end - datetime.now(UTC) - timedelta(days=3)) < timedelta(minutes=1) for end in ends)


def test_no_entry_is_kept_for_longer_than_the_operator_keeps_anything(tmp_path: Path) -> None:
    Spool(tmp_path, retention=timedelta(days=30)).keep(OWNER, provenance(), [item()], {})
    (entry,) = tmp_path.iterdir()
    entry.rename(tmp_path / f"{int(time.time()) - 25 * 3600}-{entry.name.partition('-')[2]}")
    Spool(tmp_path, retention=timedelta(days=30)).deliver(Storage(MemoryBucket()), waits_nowhere())
    assert list(tmp_path.iterdir()) != []
    Spool(tmp_path, retention=timedelta(days=1)).deliver(Storage(MemoryBucket()), waits_nowhere())
    assert list(tmp_path.iterdir()) == []


def waits_nowhere() -> MemoryDocumentStore:
    """Return a store that does not respond: nothing is delivered, and nothing dropped for lack of a document."""
    documents = MemoryDocumentStore()
    documents.before = is_down("firestore")
    return documents
