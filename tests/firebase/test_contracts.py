"""One contract, several implementations: the unit tests' fakes behave as the emulators do through real clients."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.fakes import MemoryBucket, MemoryDocumentStore
from tests.support.firestore_limits import MAX_DOCUMENT_BYTES, document_bytes
from tests.support.gcs import FakeGcs
from tools.emulators.firebase import FirebaseEmulators, environment
from worker.core.config import load_settings
from worker.core.errors import BackendError
from worker.document.store import DocumentStore, FieldValue
from worker.firebase.app import Firebase
from worker.storage.results import TOKENS
from worker.storage.store import Bucket, ObjectTooLarge

PATH = "generations/user/files/file"


def soon() -> float:
    return time.monotonic() + 10


EMULATOR, GCS = (pytest.param(name, marks=pytest.mark.e2e) for name in ("emulator", "gcs"))


@pytest.fixture(params=["memory", EMULATOR])
def documents(request: pytest.FixtureRequest) -> Iterator[DocumentStore]:
    if request.param == "memory":
        yield MemoryDocumentStore()
        return
    emulators: FirebaseEmulators = request.getfixturevalue("firebase")
    with environment(emulators.env):
        found = Firebase(load_settings()).documents
        assert found is not None
        yield found


@pytest.fixture(params=["memory", GCS, EMULATOR])
def bucket(request: pytest.FixtureRequest) -> Iterator[Bucket]:
    if request.param == "memory":
        yield MemoryBucket()
        return
    server: FakeGcs | FirebaseEmulators = request.getfixturevalue("fake_gcs" if request.param == "gcs" else "firebase")
    with environment(server.env):
        found = Firebase(load_settings()).bucket
        assert found is not None
        yield found


def test_an_absent_document_has_no_fields_but_a_time(documents: DocumentStore) -> None:
    snapshot = documents.read(PATH, timeout=5)
    assert snapshot.fields is None
    assert snapshot.read_at.tzinfo is not None


def test_a_document_is_created_once(documents: DocumentStore) -> None:
    assert documents.create(PATH, {"status": "processing", "at": FieldValue.SERVER_TIME}, timeout=5) is not None
    assert documents.create(PATH, {"status": "other"}, timeout=5) is None
    fields = documents.read(PATH, timeout=5).fields
    assert fields is not None
    assert fields["status"] == "processing"
    assert abs(fields["at"].timestamp() - time.time()) < 60


def test_the_time_of_an_answer_is_known_without_asking(documents: DocumentStore) -> None:
    began = time.monotonic()
    version = documents.create(PATH, {"status": "processing"}, timeout=5)
    now, written_at = documents.now(), documents.written_at(version)
    assert now is not None
    assert timedelta(0) <= now - written_at < timedelta(seconds=2 + time.monotonic() - began)
    read = documents.read(PATH, timeout=5)
    assert read.read_at >= written_at == documents.written_at(read.version)


def test_an_update_needs_the_version_it_was_decided_on(documents: DocumentStore) -> None:
    first = documents.create(PATH, {"a": 1, "b": {"c": 1}, "gone": True}, timeout=5)
    second = documents.update(PATH, {"a": 2, "gone": FieldValue.REMOVE}, unchanged=first, timeout=5)
    assert second is not None
    assert documents.update(PATH, {"a": 3}, unchanged=first, timeout=5) is None
    snapshot = documents.read(PATH, timeout=5)
    assert snapshot.fields == {"a": 2, "b": {"c": 1}}
    assert documents.update(PATH, {"a": 4}, unchanged=snapshot.version, timeout=5) is not None


def test_a_missing_document_is_not_made_by_an_update(documents: DocumentStore) -> None:
    version = documents.create("generations/user/files/other", {"a": 1}, timeout=5)
    assert documents.update(PATH, {"a": 1}, unchanged=version, timeout=5) is None
    assert documents.read(PATH, timeout=5).fields is None


def deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = {"a": value}
    return value


def filled(path: str, size: int) -> dict[str, Any]:
    """Return the fields of a document of exactly so many bytes."""
    fields = {"a": "é", "b": {"c": [1, None, True]}, "filler": ""}
    return {**fields, "filler": "x" * (size - document_bytes(path, fields))}


INVALID: dict[str, dict[str, Any]] = {
    "a byte too many": filled(PATH, MAX_DOCUMENT_BYTES + 1),
    "21 levels": {"a": deep(20)},
    "a list in a list": {"a": [[1]]},
    "a list in a list, far down": {"a": {"b": [{"c": [["x"]]}]}},
    "a reserved name": {"__a__": 1},
    "a reserved name, far down": {"a": {"b": {"__c__": 1}}},
    "a name that is none": {"a": {"": 1}},
    "a long name": {"a": {"n" * 1500: 1}},
    "a lone surrogate": {"a": "\ud800"},
    "a number of 65 bits": {"a": 2**63},
    "40001 values": {"a": [None] * 39_999},
    "no value at all": {"a": object()},
}
VALID: dict[str, dict[str, Any]] = {
    "a full document": filled(PATH, MAX_DOCUMENT_BYTES),
    "20 levels": {"a": deep(19)},
    "a list in an object in a list": {"a": [{"b": [1]}]},
    "a name of 1500 bytes": {"n" * 1500: 1},
    "odd texts": {"a": "\x00\uffff\U0010ffff", "b": 5e-324, "c": -(2**31)},
}


@pytest.mark.parametrize("case", INVALID)
def test_what_firestore_does_not_take_is_invalid_and_changes_nothing(documents: DocumentStore, case: str) -> None:
    """https://firebase.google.com/docs/firestore/quotas, /storage-size"""
    with pytest.raises(BackendError) as caught:
        documents.create(PATH, INVALID[case], timeout=5)
    assert caught.value.kind == "invalid"
    version = documents.create(PATH, {"mine": 1}, timeout=5)
    with pytest.raises(BackendError) as caught:
        documents.update(PATH, INVALID[case], unchanged=version, timeout=5)
    assert caught.value.kind == "invalid"
    assert documents.read(PATH, timeout=5).fields == {"mine": 1}


