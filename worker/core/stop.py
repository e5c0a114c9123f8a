"""One job's stop signal, checked at every denoising step and awaited by the event loop.

The first reason wins. Thread-safe. Knows reasons, not who gives them.
"""

import asyncio
import copy
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from worker.core.errors import Cancelled, JobError

T = TypeVar("T")
Reason = JobError | Cancelled


def mark_retrieved(done: "asyncio.Future[Any]") -> None:
    """Mark the error of work as retrieved: asyncio logs the traceback of one that nobody waits for any more."""
    if not done.cancelled():
        done.exception()


class StopSignal:
    """A stop signal; create it inside the event loop that serves the job."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reason: Reason | None = None
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    @property
    def reason(self) -> Reason | None:
        """Why the job must stop; None: it goes on."""
        return self._reason

    def request(self, reason: Reason) -> None:
        """Ask the job to stop; later reasons are ignored."""
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason
        self._loop.call_soon_threadsafe(self._event.set)

    def raise_if_stopped(self) -> None:
        """Raise the reason to stop, if there is one.

        Raises:
            JobError, Cancelled: the reason.
        """
        if self._reason is not None:
            # Always a copy: one exception raised in two threads would carry both their frames, and clearing the frames
            # of a failed model run would then end the event loop's coroutine.
            raise copy.copy(self._reason)

    async def wait(self) -> Reason:
        """Wait for a reason."""
        await self._event.wait()
        assert self._reason is not None  # noqa: S101 - set before the event, always
        return self._reason

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`; cancel it and raise the reason as soon as there is one.

        Work in a thread cannot be interrupted; its result is dropped.
        """
        task = asyncio.ensure_future(work)
        task.add_done_callback(mark_retrieved)  # its error may come in the moment in which the wait is cancelled
        stopped = asyncio.ensure_future(self._event.wait())
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self.raise_if_stopped()
            return await task
        finally:
            stopped.cancel()
            if not task.done():
                task.cancel()
