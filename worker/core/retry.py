"""A call to a service behind the worker, tried again until a deadline. Knows `BackendError`; knows no service."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from worker.core.errors import BackendError

FIRST_PAUSE_SECONDS = 0.2
SHORTEST_CALL_SECONDS = 0.1

T = TypeVar("T")


def seconds_left(deadline: float, at_most: float) -> float:
    """How long a call may take, in seconds; `deadline` is on `time.monotonic`."""
    return min(at_most, max(SHORTEST_CALL_SECONDS, deadline - time.monotonic()))


def pause_or_raise(error: BackendError, deadline: float, pause: float = FIRST_PAUSE_SECONDS) -> None:
    """Return after `pause` seconds when another try may succeed and there is time for it, else raise `error`."""
    if error.kind != "unreachable" or time.monotonic() + pause >= deadline:
        raise error
    time.sleep(pause)


def raise_if_over(deadline: float, service: str) -> None:
    """Return while there is time for another try of what somebody else's changes were in the way of.

    Raises:
        BackendError: there is none: who changes a thing all the time must not hold whoever waits to change it.
    """
    if time.monotonic() >= deadline:
        raise BackendError(service, "unreachable")


def until(deadline: float, call: Callable[[], T], *, longest_pause: float = FIRST_PAUSE_SECONDS) -> T:
    """What `call` returns, tried again while it fails with what may pass; pauses double up to `longest_pause`.

    Raises:
        BackendError: it was refused, or there was no answer by `deadline` (on `time.monotonic`).
    """
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return call()
        except BackendError as error:
            pause_or_raise(error, deadline, pause)
        pause = min(2 * pause, longest_pause)


async def in_thread(seconds: float, call: Callable[[float], T]) -> T:
    """What `call` returns, in a thread; its deadline is `seconds` after it begins, which may be long after now.

    Where files are encoded all threads may be busy: that time is none in which a service has not answered.
    """
    return await asyncio.to_thread(lambda: call(time.monotonic() + seconds))
