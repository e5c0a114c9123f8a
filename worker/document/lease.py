"""One job's lease on its document: claimed, renewed while the job lives, and ended. A no-op without a document.

The keeper is one task in the event loop. It writes progress and the heartbeat, and turns a user's cancellation, a
deletion or a lost claim into the job's reason to stop. If Firestore was unreachable when the job began, it keeps trying
to claim. Knows intervals and what to do when Firestore does not answer; knows no field (see `schema`) and no result.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from worker.core import retry, timing
from worker.core.errors import BackendError, Cancelled, Deleted, JobError, Superseded
from worker.core.logs import where
from worker.core.stop import StopSignal
from worker.core.types import Owner, Progress
from worker.document.schema import LEFT_OUT, ClaimRequest
from worker.document.session import DocumentSession
from worker.document.store import DocumentStore
from worker.document.transitions import AlreadyDone, Decision, Deny

UNREACHED = "firestore: could not be reached when the job started; its document may be missing"
FULL = "firestore: the document took nothing when the job started (with what its app keeps there it may have 1 MiB)"

log = logging.getLogger(__name__)


class Lease:
    """A job's lease. All methods belong to the event loop; without a `store` they do nothing."""

    def __init__(
        self,
        store: DocumentStore | None,
        owner: Owner,
        *,
        job_id: str,
        worker_id: str,
        retention: timedelta | None = None,
        trace_id: str | None = None,
    ) -> None:
        self._store, self._owner, self._retention = store, owner, retention
        self._job_id, self._worker_id, self._trace_id = job_id, worker_id, trace_id
        self._began = datetime.now(UTC)
        self.needs_slip = False
        """Whether the app made the document before the job, so that a missing document means a cancelled job."""
        self._session: DocumentSession | None = None
        self._keeper: LeaseKeeper | None = None
        self._claiming: asyncio.Task[Decision | None] | None = None

    @property
    def claimed(self) -> bool:
        """Whether this job holds the document, or has none to claim; only then may it replace objects."""
        return self._store is None or (self._session is not None and self._session.claimed)

    @property
    def left_out(self) -> bool:
        """Whether some fields did not fit into the document."""
        return self._session is not None and self._session.left_out

    @property
    def attempt(self) -> int:
        """The fencing token of this attempt; 1 without a document."""
        return max(1, self._session.attempt) if self._session else 1

    @property
    def claimed_at(self) -> str:
        """When the document was claimed (server time), or else when this attempt began: a sortable UTC timestamp."""
        known = self._session.claimed_at if self._session else None
        return (known or self._began).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    async def claim(
        self, request_data: Mapping[str, Any], fingerprint: str, stop: StopSignal, warn: Callable[[str], None]
    ) -> Decision | None:
        """Claim the document and start its keeper; returns None if Firestore did not answer.

        The keeper then keeps trying to claim, so the document appears as soon as Firestore answers.
        """
        if self._store is None:
            return None
        session = self._session = self._open(request_data, fingerprint)
        self._claiming = asyncio.create_task(self._claim(session, stop, warn))
        # Shielded: a claim that was sent is waited for before anything else is written (`close`).
        return await asyncio.shield(self._claiming)

    async def _claim(self, session: DocumentSession, stop: StopSignal, warn: Callable[[str], None]) -> Decision | None:
        try:
            return await retry.in_thread(timing.CLAIM_SECONDS, session.claim)
        except BackendError as reason:
            warn(FULL if reason.kind == "invalid" else UNREACHED)
            facts = {"action": "unclaimed", "job_id": self._job_id}
            log.warning("the document could not be claimed, the job goes on without it: %s", reason, extra=facts)
            return None
        finally:
            if session.left_out:
                warn(LEFT_OUT)
            if not session.denied:  # also for a job that ends already: until the GPU is free it keeps its lease
                self._keeper = LeaseKeeper(session, stop)

    async def confirm(self) -> None:
        """Look at the document, unless it was read recently, and stop the job if it is no longer wanted."""
        if self._keeper is not None:
            await self._keeper.confirm()

    def note(self, progress: Progress) -> None:
        """Let the keeper write progress when a write is due."""
        if self._keeper is not None:
            self._keeper.note(progress)

    async def complete(self, generation_data: Mapping[str, Any]) -> bool:
        """Write the result; returns whether the document is up to date.

        Raises:
            Deleted, Superseded, IdempotencyMismatch: the result must not be kept, or is not this attempt's.
        """
        if self._session is None:
            return True
        await self.close()
        try:
            await retry.in_thread(timing.TERMINAL_SECONDS, partial(self._session.complete, generation_data))
        except BackendError:
            return False
        return True

    async def fail(
        self, error: JobError | Cancelled, request_data: Mapping[str, Any], usage: Mapping[str, Any] | None = None
    ) -> None:
        """Write the failure if this job may: under its claim, or as a refusal that overwrites nothing."""
        await self.close()
        if self._store is None or isinstance(error, Deleted | Superseded):
            return
        try:
            if self._session is None:
                await retry.in_thread(timing.TERMINAL_SECONDS, partial(self._open(request_data, "").refuse, error))
            elif not self._session.denied:
                await retry.in_thread(timing.TERMINAL_SECONDS, partial(self._session.fail, error, usage=usage))
        except (BackendError, JobError) as reason:
            log.warning(
                "a failure was not written: %s", reason, extra={"action": "not_written", "job_id": self._job_id}
            )

    async def close(self) -> None:
        """Stop writing progress and heartbeats, after a claim that is still running has ended."""
        if self._claiming is not None:
            await asyncio.gather(self._claiming, return_exceptions=True)
        if self._keeper is not None:
            await self._keeper.close()

    def _open(self, request_data: Mapping[str, Any], fingerprint: str) -> DocumentSession:
        assert self._store is not None  # noqa: S101 - checked by every caller
        token = uuid.uuid4().hex
        request = ClaimRequest(
            self._job_id,
            self._worker_id,
            fingerprint,
            token,
            needs_slip=self.needs_slip,
            trace_id=self._trace_id,
        )
        return DocumentSession(self._store, self._owner, request, request_data, retention=self._retention)


