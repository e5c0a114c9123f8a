"""A slot on the GPU: weights load at once, unadmitted jobs generate nothing, and the next job finds a free card."""

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any

import pytest

from tests.support.clock import LoopAhead, until
from tests.support.fakes import PATIENCE, Hangs, PaintingGenerator, Slow
from worker.api.params import Params
from worker.api.request import Request, envelope, parse
from worker.api.resolve import resolve
from worker.core import timing
from worker.core.errors import Cancelled, GpuFault, JobError, JobTimeout, Superseded
from worker.core.stop import StopSignal
from worker.core.types import Control, Progress, Sources, TaskType
from worker.engine.protocol import Generated, Placement
from worker.job.context import Job, JobContext
from worker.job.gpu_queue import GpuSlot, GpuThread
from worker.job.limit import TimeLimit


class Loads(PaintingGenerator):
    """Loads until released."""

    def __init__(self) -> None:
        super().__init__()
        self.loading, self.loaded = threading.Event(), threading.Event()

    def prepare(self, request: Request, params: Params, control: Control) -> Placement:
        self.loading.set()
        self.loaded.wait(10)
        return super().prepare(request, params, control)


class Player:
    """One job on a GPU thread; `wanted` is called before it uses the card."""

    def __init__(self, generator: PaintingGenerator, gpu: GpuThread | None = None) -> None:
        self.generator, self.gpu = generator, gpu or GpuThread()
        self.stop = StopSignal()
        self.taken: list[Generated] = []
        self.wanted: Callable[[], None] = lambda: None
        request = parse({"prompt": "a fox", "seed": 7})
        params = resolve(request, generator.describe(TaskType.TEXT2IMG), max_image_pixels=10**7, max_job_cost=10**12)
        lease: Any = self
        self.context = JobContext(Job("job", {}), envelope({}), self.stop, lambda _: None, lease)
        self.timings = self.context.timings
        self.turn = GpuSlot(
            self.gpu, generator, request=request, params=params, context=self.context, take=self.taken.append
        )

    async def confirm(self) -> None:
        self.wanted()

    def note(self, progress: Progress) -> None:
        """Stand in for a lease."""


def taking(seconds: float) -> PaintingGenerator:
    """Return a painter whose job takes so long, in steps of equal length."""
    generator = PaintingGenerator()
    generator.step_seconds = seconds / generator.describe(TaskType.TEXT2IMG).num_inference_steps
    return generator


async def test_the_weights_load_at_once_and_nothing_is_generated_before_the_door_opens() -> None:
    player = Player(Loads())
    generator: Any = player.generator
    assert await asyncio.to_thread(generator.loading.wait, 5)
    generator.loaded.set()
    await asyncio.sleep(0.1)
    assert generator.steps_done == 0
    await player.turn.run(Sources())
    assert len(player.taken) == generator.generated == 1
    assert set(player.timings) == {"wait", "load", "generate"}


class BeginsAtOnce(GpuThread):
    """An idle GPU that is quicker than the event loop: a call has ended when `submit` returns."""

    def submit(self, call: Callable[[], Any], *, ahead: bool = False) -> "Future[Any]":
        future = super().submit(call, ahead=ahead)
        wait([future], 5)
        return future


async def test_a_gpu_that_begins_at_once_finds_a_place_that_is_whole() -> None:
    player = Player(PaintingGenerator(), BeginsAtOnce())
    loading: Any = player.turn._loading
    assert loading.exception() is None


@pytest.mark.parametrize("reason", [Superseded(), Cancelled()])
async def test_who_is_not_wanted_any_more_when_the_card_is_free_is_stopped_at_a_step(
    reason: JobError | Cancelled,
) -> None:
    generator = PaintingGenerator()
    generator.lingers = True
    player = Player(generator)
    player.wanted = lambda: player.stop.request(reason)
    with pytest.raises(type(reason)):
        await player.turn.run(Sources())
    assert (generator.steps_done, generator.generated, player.taken) == (generator.stepped.is_set(), 0, [])


