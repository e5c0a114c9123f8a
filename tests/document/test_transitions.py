"""The claim: one row of the table in `worker.document.transitions` a case."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from worker.document.schema import ClaimRequest
from worker.document.transitions import AlreadyDone, Deny, Grant, decide_claim, may_record_refusal

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
    ],
)
def test_the_job_may_start(found: dict[str, Any] | None, expected: Grant) -> None:
    assert decide_claim(found, BID, NOW) == expected


def test_a_finished_generation_is_answered_from_the_document() -> None:
    data = {"storage": "firebase", "images": ["u"]}
    assert decide_claim(document("completed", generation_data=data, job_id="job-0"), BID, NOW) == AlreadyDone(data)


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
    assert may_record_refusal(found, NOW) is allowed
