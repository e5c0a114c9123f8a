"""Progress: the newest one, at most once an interval, and nothing after the end."""

import asyncio
import io
import sys
import time
from typing import Any

import pytest

from tests.support.clock import SOON_SECONDS, until
from worker.core.types import Progress
from worker.job.progress import TerminalBar, Throttle, Unattended, terminal_bar


class Sink:
    """Keeps what it receives and when; takes its time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.seen: list[int] = []
        self.at: list[float] = []
        self.running = self.most_running = 0

    async def __call__(self, progress: Progress) -> None:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.at.append(time.monotonic())
        await asyncio.sleep(self.seconds)
        self.seen.append(progress.step)
        self.running -= 1


def step(number: int) -> Progress:
    return Progress("generating", number, 100)


async def test_the_first_progress_goes_out_at_once() -> None:
    sink = Sink()
    throttle = Throttle(sink, interval=60)
    throttle(step(1))
    await asyncio.sleep(0.02)
    assert sink.seen == [1]
    await asyncio.wait_for(throttle.close(), SOON_SECONDS)


async def test_at_most_one_goes_out_an_interval_and_the_newest_wins() -> None:
    sink = Sink()
    throttle = Throttle(sink, interval=0.1)
    for number in range(1, 36):
        throttle(step(number))
        await asyncio.sleep(0.01)
    await throttle.close()
    gaps = [later - earlier for earlier, later in zip(sink.at, sink.at[1:], strict=False)]
    assert len(sink.seen) >= 3
    assert all(gap >= 0.09 for gap in gaps)
    assert sink.seen == sorted(set(sink.seen))


async def test_a_slow_sink_is_called_once_at_a_time() -> None:
    sink = Sink(seconds=0.1)
    throttle = Throttle(sink, interval=0.01)
    for number in range(20):
        throttle(step(number))
        await asyncio.sleep(0.01)
    await throttle.close()
    assert sink.most_running == 1


async def test_the_last_one_is_not_lost_while_the_job_lives() -> None:
    sink = Sink()
    throttle = Throttle(sink, interval=0.05)
    throttle(step(1))
    await asyncio.to_thread(until, lambda: sink.seen)
    throttle(step(2))
    await asyncio.to_thread(until, lambda: len(sink.seen) == 2)
    assert sink.seen == [1, 2]
    await throttle.close()


async def test_a_sink_that_fails_costs_progress_and_not_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """The caller that closes it holds a finished result."""

    async def fails(_progress: Progress) -> None:
        raise RuntimeError("a quote of the client")

    throttle = Throttle(fails, interval=0.01)
    throttle(step(1))
    await asyncio.sleep(0.05)
    throttle(step(2))
    await throttle.close()
    (line,) = caplog.records
    assert "RuntimeError in " in line.message
    assert "quote" not in line.message


async def test_closing_waits_for_a_call_under_way_and_nothing_comes_after_it() -> None:
    sink = Sink(seconds=0.15)
    throttle = Throttle(sink, interval=0.01)
    throttle(step(1))
    await asyncio.sleep(0.02)
    throttle(step(2))
    await throttle.close()
    assert (sink.seen, sink.running) == ([1], 0)
    throttle(step(3))
    await asyncio.sleep(0.05)
    assert sink.seen == [1]


async def test_closing_does_not_wait_for_an_interval() -> None:
    throttle = Throttle(Sink(), interval=60)
    throttle(step(1))
    await asyncio.sleep(0.01)
    await asyncio.wait_for(throttle.close(), SOON_SECONDS)
    await asyncio.wait_for(throttle.close(), SOON_SECONDS)


class Terminal(io.StringIO):
    """A stream that a person watches."""

    def isatty(self) -> bool:
        return True


def test_a_bar_is_drawn_only_where_a_person_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert terminal_bar("job") is None
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert isinstance(terminal_bar("job"), TerminalBar)


def test_the_bar_shows_stage_and_step_on_stderr_and_leaves_stdout_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    bar = TerminalBar("job-1")
    events: list[Progress] = [Progress("loading", 1, 2), step(50), step(100), Progress("uploading", 1, 1)]
    for progress in events:
        bar(progress)
    bar.close()
    bar.close()
    shown = screen.getvalue()
    for words in ("job-1: loading", "job-1: generating", "100/100", "job-1: uploading"):
        assert words in shown
    assert capsys.readouterr().out == ""


def test_work_without_a_job_goes_on_and_logs_its_warnings(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []
    control = Unattended(seen.append)
    control.raise_if_stopped()
    control.report(step(1))
    control.warn("slow")
    assert seen == [step(1)]
    assert caplog.messages == ["slow"]
    Unattended().report(step(1))
