"""What a generation's document says at each of its moments. docs/api.md has the fields in words. Pure.

Knows fields and how long a lease is; knows no version, no time and nobody who writes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from worker.api.shapes import DocumentError
from worker.core import timing
from worker.core.errors import Cancelled, JobError
from worker.core.types import Owner, Progress, ProgressData, Usage
from worker.document.store import FieldValue

TERMINAL = frozenset({"completed", "failed"})
STATUSES = TERMINAL | {"processing"}
"""Every status that a worker writes; a document with another one is only its app's."""
ENDED = dict.fromkeys(("progress", "heartbeat_at", "expires_at"), FieldValue.REMOVE)
"""What only a job that lives has."""

Fields = Mapping[str, Any]

LEFT_OUT = "firestore: the document did not take everything (with its app's own fields it may have 1 MiB)"
MAX_LABEL_CHARACTERS = 200
URLS = frozenset({"images", "image_url", "videos", "video_url", "storage"})
RESULT = URLS | {"video_info", "seed", "seeds", "model"}
"""What of a result has to be kept, and what should be."""
SPARE = frozenset({"user_id", "file_uid", "worker_id", "created_at", "request_data", "progress"})
"""Fields that a document can do without."""
UNUSED: Usage = {"gpu_seconds": 0.0, "units": 0}
"""`usage` of a request that came to nothing before it used the card."""


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """Who wants the document: a job on a worker.

    `claim_token` is new for every delivery of a job, so that a claim whose answer was lost is known again.
    """

    job_id: str
    worker_id: str
    fingerprint: str
    claim_token: str
    needs_slip: bool = False
    """Whether a document that is not there was deleted, and is not made anew."""
    trace_id: str | None = None
    """Where the job is seen from outside."""


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
        "progress": progressed(Progress("queued")),
    }
    fields |= dict.fromkeys(("error", "generation_data", "usage", "completed_at", "delete_at"), FieldValue.REMOVE)
    if has_ended(found):
        # A wish to cancel the attempt that ended must not end the one that the user asks for now.
        fields["cancel_requested"] = FieldValue.REMOVE
    return fields


def progressed(progress: Progress) -> ProgressData:
    """How far the job is, and what it is making."""
    fields = progress.public()
    if progress.preview is not None:
        fields["preview"] = progress.preview
    return fields


def alive(now: datetime) -> Fields:
    """The heartbeat, and the lease that it renews; `now` is the server's time."""
    return {"heartbeat_at": FieldValue.SERVER_TIME, "expires_at": now + timedelta(seconds=timing.LEASE_SECONDS)}


def kept_until(now: datetime, retention: timedelta | None) -> Fields:
    """When a document that has ended at `now` is to go by itself; with no `retention` it stays."""
    return {} if retention is None else {"delete_at": now + retention}


def completed(generation_data: Fields) -> Fields:
    """The result is there."""
    return {
        "status": "completed",
        "generation_data": dict(generation_data),
        **_usage(generation_data.get("usage")),
        **ENDED,
        "error": FieldValue.REMOVE,
        "completed_at": FieldValue.SERVER_TIME,
        "updated_at": FieldValue.SERVER_TIME,
    }


def failed(code: str, message: str, *, retryable: bool, usage: Fields | None = None) -> Fields:
    """There will be no result; `usage` is what it has cost, as far as that is known."""
    error: DocumentError = {"code": code, "message": message, "retryable": retryable}
    return {
        "status": "failed",
        "error": error,
        "generation_data": FieldValue.REMOVE,
        **_usage(usage),
        **ENDED,
        "completed_at": FieldValue.SERVER_TIME,
        "updated_at": FieldValue.SERVER_TIME,
    }


def _usage(usage: Fields | None) -> dict[str, Any]:
    return {"usage": dict(usage)} if usage is not None else {}


def refused(
    found: Fields | None, owner: Owner, request: ClaimRequest, error: JobError | Cancelled, request_data: Fields
) -> Fields:
    """A request that was never begun has failed, and has cost nothing."""
    attempt = number(found, "attempt") or 1
    failure = failed(error.code, error.message, retryable=error.retryable, usage=UNUSED)
    return {**_identity(found, owner, request, attempt, request_data), **failure, "claim": disowned(found)}


def lighter(changes: Fields, found: Fields | None) -> Iterator[Fields]:
    """The same write with less and less in it, for a document that did not take the whole of it.

    First without what is kept of the request, also where that stands there already; then without what says more of a
    result or an error than there has to be; then with nothing but what the protocol needs.
    """
    kept = changes.get("request_data") or mapping(found, "request_data")
    result, error = mapping(changes, "generation_data"), mapping(changes, "error")

    def less(names: frozenset[str] | None, spare: frozenset[str] = frozenset()) -> Fields:
        fields = {name: value for name, value in changes.items() if name not in spare}
        if kept:
            task = str(kept.get("task_type"))[:MAX_LABEL_CHARACTERS]
            fields["request_data"] = FieldValue.REMOVE if spare else {"task_type": task, "left_out": True}
        if result:
            data = {name: value for name, value in result.items() if names is None or name in names}
            said = result.get("warnings", ()) if names is None else ()
            fields["generation_data"] = data if spare else {**data, "warnings": [*said, LEFT_OUT]}
        if error and names is not None:
            fields["error"] = {**error, "message": str(error.get("message"))[:MAX_LABEL_CHARACTERS]}
        return fields

    yield less(None)
    yield less(RESULT)
    yield less(URLS, SPARE)


def disowned(found: Fields | None) -> Fields:
    """The claim of a document, so that whoever held it before does not take it for their own any more."""
    return {**claim_of(found), "nonce": ""}


def status_of(found: Fields | None) -> str | None:
    """A document's status; None where there is none, or what is no text."""
    status = (found or {}).get("status")
    return status if isinstance(status, str) else None


def claim_of(found: Fields | None) -> Fields:
    """The claim that a document carries; empty where it carries none."""
    return mapping(found, "claim")


def lost_workers(found: Fields | None) -> int:
    """How many workers this document's job has ended without a word."""
    return number(claim_of(found), "deaths")


def mapping(found: Fields | None, name: str) -> Fields:
    """A field that is an object; empty where it is none."""
    value = (found or {}).get(name)
    return value if isinstance(value, Mapping) else {}


def number(found: Fields | None, name: str) -> int:
    """A field that a worker counts in; 0 where something else stands there, such as what could not be counted on."""
    value = (found or {}).get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else 0


def has_ended(found: Fields | None) -> bool:
    """Whether nobody works on it."""
    return status_of(found) in TERMINAL


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
    if request.trace_id is not None or "trace_id" in (found or {}):
        fields["trace_id"] = request.trace_id or FieldValue.REMOVE
    if "created_at" not in (found or {}):
        fields["created_at"] = FieldValue.SERVER_TIME
    return fields
