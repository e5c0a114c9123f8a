"""A job's time limit: it ends when its seconds are used up, and pauses while the job waits for shared resources."""

import asyncio
import contextlib
import threading

import pytest

from tests.support.clock import SOON_SECONDS, LoopAhead
from worker.job.limit import TimeLimit


def begun(seconds: float) -> tuple[TimeLimit, asyncio.Event]:
    over = asyncio.Event()
    return TimeLimit(seconds, over.set), over


async def within(seconds: float, event: asyncio.Event) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


async def test_it_ends_after_its_seconds() -> None:
    _, over = begun(0.05)
    assert await within(SOON_SECONDS, over)


async def test_it_does_not_end_once_it_is_called_off() -> None:
    limit, over = begun(0.05)
    limit.cancel()
    with limit.paused():
        pass
    assert not await within(0.2, over)


async def test_a_pause_is_not_counted_and_what_is_left_is(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = LoopAhead(monkeypatch)
    limit, over = begun(1000)
    ahead.seconds += 400
    with limit.paused():
        ahead.seconds += 2000
        assert not await within(0.05, over)
    ahead.seconds += 400
    assert not await within(0.05, over)
    ahead.seconds += 300
    assert await within(SOON_SECONDS, over)


async def test_of_several_pauses_the_last_to_end_counts() -> None:
    limit, over = begun(0.1)
    with limit.paused():
        with limit.paused():
            pass
        with limit.paused():
            assert not await within(0.3, over)
        assert not await within(0.3, over)
    assert await within(SOON_SECONDS, over)


async def test_another_thread_may_pause_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = LoopAhead(monkeypatch)
    limit, over = begun(1000)
    paused, release = threading.Event(), threading.Event()

    def download() -> None:
        with contextlib.suppress(ValueError), limit.paused():
            paused.set()
            release.wait(10)
            raise ValueError

    thread = threading.Thread(target=download)
    thread.start()
    assert await asyncio.to_thread(paused.wait, 10)
    ahead.seconds += 2000
    assert not await within(0.05, over)
    release.set()
    await asyncio.to_thread(thread.join)
    assert not await within(0.05, over)
    ahead.seconds += 1000
    assert await within(SOON_SECONDS, over)
