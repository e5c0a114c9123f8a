"""Cases 1-9, 33, 36, 48: jobs that RunPod delivers twice, never again, or to a worker that dies of them."""

import asyncio
import os
import signal
import time

import pytest

from tests.faults.conftest import MakeWorld
from tests.faults.painting_worker import Script
from tests.faults.world import Endpoint, World, cloud, reap, until
from worker.result import REPLAY_WARNING

SLOW = {"num_inference_steps": 100}
"""Two seconds of painting."""


@pytest.mark.e2e
def test_case_01_the_same_job_again_after_its_completion(live: Endpoint) -> None:
    job = live.plane.submit(cloud("c01"))
    first = live.answer(job)
    written, generations = len(live.writes("c01")), live.generations("c01")
    live.plane.deliver_again(job)
    second = live.answer(job, count=2)
    assert second["images"] == first["images"]
    assert REPLAY_WARNING in second["warnings"]
    live.check_completed("c01", first)
    assert len(live.writes("c01")) == written
    assert live.generations("c01") == generations
    assert live.ledger.painted("c01") == 1


@pytest.mark.e2e
def test_case_02_the_same_job_at_two_workers_at_once(endpoint: Endpoint) -> None:
    workers = [endpoint.start("worker-1", step_seconds=0.05), endpoint.start("worker-2", step_seconds=0.05)]
    for worker in workers:
        worker.wait_ready()
    job = endpoint.plane.submit(cloud("c02", **SLOW))
    endpoint.wait_processing("c02")
    endpoint.plane.deliver_again(job)
    endpoint.answer(job, count=2)
    assert sorted(endpoint.plane.workers_of(job)) == ["worker-1", "worker-2"]
    outcomes = [posted["output"].get("error_code", "ok") for posted in endpoint.plane.results(job)]
    assert sorted(outcomes) in (["ok", "superseded"], ["ok", "ok"])
    good = next(posted["output"] for posted in endpoint.plane.results(job) if "error" not in posted)
    document = endpoint.check_completed("c02", good)
    assert document["attempt"] == 2
    assert endpoint.statuses("c02").count("completed") == 1
    jobs = [endpoint.plane.submit(cloud(f"c02-{number}", **SLOW)) for number in range(2)]
    for number, after in enumerate(jobs):
        endpoint.check_completed(f"c02-{number}", endpoint.answer(after))
    assert all(worker.returncode is None for worker in workers)


@pytest.mark.e2e
def test_case_03_another_job_asks_for_what_is_stored(live: Endpoint) -> None:
    first = live.serve(cloud("c03"))
    before = live.document("c03")
    second = live.serve(cloud("c03"))
    assert (second["images"], second["seed"]) == (first["images"], first["seed"])
    live.check_completed("c03", first)
    assert live.document("c03") == before
    assert live.ledger.painted("c03") == 1


@pytest.mark.e2e
def test_case_04_another_request_under_the_same_file_uid(live: Endpoint) -> None:
    first = live.serve(cloud("c04"))
    before, generations = live.document("c04"), live.generations("c04")
    refused = live.serve(cloud("c04", seed=8))
    assert (refused["error_code"], refused["retryable"]) == ("idempotency_mismatch", False)
    live.check_completed("c04", first)
    assert (live.document("c04"), live.generations("c04")) == (before, generations)
    assert live.ledger.painted("c04") == 1


@pytest.mark.e2e
@pytest.mark.parametrize("moment", ["before_claim", "after_claim", "loading", "generating", "before_upload"])
def test_case_05_killed_before_anything_was_stored(endpoint: Endpoint, moment: str) -> None:
    job, _ = _die(endpoint, "c05", moment)
    assert endpoint.plane.results(job) == []
    endpoint.ready("worker-2")
    endpoint.plane.deliver_again(job)
    document = endpoint.check_completed("c05", endpoint.answer(job))
    assert document["attempt"] == (1 if moment == "before_claim" else 2)
    assert document["worker_id"] == "worker-2"


