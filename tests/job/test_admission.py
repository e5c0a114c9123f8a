"""A job starts before it is known whether it is wanted; if not, nothing of it is visible, kept or charged.

No test here depends on time: a claim is held until the model has got so far, a model goes on when the claim has ended.
"""

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.clock import until
from tests.support.fakes import PATIENCE, Hangs, PaintingGenerator, is_down
from tests.support.memory_world import CLOUD, PATH, World, ticket
from worker.api.params import Params
from worker.api.request import Request
from worker.core import timing
from worker.core.errors import Cancelled
from worker.core.stop import StopSignal
from worker.engine.estimate import Estimate, Unit


def held(until: threading.Event, also: Callable[[str], None] = lambda _call: None) -> Callable[[str, str], None]:
    """Return a hook that delays Firestore's responses until an event is set."""

    def wait(call: str, _path: str) -> None:
        assert until.wait(PATIENCE)
        also(call)

    return wait


def generating(world: World) -> list[str]:
    return [progress.stage for progress in world.progress if progress.stage != "loading"]


async def test_the_first_step_is_made_before_the_claim_is_answered() -> None:
    generator = PaintingGenerator()
    world = World(generator)
    world.documents.before = held(generator.painted)
    response = await world.run(CLOUD)
    assert response["storage"] == "firebase"
    assert [state["status"] for state in world.documents.history[PATH]] == ["processing", "completed"]
    assert generating(world)[0] == "generating"


def another_job_is_at_it(world: World) -> dict[str, Any]:
    lease = datetime.now(UTC) + timedelta(seconds=timing.LEASE_SECONDS)
    world.documents.write_as_app(PATH, {"status": "processing", "expires_at": lease})
    return CLOUD


def another_request(_: World) -> dict[str, Any]:
    return {**CLOUD, "seed": 8}


def its_third_worker_is_lost(world: World) -> dict[str, Any]:
    claim = {**world.document["claim"], "deaths": 3}
    world.documents.write_as_app(PATH, {"status": "failed", "error": {"code": "poison_job"}, "claim": claim})
    world.documents.write_as_app(PATH, {"job_id": "job-2"})
    return CLOUD


def its_user_has_deleted_it(world: World) -> dict[str, Any]:
    world.documents.write_as_app(PATH, None)
    return {**CLOUD, "id_token": ticket(CLOUD, slip=True)}


REFUSED = {
    "duplicate_in_progress": another_job_is_at_it,
    "idempotency_mismatch": another_request,
    "poison_job": its_third_worker_is_lost,
    "deleted": its_user_has_deleted_it,
}


@pytest.mark.parametrize("code", REFUSED)
async def test_a_refused_claim_ends_what_was_begun_at_the_next_step_and_leaves_all_as_it_was(code: str) -> None:
    generator = PaintingGenerator()
    world = World(generator)
    await world.run(CLOUD)
    job_input = REFUSED[code](world)
    documents, objects = dict(world.documents.stored), dict(world.bucket.objects)
    world.progress.clear()
    generator.lingers, generator.steps_done = True, 0
    generator.stepped.clear()
    world.documents.before = held(generator.stepped)
    response = await world.run(job_input, job_id="job-2")
    assert response["error_code"] == code
    assert (generator.steps_done, generator.running, generator.generated) == (1, 0, 1)
    assert (world.documents.stored, world.bucket.objects) == (documents, objects)
    assert generating(world) == []
    assert response["usage"]["units"] == 0
    assert response["usage"]["gpu_seconds"] >= 0


@pytest.mark.parametrize("document", ["completed", "gone"])
async def test_a_result_that_is_there_ends_what_was_begun_and_is_the_answer(document: str) -> None:
    generator = PaintingGenerator()
    world = World(generator)
    first = await world.run(CLOUD)
    if document == "gone":
        world.documents.write_as_app(PATH, None)
    world.progress.clear()
    generator.lingers, generator.steps_done = True, 0
    generator.stepped.clear()
    world.documents.before = held(generator.stepped)
    again = await world.run(CLOUD, job_id="job-2")
    assert again["images"] == first["images"]
    assert again["usage"]["units"] == first["usage"]["units"]
    assert (generator.steps_done, generator.running, generator.generated, world.bucket.uploads) == (1, 0, 1, 1)
    assert generating(world) == []
    assert world.document["status"] == "completed"


async def test_who_was_cancelled_before_the_claim_is_cancelled_and_is_charged_nothing() -> None:
    generator = PaintingGenerator()
    world = World(generator)
    generator.lingers = True
    world.documents.write_as_app(PATH, {"status": "queued", "cancel_requested": True})
    world.documents.before = held(generator.stepped)
    response = await world.run(CLOUD)
    assert response["error_code"] == "cancelled"
    assert (world.document["status"], world.document["error"]["code"]) == ("failed", "cancelled")
    assert (world.document["usage"]["units"], response["usage"]["units"]) == (0, 0)
    assert (generator.steps_done, generator.generated, world.bucket.objects) == (1, 0, {})


async def test_who_is_cancelled_while_it_waits_in_line_uses_no_gpu() -> None:
    generator, busy = PaintingGenerator(), threading.Event()
    world = World(generator)
    world.gpu.submit(lambda: busy.wait(PATIENCE))
    world.documents.write_as_app(PATH, {"status": "queued", "cancel_requested": True})
    response = await world.run(CLOUD)
    busy.set()
    assert response["error_code"] == "cancelled"
    assert "usage" not in response
    assert generator.steps_done == 0


