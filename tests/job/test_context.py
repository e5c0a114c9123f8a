"""What a job carries: progress that never goes backwards, warnings said once, stages measured however they end."""

import asyncio

import pytest

from worker.api.request import envelope
from worker.core.stop import StopSignal
from worker.core.types import Progress
from worker.job.context import Job, JobContext


def made(seen: list[Progress]) -> JobContext:
    return JobContext(Job("job-1", {}), envelope({}), StopSignal(), seen.append, lease=None)


async def test_progress_never_goes_backwards_and_ends_with_the_job() -> None:
    seen: list[Progress] = []
    context = made(seen)
    forward, late = Progress("generating", 5, 10), Progress("uploading", 1, 1)
    for moment in (forward, Progress("loading"), Progress("generating", 4, 10)):
        context.report(moment)
    await asyncio.sleep(0)
    context.ended = True
    context.report(late)
    await asyncio.sleep(0)
    assert seen == [forward]


async def test_a_warning_is_said_once() -> None:
    context = made([])
    for _ in range(2):
        context.warn("the same")
    assert context.warnings == ["the same"]


async def test_a_stage_that_fails_is_measured_too() -> None:
    context = made([])
    with pytest.raises(ValueError, match="x"), context.timed("claim"):
        raise ValueError("x")
    assert context.timings["claim"] >= 0