@pytest.mark.e2e
def test_case_06_killed_after_the_upload_and_before_the_document(endpoint: Endpoint) -> None:
    job, _ = _die(endpoint, "c06", "before_document")
    assert endpoint.status("c06") == "processing"
    (orphan,) = endpoint.objects("c06").values()
    endpoint.ready("worker-2")
    endpoint.plane.deliver_again(job)
    response = endpoint.answer(job)
    document = endpoint.check_completed("c06", response)
    (kept,) = endpoint.objects("c06").values()
    assert (kept.generation, kept.metadata) == (orphan.generation, orphan.metadata)
    assert response["images"][0].endswith(f"token={orphan.metadata['firebaseStorageDownloadTokens']}")
    assert (document["attempt"], response["seed"]) == (2, 7)
    assert endpoint.ledger.painted("c06") == 1, "what was stored already was generated again"


@pytest.mark.e2e
def test_case_06_killed_between_the_uploads_of_two_images(endpoint: Endpoint) -> None:
    job, _ = _die(endpoint, "c06b", "after_upload", num_images=2, num_inference_steps=20)
    (orphan,) = endpoint.objects("c06b").values()
    endpoint.ready("worker-2")
    endpoint.plane.deliver_again(job)
    endpoint.check_completed("c06b", endpoint.answer(job), count=2)
    kept = endpoint.objects("c06b")[orphan.name]
    assert (kept.generation, kept.metadata) == (orphan.generation, orphan.metadata)


@pytest.mark.e2e
def test_case_07_killed_after_the_document_and_before_the_result(endpoint: Endpoint) -> None:
    job, _ = _die(endpoint, "c07", "after_document")
    before, generations = endpoint.document("c07"), endpoint.generations("c07")
    assert endpoint.plane.results(job) == []
    endpoint.ready("worker-2")
    endpoint.plane.deliver_again(job)
    endpoint.check_completed("c07", endpoint.answer(job))
    assert (endpoint.document("c07"), endpoint.generations("c07")) == (before, generations)
    assert endpoint.ledger.painted("c07") == 1


@pytest.mark.e2e
def test_case_08_killed_and_never_delivered_again(endpoint: Endpoint) -> None:
    job, _ = _die(endpoint, "c08", "generating")
    document = endpoint.document("c08")
    assert document is not None
    assert (document["status"], document["job_id"]) == ("processing", job)
    assert document["expires_at"] > document["heartbeat_at"]
    reap(endpoint.firebase)
    assert endpoint.status("c08") == "processing", "a lease that still runs is nobody else's business"
    endpoint.let_lease_run_out("c08")
    reap(endpoint.firebase)
    endpoint.check_failed("c08", None, "worker_lost", retryable=True)
    endpoint.ready("worker-2")
    again = endpoint.plane.submit(cloud("c08"))
    assert endpoint.check_completed("c08", endpoint.answer(again))["attempt"] == 2


@pytest.mark.e2e
def test_case_09_a_job_that_kills_its_workers_is_not_tried_a_fourth_time(endpoint: Endpoint) -> None:
    workers = [endpoint.start(f"worker-{number}", die_at="generating") for number in range(3)]
    job = endpoint.plane.submit(cloud("c09"))
    for attempt in range(3):
        until(lambda at_least=attempt: _dead(workers) > at_least, 60, "death")  # type: ignore[misc]  # a loop's value
        if attempt < 2:
            endpoint.plane.deliver_again(job)
    survivor = endpoint.ready("worker-4")
    painted = endpoint.ledger.painted("c09")
    endpoint.plane.deliver_again(job)
    response = endpoint.answer(job)
    endpoint.check_failed("c09", response, "poison_job", retryable=False)
    assert (painted, endpoint.ledger.painted("c09")) == (3, 3)
    endpoint.plane.deliver_again(job)
    assert endpoint.answer(job, count=2)["error_code"] == "poison_job"
    assert endpoint.ledger.painted("c09") == 3
    endpoint.lives(survivor)


def _dead(workers: list[object]) -> int:
    return sum(1 for worker in workers if worker.returncode is not None)  # type: ignore[attr-defined]  # WorkerProcess


