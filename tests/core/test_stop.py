"""The stop signal: the first reason counts, and every raise creates a new exception."""

import asyncio
import gc
from typing import Any

import pytest

from tests.support.clock import SOON_SECONDS
from worker.core.errors import Cancelled, JobTimeout
from worker.core.stop import StopSignal


async def test_without_a_reason_the_job_goes_on() -> None:
    stop = StopSignal()
    stop.raise_if_stopped()
    assert await stop.guard(asyncio.sleep(0, "done")) == "done"


async def test_the_first_reason_wins() -> None:
    stop = StopSignal()
    stop.request(JobTimeout("timeout.limit", seconds=5))
    stop.request(Cancelled())
    with pytest.raises(JobTimeout, match="timeout: the job took longer than 5 s"):
        stop.raise_if_stopped()
    assert (await stop.wait()).code == "timeout"


@pytest.mark.parametrize("reason", [JobTimeout("timeout.limit", seconds=5, retryable=False), Cancelled()])
async def test_every_raise_is_a_new_exception_that_says_the_same(reason: JobTimeout | Cancelled) -> None:
    stop = StopSignal()
    stop.request(reason)
    raised: list[Any] = []
    for _ in range(2):
        with pytest.raises(type(reason)) as caught:
            stop.raise_if_stopped()
        raised.append(caught.value)
    assert raised[0] is not raised[1]
    assert {(error.message, error.retryable) for error in raised} == {(reason.message, reason.retryable)}


async def test_guarded_work_is_given_up_at_once() -> None:
    stop = StopSignal()
    asyncio.get_running_loop().call_later(0.05, stop.request, Cancelled())
    with pytest.raises(Cancelled):
        await asyncio.wait_for(stop.guard(asyncio.sleep(60)), SOON_SECONDS)


async def test_work_that_fails_as_its_wait_is_cancelled_is_not_logged_as_unheard(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails() -> None:
        raise JobTimeout

    guarding = asyncio.create_task(StopSignal().guard(fails()))
    for _ in range(2):
        await asyncio.sleep(0)
    guarding.cancel()
    await asyncio.wait([guarding])
    del guarding
    gc.collect()
    assert not caplog.messages


async def test_a_reason_may_come_from_any_thread() -> None:
    stop = StopSignal()
    await asyncio.to_thread(stop.request, Cancelled())
    assert (await asyncio.wait_for(stop.wait(), SOON_SECONDS)).code == "cancelled"
