"""A document that Firestore would not take as a whole is written with fewer fields, and always reaches its end."""

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from tests.support.fakes import MemoryDocumentStore, is_down
from tests.support.firestore_limits import MAX_DOCUMENT_BYTES, document_bytes
from worker.core.errors import BackendError, InvalidInput, JobTimeout, StorageUnavailable
from worker.core.types import Owner, Progress
from worker.document import session as sessions
from worker.document.schema import LEFT_OUT, ClaimRequest, lighter
from worker.document.session import DocumentSession, SpooledDocument
from worker.document.transitions import Grant
from worker.reaper import reap

OWNER = Owner("user", "file")
PATH = "generations/user/files/file"
REQUEST = {"task_type": "img2img", "prompt": "🦊" * 4000, "image_url": "(inline image, 9 characters)"}
URL = (
    "https://firebasestorage.googleapis.com/v0/b/demo/o/generating%2Fuser%2Fimage%2Ffile.png?alt=media&token="
    + "t" * 36
)
RESULT = {
    "images": [URL],
    "image_url": URL,
    "storage": "firebase",
    "model": "m" * 200,
    "seed": 7,
    "params": {"width": 64},
    "timings": {"total": 1.0},
    "files": [{"url": URL}],
    "warnings": ["w" * 3000],
}
ROOMS = (100_000, 10_000, 6000, 2500, 1400)
"""Bytes that an app's own fields leave in its document: enough for everything, for all but the request, ..."""


def soon() -> float:
    return time.monotonic() + 5


def with_room(room: int) -> MemoryDocumentStore:
    """Return a store with a document that the app has filled, except for so many bytes."""
    documents = MemoryDocumentStore()
    own: dict[str, Any] = {"status": "queued", "labels": ["mine"], "notes": ""}
    own["notes"] = "x" * (MAX_DOCUMENT_BYTES - room - document_bytes(PATH, own))
    documents.write_as_app(PATH, own)
    return documents


def session_on(documents: MemoryDocumentStore) -> DocumentSession:
    return DocumentSession(documents, OWNER, ClaimRequest("job-1", "worker-1", "v1:" + "a" * 64, "n1"), REQUEST)


@pytest.mark.parametrize("room", ROOMS)
def test_a_full_document_is_claimed_kept_alive_and_completed(room: int) -> None:
    documents = with_room(room)
    session = session_on(documents)
    assert session.claim(soon()) == Grant(1)
    preview = "p" * 8192
    session.beat(Progress("generating", 10**6, 10**6, percent=50, eta_seconds=10**6, preview=preview), heartbeat=True)
    told = documents.stored[PATH][0]["progress"]
    assert (told["stage"], told.get("preview")) == ("generating", preview if room >= 10_000 else None)
    expires_at = documents.stored[PATH][0]["expires_at"]
    session.beat(Progress("uploading", 10**6, 10**6), heartbeat=True)
    done, _version = documents.stored[PATH]
    assert done["expires_at"] > expires_at
    session.complete(RESULT, soon())
    done, _version = documents.stored[PATH]
    assert (done["status"], done["labels"]) == ("completed", ["mine"])
    assert (done["generation_data"]["images"], done["generation_data"]["image_url"]) == ([URL], URL)
    assert done["generation_data"]["storage"] == "firebase"
    assert session.left_out is (room < 100_000)
    if room == 100_000:
        assert (done["request_data"], done["generation_data"]) == (REQUEST, RESULT)
    elif room > 2500:
        assert done["request_data"] == {"task_type": "img2img", "left_out": True}
    if room == 10_000:
        assert done["generation_data"] == RESULT
    if room == 2500:
        assert done["generation_data"]["warnings"] == [LEFT_OUT]


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("claimed", [True, False])
def test_a_failure_of_a_full_document_is_written(room: int, claimed: bool) -> None:
    documents = with_room(room)
    session = session_on(documents)
    error = StorageUnavailable("storage_unavailable.kept") if claimed else JobTimeout()
    if claimed:
        session.claim(soon())
        session.fail(error, soon())
    else:
        assert session.refuse(error, soon())
    done, _version = documents.stored[PATH]
    assert (done["status"], done["error"]["code"], done["error"]["retryable"]) == ("failed", error.code, True)
    assert done["labels"] == ["mine"]


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("claimed", [True, False])
def test_a_spooled_result_reaches_a_full_document(room: int, claimed: bool) -> None:
    documents = with_room(room)
    attempt = 0
    if claimed:
        session = session_on(documents)
        session.claim(soon())
        session.fail(StorageUnavailable("storage_unavailable.kept", retryable=False), soon())
        attempt = session.attempt
    spooled = SpooledDocument(
        documents, OWNER, job_id="job-1", attempt=attempt, fingerprint="v1:" + "a" * 64, claimed=claimed
    )
    spooled.complete(REQUEST, RESULT)
    done, _version = documents.stored[PATH]
    assert (done["status"], done["generation_data"]["images"], done["labels"]) == ("completed", [URL], ["mine"])


