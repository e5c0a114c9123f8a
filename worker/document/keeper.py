"""Keeps a claimed document alive while its job lives, and carries the document's wishes to the job.

One task in the event loop: writes progress (at most once a second) and the heartbeat, and turns a user's cancel wish, a
deletion or a lost claim into a reason to stop. Where Firestore was away when the job began, it goes on trying to claim.
Knows times, not fields.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial

from worker.core.errors import BackendError, Cancelled, JobError, Superseded
from worker.core.logs import where
from worker.core.stop import StopSignal
from worker.core.types import Progress
from worker.document.session import HEARTBEAT_SECONDS, WATCH_SECONDS, DocumentSession
from worker.document.transitions import AlreadyDone, Deny
from worker.job.progress import INTERVAL_SECONDS

FRESH_SECONDS = 1.0
"""How old the news of the document may be when a generation begins."""
LATE_CLAIM_SECONDS = 1.0
"""How long one more try to claim may take."""

log = logging.getLogger(__name__)


class LeaseKeeper:
    """Runs from the claim to the terminal state; nothing is written after `close` returned."""

    def __init__(self, document: DocumentSession, stop: StopSignal) -> None:
        self._document, self._stop = document, stop
        self._newest: Progress | None = None
        self._seen_at = time.monotonic()
        self._closed = asyncio.Event()
        self._turn, self._over = asyncio.Lock(), False
        self._task = asyncio.create_task(self._run())

    def note(self, progress: Progress) -> None:
        """Take note of progress; only the newest is written."""
        self._newest = progress

    async def confirm(self) -> None:
        """Have news of the document that are fresh; a reason to stop among them is given to the job.

        A document that could not be claimed yet, or a Firestore that does not answer, stops nobody.
        """
        async with self._turn:
            known = time.monotonic() - self._seen_at < FRESH_SECONDS or not self._document.claimed
            if not known and not self._task.done():
                await self._visit(partial(self._document.beat, None, heartbeat=False))

    async def close(self) -> None:
        """Write nothing more; returns when nothing is under way."""
        self._closed.set()
        await asyncio.wait({self._task})
        async with self._turn:
            error = self._task.exception()
        if error is not None:
            # Whatever it was, it is not worth the job's result.
            log.error("the document was not kept up: %s", where(error), extra={"action": "keeper_failed"})

    async def _run(self) -> None:
        while not self._document.claimed:
            if self._over or await self._closed_within(WATCH_SECONDS):
                return
            async with self._turn:
                await self._visit(self._claim)
        await self._keep()

    def _claim(self) -> None:
        decision = self._document.claim(time.monotonic() + LATE_CLAIM_SECONDS)
        if isinstance(decision, Deny):
            raise decision.error
        if isinstance(decision, AlreadyDone):
            raise Superseded

    async def _keep(self) -> None:
        beat_at = time.monotonic() + HEARTBEAT_SECONDS
        look_at = time.monotonic() + WATCH_SECONDS
        while not self._over and not await self._closed_within(INTERVAL_SECONDS):
            now = time.monotonic()
            progress, self._newest = self._newest, None
            heartbeat = now >= beat_at
            if progress is None and not heartbeat and now < look_at:
                continue
            async with self._turn:
                answered = await self._visit(partial(self._document.beat, progress, heartbeat=heartbeat))
            if not answered:
                self._newest = self._newest or progress
                continue
            look_at = time.monotonic() + WATCH_SECONDS
            if heartbeat:
                beat_at = now + HEARTBEAT_SECONDS

    async def _visit(self, call: Callable[[], None]) -> bool:
        """Whether Firestore answered; what ends the job is handed on, and the document is not kept any more."""
        try:
            await asyncio.to_thread(call)
        except BackendError:
            return False
        except (JobError, Cancelled) as reason:
            self._over = True
            self._stop.request(reason)
        self._seen_at = time.monotonic()
        return True

    async def _closed_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), seconds)
        return self._closed.is_set()
