"""A request's LoRAs through a job: refused before anything is touched, or else fetched and passed to the model."""

import asyncio
import dataclasses
import gc
import json
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.clock import until
from tests.support.fakes import PATIENCE, PaintingGenerator
from tests.support.memory_world import CLOUD, World
from tests.support.published_loras import PUBLISHED, header_only
from worker.api.loras import WantedLora
from worker.api.params import Params
from worker.api.request import Request
from worker.core.errors import Cancelled, DownloadFailed, InvalidImage
from worker.core.stop import StopSignal
from worker.core.types import Control, LoraFile, Sources
from worker.engine.adapters.lora_file import check_loras
from worker.engine.protocol import Generated
from worker.job.context import Job
from worker.job.runner import run
from worker.sources.lora_cache import InUse

LISTED = {
    "ghibli": {"source": "org/ghibli", "scale": 0.5, "trigger_words": ["ghibli style"], "licence": "MIT"},
    "motion": {"source": "https://files.example.com/motion.safetensors?sig=secret", "family": "wan"},
}
ASKED = {**CLOUD, "loras": [{"path": "ghibli", "scale": 1.5}]}


class Seeing(PaintingGenerator):
    """Records what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Sources] = []

    def check(self, request: Request, sources: Sources) -> None:
        check_loras(sources.loras, request.task_type)

    def generate(self, request: Request, params: Params, sources: Sources, control: Control) -> Iterator[Generated]:
        self.given.append(sources)
        return super().generate(request, params, sources, control)


class Shelf:
    """Has every LoRA; may fail, or block until it is stopped."""

    def __init__(self, error: Exception | None = None, *, endless: bool = False) -> None:
        self.error, self.endless = error, endless
        self.asked: list[WantedLora] = []
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self._temporary.name)
        self.began, self.stopped = threading.Event(), threading.Event()

    def load(
        self, wanted: Sequence[WantedLora], in_use: InUse, raise_if_stopped: Callable[[], None]
    ) -> tuple[LoraFile, ...]:
        self.asked += wanted
        self.began.set()
        if self.error is not None:
            raise self.error
        while self.endless:
            try:
                raise_if_stopped()
            except BaseException:
                self.stopped.set()
                raise
        return tuple(LoraFile(one.name, self.path(one.name), one.scale, one.expert) for one in wanted)

    def path(self, name: str) -> Path:
        family = "wan" if name == "motion" else "sdxl"
        layout = next(one for one in PUBLISHED if one.family == family)
        return header_only(self.folder / f"{name}.safetensors", layout.shapes)


def world(shelf: Shelf, **settings: Any) -> World:
    made = World(Seeing(), loras=LISTED, **settings)
    made.loras = shelf  # type: ignore[assignment]  # in the downloader's place
    return made


async def test_the_files_are_handed_to_the_model_with_the_operators_scale() -> None:
    shelf = Shelf()
    here = world(shelf)
    response = await here.run(ASKED)
    assert "error" not in response
    assert isinstance(here.generator, Seeing)
    assert here.generator.given[0].loras == (LoraFile("ghibli", shelf.folder / "ghibli.safetensors", 0.75),)
    assert "loras" in response["timings"]


async def test_one_that_comes_with_the_acceleration_is_handed_over_once() -> None:
    shelf = Shelf()
    fast = {"num_inference_steps": 4, "loras": [{"path": "ghibli", "scale": 0.8}]}
    here = world(shelf, accelerations={"sdxl": {"regular": fast}})
    response = await here.run({**ASKED, "acceleration": "regular"})
    assert isinstance(here.generator, Seeing)
    assert here.generator.given[0].loras == (LoraFile("ghibli", shelf.folder / "ghibli.safetensors", 0.4),)
    assert list(response["params"]["loras"]) == [{"name": "ghibli", "scale": 0.4}]
    assert [said for said in response["warnings"] if said.startswith("loras.0.path: ghibli comes with acceleration")]


async def test_what_is_not_to_be_had_is_refused_before_anything_is_touched() -> None:
    shelf = Shelf()
    here = world(shelf)
    response = await here.run({**CLOUD, "loras": [{"path": "gibli"}, {"path": "org/other"}]})
    assert response["error_code"] == "invalid_input"
    assert "loras.0.path: is no LoRA of this worker; did you mean ghibli?" in response["error"]
    assert 'loras.1.path: comes from "hub", where this worker takes no LoRA from' in response["error"]
    assert here.document["status"] == "failed"
    assert (shelf.asked, here.generator.generated) == ([], 0)
    quoted = await here.run({"action": "quote", "prompt": "a fox", "loras": [{"path": "gibli"}]})
    assert quoted["error_code"] == "invalid_input"


async def test_a_download_that_failed_ends_the_job_in_its_words() -> None:
    here = world(Shelf(DownloadFailed("download_failed.unreachable", field="loras.0.path")))
    response = await here.run(ASKED)
    assert response["error"].startswith("download_failed: loras.0.path: the server could not be reached")
    assert here.document["error"]["code"] == "download_failed"


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
async def test_the_files_of_a_job_that_has_ended_are_not_in_use(end: str) -> None:
    """Without waiting for Python's collector: the next job's LoRA may need their room in the cache."""
    marks: list[weakref.ref[InUse]] = []

    class Marking(Shelf):
        def load(
            self, wanted: Sequence[WantedLora], in_use: InUse, raise_if_stopped: Callable[[], None]
        ) -> tuple[LoraFile, ...]:
            marks.append(weakref.ref(in_use))
            return super().load(wanted, in_use, raise_if_stopped)

    shelf, stop = Marking(DownloadFailed() if end == "failed" else None, endless=end == "cancelled"), StopSignal()
    gc.disable()
    try:
        running = asyncio.create_task(world(shelf).run(ASKED, stop=stop))
        if end == "cancelled":
            assert await asyncio.to_thread(shelf.began.wait, PATIENCE)
            stop.request(Cancelled())
        await running
        (mark,) = marks
        await asyncio.to_thread(until, lambda: mark() is None, PATIENCE)
    finally:
        gc.enable()


class Evicting(Seeing):
    """Finds its first LoRAs removed, as often as told: another worker with the same folder needed the room."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def generate(self, request: Request, params: Params, sources: Sources, control: Control) -> Iterator[Generated]:
        if self.times > 0:
            self.times -= 1
            for lora in sources.loras:
                lora.path.unlink()
        self.check(request, sources)
        yield from super().generate(request, params, sources, control)


