"""The session of a job's document: what it writes when, and what it never overwrites.

In memory here; `test_contracts.py` runs against the emulator.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.clock import SOON_SECONDS, is_within
from tests.support.fakes import MemoryDocumentStore, fails_times, is_down
from worker.core import timing
from worker.core.errors import (
    BackendError,
    Cancelled,
    Deleted,
    IdempotencyMismatch,
    InvalidInput,
    JobTimeout,
    Superseded,
)
from worker.core.types import Owner, Progress
from worker.document.schema import ClaimRequest, document_path
from worker.document.session import DocumentSession, SpooledDocument, expire
from worker.document.store import Snapshot
from worker.document.transitions import AlreadyDone, Deny, Grant

OWNER = Owner("user", "file")
PATH = "generations/user/files/file"
DATA = {"images": ["https://u"], "storage": "firebase"}


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


def bid(nonce: str = "n1", job: str = "job-1", request: str = "hash") -> ClaimRequest:
    return ClaimRequest(job, "worker-1", request, nonce)


@pytest.fixture
def documents() -> MemoryDocumentStore:
    return MemoryDocumentStore()


@pytest.fixture
def document(documents: MemoryDocumentStore) -> DocumentSession:
    return DocumentSession(documents, OWNER, bid(), {"prompt": "p"})


def fields(documents: MemoryDocumentStore) -> dict[str, Any]:
    return documents.stored[PATH][0]


def test_the_path_is_the_contracts() -> None:
    assert document_path(OWNER) == PATH


def test_a_claim_writes_all_that_stands_there_from_the_start(
    documents: MemoryDocumentStore, document: DocumentSession
) -> None:
    assert document.claim(soon()) == Grant(1)
    written = fields(documents)
    expected = {
        "status": "processing",
        "request_data": {"prompt": "p"},
        "file_uid": "file",
        "user_id": "user",
        "job_id": "job-1",
        "worker_id": "worker-1",
        "attempt": 1,
    }
    assert expected.items() <= written.items()
    assert written["progress"] == {"stage": "queued", "step": 0, "total_steps": 0, "percent": 0, "eta_seconds": None}
    assert isinstance(written["created_at"], datetime)
    left = written["expires_at"] - datetime.now(UTC)
    assert timedelta(seconds=timing.LEASE_SECONDS - 3) < left <= timedelta(seconds=timing.LEASE_SECONDS)
    assert "completed_at" not in written


def test_fields_that_the_app_wrote_before_are_kept(documents: MemoryDocumentStore, document: DocumentSession) -> None:
    created = datetime(2026, 1, 1, tzinfo=UTC)
    documents.write_as_app(PATH, {"status": "queued", "favorite": True, "created_at": created})
    document.claim(soon())
    document.complete(DATA, soon())
    assert fields(documents)["favorite"] is True
    assert fields(documents)["created_at"] == created


def test_a_result_replaces_the_progress_and_keeps_the_request(
    documents: MemoryDocumentStore, document: DocumentSession
) -> None:
    document.claim(soon())
    document.beat(Progress("generating", 3, 10), heartbeat=False)
    document.complete(DATA, soon())
    done = fields(documents)
    assert (done["status"], done["generation_data"]) == ("completed", DATA)
    assert "progress" not in done
    assert "error" not in done
    assert isinstance(done["completed_at"], datetime)
    assert done["request_data"] == {"prompt": "p"}


def test_a_failure_says_its_code_message_and_whether_to_try_again(
    documents: MemoryDocumentStore, document: DocumentSession
) -> None:
    document.claim(soon())
    document.fail(JobTimeout(), soon())
    done = fields(documents)
    assert done["status"] == "failed"
    assert done["error"] == {"code": "timeout", "message": JobTimeout().message, "retryable": True}
    assert isinstance(done["completed_at"], datetime)


def test_a_heartbeat_moves_the_lease_on(documents: MemoryDocumentStore, document: DocumentSession) -> None:
    document.claim(soon())
    before = fields(documents)["expires_at"]
    time.sleep(0.01)
    document.beat(None, heartbeat=True)
    assert fields(documents)["expires_at"] > before


def test_a_users_label_in_between_is_kept_and_progress_goes_on(
    documents: MemoryDocumentStore, document: DocumentSession
) -> None:
    document.claim(soon())
    documents.write_as_app(PATH, {"favorite": True})
    document.beat(Progress("generating", 1, 4), heartbeat=False)
    assert fields(documents)["favorite"] is True
    assert fields(documents)["progress"]["step"] == 1


def test_a_cancel_wish_is_seen_with_the_next_write_and_without_one(
    documents: MemoryDocumentStore, document: DocumentSession
) -> None:
    document.claim(soon())
    documents.write_as_app(PATH, {"cancel_requested": True})
    with pytest.raises(Cancelled):
        document.beat(Progress("generating", 1, 4), heartbeat=False)
    with pytest.raises(Cancelled):
        document.beat(None, heartbeat=False)


def test_a_deleted_document_is_not_written_again(documents: MemoryDocumentStore, document: DocumentSession) -> None:
    document.claim(soon())
    documents.write_as_app(PATH, None)
    with pytest.raises(Deleted):
        document.beat(Progress("generating", 1, 4), heartbeat=True)
    with pytest.raises(Deleted):
        document.complete(DATA, soon())
    assert PATH not in documents.stored


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize(("request_hash", "reason"), [("hash", Superseded), ("another", IdempotencyMismatch)])
def test_who_could_not_claim_learns_at_the_end_whose_the_document_is(
    documents: MemoryDocumentStore,
    document: DocumentSession,
    request_hash: str,
    reason: type[Exception],
    *,
    ended: bool,
) -> None:
    other = DocumentSession(documents, OWNER, bid("n2", "job-2", request_hash), {"prompt": "p"})
    other.claim(soon())
    if ended:
        other.complete(DATA, soon())
    before = dict(documents.stored)
    with pytest.raises(reason):
        document.complete(DATA, soon())
    assert document.denied
    assert documents.stored == before


def test_an_attempt_that_was_taken_over_changes_nothing_any_more(
    documents: MemoryDocumentStore, document: DocumentSession
) -> None:
    document.claim(soon())
    second = DocumentSession(documents, OWNER, bid("n2"), {"prompt": "p"})
    assert second.claim(soon()) == Grant(2, 1)
    with pytest.raises(Superseded):
        document.beat(Progress("generating", 1, 4), heartbeat=True)
    with pytest.raises(Superseded):
        document.complete(DATA, soon())
    with pytest.raises(Superseded):
        document.fail(JobTimeout(), soon())
    second.complete(DATA, soon())
    assert fields(documents)["attempt"] == 2
    assert fields(documents)["status"] == "completed"


def test_a_finished_generation_is_replayed(documents: MemoryDocumentStore, document: DocumentSession) -> None:
    document.claim(soon())
    document.complete(DATA, soon())
    again = DocumentSession(documents, OWNER, bid("n2", "job-2"), {})
    assert again.claim(soon()) == AlreadyDone(DATA)
    assert again.denied


def test_a_poison_job_is_written_as_failed(documents: MemoryDocumentStore) -> None:
    for number in range(3):
        DocumentSession(documents, OWNER, bid(f"n{number}"), {}).claim(soon())
    decision = DocumentSession(documents, OWNER, bid("n4"), {}).claim(soon())
    assert isinstance(decision, Deny)
    assert fields(documents)["status"] == "failed"
    assert fields(documents)["error"]["code"] == "poison_job"


def test_a_poison_job_is_refused_even_where_that_cannot_be_written(documents: MemoryDocumentStore) -> None:
    for number in range(3):
        DocumentSession(documents, OWNER, bid(f"n{number}"), {}).claim(soon())
    documents.before = is_down("firestore", calls=("create", "update"))
    fourth = DocumentSession(documents, OWNER, bid("n4"), {})
    decision = fourth.claim(soon(0.3))
    assert isinstance(decision, Deny)
    assert decision.error.code == "poison_job"
    assert fourth.denied
    assert fields(documents)["status"] == "processing"  # the reaper's turn, once the lease has expired


def test_a_retry_after_failure_starts_clean(documents: MemoryDocumentStore, document: DocumentSession) -> None:
    document.claim(soon())
    documents.write_as_app(PATH, {"cancel_requested": True})
    document.fail(Cancelled(), soon())
    assert DocumentSession(documents, OWNER, bid("n2", "job-2"), {}).claim(soon()) == Grant(2)
    again = fields(documents)
    assert again["status"] == "processing"
    assert not {"error", "completed_at", "cancel_requested", "generation_data"} & again.keys()


@pytest.mark.parametrize("call", ["create", "update"])
def test_a_claim_whose_answer_was_lost_is_recognised(documents: MemoryDocumentStore, call: str) -> None:
    if call == "update":
        documents.write_as_app(PATH, {"status": "queued"})
    documents.after = fails_times(1, is_down("firestore", calls=[call]))
    document = DocumentSession(documents, OWNER, bid(), {})
    assert document.claim(soon(2)) == Grant(1)
    assert fields(documents)["attempt"] == 1
    document.complete(DATA, soon())
    assert fields(documents)["status"] == "completed"


def test_a_terminal_write_whose_answer_was_lost_is_written_once(
    documents: MemoryDocumentStore, document: DocumentSession
) -> None:
    document.claim(soon())
    documents.after = fails_times(1, is_down("firestore"))
    document.complete(DATA, soon(2))
    assert [state["status"] for state in documents.history[PATH]].count("completed") == 1


def test_firestore_away_at_the_claim_and_back_at_the_end_still_gets_the_result(documents: MemoryDocumentStore) -> None:
    document = DocumentSession(documents, OWNER, bid(), {"prompt": "p"})
    documents.before = is_down("firestore")
    with pytest.raises(BackendError):
        document.claim(soon(0.3))
    documents.before = lambda *_: None
    document.complete(DATA, soon())
    done = fields(documents)
    assert (done["status"], done["attempt"], done["generation_data"]) == ("completed", 1, DATA)
    assert "progress" not in done


def test_a_dead_firestore_is_given_up_at_the_deadline(
    documents: MemoryDocumentStore, document: DocumentSession
) -> None:
    documents.before = is_down("firestore")
    started = time.monotonic()
    with pytest.raises(BackendError):
        document.claim(soon(0.5))
    assert time.monotonic() - started < SOON_SECONDS


def test_a_refused_firestore_is_not_asked_twice(documents: MemoryDocumentStore, document: DocumentSession) -> None:
    asked: list[str] = []

    def refuse(call: str, path: str) -> None:
        asked.append(call)
        is_down("firestore", "refused")(call, path)

    documents.before = refuse

    tries = 0

    def claim() -> None:
        nonlocal tries
        tries += 1
        with pytest.raises(BackendError):
            document.claim(soon(5))

    assert is_within(0.2, claim)
    assert asked.count("create") == tries
    assert asked.count("read") <= tries, "a read goes beside the claim, which does not wait for it"


@pytest.mark.parametrize("status", ["completed", "processing"])
def test_a_refusal_leaves_results_and_live_jobs_alone(documents: MemoryDocumentStore, status: str) -> None:
    first = DocumentSession(documents, OWNER, bid(), {})
    first.claim(soon())
    if status == "completed":
        first.complete(DATA, soon())
    before = fields(documents)
    refused = DocumentSession(documents, OWNER, bid("n2", "job-2", ""), {"task_type": "text2img"})
    assert refused.refuse(InvalidInput([]), soon()) is False
    assert fields(documents) == before


def test_a_refusal_makes_a_failed_document_where_there_was_none(documents: MemoryDocumentStore) -> None:
    documents.write_as_app(PATH, {"status": "queued", "label": "x"})
    refused = DocumentSession(documents, OWNER, bid(), {"task_type": "text2img"})
    assert refused.refuse(InvalidInput([]), soon()) is True
    done = fields(documents)
    assert (done["status"], done["error"]["code"], done["label"]) == ("failed", "invalid_input", "x")
    assert {"created_at", "completed_at", "job_id", "worker_id", "attempt", "user_id", "file_uid"} <= done.keys()


@pytest.mark.parametrize("heard", [True, False])
def test_a_claim_is_dated_by_the_server_not_by_this_worker(heard: bool) -> None:
    """The later of two attempts owns the objects, and their workers' clocks must not decide which one that is."""

    class Ahead(MemoryDocumentStore):
        def read(self, path: str, *, timeout: float) -> Snapshot:
            return replace(super().read(path, timeout=timeout), read_at=datetime(2031, 1, 1, tzinfo=UTC))

        def written_at(self, version: object) -> datetime:
            return datetime(2031, 1, 1, tzinfo=UTC)

    documents = Ahead()
    documents.tells_time = heard
    session = DocumentSession(documents, OWNER, bid("n1"), {})
    session.claim(soon())
    assert session.claimed_at == datetime(2031, 1, 1, tzinfo=UTC)


