"""Every decision about a document; for the claim, one case per row of the table in `worker.document.transitions`."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from worker.core.errors import Cancelled, JobError
from worker.document.schema import ClaimRequest, completed
from worker.document.transitions import (
    AlreadyDone,
    Deny,
    Grant,
    Redelivery,
    decide_claim,
    decide_expiry,
    decide_finish,
    decide_redelivery,
    may_record_refusal,
    reason_to_stop,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BID = ClaimRequest(job_id="job-1", worker_id="w", fingerprint="hash", claim_token="nonce-1")


def document(status: str | None, **fields: Any) -> dict[str, Any]:
    claim = {"nonce": "other", "request_hash": "hash", "deaths": 0} | fields.pop("claim", {})
    base = {
        "status": status,
        "job_id": "job-1",
        "attempt": 1,
        "claim": claim,
        "expires_at": NOW + timedelta(seconds=60),
    }
    return base | fields


OVER = {"expires_at": NOW - timedelta(seconds=1)}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(None, Grant(1), id="absent"),
        pytest.param({"status": "queued", "favorite": True}, Grant(1), id="only the app's own fields"),
        pytest.param(document("processing", claim={"nonce": "nonce-1"}), Grant(1), id="our own claim, answer lost"),
        pytest.param(document("processing"), Grant(2, 1), id="the same job delivered again"),
        pytest.param(document("processing", job_id="job-0", **OVER), Grant(2, 1), id="another job, lease over"),
        pytest.param(document("failed", attempt=7), Grant(8), id="failed before"),
        pytest.param(document("failed", error={"code": "worker_lost"}, claim={"deaths": 2}), Grant(2, 2), id="reaped"),
        pytest.param(
            document("failed", error={"code": "timeout"}, claim={"deaths": 3}), Grant(2), id="failed in words"
        ),
        pytest.param(document("failed", error={"code": "poison_job"}, job_id="job-0"), Grant(2), id="asked for anew"),
        pytest.param(
            document("completed", generation_data={"storage": "base64"}), Grant(2), id="completed, but went inline"
        ),
        pytest.param(
            document("completed", generation_data={"storage": "firebase"}, delete_at=NOW), Grant(2), id="kept no longer"
        ),
    ],
)
def test_the_job_may_start(found: dict[str, Any] | None, expected: Grant) -> None:
    assert decide_claim(found, BID, NOW) == expected


def test_a_finished_generation_is_answered_from_the_document() -> None:
    data = {"storage": "firebase", "images": ["u"]}
    assert decide_claim(document("completed", generation_data=data, job_id="job-0"), BID, NOW) == AlreadyDone(data)
    kept = document("completed", generation_data=data, delete_at=NOW + timedelta(seconds=1))
    assert decide_claim(kept, BID, NOW) == AlreadyDone(data)


@pytest.mark.parametrize(
    ("found", "code"),
    [
        pytest.param(document("processing", job_id="job-0"), "duplicate_in_progress", id="another job lives"),
        pytest.param(
            document("processing", job_id="job-0", claim={"request_hash": "x"}),
            "idempotency_mismatch",
            id="with another request",
        ),
        pytest.param(document("completed", claim={"request_hash": "x"}), "idempotency_mismatch", id="other result"),
        pytest.param(document("processing", attempt=3, claim={"deaths": 2}), "poison_job", id="fourth attempt"),
        pytest.param(
            document("failed", error={"code": "worker_lost"}, claim={"deaths": 3}), "poison_job", id="reaped thrice"
        ),
        pytest.param(document("failed", error={"code": "poison_job"}), "poison_job", id="poison again"),
    ],
)
def test_the_job_may_not_start(found: dict[str, Any], code: str) -> None:
    decision = decide_claim(found, BID, NOW)
    assert isinstance(decision, Deny)
    assert decision.error.code == code
    assert decision.record is (code == "poison_job" and found.get("error") != {"code": "poison_job"})


def test_three_deaths_are_given_before_a_job_is_poison() -> None:
    found: dict[str, Any] | None = None
    attempts = []
    for _ in range(5):
        decision = decide_claim(found, BID, NOW)
        if isinstance(decision, Deny):
            break
        assert isinstance(decision, Grant)
        attempts.append(decision.attempt)
        found = document("processing", attempt=decision.attempt, claim={"deaths": decision.lost_workers})
    assert attempts == [1, 2, 3]


@pytest.mark.parametrize(
    ("found", "allowed"),
    [
        (None, True),
        ({"status": "queued"}, True),
        (document("failed"), True),
        (document("processing", **OVER), True),
        (document("processing"), False),
        (document("completed"), False),
    ],
)
def test_a_refusal_never_touches_a_result_or_a_live_job(found: dict[str, Any] | None, allowed: bool) -> None:
    assert may_record_refusal(found, BID, NOW) is allowed


# -- the other decisions

TERMINAL = completed({"storage": "firebase", "images": ["u"]})
OURS = {"nonce": "nonce-1"}


def test_an_end_is_written_where_the_job_still_holds_its_claim() -> None:
    found = document("processing", attempt=2, claim=OURS)
    assert decide_finish(found, BID, NOW, TERMINAL, claimed=True) == Grant(2)


def test_an_end_that_had_arrived_is_not_written_again() -> None:
    found = document("completed", claim=OURS, generation_data={"storage": "firebase", "images": ["u"]})
    assert isinstance(decide_finish(found, BID, NOW, TERMINAL, claimed=True), AlreadyDone)
    forged = document("completed", claim=OURS, generation_data={"storage": "firebase", "images": ["x"]})
    assert isinstance(decide_finish(forged, BID, NOW, TERMINAL, claimed=True), Grant)


@pytest.mark.parametrize(
    ("found", "claimed", "code"),
    [
        (None, True, "deleted"),
        ({"status": "queued", "created_at": NOW}, True, "deleted"),
        (document("processing"), True, "superseded"),
        (document("completed", generation_data={"storage": "firebase"}), False, "superseded"),
        (document("completed", claim={"request_hash": "x"}), False, "idempotency_mismatch"),
        (document("processing", job_id="job-0"), False, "superseded"),
    ],
    ids=["deleted", "deleted and made anew", "taken over", "already there", "another request's", "another job lives"],
)
def test_an_end_is_not_written_over_what_is_not_this_jobs(found: Any, claimed: bool, code: str) -> None:
    decision = decide_finish(found, BID, NOW, TERMINAL, claimed=claimed)
    assert isinstance(decision, Deny)
    assert decision.error.code == code


def test_a_job_that_firestore_did_not_know_claims_as_it_ends() -> None:
    assert decide_finish(None, BID, NOW, TERMINAL, claimed=False) == Grant(1)


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (document("processing", claim=OURS), None),
        (document("processing", claim=OURS, cancel_requested="yes"), None),
        (document("processing", claim=OURS, cancel_requested=True), "cancelled"),
        (document("processing", cancel_requested=True), "superseded"),
        (None, "deleted"),
        ({"status": "queued", "created_at": NOW}, "deleted"),
        ({"favorite": True}, "deleted"),
    ],
)
def test_a_job_stops_for_its_document(found: dict[str, Any] | None, code: str | None) -> None:
    reason = reason_to_stop(found, BID)
    assert (reason.code if reason else None) == code


def test_only_a_document_whose_lease_is_over_is_called_dead() -> None:
    dead = decide_expiry(document("processing", claim={"deaths": 1}, **OVER), NOW, 900)
    assert dead is not None
    assert (dead["status"], dead["error"]["code"], dead["error"]["retryable"]) == ("failed", "worker_lost", True)
    assert (dead["claim"]["nonce"], dead["claim"]["deaths"]) == ("", 2)
    for alive in (document("processing"), document("failed", **OVER), document("completed", **OVER), None, {"a": 1}):
        assert decide_expiry(alive, NOW, 900) is None


def test_an_order_slip_that_waited_longer_than_a_queue_keeps_a_job_is_called_dead() -> None:
    slip = {"status": "queued", "created_at": NOW - timedelta(seconds=901), "labels": ["a"]}
    ended = decide_expiry(slip, NOW, 900)
    assert ended is not None
    assert (ended["status"], ended["error"]["code"], ended["error"]["retryable"]) == ("failed", "worker_lost", True)
    assert "no worker took" in ended["error"]["message"]
    assert decide_expiry(slip, NOW, 902) is None
    assert decide_expiry({"status": "queued"}, NOW, 900) is None
    assert decide_expiry({"status": "queued", "created_at": "yesterday"}, NOW, 900) is None


ODD: list[Any] = ["x", 5, -1, True, None, [1], {"deaths": "x"}, {"deaths": [1]}, {"nonce": {}}, {"request_hash": 1}]


@pytest.mark.parametrize(
    "field", ["claim", "attempt", "error", "generation_data", "expires_at", "created_at", "job_id"]
)
@pytest.mark.parametrize("status", ["queued", "processing", "completed", "failed", 5, ["failed"], None])
def test_whatever_an_app_wrote_there_every_question_has_an_answer(status: Any, field: str) -> None:
    for odd in ODD:
        found = {**document("processing", **OVER), "status": status, field: odd}
        assert isinstance(decide_claim(found, BID, NOW), Grant | AlreadyDone | Deny)
        assert isinstance(decide_finish(found, BID, NOW, TERMINAL, claimed=True), Grant | AlreadyDone | Deny)
        assert isinstance(decide_finish(found, BID, NOW, TERMINAL, claimed=False), Grant | AlreadyDone | Deny)
        assert isinstance(reason_to_stop(found, BID), JobError | Cancelled | None)
        assert decide_expiry(found, NOW, 900) is None or status in ("queued", "processing")
        assert may_record_refusal(found, BID, NOW) in {True, False}
        assert isinstance(decide_redelivery(found, NOW, job_id="job-1", attempt=1, claimed=True), Redelivery)


KEPT = {"error": {"code": "storage_unavailable"}}


@pytest.mark.parametrize(
    ("found", "claimed", "expected"),
    [
        (document("failed", **KEPT), True, Redelivery.DELIVER),
        (document("failed", error={"code": "worker_lost"}), True, Redelivery.DELIVER),
        (document("processing", **OVER), True, Redelivery.DELIVER),
        (document("processing"), True, Redelivery.WAIT),
        (None, False, Redelivery.DELIVER),
        ({"status": "queued"}, False, Redelivery.DELIVER),
        (None, True, Redelivery.DROP),
        (document("failed", error={"code": "cancelled"}), True, Redelivery.DROP),
        (document("failed", job_id="job-0", **KEPT), True, Redelivery.DROP),
        (document("failed", attempt=2, **KEPT), True, Redelivery.DROP),
        (document("completed"), True, Redelivery.DROP),
    ],
)
def test_a_spooled_result_is_delivered_where_it_is_waited_for(
    found: dict[str, Any] | None, claimed: bool, expected: Redelivery
) -> None:
    assert decide_redelivery(found, NOW, job_id="job-1", attempt=1, claimed=claimed) is expected


def test_a_document_that_was_there_when_it_was_asked_for_and_is_gone_was_deleted() -> None:
    """Whoever deletes an order slip while the job waits in the queue does not want the pictures, and pays for none."""
    wanted = replace(BID, needs_slip=True)
    decision = decide_claim(None, wanted, NOW)
    assert isinstance(decision, Deny)
    assert (decision.error.code, decision.record) == ("deleted", False)
    assert not may_record_refusal(None, wanted, NOW)
    finish = decide_finish(None, wanted, NOW, TERMINAL, claimed=False)
    assert isinstance(finish, Deny)
    assert finish.error.code == "deleted"
    for there in ({"status": "queued"}, {"favorite": True}, document("failed")):
        assert isinstance(decide_claim(there, wanted, NOW), Grant)
        assert may_record_refusal(there, wanted, NOW)


def test_a_spooled_result_is_not_delivered_where_the_slip_that_asked_for_it_is_gone() -> None:
    kept: dict[str, Any] = {"job_id": "job-1", "attempt": 1, "claimed": False, "needs_slip": True}
    assert decide_redelivery(None, NOW, **kept) is Redelivery.DROP
    for there in ({"status": "queued"}, {"favorite": True}, document("failed", **KEPT)):
        assert decide_redelivery(there, NOW, **kept) is Redelivery.DELIVER
