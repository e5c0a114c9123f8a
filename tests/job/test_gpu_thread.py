"""The GPU thread: one call at a time, in order; the waiter gets its errors; a hung call is given up."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.clock import SOON_SECONDS, until
from worker.core.errors import Cancelled, GpuFault, OutOfMemory
from worker.job.gpu_queue import GpuThread


@pytest.fixture
def release() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


async def test_calls_run_one_at_a_time_in_the_order_in_which_they_came() -> None:
    gpu = GpuThread()
    order: list[int] = []
    running = [0]

    def call(number: int) -> Callable[[], int]:
        def work() -> int:
            running[0] += 1
            assert running[0] == 1
            time.sleep(0.005)
            order.append(number)
            running[0] -= 1
            return number

        return work

    results = await asyncio.gather(*(asyncio.wrap_future(gpu.submit(call(number))) for number in range(10)))
    assert order == results == list(range(10))


async def test_it_is_one_thread_of_its_own_that_does_not_keep_the_worker_from_exiting() -> None:
    gpu = GpuThread()
    threads = {await asyncio.wrap_future(gpu.submit(threading.current_thread)) for _ in range(3)}
    (thread,) = threads
    assert thread is not threading.current_thread()
    assert (thread.name, thread.daemon) == ("gpu", True)


@pytest.mark.parametrize("error", [OutOfMemory(), Cancelled(), ValueError("x")])
async def test_whatever_a_call_raises_crosses_over_and_the_thread_lives_on(error: Exception) -> None:
    gpu = GpuThread()

    def fail() -> None:
        raise error

    future = gpu.submit(fail)
    while not future.done():
        await asyncio.sleep(0.001)
    assert future.exception() is error
    assert await asyncio.wrap_future(gpu.submit(lambda: "next")) == "next"


async def test_a_call_that_was_cancelled_before_its_turn_never_runs(release: threading.Event) -> None:
    gpu = GpuThread()
    ran: list[str] = []
    first = gpu.submit(lambda: release.wait(10))
    second = gpu.submit(lambda: ran.append("second"))
    third = gpu.submit(lambda: ran.append("third"))
    assert second.cancel()
    release.set()
    await asyncio.wrap_future(third)
    assert ran == ["third"]
    assert first.result() is True


async def test_a_call_under_way_cannot_be_cancelled(release: threading.Event) -> None:
    gpu = GpuThread()
    started = threading.Event()

    def work() -> str:
        started.set()
        release.wait(10)
        return "done"

    future = gpu.submit(work)
    assert await asyncio.to_thread(started.wait, 10)
    assert future.cancel() is False
    release.set()
    assert await gpu.finish(future, 10) is None
    assert future.result() == "done"


async def test_finish_gives_the_calls_own_error() -> None:
    gpu = GpuThread()

    def fail() -> None:
        raise Cancelled

    assert isinstance(await gpu.finish(gpu.submit(fail), 10), Cancelled)
    assert gpu.stuck is False


async def test_a_call_that_does_not_come_back_makes_the_thread_stuck(release: threading.Event) -> None:
    gpu = GpuThread()
    future = gpu.submit(lambda: release.wait(10))
    started = time.monotonic()
    with pytest.raises(GpuFault, match="being replaced"):
        await gpu.finish(future, 0.1)
    assert time.monotonic() - started < SOON_SECONDS
    assert gpu.stuck
    with pytest.raises(GpuFault):
        gpu.submit(lambda: None)


async def test_what_a_stuck_call_raises_at_last_is_nobodys(
    release: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    gpu = GpuThread()

    def hang() -> None:
        release.wait(10)
        raise ValueError("long after")

    call = gpu.submit(hang)
    with pytest.raises(GpuFault):
        await gpu.finish(call, 0.05)
    release.set()
    with pytest.raises(ValueError, match="long after"):
        await asyncio.to_thread(call.result, 10)
    await asyncio.sleep(0.05)
    gc.collect()
    assert "long after" not in caplog.text


async def test_who_stands_in_line_behind_a_stuck_call_is_told_at_once(release: threading.Event) -> None:
    gpu = GpuThread()
    ran: list[str] = []
    hung = gpu.submit(lambda: release.wait(10))
    behind = [gpu.submit(lambda: ran.append("ran")) for _ in range(2)]
    behind[0].cancel()
    with pytest.raises(GpuFault):
        await gpu.finish(hung, 0.05)
    with pytest.raises(GpuFault):
        await asyncio.wait_for(asyncio.wrap_future(behind[1]), SOON_SECONDS)
    release.set()
    await asyncio.sleep(0.05)
    assert ran == []


async def test_a_finished_calls_result_is_not_held_for_the_next_one() -> None:
    class Pictures:
        """A large object."""

    gpu = GpuThread()
    result = await asyncio.wrap_future(gpu.submit(Pictures))
    gone = weakref.ref(result)
    del result
    await asyncio.to_thread(until, lambda: gone() is None)  # its thread lets go of it after its waiter was told


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
async def test_a_call_that_exits_ends_itself_and_not_the_worker(error: BaseException) -> None:
    gpu = GpuThread()

    def leave() -> None:
        raise error

    with pytest.raises(RuntimeError, match=type(error).__name__):
        await asyncio.wrap_future(gpu.submit(leave))
    assert await asyncio.wrap_future(gpu.submit(lambda: "next")) == "next"


async def test_a_call_that_still_moves_is_waited_for(release: threading.Event) -> None:
    gpu, moved = GpuThread(), time.monotonic

    def work() -> str:
        release.wait(0.8)
        return "done"

    call = gpu.submit(work)
    assert await gpu.finish(call, 0.2, moved) is None
    assert call.result() == "done"
    assert not gpu.stuck


def idle(times: int, done: threading.Event) -> tuple[Callable[[], bool], list[float]]:
    """Return idle work of so many pieces, and the times when each was done."""
    at: list[float] = []

    def piece() -> bool:
        if len(at) == times:
            done.set()
            return False
        at.append(time.monotonic())
        return True

    return piece, at


async def test_what_nobody_waits_for_is_done_to_its_end_once_a_call_has_ended() -> None:
    done = threading.Event()
    piece, at = idle(3, done)
    gpu = GpuThread(piece, quiet=0.01)
    assert not done.wait(0.1), "nothing has been there that could have left something to do"
    await asyncio.wrap_future(gpu.submit(lambda: None))
    assert await asyncio.to_thread(done.wait, 10)
    assert len(at) == 3


async def test_a_call_comes_before_the_next_piece(release: threading.Event) -> None:
    begun, order = threading.Event(), list[str]()

    def piece() -> bool:
        order.append("piece")
        begun.set()
        release.wait(10)
        return len(order) < 4

    gpu = GpuThread(piece, quiet=0.01)
    await asyncio.wrap_future(gpu.submit(lambda: None))
    assert await asyncio.to_thread(begun.wait, 10)
    call = gpu.submit(lambda: order.append("call"))
    release.set()
    await asyncio.wrap_future(call)
    assert order[:2] == ["piece", "call"]


async def test_as_long_as_a_job_is_there_nothing_else_is_done() -> None:
    class Job:
        """A job during its downloads."""

    done = threading.Event()
    piece, at = idle(1, done)
    gpu, job = GpuThread(piece, quiet=0.01), Job()
    jobs: weakref.WeakSet[Any] = gpu.jobs
    jobs.add(job)
    await asyncio.wrap_future(gpu.submit(lambda: None))
    assert not await asyncio.to_thread(done.wait, 0.2)
    assert not at
    jobs.discard(job)
    assert await asyncio.to_thread(done.wait, 10)


async def test_idle_work_that_breaks_costs_no_call_anything_and_is_left_alone() -> None:
    tried = threading.Event()
    times: list[int] = []

    def broken() -> bool:
        times.append(1)
        tried.set()
        raise ValueError("x")

    gpu = GpuThread(broken, quiet=0.01)
    await asyncio.wrap_future(gpu.submit(lambda: None))
    assert await asyncio.to_thread(tried.wait, 10)
    tried.clear()
    await asyncio.wrap_future(gpu.submit(lambda: None))
    assert not await asyncio.to_thread(tried.wait, 0.2)
    assert await asyncio.wrap_future(gpu.submit(lambda: 7)) == 7
    assert len(times) == 1
