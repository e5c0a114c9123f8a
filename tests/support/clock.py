"""Time measurements that hold on a busy machine."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

Response = TypeVar("Response")
CHANCES = 5
SOON_SECONDS = 8.0
"""Far more than a call with a deadline of about a second takes, far less than what it would otherwise wait for."""
FIREBASE_DOWN_SECONDS = 30.0
"""The budgets of `core.timing` stay below 15 s; Google's own clients would retry for a minute and more."""
STALL_SECONDS = 0.2
"""An event loop that turns every 10 ms is considered blocked when it is this late."""


def took(work: Callable[[], object]) -> float:
    """Return the seconds that the work took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def computed(work: Callable[[], object]) -> float:
    """Return this thread's CPU seconds for the work, which other load on the machine does not change."""
    started = time.thread_time()
    work()
    return time.thread_time() - started


def until(found: Callable[[], Any], seconds: float = 60.0, what: str = "condition") -> Any:
    """Poll until `found` returns something true, and return it."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"no {what} within {seconds:g} s"
        time.sleep(0.02)
    return value


async def while_the_loop_turns(job: Awaitable[Response]) -> tuple[Response, float]:
    """Return the job's response, and the share of its time in which the event loop was blocked.

    A job that waits inside the loop blocks it for nearly all of that time; a busy machine only now and then.
    """
    running = asyncio.ensure_future(job)
    began = last = time.monotonic()
    still = 0.0
    while not running.done():
        await asyncio.sleep(0.01)
        now = time.monotonic()
        still, last = still + (now - last if now - last > STALL_SECONDS else 0.0), now
    return running.result(), still / (last - began)


def is_within(bound: float, work: Callable[[], object]) -> bool:
    """Whether one of several tries takes less than `bound` seconds; work that is slow by design misses every one."""
    return any(took(work) < bound for _ in range(CHANCES))


class LoopAhead:
    """The running event loop's clock, moved forward by adding to `seconds`, from any thread.

    A loop that sleeps notices that when something wakes it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        now, self.seconds = loop.time, 0.0
        monkeypatch.setattr(loop, "time", lambda: now() + self.seconds)


class Busy(ThreadPoolExecutor):
    """One thread that has other work to do before each call; `begun` is when the current call began."""

    def __init__(self) -> None:
        super().__init__(1)
        self.begun = 0.0

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        def late() -> Any:
            time.sleep(0.02)
            self.begun = time.monotonic()
            return call(*args, **kwargs)

        return super().submit(late)
