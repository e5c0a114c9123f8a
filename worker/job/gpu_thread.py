"""The GPU thread: one dedicated thread, so that two generations never run at once and the event loop stays free.

Knows threads and queues; knows no model and no job. A call that does not come back makes the thread `stuck`: it cannot
be interrupted, so whoever waits gives up on it and the process has to be replaced.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from worker.core.errors import GpuFault

T = TypeVar("T")


class GpuThread:
    """Runs calls one after another, in the order in which they came."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self.stuck = False
        # A daemon, so that a hung CUDA call cannot keep a worker from exiting.
        threading.Thread(target=self._work, name="gpu", daemon=True).start()

    def _work(self) -> None:
        while True:
            future, call = self._calls.get()
            if future.set_running_or_notify_cancel():
                _settle(future, call)
            del future, call  # a finished job's pictures must not wait here for the next one

    def submit(self, call: Callable[[], T]) -> "Future[T]":
        """Queue `call`.

        Raises:
            GpuFault: an earlier call never came back.
        """
        if self.stuck:
            raise GpuFault
        future: Future[T] = Future()
        self._calls.put((future, call))
        return future

    async def finish(self, future: "Future[T]", grace: float) -> T:
        """Wait at most `grace` seconds for a call that was asked to stop.

        Raises:
            GpuFault: it did not come back; the thread is `stuck` from now on.
        """
        answer = asyncio.wrap_future(future)
        # What comes after the grace is nobody's any more: without this asyncio would log it, with its traceback.
        answer.add_done_callback(lambda late: late.cancelled() or late.exception())
        done, _ = await asyncio.wait({answer}, timeout=grace)
        if not done:
            self.stuck = True
            self._turn_away()
            raise GpuFault("the generation did not answer any more; the worker is being replaced")
        return done.pop().result()

    def _turn_away(self) -> None:
        """Whoever stands in line behind a call that never ends is told now, not at the end of their patience."""
        with contextlib.suppress(queue.Empty):
            while True:
                future, _ = self._calls.get_nowait()
                if future.set_running_or_notify_cancel():
                    future.set_exception(GpuFault())


def _settle(future: "Future[T]", call: Callable[[], T]) -> None:
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - handed to whoever awaits the future, nothing is swallowed
        if not isinstance(error, Exception):
            # A model that calls exit() ends its job, not the worker with every other job.
            left = RuntimeError(f"{type(error).__name__} out of a call")
            left.__cause__ = error
            future.set_exception(left)
        else:
            future.set_exception(error)
    else:
        future.set_result(result)
