"""Every decision about a document: may it be claimed, refused, finished, called dead, or completed later?

Pure functions over (document, who asks, the server's time); docs/architecture.md has the same as a state diagram.
`session` carries decisions out, with a compare-and-swap on the version they were made on. Knows no store and no clock.

    document                                      a claim is
    absent, or only an app's own fields           granted, attempt 1
    absent, and it was there when it was asked    denied: `deleted`
    processing, our own claim (an answer lost)    granted as it is
    processing, same job (delivered again)        granted, attempt + 1; the earlier attempt is fenced off
    processing, another job, lease running        denied: `duplicate_in_progress`, or `idempotency_mismatch`
    processing, another job, lease over           granted, attempt + 1
    processing, and its worker was lost thrice    denied: `poison_job`
    completed, same request, result stored        answered from it, no generation
    completed, same request, result went inline   granted, attempt + 1 (nothing is stored to answer with)
    completed, same request, its `delete_at` over granted, attempt + 1 (its files may be gone before it)
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
"""The code that the reaper writes; no worker ever answers with it."""
LOST = "the worker that made this was lost; ask again"
NEVER_TAKEN = "no worker took this job in time; ask again"
MAX_LOST_WORKERS = 3
"""A job that ended this many workers is not given to another one."""
SPOOLED = StorageUnavailable.code
"""The code that the document of a spooled result has until it is delivered, if its job could write it."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The document is this job's to write; `attempt` is the fencing token that later writes are checked against."""

    attempt: int
    lost_workers: int = 0


@dataclass(frozen=True, slots=True)
class AlreadyDone:
    """The result is there already."""

    generation_data: Fields


@dataclass(frozen=True, slots=True)
class Deny:
    """The document is not this job's to touch, except where `record` says that the refusal is to be written on it."""

    error: JobError
    record: bool = False


Decision = Grant | AlreadyDone | Deny


def decide_claim(fields: Fields | None, request: ClaimRequest, now: datetime) -> Decision:
    """Read the table above. `fields` is the document or None, `now` the server's time."""
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
    # Only lost workers are counted: a job that failed in words may be asked for again as often as one likes.
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
    """Whether a refused request may write its failure: never over a result, a job that lives, or a deletion."""
    if fields is None and request.needs_slip:
        return False
    status = schema.status_of(fields)
    if status == "completed":
        return False
    return fields is None or status != "processing" or lease_is_over(fields, now)


def reason_to_stop(fields: Fields | None, request: ClaimRequest) -> JobError | Cancelled | None:
    """Why a job that has claimed this document must end; None while it is to go on."""
    if _was_deleted(fields):
        return Deleted()
    if fields is None or not holds_claim(fields, request):
        return Superseded()
    return Cancelled() if fields.get("cancel_requested") is True else None


def decide_finish(
    fields: Fields | None, request: ClaimRequest, now: datetime, terminal: Fields, *, claimed: bool
) -> Decision:
    """Whether a job may end its document as `terminal` says.

    `claimed`: the job holds the document as far as it knows. Otherwise Firestore was away when the job began, and what
    the document says now is decided as a claim is. `AlreadyDone`: an earlier write had arrived, its answer was lost.
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
    # Only another request's attempts never take over what this one stored; for the others it stays.
    if isinstance(decision, Deny) and isinstance(decision.error, IdempotencyMismatch | Deleted):
        return decision
    return Deny(Superseded())


def decide_expiry(fields: Fields | None, now: datetime, queue_seconds: float) -> Fields | None:
    """The failure to write on a document that nobody works on, or ever will; None for one that lives or has ended.

    `queue_seconds` is how long a job may wait in RunPod's queue before RunPod drops it: an order slip that is older
    is that of a job which was never submitted, or will never be taken.
    """
    found = fields or {}
    if schema.status_of(found) == "queued":
        created_at = found.get("created_at")
        if not isinstance(created_at, datetime) or created_at + timedelta(seconds=queue_seconds) > now:
            return None
        return schema.failed(WORKER_LOST, NEVER_TAKEN, retryable=True)
    if schema.status_of(found) != "processing" or not lease_is_over(found, now):
        return None
    # Without its claim token a late worker cannot take the document for its own; the loss counts for `poison_job`.
    claim = {**schema.disowned(fields), "deaths": schema.lost_workers(fields) + 1}
    return {**schema.failed(WORKER_LOST, LOST, retryable=True), "claim": claim}


class Redelivery(Enum):
    """What becomes of a result that was spooled."""

    DELIVER = "deliver"
    """The document waits for it."""
    WAIT = "wait"
    """The worker that spooled it may still be about to write the document."""
    DROP = "drop"
    """Nobody waits for it any more: the document was deleted, ended in another way, or is another job's."""


def decide_redelivery(
    fields: Fields | None, now: datetime, *, job_id: str, attempt: int, claimed: bool, needs_slip: bool = False
) -> Redelivery:
    """Whether a document is as the job left it that spooled its result: failed for want of storage, never told of its
    end, or not known."""
    if fields is None and needs_slip:
        return Redelivery.DROP
    found = fields or {}
    status = schema.status_of(found)
    if status not in schema.STATUSES:
        # Not claimed: Firestore was away all the time. Else the document was there, and its user deleted it.
        return Redelivery.DROP if claimed else Redelivery.DELIVER
    if found.get("job_id") != job_id or (claimed and found.get("attempt") != attempt):
        return Redelivery.DROP
    if status == "processing":
        return Redelivery.DELIVER if lease_is_over(found, now) else Redelivery.WAIT
    waits = status == "failed" and _error_code(found) in {SPOOLED, WORKER_LOST}
    return Redelivery.DELIVER if waits else Redelivery.DROP


def holds_claim(fields: Fields | None, request: ClaimRequest) -> bool:
    """Whether the document carries exactly this delivery's claim."""
    return schema.claim_of(fields).get("nonce") == request.claim_token


def is_claimed(fields: Fields | None, request: ClaimRequest) -> bool:
    """Whether this delivery has claimed the document already, and nobody has ended it since."""
    return schema.status_of(fields) == "processing" and holds_claim(fields, request)


def lease_is_over(fields: Fields, now: datetime) -> bool:
    """Whether anyone may call the job dead; a document without `expires_at` has no lease to respect."""
    expires_at = fields.get("expires_at")
    return not isinstance(expires_at, datetime) or expires_at <= now


def _was_deleted(fields: Fields | None) -> bool:
    """Of a document that this job had claimed: it is gone, or a new one stands there that no job has claimed yet."""
    return fields is None or not schema.claim_of(fields)


def _attempt(fields: Fields) -> int:
    return schema.number(fields, "attempt")


def _error_code(fields: Fields) -> str | None:
    code = schema.mapping(fields, "error").get("code")
    return code if isinstance(code, str) else None
