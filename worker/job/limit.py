"""A job's time limit, paused while the job waits for something that all jobs share.

Knows seconds; does not know what is stopped when they run out.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator


class TimeLimit:
    """Calls `expire` after `seconds`, in the event loop it was created in. Time inside `paused` does not count."""

    def __init__(self, seconds: float, expire: Callable[[], None]) -> None:
        self._loop, self._lock = asyncio.get_running_loop(), threading.Lock()
        self._expire = expire
        self._left, self._since, self._pauses = seconds, self._loop.time(), 0
        self._timer = self._loop.call_later(seconds, self._look)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock for the body. Usable in any thread, and in several at once."""
        with self._lock:
            if self._pauses == 0:
                self._left -= self._loop.time() - self._since
            self._pauses += 1
        try:
            yield
        finally:
            with self._lock:
                self._pauses -= 1
                self._since = self._loop.time()
            # A closed loop enforces no limit.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._look)

    def cancel(self) -> None:
        """Never expire."""
        self._pauses += 1
        self._timer.cancel()

    def _look(self) -> None:
        with self._lock:
            if self._pauses:
                return
            left = self._left - (self._loop.time() - self._since)
        self._timer.cancel()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._expire()
