"""Every decision about a document: may it be claimed, refused, finished, called dead, or completed later?

Pure functions of the document, the claim request and the server's time; docs/architecture.md has the state diagram.
`session` carries out each decision with a compare-and-swap on the version it was made on. Knows no store and no clock.

    document                                      a claim is
    absent, or only an app's own fields           granted, attempt 1
    absent, though it existed at submission       denied: `deleted`
    processing, our own claim (response lost)     granted as it is
    processing, same job (delivered again)        granted, attempt + 1; the earlier attempt is fenced off
    processing, another job, lease running        denied: `duplicate_in_progress`, or `idempotency_mismatch`
    processing, another job, lease over           granted, attempt + 1
    processing, its third worker was lost         denied: `poison_job`
    completed, same request, result stored        answered from it, no generation
    completed, same request, result was inline    granted, attempt + 1 (no stored files to answer with)
    completed, same request, `delete_at` is over  granted, attempt + 1 (its files may already be gone)
    completed, another request                    denied: `idempotency_mismatch`
    failed                                        granted, attempt + 1
    failed as poison, the same job again          denied: `poison_job`
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from worker.core.errors import (
    Cancelled,
    Deleted,
    DuplicateInProgress,
    IdempotencyMismatch,
    JobError,
    PoisonJob,
    StorageUnavailable,
    Superseded,
)
from worker.document import schema
from worker.document.schema import ClaimRequest, Fields

WORKER_LOST = "worker_lost"
"""The code that the reaper writes; no response carries it."""
LOST = "the worker that made this was lost; ask again"
NEVER_TAKEN = "no worker took this job in time; ask again"
MAX_LOST_WORKERS = 3
"""A job that cost this many workers is not started again."""
SPOOLED = StorageUnavailable.code
"""The error code of a spooled result's document until the result is delivered, if the job could write it."""


@dataclass(frozen=True, slots=True)
class Grant:
    """This job may write the document; `attempt` is the fencing token that later writes are checked against."""

    attempt: int
    lost_workers: int = 0


@dataclass(frozen=True, slots=True)
class AlreadyDone:
    """The document already holds the result."""

    generation_data: Fields


@dataclass(frozen=True, slots=True)
class Deny:
    """This job must not write the document, except for the refusal itself if `record` is True."""

    error: JobError
    record: bool = False


Decision = Grant | AlreadyDone | Deny


def decide_claim(fields: Fields | None, request: ClaimRequest, now: datetime) -> Decision:
    """Apply the table above. `fields` is the document or None, `now` the server's time."""
    if fields is None and request.needs_slip:
        return Deny(Deleted())
    status = schema.status_of(fields)
    if fields is None or status not in schema.STATUSES:
        return Grant(1)
    same_request = schema.claim_of(fields).get("request_hash") == request.fingerprint
    if status == "completed":
        if not same_request:
            return Deny(IdempotencyMismatch())
        data = schema.mapping(fields, "generation_data")
        kept_until = fields.get("delete_at")
        kept = not isinstance(kept_until, datetime) or kept_until > now
        return AlreadyDone(data) if data.get("storage") == "firebase" and kept else Grant(_attempt(fields) + 1)
    if status == "failed":
        return _after_failure(fields, request)
    return _while_processing(fields, request, now, same_request=same_request)


def _after_failure(fields: Fields, request: ClaimRequest) -> Decision:
    code = _error_code(fields)
    if code == PoisonJob.code and fields.get("job_id") == request.job_id:
        return Deny(PoisonJob())
    # Only lost workers count: a job that failed with an error may be repeated any number of times.
    lost = schema.lost_workers(fields) if code == WORKER_LOST else 0
    if lost >= MAX_LOST_WORKERS:
        return Deny(PoisonJob(), record=True)
    return Grant(_attempt(fields) + 1, lost)


def _while_processing(fields: Fields, request: ClaimRequest, now: datetime, *, same_request: bool) -> Decision:
    lost = schema.lost_workers(fields)
    if holds_claim(fields, request):
        return Grant(_attempt(fields), lost)
    if fields.get("job_id") != request.job_id and not lease_is_over(fields, now):
        return Deny(DuplicateInProgress() if same_request else IdempotencyMismatch())
    if lost + 1 >= MAX_LOST_WORKERS:
        return Deny(PoisonJob(), record=True)
    return Grant(_attempt(fields) + 1, lost + 1)


def may_record_refusal(fields: Fields | None, request: ClaimRequest, now: datetime) -> bool:
    """Whether a refused request may write its failure: never over a result, a live job or a deletion."""
    if fields is None and request.needs_slip:
        return False
    status = schema.status_of(fields)
    if status == "completed":
        return False
    return fields is None or status != "processing" or lease_is_over(fields, now)


