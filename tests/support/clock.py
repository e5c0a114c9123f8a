"""Time, measured on a machine that may be busy with something else."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Response = TypeVar("Response")
CHANCES = 5
SOON_SECONDS = 8.0
"""Far more than whoever gives up at a deadline of about a second needs, far less than what it would wait for."""
FIREBASE_DOWN_SECONDS = 30.0
"""The budgets of `core.timing` stay below 15 s; Google's own clients would go on for a minute and more."""
STALL_SECONDS = 0.2
"""An event loop that turns every 10 ms and is late by this much stood still."""


def took(work: Callable[[], object]) -> float:
    """How many seconds it took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def computed(work: Callable[[], object]) -> float:
    """How many seconds this thread computed for it: who else is on the machine counts for nothing."""
    started = time.thread_time()
    work()
    return time.thread_time() - started


def until(found: Callable[[], Any], seconds: float = 60.0, what: str = "condition") -> Any:
    """What is found, once there is something."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"no {what} within {seconds:g} s"
        time.sleep(0.02)
    return value


async def while_the_loop_turns(job: Awaitable[Response]) -> tuple[Response, float]:
    """What the job gives, and the share of its time in which the event loop stood still.

    A job that waits inside the loop stands still for nearly all of it; a busy machine holds it up now and then.
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
    """Whether it can be done in less than `bound` seconds: whoever is too slow by design misses every chance."""
    return any(took(work) < bound for _ in range(CHANCES))


class Busy(ThreadPoolExecutor):
    """One thread that has something else to do before each call; `begun` is when the call that runs began."""

    def __init__(self) -> None:
        super().__init__(1)
        self.begun = 0.0

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        def late() -> Any:
            time.sleep(0.02)
            self.begun = time.monotonic()
            return call(*args, **kwargs)

        return super().submit(late)