async def test_a_long_step_is_not_begun_before_it_is_known_whether_it_is_wanted() -> None:
    player = Player(PaintingGenerator())
    player.context.longest_step = 2 * timing.UNSURE_STEP_SECONDS
    player.wanted = lambda: player.stop.request(Superseded())
    with pytest.raises(Superseded):
        await player.turn.run(Sources())
    assert player.generator.steps_done == 0


async def test_a_job_that_is_refused_ends_at_a_step_and_what_is_being_loaded_is_still_for_the_next_one() -> None:
    generator = PaintingGenerator()
    generator.lingers = True
    drawn, loading = Player(generator), Player(Loads())
    running = asyncio.create_task(drawn.turn.run(Sources()))
    assert await asyncio.to_thread(generator.stepped.wait, 5)
    drawn.context.decide(admitted=False)
    with pytest.raises(Cancelled):
        await running
    assert (generator.steps_done, generator.running, drawn.gpu.stuck) == (1, 0, False)
    loads: Any = loading.generator
    waiting = asyncio.create_task(loading.turn.run(Sources()))
    assert await asyncio.to_thread(loads.loading.wait, 5)
    loading.context.decide(admitted=False)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(waiting, 5)
    assert not loads.loaded.is_set()
    loads.loaded.set()


async def test_a_turn_that_was_given_up_in_line_loads_nothing() -> None:
    gpu = GpuThread()
    first = Player(hanging := Hangs(), gpu)
    running = asyncio.create_task(first.turn.run(Sources()))
    await asyncio.to_thread(until, lambda: hanging.running)
    second = Player(Loads(), gpu)
    await second.turn.give_up()
    hanging.release.set()
    await running
    await Player(PaintingGenerator(), gpu).turn.run(Sources())
    generator: Any = second.generator
    assert not generator.loading.is_set()


async def test_a_job_that_waits_for_its_picture_does_not_hold_the_gpu_from_one_that_is_ready() -> None:
    gpu = GpuThread()
    waits, ready = Player(PaintingGenerator(), gpu), Player(PaintingGenerator(), gpu)
    await asyncio.wait_for(ready.turn.run(Sources()), 5)
    assert (len(ready.taken), len(waits.taken)) == (1, 0)
    await waits.turn.run(Sources())
    assert len(waits.taken) == 1


async def test_a_job_that_is_ready_generates_before_another_ones_weights_are_loaded() -> None:
    gpu = GpuThread()
    blocked = threading.Event()
    gpu.submit(lambda: blocked.wait(5))
    loads, ready = Player(Loads(), gpu), Player(PaintingGenerator(), gpu)
    running = asyncio.create_task(ready.turn.run(Sources()))
    await asyncio.sleep(0)
    blocked.set()
    await asyncio.wait_for(running, 5)
    generator: Any = loads.generator
    assert set(ready.timings) == {"wait", "load", "generate"}
    generator.loaded.set()
    await loads.turn.run(Sources())


@pytest.mark.parametrize("error", [JobTimeout(), Cancelled()])
async def test_the_seconds_on_the_gpu_are_measured_whatever_becomes_of_the_job(error: JobError | Cancelled) -> None:
    player = Player(Slow(steps=100))
    began = time.monotonic()
    running = asyncio.create_task(player.turn.run(Sources()))
    await asyncio.to_thread(until, lambda: player.generator.steps_done >= 2)
    player.stop.request(error)
    with pytest.raises(type(error)):
        await running
    for seconds in (player.context.gpu_seconds, player.timings["generate"]):
        assert 0.2 <= seconds <= time.monotonic() - began


async def test_what_is_being_loaded_is_for_the_next_job() -> None:
    gpu = GpuThread()
    first = Player(Loads(), gpu)
    generator: Any = first.generator
    await asyncio.to_thread(generator.loading.wait, 5)
    await asyncio.wait_for(first.turn.give_up(), 5)
    generator.loaded.set()
    second = Player(PaintingGenerator(), gpu)
    await second.turn.run(Sources())
    assert (generator.generated, second.generator.generated) == (0, 1)


