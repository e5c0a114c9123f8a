"""A job's context: progress never goes backwards, warnings are given once, stages are timed however they end."""

import asyncio

import pytest

from tests.support.clock import SOON_SECONDS, until
from worker.api.request import envelope
from worker.core import timing
from worker.core.stop import StopSignal
from worker.core.types import Progress
from worker.engine.estimate import Estimate, Unit
from worker.job.context import Job, JobContext
from worker.job.course import Course
from worker.job.limit import TimeLimit


def made(seen: list[Progress]) -> JobContext:
    """Return the context of an admitted job."""
    context = JobContext(Job("job-1", {}), envelope({}), StopSignal(), seen.append, lease=None)
    context.decide(admitted=True)
    return context


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
    assert [(progress.stage, progress.step) for progress in seen] == [("generating", 5)]


async def test_a_report_behind_what_the_clock_has_shown_keeps_the_percent_and_tells_its_step() -> None:
    seen: list[Progress] = []
    context, now = made(seen), 0.0
    context.course = Course(Estimate((Unit("load", 0), Unit("step", 10), Unit("step", 10)), "card"), lambda: now)
    context.report(Progress("generating", 0, 2, "text"))
    await asyncio.sleep(0)
    now = 9.0
    context._tell(context.course.between())
    context.report(Progress("generating", 0, 2, "encode"))
    context.report(Progress("generating", 1, 2))
    await asyncio.sleep(0)
    percents = [progress.percent for progress in seen]
    assert percents == sorted(percents)
    assert percents[1] > 20
    assert seen[-1].step == 1


async def test_it_goes_on_between_reports_until_the_job_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "PROGRESS_SECONDS", 0.01)
    seen: list[Progress] = []
    context = made(seen)
    context.course = Course(Estimate((Unit("load", 0), Unit("step", 1), Unit("pack", 0), Unit("upload", 0)), "card"))
    context.report(Progress("generating", 0, 1, "text"))
    moving = asyncio.create_task(context.keep_moving())
    await asyncio.to_thread(until, lambda: len({progress.percent for progress in seen}) > 2)
    context.ended = True
    count = len(seen)
    await asyncio.wait_for(moving, SOON_SECONDS)
    assert len(seen) == count


async def test_what_is_untimed_is_the_limits_to_leave_out() -> None:
    context, over = made([]), asyncio.Event()
    with context.untimed():
        pass
    context.limit = TimeLimit(0.05, over.set)
    with context.untimed():
        await asyncio.sleep(0.15)
        assert not over.is_set()
    await asyncio.wait_for(over.wait(), SOON_SECONDS)


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