class LeaseKeeper:
    """Keeps a document from its claim to its terminal state. Starts nothing after `close` returns."""

    def __init__(self, session: DocumentSession, stop: StopSignal) -> None:
        self._session, self._stop = session, stop
        self._newest: Progress | None = None
        self._held_until = 0.0
        self._seen_at = time.monotonic()
        self._closed = asyncio.Event()
        self._turn, self._over = asyncio.Lock(), False
        self._writing = False
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(_tell_mistake)

    def note(self, progress: Progress) -> None:
        """Note progress; only the newest is written.

        The `uploading` stage is written only if it lasts, because the terminal write would have to wait for it.
        """
        if progress.stage == "uploading" and not self._held_until:
            self._held_until = time.monotonic() + timing.PROGRESS_SECONDS
        self._newest = progress

    async def confirm(self) -> None:
        """Read the document unless it was read recently, and pass on a reason to stop.

        An unclaimed document, or a Firestore that does not answer, stops no job.
        """
        async with self._turn:
            known = time.monotonic() - self._seen_at < timing.FRESH_SECONDS or not self._session.claimed
            if not known and not self._task.done() and not self._closed.is_set():
                await self._visit(partial(self._session.beat, None, heartbeat=False))

    async def close(self) -> None:
        """Start no further write. Waits for a running write for a limited time, but not for a running read.

        Beside a running write the terminal write would use a version that is about to change, and would have to read
        again, which costs more than the wait. A write that returns even later cannot overwrite the terminal state.
        """
        self._closed.set()
        if not self._session.claimed:
            await asyncio.wait({self._task})
        elif self._writing:
            await asyncio.wait({self._task}, timeout=timing.BEAT_PATIENCE_SECONDS)

    async def _run(self) -> None:
        while not self._session.claimed:
            if self._over or await self._closed_within(timing.PROGRESS_SECONDS):
                return
            async with self._turn:
                await self._visit(self._claim)
        await self._keep()

    def _claim(self) -> None:
        decision = self._session.claim(time.monotonic() + timing.LATE_CLAIM_SECONDS)
        if isinstance(decision, Deny):
            raise decision.error
        if isinstance(decision, AlreadyDone):
            raise Superseded

    async def _keep(self) -> None:
        beat_at = time.monotonic() + timing.HEARTBEAT_SECONDS
        look_at = time.monotonic() + timing.WATCH_SECONDS
        while not self._over and not await self._closed_within(timing.PROGRESS_SECONDS):
            now = time.monotonic()
            progress = None
            if now >= self._held_until:
                progress, self._newest = self._newest, None
            heartbeat = now >= beat_at
            if progress is None and not heartbeat and now < look_at:
                continue
            async with self._turn:
                if self._closed.is_set():
                    return
                self._writing = progress is not None or heartbeat
                answered = await self._visit(partial(self._session.beat, progress, heartbeat=heartbeat))
                self._writing = False
            if not answered:
                self._newest = self._newest or progress
                continue
            look_at = time.monotonic() + timing.WATCH_SECONDS
            if heartbeat:
                beat_at = now + timing.HEARTBEAT_SECONDS

    async def _visit(self, call: Callable[[], None]) -> bool:
        """Run one call; returns whether Firestore answered. Passes on a reason to stop; gives up a lost document."""
        try:
            await asyncio.to_thread(call)
        except BackendError:
            return False
        except (JobError, Cancelled) as reason:
            # A cancelled job keeps its lease until it has stopped, which may take a long denoising step.
            self._over = not isinstance(reason, Cancelled)
            self._stop.request(reason)
        self._seen_at = time.monotonic()
        return True

    async def _closed_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), seconds)
        return self._closed.is_set()


def _tell_mistake(keeping: "asyncio.Task[None]") -> None:
    """Log a failure of the keeper: it never costs the job's result."""
    error = None if keeping.cancelled() else keeping.exception()
    if error is not None:
        log.error("the document was not kept up: %s", where(error), extra={"action": "keeper_failed"})