class Flipped(MemoryDocumentStore):
    """A user changes a label between each read and the write that follows it."""

    flipping = True
    flips = 0

    def read(self, path: str, *, timeout: float) -> Snapshot:
        found = super().read(path, timeout=timeout)
        if self.flipping:
            self.flips += 1
            self.write_as_app(path, {"favorite": self.flips % 2 == 0})
        return found


@pytest.mark.parametrize("ended", ["claim", "refuse", "complete", "fail", "redeliver"])
def test_a_user_who_flips_a_label_all_the_time_holds_nobody_past_the_deadline(
    ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user could keep a claim of 3.5 s going indefinitely, and the job's own time limit waited for it."""
    monkeypatch.setattr(timing, "SPOOL_COMPLETE_SECONDS", 0.3)
    documents = Flipped()
    session = DocumentSession(documents, OWNER, bid(), {})
    if ended in {"claim", "refuse"}:
        documents.write_as_app(PATH, {"favorite": True})
    if ended in {"complete", "fail", "redeliver"}:
        documents.flipping = False
        session.claim(soon())
        failed = {"status": "failed", "error": {"code": "storage_unavailable"}}
        documents.write_as_app(PATH, failed if ended == "redeliver" else {"favorite": True})
        documents.flipping = True
    spooled = SpooledDocument(documents, OWNER, "job-1", 1, "hash", claimed=True)
    calls: dict[str, Callable[[], object]] = {
        "claim": lambda: session.claim(soon(0.3)),
        "refuse": lambda: session.refuse(InvalidInput([]), soon(0.3)),
        "complete": lambda: session.complete(DATA, soon(0.3)),
        "fail": lambda: session.fail(Cancelled(), soon(0.3)),
        "redeliver": lambda: spooled.complete({}, DATA),
    }
    started = time.monotonic()
    with pytest.raises(BackendError):
        calls[ended]()
    assert 0.25 < time.monotonic() - started < SOON_SECONDS
    assert documents.flips > 1


WEEK = timedelta(days=7)


def kept_for_a_week(documents: MemoryDocumentStore, nonce: str = "n1", job: str = "job-1") -> DocumentSession:
    return DocumentSession(documents, OWNER, bid(nonce, job), {"prompt": "p"}, retention=WEEK)


def check_week(documents: MemoryDocumentStore) -> None:
    assert abs(fields(documents)["delete_at"] - datetime.now(UTC) - WEEK) < timedelta(seconds=10)


def test_what_has_ended_goes_by_itself_after_the_operators_days_and_not_while_it_is_made_again(
    documents: MemoryDocumentStore,
) -> None:
    first = kept_for_a_week(documents)
    first.claim(soon())
    assert "delete_at" not in fields(documents)
    first.fail(JobTimeout(), soon())
    check_week(documents)
    second = kept_for_a_week(documents, "n2", "job-2")
    assert second.claim(soon()) == Grant(2)
    assert "delete_at" not in fields(documents), "a policy would delete it under the job"
    second.complete(DATA, soon())
    check_week(documents)


def test_without_days_nothing_goes_by_itself(documents: MemoryDocumentStore, document: DocumentSession) -> None:
    document.claim(soon())
    document.complete(DATA, soon())
    assert "delete_at" not in fields(documents)


def test_a_refusal_a_lost_worker_and_a_late_delivery_have_an_end_too(documents: MemoryDocumentStore) -> None:
    assert kept_for_a_week(documents).refuse(InvalidInput([]), soon())
    check_week(documents)
    kept_for_a_week(documents, "n2").claim(soon())
    documents.write_as_app(PATH, {"expires_at": datetime.now(UTC) - timedelta(seconds=1)})
    assert "delete_at" not in fields(documents)
    assert expire(documents, PATH, 900, WEEK) == "job-1"
    check_week(documents)
    documents.write_as_app(PATH, {"delete_at": datetime.now(UTC)})
    SpooledDocument(documents, OWNER, "job-1", 2, "hash", claimed=True, retention=WEEK).complete({}, DATA)
    assert fields(documents)["status"] == "completed"
    check_week(documents)


def test_who_could_not_claim_dates_the_end_as_well(documents: MemoryDocumentStore) -> None:
    kept_for_a_week(documents).complete(DATA, soon())
    assert fields(documents)["status"] == "completed"
    check_week(documents)


def test_a_claim_of_a_new_document_waits_for_one_answer(documents: MemoryDocumentStore) -> None:
    looked, created = threading.Event(), threading.Event()

    def before(call: str, path: str) -> None:
        if call == "read":
            looked.set()
            created.wait(60)  # a read that takes for ever

    documents.before = before
    session = DocumentSession(documents, OWNER, bid(), {"prompt": "p"})
    try:
        assert session.claim(soon()) == Grant(1)
        assert looked.wait(10)
        assert fields(documents)["status"] == "processing"
        assert session.claimed_at == documents.written_at(documents.stored[PATH][1])
    finally:
        created.set()


@pytest.mark.parametrize("slow", ["create", "read"])
def test_of_claims_that_come_together_one_is_granted_whatever_arrives_first(
    documents: MemoryDocumentStore, slow: str
) -> None:
    documents.before = lambda call, path: time.sleep(0.02) if call == slow else None
    sessions = [DocumentSession(documents, OWNER, bid(f"n{n}", f"job-{n}"), {}) for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        decisions = list(pool.map(lambda session: session.claim(soon(5)), sessions))
    granted = [session for session, decision in zip(sessions, decisions, strict=True) if decision == Grant(1)]
    (winner,) = granted
    assert all(isinstance(decision, Deny) for decision in decisions if decision != Grant(1))
    assert fields(documents)["job_id"] == f"job-{sessions.index(winner)}"
    winner.complete(DATA, soon())
    assert fields(documents)["status"] == "completed"


def test_an_order_slip_is_claimed_as_it_stands_and_what_its_app_wrote_stays(documents: MemoryDocumentStore) -> None:
    documents.write_as_app(PATH, {"status": "queued", "favorite": True})
    session = DocumentSession(documents, OWNER, replace(bid(), needs_slip=True), {})
    calls: list[str] = []
    documents.before = lambda call, path: calls.append(call)
    assert session.claim(soon()) == Grant(1)
    assert calls == ["read", "update"], "a document that has to be there is not made"
    assert fields(documents)["favorite"] is True


def test_a_wish_to_cancel_that_was_there_before_the_claim_is_heard_beside_it(documents: MemoryDocumentStore) -> None:
    documents.write_as_app(PATH, {"status": "queued", "cancel_requested": True})
    with pytest.raises(Cancelled):
        DocumentSession(documents, OWNER, bid(), {}).claim(soon())


def test_a_beat_that_begins_after_the_end_writes_nothing(documents: MemoryDocumentStore) -> None:
    session = DocumentSession(documents, OWNER, bid(), {})
    session.claim(soon())
    session.complete(DATA, soon())
    written = fields(documents)
    session.beat(Progress("generating", 1, 4), heartbeat=True)
    assert fields(documents) == written


@pytest.mark.parametrize("first", ["beat", "end"])
def test_an_end_beside_a_beat_is_the_last_word(documents: MemoryDocumentStore, first: str) -> None:
    session = DocumentSession(documents, OWNER, bid(), {})
    session.claim(soon())
    beating, ended = threading.Event(), threading.Event()

    def before(call: str, path: str) -> None:
        if threading.current_thread().name == "beat" and call == "update" and not ended.is_set():
            beating.set()
            ended.wait(60 if first == "end" else 0.05)

    documents.before = before
    beat = threading.Thread(
        target=session.beat, args=(Progress("generating", 1, 4),), kwargs={"heartbeat": True}, name="beat"
    )
    beat.start()
    assert beating.wait(10)
    if first == "beat":
        beat.join()
    session.complete(DATA, soon())
    written = fields(documents)
    ended.set()
    beat.join()
    assert written["status"] == "completed"
    assert fields(documents) == written
