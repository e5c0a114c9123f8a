"""The only writer of a job's document: carries out the decisions of `transitions`.

Every write names the document version it was decided on, so a user's change, a deletion or another worker's claim in
between is detected instead of overwritten. Knows when a document is written; `schema` has the fields. Knows no bytes,
no object paths and no Firebase.
"""

import contextlib
import logging
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from worker.core import retry, timing
from worker.core.errors import BackendError, Cancelled, JobError, Superseded
from worker.core.types import Owner, Progress
from worker.document import schema, transitions
from worker.document.schema import ClaimRequest
from worker.document.store import DocumentStore, FieldValue, Snapshot
from worker.document.transitions import AlreadyDone, Decision, Deny, Grant, Redelivery

log = logging.getLogger(__name__)


class DocumentSession:
    """One job's document. All methods block; the caller runs them in threads, one at a time.

    Only `end` may run beside a `beat`: of two concurrent writes one fails on its version and reads again. A beat that
    sees the document ending writes nothing.
    """

    def __init__(
        self,
        store: DocumentStore,
        owner: Owner,
        request: ClaimRequest,
        request_data: Mapping[str, Any],
        *,
        retention: timedelta | None = None,
    ) -> None:
        """`retention`: how long the document is kept after its end; None: no limit."""
        self._store, self._owner, self._request = store, owner, request
        self._retention = retention
        self._request_data = dict(request_data)
        self._path = schema.document_path(owner)
        self._version: object = None
        self._clock: tuple[datetime, float] | None = None
        self._grant: Grant | None = None
        self.claimed_at: datetime | None = None
        """The server's time at the claim."""
        self._ending = False
        self.left_out = False
        """Whether some fields did not fit into the document."""
        self.denied = False
        """Whether another job holds the document, or it already has its result: nothing more is written."""

    @property
    def claimed(self) -> bool:
        """Whether this job holds the document."""
        return self._grant is not None

    @property
    def attempt(self) -> int:
        """The fencing token of this attempt; 0 before the claim."""
        return self._grant.attempt if self._grant else 0

    def claim(self, deadline: float) -> Decision:
        """Move the document to `processing`, or return why not. `deadline` is on `time.monotonic`.

        Raises:
            Cancelled: the claim succeeded, but the user had already cancelled the job.
            BackendError: Firestore did not answer in time; the claim may or may not have been written.
        """
        found = self._create(deadline)
        if isinstance(found, Grant):
            return found
        while True:
            found = found or self._read(deadline)
            decision = transitions.decide_claim(found.fields, self._request, found.read_at)
            if not isinstance(decision, Grant):
                self.denied = True
                if isinstance(decision, Deny) and decision.record:
                    with contextlib.suppress(BackendError):  # the job is refused even if that cannot be written
                        self._swap(found, self._refusal(found, decision.error), deadline)
                return decision
            if transitions.is_claimed(found.fields, self._request):
                self._version = found.version
            elif not self._swap(found, self._processing(found, decision), deadline):
                retry.raise_if_over(deadline, "firestore")
                found = None
                continue
            self._grant, self.claimed_at = decision, found.read_at
            if not schema.has_ended(found.fields) and (found.fields or {}).get("cancel_requested") is True:
                raise Cancelled
            return decision

    def _create(self, deadline: float) -> Grant | Snapshot | None:
        """Claim a document that does not exist yet in one round trip; otherwise return the document, if it was read.

        Does nothing until the server's time is known from an earlier response.

        Raises:
            BackendError: no answer, and no time for another try.
        """
        now = self._store.now()
        if now is None:
            return None
        absent = Snapshot(None, None, now)
        decision = transitions.decide_claim(absent.fields, self._request, now)
        if not isinstance(decision, Grant):
            return None
        self._clock = (now, time.monotonic())
        seconds = retry.seconds_left(deadline, timing.CALL_SECONDS)
        beside = ThreadPoolExecutor(1, thread_name_prefix="look")
        looking = beside.submit(self._store.read, self._path, timeout=seconds)
        beside.shutdown(wait=False)  # the claim does not wait for the read
        try:
            version = self._store.create(self._path, _present(self._processing(absent, decision)), timeout=seconds)
        except BackendError as error:
            if error.kind != "invalid":
                retry.pause_or_raise(error, deadline)
            return None
        if version is not None:
            self.claimed_at = self._store.written_at(version)
            self._version, self._clock = version, (self.claimed_at, time.monotonic())
            self._grant = decision
            return decision
        try:
            found = looking.result()
        except BackendError:
            return None
        self._clock = (found.read_at, time.monotonic())
        return found if found.fields is not None else None

    def beat(self, progress: Progress | None, *, heartbeat: bool) -> None:
        """Write progress and, if due, the heartbeat; with neither, only read.

        Raises:
            Cancelled: the user set `cancel_requested`.
            Deleted, Superseded: this job no longer holds the document.
            BackendError: no answer; the next beat may succeed.
        """
        try:
            self._beat(progress, heartbeat=heartbeat)
        except BackendError as error:
            if error.kind != "invalid" or progress is None:
                raise
            if progress.preview is not None:
                self.beat(replace(progress, preview=None), heartbeat=heartbeat)
                return
            # A full document has no room for progress, but its lease must still be renewed.
            self._beat(None, heartbeat=heartbeat)

    def _beat(self, progress: Progress | None, *, heartbeat: bool) -> None:
        version, changes = self._version, dict[str, Any]()
        if self._ending:
            return  # checked after the version was read, so a beat never uses the version that `end` writes
        if progress is not None:
            changes["progress"] = schema.progressed(progress)
        if heartbeat:
            changes |= schema.alive(self._now())
        if changes:
            changes["updated_at"] = FieldValue.SERVER_TIME
            if self._update(changes, version, timing.CALL_SECONDS):
                return
        found = self._store.read(self._path, timeout=timing.CALL_SECONDS)
        reason = transitions.reason_to_stop(found.fields, self._request)
        if not isinstance(reason, JobError):
            self._version = found.version
        if reason is not None:
            raise reason
        if changes and not self._ending:
            self._update(changes, found.version, timing.CALL_SECONDS)

    def complete(self, generation_data: Mapping[str, Any], deadline: float) -> None:
        """Write the result, after its objects are stored.

        Raises:
            Deleted, Superseded: nothing was written.
            IdempotencyMismatch: nothing was written; the document was unclaimed and is another request's.
            BackendError: Firestore did not answer in time.
        """
        self.end(schema.completed(generation_data), deadline)

    def fail(self, error: JobError | Cancelled, deadline: float, usage: Mapping[str, Any] | None = None) -> None:
        """Write the failure and its usage. Raises as `complete` does."""
        self.end(schema.failed(error.code, error.message, retryable=error.retryable, usage=usage), deadline)

    def refuse(self, error: JobError | Cancelled, deadline: float) -> bool:
        """Write the failure of an unclaimed request if it overwrites nothing; returns whether it was written.

        Raises:
            BackendError: Firestore did not answer in time.
        """
        while True:
            found = self._read(deadline)
            if not transitions.may_record_refusal(found.fields, self._request, found.read_at):
                return False
            if self._swap(found, self._refusal(found, error), deadline):
                return True
            retry.raise_if_over(deadline, "firestore")

    def end(self, terminal: Mapping[str, Any], deadline: float) -> None:
        """Write a terminal state, possibly beside a running beat. Raises as `complete` does."""
        self._ending = True
        if self.claimed and self._version is not None:
            try:
                if self._update(
                    self._dated(terminal), self._version, retry.seconds_left(deadline, timing.CALL_SECONDS)
                ):
                    return
            except BackendError as error:
                if error.kind != "invalid":
                    retry.pause_or_raise(error, deadline)
        while True:
            found = self._read(deadline)
            decision = transitions.decide_finish(
                found.fields, self._request, found.read_at, terminal, claimed=self.claimed
            )
            if isinstance(decision, AlreadyDone):
                return
            if isinstance(decision, Deny):
                self.denied = not self.claimed
                raise decision.error
            changes = {} if self.claimed else self._processing(found, decision)
            if self._swap(found, {**changes, **self._dated(terminal)}, deadline):
                return
            retry.raise_if_over(deadline, "firestore")

    def _read(self, deadline: float) -> Snapshot:
        def once() -> Snapshot:
            return self._store.read(self._path, timeout=retry.seconds_left(deadline, timing.CALL_SECONDS))

        found = retry.until(deadline, once)
        self._clock = (found.read_at, time.monotonic())
        return found

    def _update(self, changes: Mapping[str, Any], seen: object, seconds: float) -> bool:
        """Apply `changes` if the version is still `seen`; returns whether it was."""
        version = self._store.update(self._path, changes, unchanged=seen, timeout=seconds)
        self._version = version if version is not None else self._version
        return version is not None

    def _swap(self, found: Snapshot, changes: Mapping[str, Any], deadline: float) -> bool:
        """Compare-and-swap; False: the document changed or the response was lost, and the caller must read again."""
        seconds = retry.seconds_left(deadline, timing.CALL_SECONDS)
        try:
            version, whole = _write(self._store, self._path, found, changes, seconds)
        except BackendError as error:
            retry.pause_or_raise(error, deadline)
            return False
        if version is not None:
            self._version = version
            self.left_out = self.left_out or not whole
        return version is not None

    def _processing(self, found: Snapshot, grant: Grant) -> Mapping[str, Any]:
        return schema.processing(
            found.fields,
            self._owner,
            self._request,
            self._request_data,
            attempt=grant.attempt,
            lost_workers=grant.lost_workers,
            now=self._now(),
        )

    def _refusal(self, found: Snapshot, error: JobError | Cancelled) -> Mapping[str, Any]:
        return self._dated(schema.refused(found.fields, self._owner, self._request, error, self._request_data))

    def _dated(self, terminal: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**terminal, **schema.kept_until(self._now(), self._retention)}

    def _now(self) -> datetime:
        assert self._clock is not None  # noqa: S101 - every caller has read the document
        read_at, monotonic = self._clock
        return read_at + timedelta(seconds=time.monotonic() - monotonic)


