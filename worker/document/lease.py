"""One job's lease on its document: claimed, renewed while the job lives, ended; or nothing where there is no document.

Knows times and what to do when Firestore does not answer; knows no field (that is `schema`) and no result. The keeper
is one task in the event loop: it writes progress and the heartbeat, and turns a user's wish to cancel, a deletion or a
lost claim into a reason to stop. Where Firestore was away when the job began, it goes on trying to claim.
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
    """All methods are for the event loop. Without a `store` every method does nothing."""

    def __init__(
        self,
        store: DocumentStore | None,
        owner: Owner,
        *,
        job_id: str,
        worker_id: str,
        retention: timedelta | None = None,
    ) -> None:
        self._store, self._owner, self._retention = store, owner, retention
        self._job_id, self._worker_id = job_id, worker_id
        self._began = datetime.now(UTC)
        self.needs_slip = False
        """Whether the job is wanted only as long as the document, which its app made, is there."""
        self.trace_id: str | None = None
        """Where the job is seen from outside; kept in the document."""
        self._session: DocumentSession | None = None
        self._keeper: LeaseKeeper | None = None
        self._claiming: asyncio.Task[Decision] | None = None

    @property
    def claimed(self) -> bool:
        """Whether the document is known to be this job's, or there is none to claim; objects are replaced only then."""
        return self._store is None or (self._session is not None and self._session.claimed)

    @property
    def left_out(self) -> bool:
        """Whether the document did not take everything."""
        return self._session is not None and self._session.left_out

    @property
    def attempt(self) -> int:
        """The fence of this attempt; 1 where no document says otherwise."""
        return max(1, self._session.attempt) if self._session else 1

    @property
    def claimed_at(self) -> str:
        """When the document was claimed (server time), or this attempt began; a UTC timestamp that sorts."""
        known = self._session.claimed_at if self._session else None
        return (known or self._began).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    async def claim(
        self, request_data: Mapping[str, Any], fingerprint: str, stop: StopSignal, warn: Callable[[str], None]
    ) -> Decision | None:
        """Claim the document and keep it from now on; None where that could not be decided.

        Then the keeper goes on trying: a job that Firestore did not know when it began is known as soon as it can be.
        """
        if self._store is None:
            return None
        session = self._session = self._open(request_data, fingerprint)
        self._claiming = asyncio.create_task(retry.in_thread(timing.CLAIM_SECONDS, session.claim))
        decision = None
        try:
            # Who gives up on a claim does not end it: it is waited for before anything else is written (`close`).
            decision = await asyncio.shield(self._claiming)
        except BackendError as reason:
            warn(FULL if reason.kind == "invalid" else UNREACHED)
            facts = {"action": "unclaimed", "job_id": self._job_id}
            log.warning("the document could not be claimed, the job goes on without it: %s", reason, extra=facts)
        if session.left_out:
            warn(LEFT_OUT)
        if not session.denied:
            self._keeper = LeaseKeeper(session, stop)
        return decision

    async def confirm(self) -> None:
        """Learn, if the last news are not fresh, whether the job is still wanted; if not, it is told to stop."""
        if self._keeper is not None:
            await self._keeper.confirm()

    def note(self, progress: Progress) -> None:
        """Have progress written when it is due."""
        if self._keeper is not None:
            self._keeper.note(progress)

    async def complete(self, generation_data: Mapping[str, Any]) -> bool:
        """Write the result; whether the document is in step now.

        Raises:
            Deleted, Superseded, IdempotencyMismatch: the result must not be kept, or is not this attempt's to give.
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
        """Write the failure where it is this job's to write: on its claim, or as a refusal that harms nobody."""
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
        """Write no progress and no heartbeat any more; a claim that nobody waits for comes to its end first."""
        if self._claiming is not None:
            await asyncio.gather(self._claiming, return_exceptions=True)
        if self._keeper is not None:
            await self._keeper.close()

    def _open(self, request_data: Mapping[str, Any], fingerprint: str) -> DocumentSession:
        assert self._store is not None  # noqa: S101 - asked by every caller
        token = uuid.uuid4().hex
        request = ClaimRequest(
            self._job_id,
            self._worker_id,
            fingerprint,
            token,
            needs_slip=self.needs_slip,
            trace_id=self.trace_id,
        )
        return DocumentSession(self._store, self._owner, request, request_data, retention=self._retention)


class LeaseKeeper:
    """Runs from the claim to the terminal state; nothing is begun after `close` returned."""

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
        """Take note of progress; only the newest is written.

        That the result is being uploaded is written if it lasts: else its end would wait for that write.
        """
        if progress.stage == "uploading" and not self._held_until:
            self._held_until = time.monotonic() + timing.PROGRESS_SECONDS
        self._newest = progress

    async def confirm(self) -> None:
        """Have news of the document that are fresh; a reason to stop among them is given to the job.

        A document that could not be claimed yet, or a Firestore that does not answer, stops nobody.
        """
        async with self._turn:
            known = time.monotonic() - self._seen_at < timing.FRESH_SECONDS or not self._session.claimed
            if not known and not self._task.done() and not self._closed.is_set():
                await self._visit(partial(self._session.beat, None, heartbeat=False))

    async def close(self) -> None:
        """Begin no other write. A look under way is not waited for; a write has time to come back.

        Beside a write the end would be decided on a version that is about to be an old one, and have to look again:
        that costs more than the wait. A write that comes back even later cannot overwrite the end.
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
        """Whether Firestore answered; what ends the job is handed on. A lost document is not kept any more."""
        try:
            await asyncio.to_thread(call)
        except BackendError:
            return False
        except (JobError, Cancelled) as reason:
            # A job that is cancelled keeps its lease until it has stopped, which may take a long step.
            self._over = not isinstance(reason, Cancelled)
            self._stop.request(reason)
        self._seen_at = time.monotonic()
        return True

    async def _closed_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), seconds)
        return self._closed.is_set()


def _tell_mistake(keeping: "asyncio.Task[None]") -> None:
    """Whatever it was, it is not worth the job's result."""
    error = None if keeping.cancelled() else keeping.exception()
    if error is not None:
        log.error("the document was not kept up: %s", where(error), extra={"action": "keeper_failed"})