async def test_a_file_that_another_worker_removed_is_fetched_once_more() -> None:
    shelf = Shelf()
    here = world(shelf)
    here.generator = Evicting(1)
    response = await here.run(ASKED)
    assert "error" not in response
    assert [one.name for one in shelf.asked] == ["ghibli", "ghibli"]
    assert here.generator.given[0].loras[0].path.is_file()
    assert here.document["status"] == "completed"


async def test_a_file_that_is_removed_each_time_ends_the_job_as_one_to_try_again() -> None:
    shelf = Shelf()
    here = world(shelf)
    here.generator = Evicting(2)
    response = await here.run(ASKED)
    assert response["error"].startswith("download_failed: loras: the file of the LoRA ghibli was removed before it was")
    assert (response["retryable"], here.document["error"]["code"]) == (True, "download_failed")
    assert len(shelf.asked) == 2


async def test_a_file_that_is_for_another_model_is_refused_before_the_model_runs() -> None:
    class Swapped(Shelf):
        def path(self, name: str) -> Path:
            return super().path("motion")

    here = world(Swapped())
    response = await here.run(ASKED)
    assert response["error"].startswith("invalid_input: loras: the LoRA ghibli is made for Wan")
    assert here.generator.generated == 0


async def test_a_job_that_is_cancelled_ends_its_download() -> None:
    shelf, stop = Shelf(endless=True), StopSignal()
    here = world(shelf)
    job = asyncio.create_task(here.run(ASKED, stop=stop))
    await asyncio.to_thread(shelf.began.wait, 5)
    stop.request(Cancelled())
    assert (await job)["error_code"] == "cancelled"
    assert await asyncio.to_thread(shelf.stopped.wait, 5)


async def test_a_download_ends_with_a_job_that_ended_for_another_reason() -> None:
    shelf = Shelf(endless=True)

    class BadPicture:
        def load(self, request: Request, user_id: str | None, raise_if_stopped: Callable[[], None]) -> Sources:
            shelf.began.wait(5)
            raise InvalidImage

    services = dataclasses.replace(world(shelf).services(), sources=BadPicture())
    asked = {**ASKED, "task_type": "img2img", "image_url": "https://files.example.com/a.png"}
    response = await run(Job("job-1", asked), services, StopSignal())
    assert response["error_code"] == "invalid_image"
    assert await asyncio.to_thread(shelf.stopped.wait, 5)


