"""Progress of one job: each sink receives the newest `Progress`, at most once a second.

Knows sinks, not what a sink does. Progress may be lost; the end of a job never travels this way.
"""

import asyncio
import contextlib
import logging
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

from worker.core import timing
from worker.core.logs import where
from worker.core.types import Preview, Progress

log = logging.getLogger(__name__)

AsyncSink = Callable[[Progress], Awaitable[None]]


class Throttle:
    """Feeds one asynchronous sink with the newest progress, one call at a time, at most once per interval.

    `close` waits for the current call, and nothing is sent afterwards: RunPod would take a late post as the newest
    state of the job. A sink that raises is not called again; the job goes on.
    """

    def __init__(self, sink: AsyncSink, interval: float = timing.PROGRESS_SECONDS) -> None:
        self._sink, self._interval = sink, interval
        self._newest: Progress | None = None
        self._wake = asyncio.Event()
        self._closed = asyncio.Event()
        self._task = asyncio.create_task(self._pump())
        self._task.add_done_callback(_tell_mistake)

    def __call__(self, progress: Progress) -> None:
        """Note the newest progress; called in the event loop."""
        self._newest = progress
        self._wake.set()

    async def _pump(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._closed.is_set():
                return
            progress, self._newest = self._newest, None
            if progress is not None:
                await self._sink(progress)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), self._interval)

    async def close(self) -> None:
        """Send nothing more. Returns once no call is running."""
        self._closed.set()
        self._wake.set()
        try:
            await asyncio.wait({self._task})
        finally:
            self._task.cancel()


def _tell_mistake(pumping: "asyncio.Task[None]") -> None:
    error = None if pumping.cancelled() else pumping.exception()
    if error is not None:
        log.error("progress is no longer sent: %s", where(error), extra={"action": "progress_lost"})


class Unattended:
    """A `Control` for work that belongs to no job: nothing stops it, and `watch` receives its progress."""

    def __init__(self, watch: Callable[[Progress], None] = lambda _: None) -> None:
        self.report = watch

    def raise_if_stopped(self) -> None:
        """Never raises."""

    def untimed(self) -> AbstractContextManager[None]:
        """No effect: this work has no time limit."""
        return contextlib.nullcontext()

    def warn(self, warning: str) -> None:
        """Log the warning: no response carries it."""
        log.warning("%s", warning, extra={"action": "loading"})

    def viewer(self) -> Callable[[Preview], None] | None:
        """None: no one watches."""
        return None


def terminal_bar(title: str) -> "TerminalBar | None":
    """A progress bar if stderr is a terminal, else None."""
    return TerminalBar(title) if sys.stderr.isatty() else None


class TerminalBar:
    """A progress bar on stderr: one line each for loading, denoising steps and uploading."""

    def __init__(self, title: str) -> None:
        self._title, self._stage = title, ""
        self._bar: Any = None
        self._lock = threading.Lock()

    def __call__(self, progress: Progress) -> None:
        """Draw the newest progress."""
        from tqdm import tqdm  # imported only on a terminal

        with self._lock:
            if progress.stage != self._stage:
                self._end()
                self._stage = progress.stage
                self._bar = tqdm(
                    total=progress.total_steps or 1, desc=f"{self._title}: {progress.stage}", file=sys.stderr
                )
            if progress.total_steps:
                self._bar.total = progress.total_steps
            self._bar.n = progress.step
            self._bar.refresh()

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def close(self) -> None:
        """End the current line."""
        with self._lock:
            self._end()
