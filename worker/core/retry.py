"""Retries calls to services behind the worker until a deadline. Knows `BackendError`; knows no service."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from worker.core.errors import BackendError

FIRST_PAUSE_SECONDS = 0.2
SHORTEST_CALL_SECONDS = 0.1

T = TypeVar("T")


def seconds_left(deadline: float, at_most: float) -> float:
    """Return the time limit of a call, in seconds; `deadline` is on `time.monotonic`."""
    return min(at_most, max(SHORTEST_CALL_SECONDS, deadline - time.monotonic()))


def pause_or_raise(error: BackendError, deadline: float, pause: float = FIRST_PAUSE_SECONDS) -> None:
    """Return after `pause` seconds if another attempt may succeed in time, else raise `error`."""
    if error.kind != "unreachable" or time.monotonic() + pause >= deadline:
        raise error
    time.sleep(pause)


def raise_if_over(deadline: float, service: str) -> None:
    """Return if there is time for another attempt after a conflicting change.

    Raises:
        BackendError: the deadline is over; constant changes by others must not block the caller for ever.
    """
    if time.monotonic() >= deadline:
        raise BackendError(service, "unreachable")


def until(deadline: float, call: Callable[[], T], *, longest_pause: float = FIRST_PAUSE_SECONDS) -> T:
    """Call `call`, retrying transient errors; pauses double up to `longest_pause`.

    Raises:
        BackendError: the call was refused, or did not succeed by `deadline` (`time.monotonic`).
    """
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return call()
        except BackendError as error:
            pause_or_raise(error, deadline, pause)
        pause = min(2 * pause, longest_pause)


async def in_thread(seconds: float, call: Callable[[float], T]) -> T:
    """Run `call` in a thread, with a deadline `seconds` after it begins there.

    Encoding may occupy all threads for a while, and that wait must not count against the service.
    """
    return await asyncio.to_thread(lambda: call(time.monotonic() + seconds))
