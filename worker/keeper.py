"""Keeps a claimed document alive while its job lives, and carries the document's wishes to the job.

One task in the event loop: writes progress (at most once a second) and the heartbeat, and turns a user's cancel wish, a
deletion or a lost claim into a reason to stop. Knows times, not fields.
"""

import asyncio
import contextlib
import logging
import time

from worker.errors import BackendError, Cancelled, Deleted, Superseded
from worker.generation import Progress
from worker.logs import where
from worker.progress import INTERVAL_SECONDS
from worker.status import HEARTBEAT_SECONDS, WATCH_SECONDS, StatusDocument
from worker.stop import StopSignal

log = logging.getLogger(__name__)


class Keeper:
    """Runs from the claim to the terminal state; nothing is written after `close` returned."""

    def __init__(self, document: StatusDocument, stop: StopSignal) -> None:
        self._document, self._stop = document, stop
        self._newest: Progress | None = None
        self._closed = asyncio.Event()
        self._task = asyncio.create_task(self._keep())

    def note(self, progress: Progress) -> None:
        """Take note of progress; only the newest is written."""
        self._newest = progress

    async def close(self) -> None:
        """Write nothing more; returns when nothing is under way."""
        self._closed.set()
        await asyncio.wait({self._task})
        if error := self._task.exception():
            # Whatever it was, it is not worth the job's result.
            log.error("the document was not kept up: %s", where(error), extra={"action": "keeper_failed"})

    async def _keep(self) -> None:
        beat_at = time.monotonic() + HEARTBEAT_SECONDS
        look_at = time.monotonic() + WATCH_SECONDS
        while not await self._closed_within(INTERVAL_SECONDS):
            now = time.monotonic()
            progress, self._newest = self._newest, None
            heartbeat = now >= beat_at
            if progress is None and not heartbeat and now < look_at:
                continue
            try:
                await asyncio.to_thread(self._document.beat, progress, heartbeat=heartbeat)
            except (Cancelled, Deleted, Superseded) as reason:
                self._stop.request(reason)
                return
            except BackendError:
                self._newest = self._newest or progress
                continue
            look_at = time.monotonic() + WATCH_SECONDS
            if heartbeat:
                beat_at = now + HEARTBEAT_SECONDS

    async def _closed_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), seconds)
        return self._closed.is_set()