async def test_the_seconds_of_loading_count_against_the_limit_of_a_job_that_is_ready() -> None:
    player = Player(Loads())
    generator: Any = player.generator
    player.context.limit = TimeLimit(0.2, lambda: player.stop.request(JobTimeout()))
    assert await asyncio.to_thread(generator.loading.wait, 5)
    running = asyncio.create_task(player.turn.run(Sources()))
    assert isinstance(await asyncio.wait_for(player.stop.wait(), PATIENCE), JobTimeout)
    generator.loaded.set()
    with pytest.raises(JobTimeout):
        await running


class Downloads(PaintingGenerator):
    """Waits for a download that never arrives, as `models.fetch` does."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Event()

    def prepare(self, request: Request, params: Params, control: Control) -> Placement:
        with control.untimed():
            while True:
                control.raise_if_stopped()
                self.waits.set()
                time.sleep(0.01)


@pytest.mark.parametrize("end", ["refused", "ended"])
async def test_a_download_that_no_job_wants_any_more_does_not_hold_the_gpu(end: str) -> None:
    gpu = GpuThread()
    unwanted, other = Player(downloads := Downloads(), gpu), Player(PaintingGenerator(), gpu)
    assert await asyncio.to_thread(downloads.waits.wait, PATIENCE)
    if end == "refused":
        unwanted.context.decide(admitted=False)
    else:
        unwanted.context.ended = True
    await unwanted.turn.give_up()
    try:
        await asyncio.wait_for(other.turn.run(Sources()), PATIENCE)
    finally:
        unwanted.stop.request(Cancelled())
    assert len(other.taken) == 1


class Reads(Loads):
    """Asks between two networks whether to go on."""

    def prepare(self, request: Request, params: Params, control: Control) -> Placement:
        placed = super().prepare(request, params, control)
        control.raise_if_stopped()
        return placed


async def test_weights_that_are_read_for_a_refused_job_stay_for_the_next_one() -> None:
    player = Player(Reads())
    generator: Any = player.generator
    assert await asyncio.to_thread(generator.loading.wait, PATIENCE)
    player.context.decide(admitted=False)
    await player.turn.give_up()
    generator.loaded.set()
    await asyncio.to_thread(player.turn._loading.result, PATIENCE)


async def test_who_was_asked_to_stop_waits_until_the_card_is_free() -> None:
    player = Player(Loads())
    generator: Any = player.generator
    await asyncio.to_thread(generator.loading.wait, 5)
    player.stop.request(Cancelled())
    leaving = asyncio.create_task(player.turn.give_up())
    await asyncio.sleep(0.1)
    assert not leaving.done()
    generator.loaded.set()
    await asyncio.wait_for(leaving, 5)


async def test_who_was_asked_to_stop_ends_for_that_whatever_the_model_says_on_its_way_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Otherwise a cancelled job would end as `internal`, which an app retries."""

    class FailsOnItsWayOut(PaintingGenerator):
        def generate(self, request: Request, params: Params, sources: Sources, control: Control) -> Iterator[Generated]:
            try:
                yield from super().generate(request, params, sources, control)
            finally:
                heard.wait(10)
                raise RuntimeError("a quote of the client")

    heard, generator = threading.Event(), FailsOnItsWayOut()
    generator.lingers = True
    player = Player(generator)
    running = asyncio.create_task(player.turn.run(Sources()))
    await asyncio.to_thread(generator.stepped.wait, 10)
    player.stop.request(Cancelled())
    for _ in range(50):  # until the waiter for the generation has been told, too
        await asyncio.sleep(0)
    heard.set()
    with pytest.raises(Cancelled):
        await running
    (line,) = (record.message for record in caplog.records)
    assert "RuntimeError in " in line
    assert "quote" not in line