async def test_a_download_ends_with_a_job_whose_result_was_there_already() -> None:
    shelf = Shelf()
    here = world(shelf)
    first = await here.run(ASKED)
    shelf.endless = True
    shelf.began.clear()
    here.documents.before = lambda *_: (shelf.began.wait(5), None)[1]
    assert (await here.run(ASKED, job_id="job-2"))["images"] == first["images"]
    assert await asyncio.to_thread(shelf.stopped.wait, 5)


async def test_pictures_are_given_up_with_a_job_that_ended_for_another_reason() -> None:
    began, stopped = threading.Event(), threading.Event()

    class Endless:
        def load(self, request: Request, user_id: str | None, raise_if_stopped: Callable[[], None]) -> Sources:
            began.set()
            for _ in range(1000):
                time.sleep(0.005)
                try:
                    raise_if_stopped()
                except Cancelled:
                    stopped.set()
                    raise
            raise InvalidImage

    class Missing(Shelf):
        def load(self, *_: Any) -> tuple[LoraFile, ...]:
            began.wait(5)
            raise DownloadFailed

    services = dataclasses.replace(world(Missing()).services(), sources=Endless())
    asked = {**ASKED, "task_type": "img2img", "image_url": "https://files.example.com/a.png"}
    assert (await run(Job("job-1", asked), services, StopSignal()))["error_code"] == "download_failed"
    assert await asyncio.to_thread(stopped.wait, 10)


async def test_a_file_that_no_model_takes_ends_the_job_before_the_model_runs(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.safetensors" for name in ("style", "pickled", "motion")}
    header_only(files["style"], PUBLISHED[0].shapes)
    files["pickled"].write_bytes(b"\x80\x02}q\x00.")
    header_only(files["motion"], next(one for one in PUBLISHED if one.family == "wan").shapes)

    for name, said in {
        "pickled": "loras: the LoRA pickled is a pickled file",
        "motion": "loras: the LoRA motion is made for Wan; this takes one for SDXL",
        "style": "",
    }.items():
        generator = Seeing()
        here = World(generator, loras={name: str(file) for name, file in files.items()})
        response = await here.run({**CLOUD, "loras": [{"path": name}]})
        assert ("error" in response) == bool(said)
        assert said in response.get("error", "")
        assert len(generator.given) == (not said)


async def test_a_job_without_loras_asks_for_none() -> None:
    shelf = Shelf(DownloadFailed())
    assert "error" not in await world(shelf).run(CLOUD)
    assert shelf.asked == []


async def test_capabilities_say_what_an_app_may_show_and_not_where_it_comes_from() -> None:
    answer = await world(Shelf()).run({"action": "capabilities"})
    assert answer["loras"] == [
        {"name": "ghibli", "family": None, "trigger_words": ["ghibli style"], "licence": "MIT"},
        {"name": "motion", "family": "wan", "trigger_words": [], "licence": None},
    ]
    assert "org/ghibli" not in json.dumps(answer)


def test_a_key_in_a_source_is_in_no_log_line(caplog: pytest.LogCaptureFixture) -> None:
    here = world(Shelf())
    response = asyncio.run(here.run({**CLOUD, "task_type": "text2video", "loras": [{"path": "motion"}]}))
    assert "error" not in response
    assert "sig=secret" not in caplog.text + json.dumps(response) + json.dumps(here.document, default=str)


async def test_what_was_really_used_is_in_the_params_of_job_and_quote() -> None:
    here = world(Shelf())
    response = json.loads(json.dumps(await here.run(ASKED)))
    assert response["params"]["loras"] == [{"name": "ghibli", "scale": 0.75}]
    assert list(here.document["generation_data"]["params"]["loras"]) == response["params"]["loras"]
    assert list((await here.run({"action": "quote", **ASKED}))["params"]["loras"]) == response["params"]["loras"]
    clip = {"prompt": "a fox", "task_type": "text2video", "high_noise_loras": [{"path": "motion"}]}
    params = (await here.run(clip))["params"]
    assert params["high_noise_loras"] == ({"name": "motion", "scale": 1.0},)
    assert "loras" not in params
