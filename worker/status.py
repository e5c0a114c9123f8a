"""The Firestore document of one job: claim, progress, heartbeat, terminal state.

Knows the document's fields (section 4 of the contract) and when they are written; knows no bytes, no paths of objects
and no Firebase. Every write names the version of the document that it was decided on, so a user's change in between, a
deletion or another worker's claim is noticed instead of overwritten.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Protocol

from worker.claim import Bid, Decision, Refuse, Start, decide, is_own, may_record_refusal
from worker.errors import BackendError, Cancelled, Deleted, JobError, Superseded
from worker.generation import Progress
from worker.request import Owner

LEASE_SECONDS = 90
HEARTBEAT_SECONDS = 10
WATCH_SECONDS = 3
"""How often the document is read when nothing is written: the longest a user's `cancel_requested` goes unseen."""
CALL_SECONDS = 2.0
"""One call to Firestore; nothing is retried inside it."""
MAX_SWAPS = 6

log = logging.getLogger(__name__)


class FieldValue(Enum):
    """Values that the server fills in."""

    SERVER_TIME = "server time"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A document as it was at `read_at` (server time); `fields` is None where there is none."""

    fields: Mapping[str, Any] | None
    version: object
    read_at: datetime


class Documents(Protocol):
    """Documents by path, with compare-and-swap. Every call is bounded by `timeout` seconds and retries nothing.

    Raises:
        BackendError: no answer, or a refusal. After `unreachable` a write may have happened all the same.
    """

    def read(self, path: str, *, timeout: float) -> Snapshot:
        """The document now."""
        ...

    def create(self, path: str, fields: Mapping[str, Any], *, timeout: float) -> object | None:
        """Write a new document; its version, or None where one exists already."""
        ...

    def update(self, path: str, fields: Mapping[str, Any], *, unchanged: object, timeout: float) -> object | None:
        """Change fields, keep the others; the new version, or None where the document is not `unchanged` any more."""
        ...


ENDED = dict.fromkeys(("progress", "heartbeat_at", "expires_at"), FieldValue.REMOVE)
"""What only a job that lives has."""


def document_path(owner: Owner) -> str:
    """`generations/{user_id}/files/{file_uid}`; both ids were validated, so neither can leave its level."""
    return f"generations/{owner.user_id}/files/{owner.file_uid}"


class StatusDocument:
    """One job's document. All methods block; the caller runs them in threads, one at a time."""

    def __init__(self, documents: Documents, owner: Owner, bid: Bid, request_data: Mapping[str, Any]) -> None:
        self._documents, self._owner, self._bid = documents, owner, bid
        self._request_data = dict(request_data)
        self._path = document_path(owner)
        self._version: object = None
        self._clock: tuple[datetime, float] | None = None
        self._claimed: Start | None = None
        self.attempt = 0
        self.claimed_at: datetime | None = None
        """The server's time at the claim."""
        self.refused = False
        """Whether the document is another job's, or holds its result already: nothing more is written."""

    def claim(self, deadline: float) -> Decision:
        """Move the document to `processing`, or learn why not. `deadline` is on `time.monotonic`.

        Raises:
            Cancelled: it is this job's now, and the user did not want it any more before it began.
            BackendError: Firestore did not answer in time; whether the claim is there is then not known.
        """
        while True:
            snapshot = self._read(deadline)
            decision = decide(snapshot.fields, self._bid, snapshot.read_at)
            if not isinstance(decision, Start):
                self.refused = True
                if isinstance(decision, Refuse) and decision.record:
                    self._swap(snapshot, self._failed(decision.error, snapshot), deadline)
                return decision
            if snapshot.fields is not None and is_own(snapshot.fields, self._bid):
                self._version = snapshot.version
            elif not self._swap(snapshot, self._processing(decision, snapshot), deadline):
                continue
            self._claimed, self.attempt, self.claimed_at = decision, decision.attempt, snapshot.read_at
            if not _has_ended(snapshot) and (snapshot.fields or {}).get("cancel_requested") is True:
                raise Cancelled
            return decision

    @property
    def claimed(self) -> bool:
        """Whether the document is known to be this job's."""
        return self._claimed is not None

    def beat(self, progress: Progress | None, *, heartbeat: bool) -> None:
        """Write progress and, when due, the heartbeat; with neither, only look.

        Raises:
            Cancelled: the user set `cancel_requested`.
            Deleted, Superseded: the document is not this job's any more.
            BackendError: no answer; the next beat may do better.
        """
        fields: dict[str, Any] = {}
        if progress is not None:
            fields["progress"] = _progress_fields(progress)
        if heartbeat:
            fields |= {
                "heartbeat_at": FieldValue.SERVER_TIME,
                "expires_at": self._now() + timedelta(seconds=LEASE_SECONDS),
            }
        if fields:
            fields["updated_at"] = FieldValue.SERVER_TIME
            version = self._documents.update(self._path, fields, unchanged=self._version, timeout=CALL_SECONDS)
            if version is not None:
                self._version = version
                return
        snapshot = self._documents.read(self._path, timeout=CALL_SECONDS)
        self._see(snapshot)
        if (snapshot.fields or {}).get("cancel_requested") is True:
            raise Cancelled
        if fields:
            version = self._documents.update(self._path, fields, unchanged=self._version, timeout=CALL_SECONDS)
            self._version = version if version is not None else self._version

    def complete(self, generation_data: Mapping[str, Any], deadline: float) -> None:
        """Write the result: the terminal state, after its objects.

        Raises:
            Deleted, Superseded: nothing was written.
            BackendError: Firestore did not answer in time.
        """
        terminal = {
            "status": "completed",
            "generation_data": dict(generation_data),
            **ENDED,
            "error": FieldValue.REMOVE,
            "completed_at": FieldValue.SERVER_TIME,
            "updated_at": FieldValue.SERVER_TIME,
        }
        self._finish(terminal, deadline)

    def fail(self, error: JobError | Cancelled, deadline: float) -> None:
        """Write the failure. Raises as `complete` does."""
        self._finish(self._failure(error), deadline)

    def refuse(self, error: JobError | Cancelled, deadline: float) -> bool:
        """Write the failure of a request that was never claimed, where that harms nobody; whether it was written.

        Raises:
            BackendError: Firestore did not answer in time.
        """
        while True:
            snapshot = self._read(deadline)
            if not may_record_refusal(snapshot.fields, snapshot.read_at):
                return False
            if self._swap(snapshot, self._failed(error, snapshot), deadline):
                return True

    # The parts below build fields and swap them in.

    def _finish(self, terminal: Mapping[str, Any], deadline: float) -> None:
        if self._claimed is not None and self._version is not None:
            try:
                if self._documents.update(self._path, terminal, unchanged=self._version, timeout=_left(deadline)):
                    return
            except BackendError as error:
                _again_or_raise(error, deadline)
        for _ in range(MAX_SWAPS):
            snapshot = self._read(deadline)
            if self._is_mine(snapshot) and self._says(snapshot, terminal):
                return  # an earlier write had arrived, only its answer was lost
            if self._claimed is None:
                # Firestore was away when the job started: what it says now is decided anew.
                decision = decide(snapshot.fields, self._bid, snapshot.read_at)
                if not isinstance(decision, Start):
                    raise Superseded
                fields = {**self._processing(decision, snapshot), **terminal}
            else:
                self._see(snapshot)
                fields = dict(terminal)
            if self._swap(snapshot, fields, deadline):
                return
        raise BackendError("firestore", "unreachable")

    def _see(self, snapshot: Snapshot) -> None:
        if snapshot.fields is None:
            raise Deleted
        if not self._is_mine(snapshot):
            raise Superseded
        self._version = snapshot.version

    @staticmethod
    def _says(snapshot: Snapshot, terminal: Mapping[str, Any]) -> bool:
        """Whether the document ends as `terminal` does, in all it tells: the one word may be a forger's."""
        told = ("status", "generation_data", "error")
        return all((snapshot.fields or {}).get(name) == _value(terminal.get(name)) for name in told)

    def _is_mine(self, snapshot: Snapshot) -> bool:
        return ((snapshot.fields or {}).get("claim") or {}).get("nonce") == self._bid.nonce

    def _read(self, deadline: float) -> Snapshot:
        while True:
            try:
                snapshot = self._documents.read(self._path, timeout=_left(deadline))
            except BackendError as error:
                _again_or_raise(error, deadline)
                continue
            self._clock = (snapshot.read_at, time.monotonic())
            return snapshot

    def _swap(self, snapshot: Snapshot, fields: Mapping[str, Any], deadline: float) -> bool:
        """Whether the write is there; False: look again, the document changed or the answer was lost."""
        try:
            if snapshot.fields is None:
                present = {key: value for key, value in fields.items() if value is not FieldValue.REMOVE}
                version = self._documents.create(self._path, present, timeout=_left(deadline))
            else:
                version = self._documents.update(
                    self._path, fields, unchanged=snapshot.version, timeout=_left(deadline)
                )
        except BackendError as error:
            _again_or_raise(error, deadline)
            return False
        if version is not None:
            self._version = version
        return version is not None

    def _now(self) -> datetime:
        assert self._clock is not None  # noqa: S101 - every way here begins with a read
        read_at, monotonic = self._clock
        return read_at + timedelta(seconds=time.monotonic() - monotonic)

    def _identity(self, attempt: int, snapshot: Snapshot) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "user_id": self._owner.user_id,
            "file_uid": self._owner.file_uid,
            "job_id": self._bid.job_id,
            "worker_id": self._bid.worker_id,
            "attempt": attempt,
            "request_data": self._request_data,
            "updated_at": FieldValue.SERVER_TIME,
        }
        if "created_at" not in (snapshot.fields or {}):
            fields["created_at"] = FieldValue.SERVER_TIME
        return fields

    def _processing(self, start: Start, snapshot: Snapshot) -> dict[str, Any]:
        fields = self._identity(start.attempt, snapshot)
        fields |= {
            "status": "processing",
            "claim": {"nonce": self._bid.nonce, "request_hash": self._bid.request_hash, "deaths": start.deaths},
            "heartbeat_at": FieldValue.SERVER_TIME,
            "expires_at": self._now() + timedelta(seconds=LEASE_SECONDS),
            "progress": _progress_fields(Progress("queued")),
        }
        fields |= dict.fromkeys(("error", "generation_data", "completed_at"), FieldValue.REMOVE)
        if _has_ended(snapshot):
            # A wish to cancel the attempt that ended must not end the one that the user asks for now.
            fields["cancel_requested"] = FieldValue.REMOVE
        return fields

    def _failed(self, error: JobError | Cancelled, snapshot: Snapshot) -> dict[str, Any]:
        attempt = int((snapshot.fields or {}).get("attempt") or 1)
        # Whoever held the document before must not take it for its own any more.
        claim = {**((snapshot.fields or {}).get("claim") or {}), "nonce": ""}
        return {**self._identity(attempt, snapshot), **self._failure(error), "claim": claim}

    @staticmethod
    def _failure(error: JobError | Cancelled) -> dict[str, Any]:
        return {
            "status": "failed",
            "error": {"code": error.code, "message": error.message, "retryable": error.retryable},
            "generation_data": FieldValue.REMOVE,
            **ENDED,
            "completed_at": FieldValue.SERVER_TIME,
            "updated_at": FieldValue.SERVER_TIME,
        }


def _value(field: Any) -> Any:
    return None if isinstance(field, FieldValue) else field


def _progress_fields(progress: Progress) -> dict[str, Any]:
    return {
        "stage": progress.stage,
        "step": progress.step,
        "total_steps": progress.total_steps,
        "percent": progress.percent,
    }


def _has_ended(snapshot: Snapshot) -> bool:
    return (snapshot.fields or {}).get("status") in {"completed", "failed"}


def _left(deadline: float) -> float:
    return min(CALL_SECONDS, max(0.1, deadline - time.monotonic()))


def _again_or_raise(error: BackendError, deadline: float) -> None:
    """Return after a short pause when there is time for another try, else raise."""
    pause = 0.2
    if error.kind != "unreachable" or time.monotonic() + pause >= deadline:
        raise error
    time.sleep(pause)