async def test_a_stop_while_the_claim_is_under_way_ends_what_was_begun() -> None:
    generator = PaintingGenerator()
    world, stop, claim = World(generator), StopSignal(), threading.Event()
    generator.lingers = True
    world.documents.before = held(claim)
    job = asyncio.create_task(world.run(CLOUD, stop=stop))
    assert await asyncio.to_thread(generator.stepped.wait, PATIENCE)
    stop.request(Cancelled())
    while generator.running:
        await asyncio.sleep(0.01)
    claim.set()
    response = await job
    assert (response["error_code"], response["usage"]["units"]) == ("cancelled", 0)
    assert (generator.steps_done, world.document["error"]["code"]) == (1, "cancelled")


async def test_a_job_that_is_stopped_during_its_claim_keeps_its_lease_until_the_gpu_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A step or a slow disk may last longer than a lease: the job would look like one of a lost worker."""
    monkeypatch.setattr(timing, "PROGRESS_SECONDS", 0.02)
    monkeypatch.setattr(timing, "HEARTBEAT_SECONDS", 0.02)
    world, stop, claim = World(generator := Hangs()), StopSignal(), threading.Event()
    world.documents.before = held(claim)
    job = asyncio.create_task(world.run(CLOUD, stop=stop))
    await asyncio.to_thread(until, lambda: generator.running, PATIENCE, "generation")
    stop.request(Cancelled())
    for _ in range(20):  # until the wait for the claim has ended
        await asyncio.sleep(0)
    claim.set()
    await asyncio.to_thread(until, lambda: len(world.documents.history.get(PATH, ())) > 2, PATIENCE, "heartbeat")
    generator.release.set()
    assert (await job)["error_code"] == "cancelled"
    assert world.document["error"]["code"] == "cancelled"


async def test_nothing_is_stored_before_the_claim_is_there_however_soon_it_is_made() -> None:
    generator, claimed, uploading = PaintingGenerator(), threading.Event(), threading.Event()
    world = World(generator)
    in_order: list[bool] = []

    def upload(call: str, _path: str) -> None:
        if call == "upload":
            uploading.set()
            in_order.append(claimed.is_set())

    def hold(call: str, _path: str) -> None:
        if call == "create":
            assert generator.painted.wait(PATIENCE)
            uploading.wait(0.3)  # time for a job that does not wait for the claim to show it

    world.documents.before, world.bucket.before = hold, upload
    world.documents.after = lambda *_: claimed.set()
    response = await world.run({**CLOUD, "num_images": 2})
    assert response["storage"] == "firebase"
    assert len(in_order) == 4
    assert all(in_order)


async def test_what_was_made_in_full_before_the_claim_was_refused_is_dropped() -> None:
    generator = PaintingGenerator()
    world = World(generator)
    await world.run(CLOUD)
    objects = dict(world.bucket.objects)
    generator.painted.clear()
    world.documents.before = held(generator.painted)
    response = await world.run({**CLOUD, "seed": 9}, job_id="job-2")
    assert response["error_code"] == "idempotency_mismatch"
    assert (generator.generated, world.bucket.objects) == (2, objects)


async def test_a_firestore_that_does_not_answer_costs_the_document_and_no_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for budget in ("CLAIM_SECONDS", "TERMINAL_SECONDS"):
        monkeypatch.setattr(timing, budget, 0.1)
    generator = PaintingGenerator()
    world = World(generator)
    down = is_down("firestore")
    world.documents.before = held(generator.painted, lambda call: down(call, PATH))
    response = await world.run(CLOUD)
    assert (response["storage"], world.paths) == ("firebase", ["generating/user/image/file.png"])
    assert [warning.partition(":")[0] for warning in response["warnings"]] == ["firestore", "firestore_synced"]


class TakesLong(PaintingGenerator):
    """A painter whose steps are estimated as long."""

    def estimate(self, request: Request, params: Params) -> Estimate:
        step = Unit("step", timing.UNSURE_STEP_SECONDS + 1)
        return Estimate((Unit("load", 0), step, Unit("decode", 0), Unit("pack", 0), Unit("upload", 0)), "measured")


@pytest.mark.parametrize("wanted", [True, False])
async def test_a_long_step_is_begun_only_when_the_job_is_known_to_be_wanted(wanted: bool) -> None:
    generator = TakesLong()
    world = World(generator)
    steps: list[int] = []
    world.documents.before = lambda *_: steps.append(generator.steps_done)
    if not wanted:
        world.documents.write_as_app(PATH, {"status": "queued", "cancel_requested": True})
    response = await world.run(CLOUD)
    assert response.get("error_code") == (None if wanted else "cancelled")
    assert steps[0] == 0
    assert (generator.generated == 1) is wanted
    assert ("usage" in response) is wanted


async def test_a_job_that_is_refused_holds_nothing_of_what_it_made() -> None:
    """asyncio would report tasks that nobody awaits."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    generator = PaintingGenerator()
    world = World(generator)
    await world.run(CLOUD)
    generator.painted.clear()
    world.documents.before = held(generator.painted)
    await world.run(CLOUD, job_id="job-2")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.sleep(0.01)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    gc.collect()
    assert (complaints, others) == ([], set())