def test_what_an_app_adds_while_the_job_runs_takes_the_requests_place() -> None:
    documents = with_room(40_000)
    session = session_on(documents)
    session.claim(soon())
    assert documents.stored[PATH][0]["request_data"] == REQUEST
    documents.write_as_app(PATH, {"more": "x" * 21_000})
    session.complete(RESULT, soon())
    done, _version = documents.stored[PATH]
    assert (done["status"], len(done["more"])) == ("completed", 21_000)
    assert done["request_data"] == {"task_type": "img2img", "left_out": True}
    assert done["generation_data"] == {**RESULT, "warnings": [*RESULT["warnings"], LEFT_OUT]}  # type: ignore[misc]  # a list


def test_a_lost_worker_of_a_full_document_is_told_and_keeps_no_other_one_waiting() -> None:
    documents = with_room(1400)
    session = session_on(documents)
    session.claim(soon())
    fields, _version = documents.stored[PATH]
    documents.write_as_app(
        PATH, {"expires_at": None, "pad": "x" * (MAX_DOCUMENT_BYTES - document_bytes(PATH, fields) - 13)}
    )
    assert sessions.expire(documents, PATH, 900) == "job-1"
    assert documents.stored[PATH][0]["error"]["code"] == "worker_lost"


def test_a_document_that_does_not_even_take_its_end_is_left_for_the_next_time() -> None:
    class Expired(MemoryDocumentStore):
        def older(self, status: str, field: str, than: datetime, *, limit: int, timeout: float) -> list[str]:
            return sorted(path for path in self.stored if self.stored[path][0]["status"] == status)

    documents = Expired()
    for name in ("a", "b"):
        lost = {"status": "processing", "job_id": name, "x": "x" * (1_048_400 if name == "a" else 10)}
        documents.write_as_app(f"generations/user/files/{name}", lost)
    assert reap(documents) == 1
    assert documents.stored["generations/user/files/b"][0]["error"]["code"] == "worker_lost"


def test_a_document_without_any_room_is_said_to_take_nothing() -> None:
    documents = with_room(20)
    session = session_on(documents)
    with pytest.raises(BackendError, match="invalid"):
        session.claim(soon())
    with pytest.raises(BackendError, match="invalid"):
        session.refuse(InvalidInput([]), soon())
    assert documents.stored[PATH][0]["status"] == "queued"


@pytest.mark.parametrize("kind", ["refused", "unreachable"])
def test_less_is_written_only_where_the_content_is_to_blame(kind: str) -> None:
    documents = with_room(100_000)
    calls: list[str] = []
    fail = is_down("firestore", kind, ["update"])

    def counted(call: str, path: str) -> None:
        calls.append(call)
        fail(call, path)

    documents.before = counted
    with pytest.raises(BackendError, match=kind):
        session_on(documents).claim(time.monotonic() + 0.1)
    assert calls.count("update") == 1


ODD: list[dict[str, Any]] = [
    {"status": ["completed"]},
    {"status": {"a": 1}},
    {"status": 5, "attempt": "many", "claim": "mine", "error": "none", "generation_data": [1], "expires_at": "soon"},
    {"status": "processing", "attempt": None, "claim": ["x"], "expires_at": 5},
    {"status": "failed", "error": "lost", "claim": {"deaths": "3", "nonce": 5}},
    {"status": "completed", "claim": {"request_hash": "v1:" + "a" * 64}, "generation_data": "https://x"},
]


@pytest.mark.parametrize("own", ODD)
def test_fields_of_another_kind_than_the_workers_stop_nobody(own: dict[str, Any]) -> None:
    documents = MemoryDocumentStore()
    documents.write_as_app(PATH, own)
    assert session_on(documents).refuse(JobTimeout(), soon()) is (own["status"] != "completed")
    documents.write_as_app(PATH, own)
    session = session_on(documents)
    session.claim(soon())
    session.complete(RESULT, soon())
    assert documents.stored[PATH][0]["status"] == "completed"


def test_less_never_holds_more() -> None:
    def sizes(changes: dict[str, Any]) -> Iterator[int]:
        yield document_bytes(PATH, changes)
        yield from (document_bytes(PATH, present(less)) for less in lighter(changes, None))

    def present(fields: Any) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if name != "request_data" or isinstance(value, dict)}

    changes = {"request_data": REQUEST, "error": {"code": "c", "message": "m" * 4000}, "generation_data": RESULT}
    found = list(sizes(changes))
    assert found == sorted(found, reverse=True)