def reason_to_stop(fields: Fields | None, request: ClaimRequest) -> JobError | Cancelled | None:
    """Why the job that claimed this document must end; None: it goes on."""
    if _was_deleted(fields):
        return Deleted()
    if fields is None or not holds_claim(fields, request):
        return Superseded()
    return Cancelled() if fields.get("cancel_requested") is True else None


def decide_finish(
    fields: Fields | None, request: ClaimRequest, now: datetime, terminal: Fields, *, claimed: bool
) -> Decision:
    """Whether a job may write the terminal state `terminal`.

    `claimed`: the job believes that it holds the document. Otherwise Firestore was unreachable when the job began, and
    the document is decided on as for a claim. `AlreadyDone`: an earlier write arrived and its response was lost.
    """
    if holds_claim(fields, request) and schema.ends_like(fields, terminal):
        return AlreadyDone({})
    if claimed:
        if fields is not None and holds_claim(fields, request):
            return Grant(_attempt(fields))
        return Deny(Deleted() if _was_deleted(fields) else Superseded())
    decision = decide_claim(fields, request, now)
    if isinstance(decision, Grant):
        return decision
    # Attempts of the same request may take over the stored objects, so those stay; another request's never do.
    if isinstance(decision, Deny) and isinstance(decision.error, IdempotencyMismatch | Deleted):
        return decision
    return Deny(Superseded())


def decide_expiry(fields: Fields | None, now: datetime, queue_seconds: float) -> Fields | None:
    """The failure to write on a document whose job is lost or never began; None for a live or ended one.

    `queue_seconds` is how long a job may wait in RunPod's queue before RunPod drops it. The job of an older order slip
    was never submitted, or will never be taken.
    """
    found = fields or {}
    if schema.status_of(found) == "queued":
        created_at = found.get("created_at")
        if not isinstance(created_at, datetime) or created_at + timedelta(seconds=queue_seconds) > now:
            return None
        return schema.failed(WORKER_LOST, NEVER_TAKEN, retryable=True)
    if schema.status_of(found) != "processing" or not lease_is_over(found, now):
        return None
    # Without its claim token a late worker cannot write the document; the loss counts towards `poison_job`.
    claim = {**schema.disowned(fields), "deaths": schema.lost_workers(fields) + 1}
    return {**schema.failed(WORKER_LOST, LOST, retryable=True), "claim": claim}


class Redelivery(Enum):
    """What to do with a spooled result."""

    DELIVER = "deliver"
    """The document waits for it."""
    WAIT = "wait"
    """The worker that spooled it may still write the document."""
    DROP = "drop"
    """The document was deleted, ended otherwise, or belongs to another job."""


def decide_redelivery(
    fields: Fields | None, now: datetime, *, job_id: str, attempt: int, claimed: bool, needs_slip: bool = False
) -> Redelivery:
    """Whether the document still waits for a spooled result: it failed with `SPOOLED` or `WORKER_LOST`, was never
    ended, or was never claimed."""
    if fields is None and needs_slip:
        return Redelivery.DROP
    found = fields or {}
    status = schema.status_of(found)
    if status not in schema.STATUSES:
        # Unclaimed: Firestore was unreachable throughout. Claimed: the document existed, and its user deleted it.
        return Redelivery.DROP if claimed else Redelivery.DELIVER
    if found.get("job_id") != job_id or (claimed and found.get("attempt") != attempt):
        return Redelivery.DROP
    if status == "processing":
        return Redelivery.DELIVER if lease_is_over(found, now) else Redelivery.WAIT
    waits = status == "failed" and _error_code(found) in {SPOOLED, WORKER_LOST}
    return Redelivery.DELIVER if waits else Redelivery.DROP


def holds_claim(fields: Fields | None, request: ClaimRequest) -> bool:
    """Whether the document carries the claim of exactly this delivery of the job."""
    return schema.claim_of(fields).get("nonce") == request.claim_token


def is_claimed(fields: Fields | None, request: ClaimRequest) -> bool:
    """Whether this delivery has already claimed the document and it has not ended since."""
    return schema.status_of(fields) == "processing" and holds_claim(fields, request)


def lease_is_over(fields: Fields, now: datetime) -> bool:
    """Whether the job counts as dead; a document without `expires_at` has no lease."""
    expires_at = fields.get("expires_at")
    return not isinstance(expires_at, datetime) or expires_at <= now


def _was_deleted(fields: Fields | None) -> bool:
    """Whether a document that this job claimed is gone, or was replaced by one without a claim."""
    return fields is None or not schema.claim_of(fields)


def _attempt(fields: Fields) -> int:
    return schema.number(fields, "attempt")


def _error_code(fields: Fields) -> str | None:
    code = schema.mapping(fields, "error").get("code")
    return code if isinstance(code, str) else None
