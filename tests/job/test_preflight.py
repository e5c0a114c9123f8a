"""Admission: the document and the existing files decide whose a result is; sources are fetched meanwhile."""

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.fakes import PATIENCE
from tests.support.memory_world import CLOUD, PATH, World, data_uri
from worker.api.fingerprint import fingerprint
from worker.api.loras import WantedLora
from worker.api.request import Request, envelope, parse
from worker.core.errors import DownloadFailed, DuplicateInProgress, UrlBlocked
from worker.core.lora_source import HubFile
from worker.core.stop import StopSignal
from worker.core.types import LoraFile, Sources
from worker.delivery.delivered import Delivered
from worker.document.lease import Lease
from worker.document.transitions import AlreadyDone
from worker.job.context import Job, JobContext
from worker.job.preflight import NO_DOCUMENTS, Preflight

IMG2IMG = {**CLOUD, "task_type": "img2img", "image_url": data_uri()}


class Door:
    """The admission to a world, for one request of one job."""

    def __init__(self, world: World, job_input: dict[str, Any], job_id: str = "job-1") -> None:
        self.services = world.services()
        self.request: Request = parse(job_input)
        self.hash = fingerprint(self.request)
        owner = self.request.owner
        assert owner is not None
        self.record = Lease(self.services.documents, owner, job_id=job_id, worker_id="worker-1")
        job = Job(job_id, job_input)
        self.context = JobContext(job, envelope(job_input), StopSignal(), lambda _: None, self.record, self.hash)
        self.warnings, self.timings = self.context.warnings, self.context.timings

    async def enter(self, loras: Sequence[WantedLora] = ()) -> Sources | AlreadyDone | Delivered:
        """Enter as the runner does, without the model."""
        preflight = Preflight(self.services, self.request, self.context, loras)
        sources = asyncio.create_task(preflight.sources())
        try:
            return await preflight.admit(self.request.public()) or await sources
        finally:
            sources.cancel()
            await asyncio.gather(sources, return_exceptions=True)
            await self.record.close()


class HeldSources:
    """Sources that take until `arrive` is set, and may fail then."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.began, self.arrive = error, threading.Event(), threading.Event()
        self.ended = threading.Event()

    def load(self, request: Request, user_id: str | None, raise_if_stopped: Callable[[], None]) -> Sources:
        self.began.set()
        assert self.arrive.wait(PATIENCE)
        self.ended.set()
        if self.error is not None:
            raise self.error
        return Sources()


async def test_a_new_request_gets_its_pictures_and_its_document() -> None:
    world = World()
    door = Door(world, IMG2IMG)
    admitted = await door.enter()
    assert isinstance(admitted, Sources)
    assert admitted.image is not None
    assert world.document["status"] == "processing"
    assert set(door.timings) == {"claim", "sources"}


async def test_the_claim_and_the_pictures_are_under_way_at_the_same_time() -> None:
    world, sources = World(), HeldSources()
    side_by_side: list[bool] = []

    def claim(*_: str) -> None:
        side_by_side.append(sources.began.wait(PATIENCE) and not sources.ended.is_set())
        sources.arrive.set()

    world.documents.before = claim
    door = Door(world, IMG2IMG)
    door.services = dataclasses.replace(door.services, sources=sources)
    await door.enter()
    assert side_by_side[0]


async def test_a_stored_result_ends_it_and_no_picture_is_waited_for() -> None:
    world = World()
    await world.run(IMG2IMG)
    door = Door(world, IMG2IMG, "job-2")
    sources = HeldSources()
    door.services = dataclasses.replace(door.services, sources=sources)
    assert isinstance(await door.enter(), AlreadyDone)
    assert not sources.ended.is_set()
    sources.arrive.set()


async def test_files_that_are_all_there_are_taken_instead_of_generating() -> None:
    world = World()
    first = await world.run(CLOUD)
    world.documents.write_as_app(PATH, None)
    found = await Door(world, CLOUD, "job-2").enter()
    assert isinstance(found, Delivered)
    assert list(found.uris) == first["images"]
    assert len(found.taken_over) == 2


async def test_another_jobs_document_counts_before_a_picture_that_cannot_be_had() -> None:
    world = World()
    await Door(world, IMG2IMG).enter()
    door = Door(world, IMG2IMG, "job-2")
    door.services = dataclasses.replace(door.services, sources=(sources := HeldSources(DownloadFailed())))
    sources.arrive.set()
    with pytest.raises(DuplicateInProgress):
        await door.enter()


async def test_a_picture_that_cannot_be_had_is_told_and_nothing_is_left_unheard(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    sources = HeldSources(UrlBlocked())
    sources.arrive.set()
    door = Door(world, IMG2IMG)
    door.services = dataclasses.replace(door.services, sources=sources)
    with pytest.raises(UrlBlocked):
        await door.enter()
    refused = Door(world, IMG2IMG, "job-2")
    late = HeldSources(UrlBlocked())
    refused.services = dataclasses.replace(refused.services, sources=late)
    world.documents.before = lambda *_: (late.began.wait(PATIENCE), None)[1]
    with pytest.raises(DuplicateInProgress):
        await refused.enter()
    late.arrive.set()
    assert await asyncio.to_thread(late.ended.wait, PATIENCE)
    await asyncio.sleep(0.05)
    assert "never retrieved" not in caplog.text


async def test_a_lora_that_cannot_be_had_ends_it_before_the_pictures_are_here() -> None:
    class NoLoras:
        def load(self, *_: object) -> tuple[LoraFile, ...]:
            assert pictures.began.wait(PATIENCE)
            raise DownloadFailed

    door, pictures = Door(World(), IMG2IMG), HeldSources()
    door.services = dataclasses.replace(door.services, sources=pictures, loras=NoLoras())
    wanted = WantedLora("loras.0.path", "a", HubFile("org/name"), 1.0)
    with pytest.raises(DownloadFailed):
        await door.enter([wanted])
    assert not pictures.ended.is_set()
    pictures.arrive.set()


async def test_downloads_that_last_leave_threads_to_all_else() -> None:
    """They take minutes; a claim or heartbeat that waits for one looks like a lost worker, and a caller is refused."""

    class HeldLoras:
        def load(self, *_: object) -> tuple[LoraFile, ...]:
            assert pictures.arrive.wait(PATIENCE)
            return ()

    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    world = World()
    door, pictures = Door(world, IMG2IMG), HeldSources()
    door.services = dataclasses.replace(door.services, sources=pictures, loras=HeldLoras())
    held = Preflight(door.services, door.request, door.context, [WantedLora("loras.0.path", "a", HubFile("o/n"), 1.0)])
    downloads = asyncio.create_task(held.sources())
    try:
        while not pictures.began.is_set():
            await asyncio.sleep(0.01)
        answer = await asyncio.wait_for(world.run(CLOUD), PATIENCE)
    finally:
        pictures.arrive.set()
    assert "error" not in answer
    await downloads


async def test_without_firebase_the_request_is_told_that_it_has_no_document() -> None:
    world = World()
    world.firebase = False
    door = Door(world, CLOUD)
    assert isinstance(await door.enter(), Sources)
    assert door.warnings == [NO_DOCUMENTS]