@pytest.mark.parametrize("ready_before_its_turn", [False, True])
async def test_a_slow_load_is_no_hung_step(monkeypatch: pytest.MonkeyPatch, ready_before_its_turn: bool) -> None:
    """Admitted or not: as long as weights are being read, the timeout is that for a disk."""
    monkeypatch.setattr(timing, "STOP_GRACE_SECONDS", 0.05)
    gpu, blocked = GpuThread(), threading.Event()
    if ready_before_its_turn:
        gpu.submit(lambda: blocked.wait(5))
    player = Player(Loads(), gpu)
    generator: Any = player.generator
    running = asyncio.create_task(player.turn.run(Sources()))
    await asyncio.sleep(0)
    blocked.set()
    await asyncio.to_thread(generator.loading.wait, 5)
    player.stop.request(JobTimeout())
    await asyncio.sleep(0.3)
    assert not running.done()
    generator.loaded.set()
    with pytest.raises(JobTimeout):
        await running
    assert not player.gpu.stuck


async def test_a_load_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "LOADING_GRACE_SECONDS", 0.05)
    player = Player(Loads())
    generator: Any = player.generator
    running = asyncio.create_task(player.turn.run(Sources()))
    await asyncio.to_thread(generator.loading.wait, 5)
    player.stop.request(JobTimeout())
    with pytest.raises(JobTimeout):
        await running
    assert player.gpu.stuck
    with pytest.raises(GpuFault):
        Player(PaintingGenerator(), player.gpu)
    generator.loaded.set()