@pytest.mark.parametrize("case", VALID)
def test_what_is_just_within_firestores_limits_is_taken(documents: DocumentStore, case: str) -> None:
    assert documents.create(PATH, VALID[case], timeout=5) is not None
    assert documents.read(PATH, timeout=5).fields == VALID[case]


def test_an_object_is_created_once_and_replaced_only_as_the_generation_that_was_seen(bucket: Bucket) -> None:
    def put(data: bytes, replaces: int, token: str) -> int | None:
        stored = bucket.upload(
            "generating/user/image/file.png",
            data,
            content_type="image/png",
            metadata={TOKENS: token, "attempt": "1"},
            replaces=replaces,
            deadline=soon(),
        )
        return stored.generation if stored else None

    first = put(b"first", 0, "t1")
    assert first is not None
    assert put(b"twin", 0, "t2") is None
    info = bucket.info("generating/user/image/file.png", deadline=soon())
    assert info is not None
    assert (info.generation, info.size, info.crc32c) == (first, 5, bucket.crc32c(b"first"))
    assert info.metadata[TOKENS] == "t1"
    second = put(b"second", first, "t1")
    assert second is not None
    assert put(b"late", first, "t1") is None
    read = bucket.read("generating/user/image/file.png", max_bytes=100, deadline=soon())
    assert read is not None
    assert (read[0].generation, read[0].metadata[TOKENS], read[1]) == (second, "t1", b"second")
    if isinstance(bucket, MemoryBucket):  # the local server deletes any generation; Google does not
        bucket.delete("generating/user/image/file.png", generation=first, metageneration=1, deadline=soon())
        assert bucket.info("generating/user/image/file.png", deadline=soon()) is not None
    bucket.delete("generating/user/image/file.png", generation=second, metageneration=1, deadline=soon())
    assert bucket.info("generating/user/image/file.png", deadline=soon()) is None


def test_reading_is_bounded_and_absence_is_none(bucket: Bucket) -> None:
    assert bucket.read("uploads/user/none.png", max_bytes=10, deadline=soon()) is None
    bucket.upload("uploads/user/a.png", b"x" * 11, content_type="image/png", metadata={}, replaces=0, deadline=soon())
    with pytest.raises(ObjectTooLarge):
        bucket.read("uploads/user/a.png", max_bytes=10, deadline=soon())


@pytest.mark.parametrize("bucket", ["memory", EMULATOR], indirect=True)
def test_an_adopted_object_is_not_deleted_by_who_made_it(bucket: Bucket) -> None:
    path = "generating/user/image/file.png"
    made = bucket.upload(
        path, b"x", content_type="image/png", metadata={TOKENS: "t", "job_id": "1"}, replaces=0, deadline=soon()
    )
    assert made is not None
    seen = bucket.info(path, deadline=soon())
    assert seen is not None
    taken_over = bucket.take_over(path, {"job_id": "2"}, seen=seen, deadline=soon())
    assert taken_over is not None
    assert bucket.take_over(path, {"job_id": "3"}, seen=seen, deadline=soon()) is None
    bucket.delete(path, generation=made.generation, metageneration=made.metageneration, deadline=soon())
    left = bucket.info(path, deadline=soon())
    assert left is not None
    assert (left.metadata["job_id"], left.metadata[TOKENS]) == ("2", "t")
    bucket.delete(path, generation=taken_over.generation, metageneration=taken_over.metageneration, deadline=soon())
    assert bucket.info(path, deadline=soon()) is None


def test_an_object_says_when_it_goes_and_is_only_put_off(bucket: Bucket) -> None:
    path, sent = "generating/user/image/kept.png", {"content_type": "image/png", "metadata": {TOKENS: "t"}}
    first, later = (datetime(2030, 1, day, 12, tzinfo=UTC) for day in (1, 2))
    bucket.upload(path, b"x", replaces=0, deadline=soon(), delete_at=first, **sent)  # type: ignore[arg-type]  # two kinds
    for wanted, says in ((None, first), (later, later), (first, later), (None, later)):
        seen = bucket.info(path, deadline=soon())
        assert seen is not None
        assert bucket.take_over(path, {"job_id": "2"}, seen=seen, deadline=soon(), delete_at=wanted) is not None
        found = bucket.info(path, deadline=soon())
        assert found is not None
        assert found.delete_at == says
        assert found.metadata[TOKENS] == "t"