def expire(store: DocumentStore, path: str, queue_seconds: float, retention: timedelta | None = None) -> str | None:
    """Fail a document whose job is lost, with `worker_lost`.

    Returns:
        The id of its job, empty for an order slip; None if the document was left alone.

    Raises:
        BackendError: Firestore does not answer.
    """
    found = store.read(path, timeout=timing.CALL_SECONDS)
    failure = transitions.decide_expiry(found.fields, found.read_at, queue_seconds)
    if failure is None:
        return None
    failure = {**failure, **schema.kept_until(found.read_at, retention)}
    version, _whole = _write(store, path, found, failure, timing.CALL_SECONDS)
    return str((found.fields or {}).get("job_id") or "") if version is not None else None


@dataclass(frozen=True, slots=True)
class SpooledDocument:
    """The document of a job whose result is in the spool."""

    store: DocumentStore
    owner: Owner
    job_id: str
    attempt: int
    fingerprint: str
    claimed: bool
    """Whether the job had claimed it."""
    needs_slip: bool = False
    """Whether it existed when the job was submitted: then a missing document was deleted."""
    retention: timedelta | None = None
    """How long it is kept after delivery; None: no limit."""

    def look(self) -> Snapshot:
        """Return the document if it still waits for this result.

        Raises:
            Superseded: it does not.
            BackendError: Firestore does not answer, or the lease still runs (`StillLeased`).
        """
        found = self.store.read(schema.document_path(self.owner), timeout=2 * timing.CALL_SECONDS)
        wanted = transitions.decide_redelivery(
            found.fields,
            found.read_at,
            job_id=self.job_id,
            attempt=self.attempt,
            claimed=self.claimed,
            needs_slip=self.needs_slip,
        )
        if wanted is Redelivery.DROP:
            raise Superseded
        if wanted is Redelivery.WAIT:
            raise StillLeased("firestore", "unreachable")
        return found

    def complete(self, request_data: Mapping[str, Any], generation_data: Mapping[str, Any]) -> None:
        """Write the result if the document is still as its job left it.

        Raises:
            Superseded, Deleted, IdempotencyMismatch, BackendError: nothing was written.
        """
        self._end(request_data, schema.completed(generation_data))

    def fail(self, request_data: Mapping[str, Any], error: JobError, usage: Mapping[str, Any] | None) -> None:
        """Write that the result will not be delivered. Raises as `complete` does."""
        self._end(request_data, schema.failed(error.code, error.message, retryable=error.retryable, usage=usage))

    def _end(self, request_data: Mapping[str, Any], terminal: Mapping[str, Any]) -> None:
        if not self.claimed:
            token = uuid.uuid4().hex
            request = ClaimRequest(self.job_id, "outbox", self.fingerprint, token, needs_slip=self.needs_slip)
            session = DocumentSession(self.store, self.owner, request, request_data, retention=self.retention)
            session.end(terminal, time.monotonic() + timing.SPOOL_COMPLETE_SECONDS)
            return
        path, deadline = schema.document_path(self.owner), time.monotonic() + timing.SPOOL_COMPLETE_SECONDS
        while True:
            found = self.look()
            # Disowned: the job that spooled the result can no longer write the document.
            done = {**terminal, "claim": schema.disowned(found.fields)}
            done |= schema.kept_until(found.read_at, self.retention)
            version, _whole = _write(self.store, path, found, done, 2 * timing.CALL_SECONDS)
            if version is not None:
                return
            retry.raise_if_over(deadline, "firestore")


class StillLeased(BackendError):
    """The worker that spooled the result may still write its document."""


def _write(
    store: DocumentStore, path: str, found: Snapshot, changes: Mapping[str, Any], seconds: float
) -> tuple[object | None, bool]:
    """Write if the document is still as it was found; repeat a write that is too large with less.

    Returns:
        The new version, or None; and whether everything was written.

    Raises:
        BackendError: no answer, or a refusal; `invalid` if not even the smallest version was accepted.
    """

    def once(fields: Mapping[str, Any]) -> object | None:
        if found.fields is not None:
            return store.update(path, fields, unchanged=found.version, timeout=seconds)
        return store.create(path, _present(fields), timeout=seconds)

    try:
        return once(changes), True
    except BackendError as error:
        refusal = error
    for less in schema.lighter(changes, found.fields):
        if refusal.kind != "invalid":
            break
        try:
            version = once(less)
        except BackendError as error:
            refusal = error
        else:
            log.warning("a document did not take everything", extra={"action": "left_out"})
            return version, False
    raise refusal


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a new document, in which there is nothing to remove."""
    return {key: value for key, value in fields.items() if value is not FieldValue.REMOVE}
