"""The Firestore document of one job: claim, progress, heartbeat, terminal state.

Knows when a document is written, and that it is this job's to write; what it says then is `fields`. Knows no bytes, no
paths of objects and no Firebase. Every write names the version of the document that it was decided on, so a user's
change in between, a deletion or another worker's claim is noticed instead of overwritten.
"""

import contextlib
import logging
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from worker.core.errors import BackendError, Cancelled, Deleted, IdempotencyMismatch, JobError, Superseded
from worker.core.types import Owner, Progress
from worker.document import schema as fields
from worker.document.store import CALL_SECONDS, DocumentStore, FieldValue, Snapshot
from worker.document.transitions import ClaimRequest, Decision, Deny, Grant, decide, is_own, may_record_refusal

HEARTBEAT_SECONDS = 10
WATCH_SECONDS = 3
"""How often the document is read when nothing is written: the longest a user's `cancel_requested` goes unseen."""
MAX_SWAPS = 6

log = logging.getLogger(__name__)


class DocumentSession:
    """One job's document. All methods block; the caller runs them in threads, one at a time."""

    def __init__(
        self, documents: DocumentStore, owner: Owner, bid: ClaimRequest, request_data: Mapping[str, Any]
    ) -> None:
        self._documents, self._owner, self._bid = documents, owner, bid
        self._request_data = dict(request_data)
        self._path = fields.document_path(owner)
        self._version: object = None
        self._clock: tuple[datetime, float] | None = None
        self._claimed: Grant | None = None
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
            if not isinstance(decision, Grant):
                self.refused = True
                if isinstance(decision, Deny) and decision.record:
                    with contextlib.suppress(BackendError):  # refused it is, whether or not that could be written
                        self._swap(snapshot, self._refusal(snapshot, decision.error), deadline)
                return decision
            if snapshot.fields is not None and is_own(snapshot.fields, self._bid):
                self._version = snapshot.version
            elif not self._swap(snapshot, self._processing(snapshot, decision), deadline):
                continue
            self._claimed, self.attempt, self.claimed_at = decision, decision.attempt, snapshot.read_at
            if not fields.has_ended(snapshot.fields) and (snapshot.fields or {}).get("cancel_requested") is True:
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
        changes: dict[str, Any] = {}
        if progress is not None:
            changes["progress"] = fields.progress(progress)
        if heartbeat:
            changes |= fields.alive(self._now())
        if changes:
            changes["updated_at"] = FieldValue.SERVER_TIME
            version = self._documents.update(self._path, changes, unchanged=self._version, timeout=CALL_SECONDS)
            if version is not None:
                self._version = version
                return
        snapshot = self._documents.read(self._path, timeout=CALL_SECONDS)
        self._see(snapshot)
        if (snapshot.fields or {}).get("cancel_requested") is True:
            raise Cancelled
        if changes:
            version = self._documents.update(self._path, changes, unchanged=self._version, timeout=CALL_SECONDS)
            self._version = version if version is not None else self._version

    def complete(self, generation_data: Mapping[str, Any], deadline: float) -> None:
        """Write the result: the terminal state, after its objects.

        Raises:
            Deleted, Superseded: nothing was written.
            IdempotencyMismatch: as above; a document that could not be claimed is another request's.
            BackendError: Firestore did not answer in time.
        """
        self._finish(fields.completed(generation_data), deadline)

    def fail(self, error: JobError | Cancelled, deadline: float) -> None:
        """Write the failure. Raises as `complete` does."""
        self._finish(fields.failed(error.code, error.message, retryable=error.retryable), deadline)

    def refuse(self, error: JobError | Cancelled, deadline: float) -> bool:
        """Write the failure of a request that was never claimed, where that harms nobody; whether it was written.

        Raises:
            BackendError: Firestore did not answer in time.
        """
        while True:
            snapshot = self._read(deadline)
            if not may_record_refusal(snapshot.fields, snapshot.read_at):
                return False
            if self._swap(snapshot, self._refusal(snapshot, error), deadline):
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
            if self._is_mine(snapshot) and fields.ends_like(snapshot.fields, terminal):
                return  # an earlier write had arrived, only its answer was lost
            if self._claimed is None:
                # Firestore was away when the job started: what it says now is decided anew.
                decision = decide(snapshot.fields, self._bid, snapshot.read_at)
                if not isinstance(decision, Grant):
                    self.refused = True
                    # Only another request's attempts never adopt what this one stored; for the others it stays.
                    if isinstance(decision, Deny) and isinstance(decision.error, IdempotencyMismatch):
                        raise decision.error
                    raise Superseded
                changes = {**self._processing(snapshot, decision), **terminal}
            else:
                self._see(snapshot)
                changes = dict(terminal)
            if self._swap(snapshot, changes, deadline):
                return
        raise BackendError("firestore", "unreachable")

    def _see(self, snapshot: Snapshot) -> None:
        if snapshot.fields is None:
            raise Deleted
        if not self._is_mine(snapshot):
            raise Superseded
        self._version = snapshot.version

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

    def _swap(self, snapshot: Snapshot, changes: Mapping[str, Any], deadline: float) -> bool:
        """Whether the write is there; False: look again, the document changed or the answer was lost."""
        try:
            if snapshot.fields is None:
                present = {key: value for key, value in changes.items() if value is not FieldValue.REMOVE}
                version = self._documents.create(self._path, present, timeout=_left(deadline))
            else:
                version = self._documents.update(
                    self._path, changes, unchanged=snapshot.version, timeout=_left(deadline)
                )
        except BackendError as error:
            _again_or_raise(error, deadline)
            return False
        if version is not None:
            self._version = version
        return version is not None

    def _processing(self, snapshot: Snapshot, start: Grant) -> Mapping[str, Any]:
        now = self._now()
        return fields.processing(snapshot.fields, self._owner, self._bid, start, self._request_data, now=now)

    def _refusal(self, snapshot: Snapshot, error: JobError | Cancelled) -> Mapping[str, Any]:
        return fields.refused(snapshot.fields, self._owner, self._bid, error, self._request_data)

    def _now(self) -> datetime:
        assert self._clock is not None  # noqa: S101 - every way here begins with a read
        read_at, monotonic = self._clock
        return read_at + timedelta(seconds=time.monotonic() - monotonic)


def _left(deadline: float) -> float:
    return min(CALL_SECONDS, max(0.1, deadline - time.monotonic()))


def _again_or_raise(error: BackendError, deadline: float) -> None:
    """Return after a short pause when there is time for another try, else raise."""
    pause = 0.2
    if error.kind != "unreachable" or time.monotonic() + pause >= deadline:
        raise error
    time.sleep(pause)