async def test_case_33_a_claim_whose_answer_was_lost_is_known_again(world: World) -> None:
    world.firebase.fail_firestore("Commit", "UNAVAILABLE", when="after")
    document = world.check_completed("c33", await world.serve(cloud("c33")))
    assert document["attempt"] == 1
    assert world.statuses("c33") == ["processing", "completed"]


async def test_case_33_a_completion_whose_answer_was_lost_is_known_again(world: World) -> None:
    job = asyncio.create_task(world.serve(cloud("c33b", num_inference_steps=30)))
    await asyncio.to_thread(until, lambda: world.status("c33b") == "processing")
    world.firebase.fail_firestore("Commit", "UNAVAILABLE", when="after", times=None, delay=0.0)
    await asyncio.sleep(0.4)
    response = await job
    world.firebase.clear_firestore_faults()
    document = world.check_completed("c33b", response)
    assert response["warnings"] == []
    assert document["attempt"] == 1
    assert world.statuses("c33b").count("completed") == 1


@pytest.mark.e2e
def test_case_36_a_worker_that_was_frozen_past_its_lease_changes_nothing(endpoint: Endpoint) -> None:
    frozen = endpoint.ready("worker-1", step_seconds=0.05)
    late = endpoint.plane.submit(cloud("c36", num_images=2, num_inference_steps=30))
    until(lambda: len(endpoint.objects("c36")) == 1, what="first upload")
    os.kill(frozen.pid, signal.SIGSTOP)
    endpoint.let_lease_run_out("c36")
    endpoint.ready("worker-2")
    job = endpoint.plane.submit(cloud("c36", num_images=2, num_inference_steps=30))
    response = endpoint.answer(job)
    document, generations = endpoint.document("c36"), endpoint.generations("c36")
    os.kill(frozen.pid, signal.SIGCONT)
    assert endpoint.answer(late)["error_code"] == "superseded"
    endpoint.check_completed("c36", response, count=2)
    assert (endpoint.document("c36"), endpoint.generations("c36")) == (document, generations)
    assert document is not None
    assert (document["job_id"], document["attempt"]) == (job, 2)
    endpoint.plane.pause()
    endpoint.workers[1].terminate()
    endpoint.workers[1].wait()
    endpoint.plane.pause(False)
    endpoint.lives(frozen)


async def test_case_36_a_late_attempt_that_is_cancelled_takes_no_object_from_its_successor(
    make_world: MakeWorld,
) -> None:
    late, successor = make_world(Script(step_seconds=0.1)), make_world()
    request = cloud("c36b", num_images=2, num_inference_steps=40)
    frozen = asyncio.create_task(late.serve(request, "job-late"))
    await asyncio.to_thread(until, lambda: len(late.objects("c36b")) == 1)
    late.let_lease_run_out("c36b")
    response = await successor.serve(request, "job-new")
    frozen.cancel()
    with pytest.raises(asyncio.CancelledError):
        await frozen
    document = successor.check_completed("c36b", response, count=2)
    assert (document["job_id"], document["attempt"]) == ("job-new", 2)


async def test_case_48_a_document_of_a_newer_version_keeps_what_this_one_does_not_know(world: World) -> None:
    past = {"status": "failed", "schema_version": 7, "labels": ["mine"], "claim": {"nonce": "x", "colour": "red"}}
    world.write_as_app("c48", {**past, "attempt": 2, "error": {"code": "worker_lost"}, "future": {"deep": 1}})
    document = world.check_completed("c48", await world.serve(cloud("c48")))
    assert (document["schema_version"], document["labels"], document["future"]) == (7, ["mine"], {"deep": 1})
    assert document["attempt"] == 3


def _die(endpoint: Endpoint, file_uid: str, moment: str, **fields: object) -> tuple[str, float]:
    """A worker takes a job and dies of it at the moment; the job and how long that took."""
    worker = endpoint.ready("worker-1", die_at=moment)
    started = time.monotonic()
    job = endpoint.plane.submit(cloud(file_uid, **fields))
    assert worker.wait(30) == -signal.SIGKILL
    return job, time.monotonic() - started
