"""What a job may do with the document it finds: a pure decision over (document, bid, time).

The protocol in one table; knows no Firestore and no clock. `status` carries it out with a compare-and-swap.

    document                                      the job may
    absent, or only an app's own fields           start, attempt 1
    processing, our own claim (an answer lost)    go on as it is
    processing, same job (delivered again)        start, attempt + 1; the earlier attempt is fenced off
    processing, another job, lease running        not: `duplicate_in_progress`, or `idempotency_mismatch`
    processing, another job, lease over           start, attempt + 1
    processing, and its worker died three times   not: `poison_job`
    completed, same request, result stored        be answered from it, no generation
    completed, same request, result went inline   start, attempt + 1 (nothing is stored to answer with)
    completed, another request                    not: `idempotency_mismatch`
    failed                                        start, attempt + 1
    failed as poison, the same job again          not: `poison_job`
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from worker.core.errors import DuplicateInProgress, IdempotencyMismatch, JobError, PoisonJob

WORKER_LOST = "worker_lost"
"""The code that the reaper writes; no worker ever answers with it."""
MAX_LOST_WORKERS = 3
"""A job that ended this many workers is not given to another one."""


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """Who wants the document: a job on a worker. `nonce` is new for every delivery, so that a lost answer is known."""

    job_id: str
    worker_id: str
    request_hash: str
    nonce: str


@dataclass(frozen=True, slots=True)
class Grant:
    """Generate; `attempt` is the fence that later writes are checked against."""

    attempt: int
    deaths: int = 0


@dataclass(frozen=True, slots=True)
class AlreadyDone:
    """The result is there already."""

    generation_data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Deny:
    """The document is not this job's to touch, except where `record` says that the refusal is to be written on it."""

    error: JobError
    record: bool = False


Decision = Grant | AlreadyDone | Deny


def decide(fields: Mapping[str, Any] | None, bid: ClaimRequest, now: datetime) -> Decision:
    """Read the table above. `fields` is the document or None, `now` the server's time."""
    status = (fields or {}).get("status")
    if fields is None or status not in {"processing", "completed", "failed"}:
        return Grant(1)
    claim = fields.get("claim") or {}
    attempt = int(fields.get("attempt") or 0)
    same_request = claim.get("request_hash") == bid.request_hash
    if status == "completed":
        if not same_request:
            return Deny(IdempotencyMismatch())
        data = fields.get("generation_data") or {}
        return AlreadyDone(data) if data.get("storage") == "firebase" else Grant(attempt + 1)
    if status == "failed":
        return _again(fields, bid, attempt)
    return _contend(fields, bid, now, attempt=attempt, same_request=same_request)


def _again(fields: Mapping[str, Any], bid: ClaimRequest, attempt: int) -> Decision:
    code = (fields.get("error") or {}).get("code")
    if code == PoisonJob.code and fields.get("job_id") == bid.job_id:
        return Deny(PoisonJob())
    # Only deaths are counted: a job that failed in words may be asked for again as often as one likes.
    deaths = int((fields.get("claim") or {}).get("deaths") or 0) if code == WORKER_LOST else 0
    if deaths >= MAX_LOST_WORKERS:
        return Deny(PoisonJob(), record=True)
    return Grant(attempt + 1, deaths)


def _contend(
    fields: Mapping[str, Any], bid: ClaimRequest, now: datetime, *, attempt: int, same_request: bool
) -> Decision:
    claim = fields.get("claim") or {}
    deaths = int(claim.get("deaths") or 0)
    if is_own(fields, bid):
        return Grant(attempt, deaths)
    if fields.get("job_id") != bid.job_id and not lease_is_over(fields, now):
        return Deny(DuplicateInProgress() if same_request else IdempotencyMismatch())
    if deaths + 1 >= MAX_LOST_WORKERS:
        return Deny(PoisonJob(), record=True)
    return Grant(attempt + 1, deaths + 1)


def is_own(fields: Mapping[str, Any], bid: ClaimRequest) -> bool:
    """Whether the document carries exactly this delivery's claim."""
    return fields.get("status") == "processing" and (fields.get("claim") or {}).get("nonce") == bid.nonce


def lease_is_over(fields: Mapping[str, Any], now: datetime) -> bool:
    """Whether anyone may call the job dead; a document without `expires_at` has no lease to respect."""
    expires_at = fields.get("expires_at")
    return not isinstance(expires_at, datetime) or expires_at <= now


def may_record_refusal(fields: Mapping[str, Any] | None, now: datetime) -> bool:
    """Whether a refused request may write its failure: never over a result or a job that lives."""
    status = (fields or {}).get("status")
    if status == "completed":
        return False
    return fields is None or status != "processing" or lease_is_over(fields, now)
