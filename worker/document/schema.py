"""The fields of a generation's document in each of its states; docs/api.md describes them. Pure.

Knows fields and the length of a lease; knows no version, no clock and no store.
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
"""Every status that a worker writes; a document with another one belongs to its app alone."""
ENDED = dict.fromkeys(("progress", "heartbeat_at", "expires_at"), FieldValue.REMOVE)
"""Removes the fields that only a live job has."""

Fields = Mapping[str, Any]

LEFT_OUT = "firestore: the document did not take everything (with its app's own fields it may have 1 MiB)"
MAX_LABEL_CHARACTERS = 200
URLS = frozenset({"images", "image_url", "videos", "video_url", "storage"})
RESULT = URLS | {"video_info", "seed", "seeds", "model"}
"""`URLS` must be kept of a result, `RESULT` should be."""
SPARE = frozenset({"user_id", "file_uid", "worker_id", "created_at", "request_data", "progress"})
"""Fields that may be left out if the document is too large."""
UNUSED: Usage = {"gpu_seconds": 0.0, "units": 0}
"""`usage` of a request that failed before it used the GPU."""


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """A job on a worker that claims the document.

    `claim_token` is new for each delivery of a job, so a claim whose response was lost can be recognised.
    """

    job_id: str
    worker_id: str
    fingerprint: str
    claim_token: str
    needs_slip: bool = False
    """Whether a missing document means that it was deleted, so that it is not created again."""
    trace_id: str | None = None
    """The job's trace, 32 hexadecimal digits."""


def document_path(owner: Owner) -> str:
    """Return `generations/{user_id}/files/{file_uid}`; both ids were validated, so neither contains a slash."""
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
    """The fields of a claim on the document `found`; the app's own fields stay."""
    fields = _identity(found, owner, request, attempt, request_data)
    fields |= {
        "status": "processing",
        "claim": {"nonce": request.claim_token, "request_hash": request.fingerprint, "deaths": lost_workers},
        **alive(now),
        "progress": progressed(Progress("queued")),
    }
    fields |= dict.fromkeys(("error", "generation_data", "usage", "completed_at", "delete_at"), FieldValue.REMOVE)
    if has_ended(found):
        # A cancellation of the ended attempt must not cancel this one.
        fields["cancel_requested"] = FieldValue.REMOVE
    return fields


def progressed(progress: Progress) -> ProgressData:
    """The `progress` field, with its preview."""
    fields = progress.public()
    if progress.preview is not None:
        fields["preview"] = progress.preview
    return fields


def alive(now: datetime) -> Fields:
    """The heartbeat and the renewed lease; `now` is the server's time."""
    return {"heartbeat_at": FieldValue.SERVER_TIME, "expires_at": now + timedelta(seconds=timing.LEASE_SECONDS)}


def kept_until(now: datetime, retention: timedelta | None) -> Fields:
    """`delete_at` of a document that ends at `now`; empty without a `retention`."""
    return {} if retention is None else {"delete_at": now + retention}


def completed(generation_data: Fields) -> Fields:
    """The terminal state with a result."""
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
    """The terminal state without a result; `usage` is what the job has used, if known."""
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
    """The failure of a request that was never started and used nothing."""
    attempt = number(found, "attempt") or 1
    failure = failed(error.code, error.message, retryable=error.retryable, usage=UNUSED)
    return {**_identity(found, owner, request, attempt, request_data), **failure, "claim": disowned(found)}


def lighter(changes: Fields, found: Fields | None) -> Iterator[Fields]:
    """Smaller and smaller versions of a write, for a document that did not take all of it.

    First without `request_data`, including one already stored; then with only the essential fields of a result or
    error; then with only what the protocol needs.
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
    """The document's claim without its token, so that its former holder no longer recognises it."""
    return {**claim_of(found), "nonce": ""}


def status_of(found: Fields | None) -> str | None:
    """The document's status; None if it is missing or not a string."""
    status = (found or {}).get("status")
    return status if isinstance(status, str) else None


def claim_of(found: Fields | None) -> Fields:
    """The document's claim; empty if it has none."""
    return mapping(found, "claim")


def lost_workers(found: Fields | None) -> int:
    """How many workers were lost over this document's job."""
    return number(claim_of(found), "deaths")


def mapping(found: Fields | None, name: str) -> Fields:
    """A field that should be a map; empty if it is not."""
    value = (found or {}).get(name)
    return value if isinstance(value, Mapping) else {}


def number(found: Fields | None, name: str) -> int:
    """A field that should be a counter; 0 if it is not an integer from 0 to 2^31 - 1."""
    value = (found or {}).get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else 0


def has_ended(found: Fields | None) -> bool:
    """Whether the document is in a terminal state."""
    return status_of(found) in TERMINAL


def ends_like(found: Fields | None, terminal: Fields) -> bool:
    """Whether the document already has the status, result and error of `terminal`; an app may forge a status."""
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