@pytest.mark.parametrize("refused_in_line", [False, True])
async def test_a_load_that_its_job_left_behind_and_that_never_ends_is_given_up(
    refused_in_line: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it but the jobs behind it, whose clocks stand still."""
    monkeypatch.setattr(timing, "LEFT_LOADING_SECONDS", 0.05)
    gpu = GpuThread()
    refused = Player(loads := Loads(), gpu)
    assert await asyncio.to_thread(loads.loading.wait, PATIENCE)
    if refused_in_line:
        running = asyncio.create_task(refused.turn.run(Sources()))
        await asyncio.sleep(0)
        refused.context.decide(admitted=False)
        running.cancel()
        await asyncio.wait({running}, timeout=PATIENCE)
    else:
        await refused.turn.give_up()
    behind = Player(PaintingGenerator(), gpu)
    try:
        with pytest.raises(GpuFault):
            await asyncio.wait_for(behind.turn.run(Sources()), PATIENCE)
        assert gpu.stuck
    finally:
        loads.loaded.set()


class Stages:
    """A trace that knows which of its stages are under way."""

    def __init__(self) -> None:
        self.open: list[str] = []

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.open.append(name)
        try:
            yield
        finally:
            self.open.remove(name)


async def test_a_load_that_ends_after_it_was_given_up_puts_its_job_into_no_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timing, "LOADING_GRACE_SECONDS", 0.05)
    player = Player(Loads())
    loads: Any = player.generator
    assert await asyncio.to_thread(loads.loading.wait, PATIENCE)
    trace: Any = Stages()
    player.context.trace = trace
    player.context.limit = limit = TimeLimit(60, lambda: None)
    player.stop.request(Cancelled())
    with pytest.raises(Cancelled):
        await player.turn.run(Sources())
    loads.loaded.set()
    await asyncio.to_thread(wait, [player.turn._loading], PATIENCE)
    assert (trace.open, limit._pauses) == ([], 0)
    limit.cancel()


class Ages(PaintingGenerator):
    """Takes so many seconds for a job, by its event loop's clock, once the job before it is over there."""

    def __init__(self, ahead: LoopAhead, seconds: float) -> None:
        super().__init__()
        self.ahead, self.seconds, self.step_seconds = ahead, seconds, 0.05
        self.may_begin = threading.Event()

    def generate(self, request: Request, params: Params, sources: Sources, control: Control) -> Iterator[Generated]:
        assert self.may_begin.wait(PATIENCE)
        self.ahead.seconds += self.seconds
        return super().generate(request, params, sources, control)


async def test_the_clock_of_a_job_stands_still_behind_other_jobs_and_runs_while_it_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three jobs of 600 s at once under a limit of 1,100 s: the second one used to time out without having run."""
    gpu, ahead = GpuThread(), LoopAhead(monkeypatch)
    *quick, slow = generators = [Ages(ahead, seconds) for seconds in (600, 600, 600, 1100)]
    slow.lingers = True

    async def ended(player: Player, following: Ages) -> None:
        player.context.limit = limit = TimeLimit(
            1100, functools.partial(player.stop.request, JobTimeout("timeout.limit", seconds=1100))
        )
        await player.turn.run(Sources())
        limit.cancel()
        following.may_begin.set()

    players = [Player(generator, gpu) for generator in quick]
    quick[0].may_begin.set()
    await asyncio.gather(*map(ended, players, generators[1:]))
    waits = [player.timings["wait"] for player in players]
    assert waits == sorted(waits)
    assert waits[2] > 0.3
    with pytest.raises(JobTimeout):
        await ended(Player(slow, gpu), slow)


async def test_the_clock_stands_still_between_a_jobs_own_loading_and_its_generation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another job may get ready while the weights of this one load; it used to generate in this one's time."""
    gpu, ahead = GpuThread(), LoopAhead(monkeypatch)
    other = Player(before := Ages(ahead, 1500), gpu)
    player = Player(Loads(), gpu)
    loads: Any = player.generator
    player.context.limit = TimeLimit(1100, lambda: player.stop.request(JobTimeout()))
    assert await asyncio.to_thread(loads.loading.wait, PATIENCE)
    running = [asyncio.create_task(each.turn.run(Sources())) for each in (other, player)]
    await asyncio.sleep(0)
    before.may_begin.set()
    loads.loaded.set()
    await asyncio.wait_for(asyncio.gather(*running), PATIENCE + 1500)
    assert player.timings["wait"] >= 4 * before.step_seconds
    player.context.limit.cancel()


async def test_a_job_that_was_stopped_in_line_says_how_long_it_waited() -> None:
    gpu = GpuThread()
    first, second = Player(hanging := Hangs(), gpu), Player(PaintingGenerator(), gpu)
    running = asyncio.create_task(first.turn.run(Sources()))
    await asyncio.to_thread(until, lambda: hanging.running)
    began = time.monotonic()
    waiting = asyncio.create_task(second.turn.run(Sources()))
    await asyncio.sleep(0.2)
    second.stop.request(Cancelled())
    with pytest.raises(Cancelled):
        await waiting
    assert 0.1 < second.timings["wait"] < time.monotonic() - began
    hanging.release.set()
    await running
    assert second.generator.steps_done == 0


@pytest.mark.parametrize(("seen", "replaced"), [(0.0, True), (20.0, False)])
async def test_the_patience_with_a_job_that_was_cancelled_grows_with_the_longest_step(
    seen: float, replaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One cancellation during a step longer than the grace used to end the worker."""
    monkeypatch.setattr(timing, "STOP_GRACE_SECONDS", 0.2)
    gpu = GpuThread()
    gpu.longest_step = seen
    player = Player(hanging := Hangs(), gpu)
    running = asyncio.create_task(player.turn.run(Sources()))
    await asyncio.to_thread(until, lambda: hanging.running)
    player.stop.request(Cancelled())
    if not replaced:
        done, _ = await asyncio.wait({running}, timeout=1)
        assert not done, "after several times the grace"
        hanging.release.set()
    with pytest.raises(Cancelled):
        await running
    assert gpu.stuck is replaced
    hanging.release.set()


async def test_the_longest_step_of_all_jobs_is_remembered() -> None:
    gpu, longest_job = GpuThread(), 0.0
    for seconds in (0.2, 0.6, 0.2):
        began = time.monotonic()
        await Player(taking(seconds), gpu).turn.run(Sources())
        longest_job = max(longest_job, time.monotonic() - began)
    steps = PaintingGenerator().describe(TaskType.TEXT2IMG).num_inference_steps
    assert 0.55 / steps < gpu.longest_step < longest_job - 0.1, "a step, not a whole job"
