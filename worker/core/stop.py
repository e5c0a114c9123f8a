"""One job's stop signal: who wants it to end, asked at every denoising step and awaited by the event loop.

Knows reasons, not who gives them. The first reason wins. Safe to use from any thread.
"""

import asyncio
import copy
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from worker.core.errors import Cancelled, JobError

T = TypeVar("T")
Reason = JobError | Cancelled


class StopSignal:
    """Created inside the event loop that serves the job."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reason: Reason | None = None
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    @property
    def reason(self) -> Reason | None:
        """Why the job is to stop; None while it is to go on."""
        return self._reason

    def request(self, reason: Reason) -> None:
        """Ask the job to stop; later reasons change nothing."""
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason
        self._loop.call_soon_threadsafe(self._event.set)

    def raise_if_stopped(self) -> None:
        """Return to go on.

        Raises:
            JobError, Cancelled: the reason, once one was given.
        """
        if self._reason is not None:
            # Always a new instance: raised in two threads at once, one exception would carry both their frames, and
            # whoever frees the frames of a failed model run would end the event loop's coroutine with them.
            raise copy.copy(self._reason)

    async def wait(self) -> Reason:
        """Wait for a reason."""
        await self._event.wait()
        assert self._reason is not None  # noqa: S101 - set before the event, always
        return self._reason

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`, or give it up and raise the reason as soon as there is one.

        What runs in a thread cannot be interrupted: its result is dropped when it comes.
        """
        task = asyncio.ensure_future(work)
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
