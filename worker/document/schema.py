"""What a generation's document says at each of its moments. docs/api.md has the fields in words. Pure.

Knows fields and how long a lease is; knows no version, no time and nobody who writes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from worker.core import timing
from worker.core.errors import Cancelled, JobError
from worker.core.types import Owner, Progress
from worker.document.store import FieldValue

TERMINAL = frozenset({"completed", "failed"})
STATUSES = TERMINAL | {"processing"}
"""Every status that a worker writes; a document with another one is only its app's."""
ENDED = dict.fromkeys(("progress", "heartbeat_at", "expires_at"), FieldValue.REMOVE)
"""What only a job that lives has."""

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """Who wants the document: a job on a worker.

    `claim_token` is new for every delivery of a job, so that a claim whose answer was lost is known again.
    """

    job_id: str
    worker_id: str
    fingerprint: str
    claim_token: str


def document_path(owner: Owner) -> str:
    """`generations/{user_id}/files/{file_uid}`; both ids were validated, so neither can leave its level."""
    return f"generations/{owner.user_id}/files/{owner.file_uid}"


def processing(
    found: Fields | None,
    owner: Owner,
    request: ClaimRequest,
    request_data: Fields,
    *,
    attempt: int,
    lost_workers: int,
    now: datetime,
) -> Fields:
    """A job has claimed the document that was `found`; what its app wrote there is kept."""
    fields = _identity(found, owner, request, attempt, request_data)
    fields |= {
        "status": "processing",
        "claim": {"nonce": request.claim_token, "request_hash": request.fingerprint, "deaths": lost_workers},
        **alive(now),
        "progress": Progress("queued").public(),
    }
    fields |= dict.fromkeys(("error", "generation_data", "completed_at"), FieldValue.REMOVE)
    if has_ended(found):
        # A wish to cancel the attempt that ended must not end the one that the user asks for now.
        fields["cancel_requested"] = FieldValue.REMOVE
    return fields


def alive(now: datetime) -> Fields:
    """The heartbeat, and the lease that it renews; `now` is the server's time."""
    return {"heartbeat_at": FieldValue.SERVER_TIME, "expires_at": now + timedelta(seconds=timing.LEASE_SECONDS)}


def completed(generation_data: Fields) -> Fields:
    """The result is there."""
    return {
        "status": "completed",
        "generation_data": dict(generation_data),
        **ENDED,
        "error": FieldValue.REMOVE,
        "completed_at": FieldValue.SERVER_TIME,
        "updated_at": FieldValue.SERVER_TIME,
    }


def failed(code: str, message: str, *, retryable: bool) -> Fields:
    """There will be no result."""
    return {
        "status": "failed",
        "error": {"code": code, "message": message, "retryable": retryable},
        "generation_data": FieldValue.REMOVE,
        **ENDED,
        "completed_at": FieldValue.SERVER_TIME,
        "updated_at": FieldValue.SERVER_TIME,
    }


def refused(
    found: Fields | None, owner: Owner, request: ClaimRequest, error: JobError | Cancelled, request_data: Fields
) -> Fields:
    """A request that was never begun has failed."""
    attempt = int((found or {}).get("attempt") or 1)
    failure = failed(error.code, error.message, retryable=error.retryable)
    return {**_identity(found, owner, request, attempt, request_data), **failure, "claim": disowned(found)}


def disowned(found: Fields | None) -> Fields:
    """The claim of a document, so that whoever held it before does not take it for their own any more."""
    return {**claim_of(found), "nonce": ""}


def claim_of(found: Fields | None) -> Fields:
    """The claim that a document carries; empty where it carries none."""
    return (found or {}).get("claim") or {}


def lost_workers(found: Fields | None) -> int:
    """How many workers this document's job has ended without a word."""
    return int(claim_of(found).get("deaths") or 0)


def has_ended(found: Fields | None) -> bool:
    """Whether nobody works on it."""
    return (found or {}).get("status") in TERMINAL


def ends_like(found: Fields | None, terminal: Fields) -> bool:
    """Whether a document ends as `terminal` does, in all it tells: the one word may be a forger's."""
    told = {name: terminal.get(name) for name in ("status", "generation_data", "error")}
    return all(
        (found or {}).get(name) == (None if isinstance(value, FieldValue) else value) for name, value in told.items()
    )


def _identity(
    found: Fields | None, owner: Owner, request: ClaimRequest, attempt: int, request_data: Fields
) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "user_id": owner.user_id,
        "file_uid": owner.file_uid,
        "job_id": request.job_id,
        "worker_id": request.worker_id,
        "attempt": attempt,
        "request_data": dict(request_data),
        "updated_at": FieldValue.SERVER_TIME,
    }
    if "created_at" not in (found or {}):
        fields["created_at"] = FieldValue.SERVER_TIME
    return fields
