"""Live previews: in the document while the result is being made, nowhere else, and gone when it has ended."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from tests.support.clock import until
from tests.support.fakes import PATIENCE, PaintingGenerator, Raises
from tests.support.memory_world import CLOUD, PATH, World
from tools.showing import content, opened
from worker.api.params import Params
from worker.core import timing
from worker.core.errors import OutOfMemory
from worker.core.stop import StopSignal
from worker.core.types import Control, Progress
from worker.job.preview import UNSEEN, WITHHELD, Previews
from worker.media.preview import MAX_CHARACTERS

ASKED = CLOUD | {"preview": True}
COLOURS = ("red", "lime", "blue", "white")


class Sketch:
    """A preview that is ready after `late` seconds."""

    def __init__(self, colour: str = "red", late: float = 0.0) -> None:
        self.colour, self.at = colour, time.monotonic() + late

    def ready(self) -> bool:
        return time.monotonic() >= self.at

    def picture(self) -> Image.Image:
        return Image.new("RGB", (16, 16), self.colour)


class Sketching(PaintingGenerator):
    """Offers each step to a viewer. Before its last step it waits until the document of `watched` has shown one."""

    step_seconds = 0.06
    watched: World | None = None

    def _steps(self, params: Params, control: Control, index: int, count: int) -> None:
        for step in range(params.num_inference_steps):
            control.raise_if_stopped()
            time.sleep(self.step_seconds)
            if viewer := control.viewer():
                viewer(self.sketch(step))
            if step == params.num_inference_steps - 2 and (world := self.watched) is not None:
                until(lambda: previews(world), PATIENCE, "preview")
            control.report(Progress("generating", index * params.num_inference_steps + step + 1, 4 * count))

    def sketch(self, step: int) -> Any:
        return Sketch(COLOURS[step % 4])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "PROGRESS_SECONDS", 0.02)


def showing(generator: Sketching, **settings: Any) -> World:
    """Return a world whose generator waits until the document has shown a preview."""
    generator.watched = World(generator, **settings)
    return generator.watched


def previews(world: World) -> list[str]:
    """Return the previews in the order in which a listener sees them, each once."""
    seen = [state.get("progress", {}).get("preview") for state in world.documents.history.get(PATH, [])]
    return list(dict.fromkeys(preview for preview in seen if preview))


def colour(uri: str) -> str:
    assert len(uri) <= MAX_CHARACTERS
    pixel = opened(uri).convert("RGB").getpixel((8, 8))
    distances = {name: _apart(name, pixel) for name in COLOURS}
    return min(distances, key=lambda name: distances[name])


def _apart(name: str, pixel: Any) -> int:
    return sum(abs(a - b) for a, b in zip(Image.new("RGB", (1, 1), name).getpixel((0, 0)), pixel, strict=True))  # type: ignore[arg-type]


async def test_the_document_shows_what_is_being_made_and_at_the_end_nothing() -> None:
    world = showing(Sketching())
    answer = await world.run(ASKED)
    shown = [colour(uri) for uri in previews(world)]
    assert shown
    assert shown == sorted(shown, key=COLOURS.index)
    assert "progress" not in world.document
    assert "error" not in answer
    assert answer["warnings"] == []
    states = world.documents.history[PATH]
    first = next(k for k, state in enumerate(states) if "preview" in state.get("progress", {}))
    living = [state for state in states[first:] if state["status"] == "processing"]
    assert all("preview" in state["progress"] for state in living), "it stays until there is a newer one"
    assert all("preview" not in progress.public() for progress in world.progress)
    assert all(progress.preview is None for progress in world.progress), "the document's alone"


async def test_the_result_is_the_same_and_so_is_the_request() -> None:
    world = World(Sketching())
    without = await World(Sketching()).run(CLOUD)
    with_it = await world.run(ASKED)
    kept = ("seed", "params", "model", "storage")
    assert {name: without[name] for name in kept} == {name: with_it[name] for name in kept}
    again = await world.run(CLOUD, job_id="job-2")
    assert again["images"] == with_it["images"]
    assert world.bucket.uploads == 1


async def test_who_did_not_ask_sees_none() -> None:
    world = World(Sketching())
    await world.run(CLOUD)
    assert previews(world) == []


async def test_without_a_document_nothing_is_made_and_a_warning_says_so() -> None:
    for fields in ({"prompt": "a fox", "preview": True}, ASKED):
        world = World(Sketching())
        world.firebase = False
        assert UNSEEN in (await world.run(fields))["warnings"]
    inline = World(Sketching())
    assert UNSEEN in (await inline.run({"prompt": "a fox", "preview": True}))["warnings"]


@pytest.mark.parametrize(("checker", "some"), [("block", False), ("flag", True)])
async def test_what_may_be_withheld_is_not_shown_before(checker: str, some: bool) -> None:
    world = (showing if some else World)(Sketching(), safety_checker=checker)
    answer = await world.run(ASKED)
    assert bool(previews(world)) is some
    assert (WITHHELD in answer.get("warnings", [])) is (not some and "error" not in answer)
    capable = await world.run({"action": "capabilities"})
    assert capable["preview"] is some


async def test_a_worker_without_documents_says_that_it_shows_none() -> None:
    world = World()
    world.firebase = False
    assert (await world.run({"action": "capabilities"}))["preview"] is False


class FailsLater(Sketching, Raises):
    """Runs out of memory after it has shown a preview."""

    def __init__(self) -> None:
        Raises.__init__(self, OutOfMemory())

    def generate(self, *asked: Any) -> Iterator[Any]:
        yield from PaintingGenerator.generate(self, *asked)

    def _steps(self, params: Params, control: Control, index: int, count: int) -> None:
        super()._steps(params, control, index, count)
        assert self.error is not None
        raise self.error


async def test_a_failure_and_a_cancellation_leave_none() -> None:
    world = showing(FailsLater())
    assert (await world.run(ASKED))["error_code"] == "out_of_memory"
    assert previews(world)
    assert "progress" not in world.document

    stop, world = StopSignal(), showing(Sketching(steps=40))

    async def cancel() -> None:
        while not previews(world):
            await asyncio.sleep(0.01)
        world.documents.write_as_app(PATH, {"cancel_requested": True})

    await asyncio.gather(world.run(ASKED, stop=stop), cancel())
    assert world.document["error"]["code"] == "cancelled"
    assert "progress" not in world.document


class Breaks(Sketching):
    """Shows a preview that cannot be encoded."""

    def sketch(self, step: int) -> Any:
        return type("Broken", (), {"ready": lambda _: True, "picture": lambda _: None})()


class NeverArrives(Sketching):
    """Shows a preview that never becomes ready."""

    def sketch(self, step: int) -> Any:
        return Sketch(late=3600)


@pytest.mark.parametrize("generator", [Breaks, NeverArrives])
async def test_a_preview_that_comes_to_nothing_costs_the_job_nothing(generator: type[Sketching]) -> None:
    world, loop = World(generator()), asyncio.get_running_loop()
    answer = await world.run(ASKED)
    assert "error" not in answer
    assert previews(world) == []
    await asyncio.to_thread(until, lambda: len(asyncio.all_tasks(loop)) == 1, PATIENCE, "end of what it began")


async def test_there_is_one_a_second_and_none_while_one_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = [100.0], list[str]()
    monkeypatch.setattr(timing, "PROGRESS_SECONDS", 1.0)
    looking = Previews(told.append, clock=lambda: now[0])

    async def show() -> bool:
        if (viewer := looking.viewer()) is None:
            return False
        viewer(Sketch(late=-1))
        assert looking.viewer() is None
        before = len(told)
        while len(told) == before:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        return True

    assert await show()
    now[0] += 0.9
    assert not await show()
    now[0] += 0.2
    assert await show()
    looking.close()
    now[0] += 5
    assert not await show()
    assert len(told) == 2


async def test_what_comes_after_the_end_is_dropped() -> None:
    told: list[str] = []
    looking = Previews(told.append)
    viewer = looking.viewer()
    assert viewer is not None
    looking.close()
    viewer(Sketch())
    await asyncio.sleep(0.05)
    assert told == []


@pytest.mark.parametrize("mark", ["on", "off"])
async def test_a_preview_is_marked_as_its_files_are(mark: str) -> None:
    world = showing(Sketching(), ai_mark=mark)
    await world.run(ASKED)
    assert previews(world)
    assert all((b"trainedAlgorithmicMedia" in content(uri)) is (mark == "on") for uri in previews(world))
