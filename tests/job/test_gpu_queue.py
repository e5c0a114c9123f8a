"""A turn on the GPU: weights load at once, nothing is generated unadmitted, and the card is left for the next job."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.fakes import PaintingGenerator, Slow
from worker.api.params import resolve
from worker.api.request import parse
from worker.core.errors import Cancelled, GpuFault, JobError, JobTimeout, Superseded
from worker.core.stop import StopSignal
from worker.core.types import Control, Progress, Sources, TaskType
from worker.engine.protocol import Generated, Placement
from worker.job import gpu_queue as turn_module
from worker.job.gpu_queue import GpuSlot, Work
from worker.job.gpu_thread import GpuThread


class Loads(PaintingGenerator):
    """Loads until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.loading, self.loaded = threading.Event(), threading.Event()

    def prepare(self, task_type: TaskType, control: Control) -> Placement:
        self.loading.set()
        self.loaded.wait(10)
        return super().prepare(task_type, control)


class Player:
    """One job on a GPU thread; `wanted` is what is asked before the card is used."""

    def __init__(self, generator: PaintingGenerator, gpu: GpuThread | None = None) -> None:
        self.generator, self.gpu = generator, gpu or GpuThread()
        self.stop = StopSignal()
        self.taken: list[Generated] = []
        self.timings: dict[str, float] = {}
        self.wanted: Callable[[], None] = lambda: None
        request = parse({"prompt": "a fox", "seed": 7})
        params = resolve(request, generator.describe(TaskType.TEXT2IMG), max_image_pixels=10**7, max_job_cost=10**12)
        work = Work(request, params, self, confirm=self._confirm, take=self.taken.append, clock=self._clock)
        self.turn = GpuSlot(self.gpu, generator, work, self.stop)

    def raise_if_stopped(self) -> None:
        self.stop.raise_if_stopped()

    def report(self, progress: Progress) -> None:
        pass

    def warn(self, warning: str) -> None:
        raise AssertionError(warning)

    async def _confirm(self) -> None:
        self.wanted()

    def _clock(self, stage: str, started: float) -> None:
        self.timings[stage] = time.monotonic() - started


async def test_the_weights_load_at_once_and_nothing_is_generated_before_the_door_opens() -> None:
    player = Player(Loads())
    generator: Any = player.generator
    assert await asyncio.to_thread(generator.loading.wait, 5)
    generator.loaded.set()
    await asyncio.sleep(0.1)
    assert generator.steps_done == 0
    await player.turn.run(Sources())
    assert len(player.taken) == generator.generated == 1
    assert set(player.timings) == {"load", "generate"}


@pytest.mark.parametrize("reason", [Superseded(), Cancelled()])
async def test_who_is_not_wanted_any_more_when_the_card_is_free_is_not_painted(reason: JobError | Cancelled) -> None:
    player = Player(PaintingGenerator())
    player.wanted = lambda: player.stop.request(reason)
    with pytest.raises(type(reason)):
        await player.turn.run(Sources())
    assert player.generator.steps_done == 0


async def test_a_turn_that_was_given_up_in_line_loads_nothing() -> None:
    gpu = GpuThread()
    first, second = Player(Slow(), gpu), Player(Loads(), gpu)
    running = asyncio.create_task(first.turn.run(Sources()))
    await asyncio.sleep(0.05)
    await second.turn.give_up()
    await running
    await Player(PaintingGenerator(), gpu).turn.run(Sources())
    generator: Any = second.generator
    assert not generator.loading.is_set()


async def test_what_is_being_loaded_is_for_the_next_job() -> None:
    gpu = GpuThread()
    first = Player(Loads(), gpu)
    generator: Any = first.generator
    await asyncio.to_thread(generator.loading.wait, 5)
    await asyncio.wait_for(first.turn.give_up(), 1)
    generator.loaded.set()
    second = Player(PaintingGenerator(), gpu)
    await second.turn.run(Sources())
    assert (generator.generated, second.generator.generated) == (0, 1)


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


async def test_a_slow_load_is_no_hung_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Admitted or not: as long as weights are being read, the patience is that for a disk."""
    monkeypatch.setattr(turn_module, "STOP_GRACE_SECONDS", 0.05)
    player = Player(Loads())
    generator: Any = player.generator
    running = asyncio.create_task(player.turn.run(Sources()))
    await asyncio.to_thread(generator.loading.wait, 5)
    player.stop.request(JobTimeout())
    await asyncio.sleep(0.3)
    assert not running.done()
    generator.loaded.set()
    with pytest.raises(JobTimeout):
        await running
    assert not player.gpu.stuck


async def test_a_load_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_module, "LOADING_GRACE_SECONDS", 0.05)
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
