"""Cases 1-9, 33, 36, 48: jobs that RunPod delivers twice, never again, or to a worker that dies of them."""

import asyncio
import os
import signal
import time
from typing import Any

import pytest

from tests.faults.conftest import MakeWorld
from tests.support.clock import until
from tests.support.faulty_world import Endpoint, World, cloud, path_of, reap
from tools.emulators.worker_process import WorkerProcess
from worker.api.response import REPLAY_WARNING
from worker.core import timing

SLOW: dict[str, Any] = {"num_inference_steps": 100}
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
    assert {endpoint.plane.workers_of(after)[0] for after in jobs} == {"worker-1", "worker-2"}, "both live"


@pytest.mark.parametrize("fate", ["superseded", "deleted", "cancelled"])
async def test_case_02_an_attempt_that_lost_its_claim_in_line_for_the_card_is_stopped_at_a_step(
    make_world: MakeWorld, fate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card becomes free before the lease is renewed: the document is read beside the first step."""
    monkeypatch.setattr(timing, "WATCH_SECONDS", 60.0)
    waiting, another = make_world(), make_world()
    before = asyncio.create_task(waiting.serve(cloud("c02b-before", "hangs: a fox"), "job-before"))
    await asyncio.to_thread(until, lambda: waiting.ledger.begun("c02b-before") == 1)
    late = asyncio.create_task(waiting.serve(cloud("c02b"), "job-c02b"))
    await asyncio.to_thread(until, lambda: waiting.status("c02b") == "processing")
    if fate == "superseded":
        another.check_completed("c02b", await another.serve(cloud("c02b"), "job-c02b"))
    elif fate == "deleted":
        waiting.firebase.documents.document(path_of("c02b")).delete()
    else:
        waiting.write_as_app("c02b", {"cancel_requested": True})
    document, generations = waiting.document("c02b"), waiting.generations("c02b")
    await asyncio.sleep(timing.FRESH_SECONDS + 0.1)
    waiting.painter.step_seconds = 0.5
    waiting.painter.released.set()
    response = await late
    assert response["error_code"] == fate
    assert waiting.ledger.painted("c02b") == (1 if fate == "superseded" else 0)
    assert waiting.generations("c02b") == generations
    if fate == "cancelled":
        waiting.check_failed("c02b", response, "cancelled", retryable=False)
    else:
        assert waiting.document("c02b") == document
    waiting.check_completed("c02b-before", await before)
    await waiting.lives()


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
@pytest.mark.parametrize("moment", ["after_claim", "generating", "before_upload"])
def test_case_05_killed_before_anything_was_stored(endpoint: Endpoint, live: Endpoint, moment: str) -> None:
    name = f"c05-{moment}"
    job = _dies(endpoint, name, moment)
    document = endpoint.check_completed(name, _delivered_again(live, name, job))
    assert (document["attempt"], document["worker_id"]) == (2, live.workers[-1].worker_id)


@pytest.mark.e2e
def test_case_06_killed_after_the_upload_and_before_the_document(endpoint: Endpoint, live: Endpoint) -> None:
    job = _dies(endpoint, "c06", "before_document")
    assert endpoint.status("c06") == "processing"
    (orphan,) = endpoint.results("c06").values()
    response = _delivered_again(live, "c06", job)
    document = endpoint.check_completed("c06", response)
    (kept,) = endpoint.results("c06").values()
    assert (kept.generation, _token(kept)) == (orphan.generation, _token(orphan))
    assert response["images"][0].endswith(f"token={_token(orphan)}")
    assert (document["attempt"], response["seed"]) == (2, 7)


@pytest.mark.e2e
def test_case_06_killed_between_the_uploads_of_two_images(endpoint: Endpoint, live: Endpoint) -> None:
    fields: dict[str, Any] = {"num_images": 2, "num_inference_steps": 20}
    job = _dies(endpoint, "c06b", "after_upload", step_seconds=0.15, **fields)
    (orphan,) = endpoint.results("c06b").values()
    endpoint.check_completed("c06b", _delivered_again(live, "c06b", job, **fields), count=2)
    kept = endpoint.results("c06b")[orphan.name]
    assert (kept.generation, _token(kept)) == (orphan.generation, _token(orphan))


@pytest.mark.e2e
def test_case_07_killed_after_the_document_and_before_the_result(endpoint: Endpoint, live: Endpoint) -> None:
    job = _dies(endpoint, "c07", "after_document")
    before, generations = endpoint.document("c07"), endpoint.generations("c07")
    endpoint.check_completed("c07", _delivered_again(live, "c07", job))
    assert (endpoint.document("c07"), endpoint.generations("c07")) == (before, generations)


@pytest.mark.e2e
def test_case_08_killed_and_never_delivered_again(endpoint: Endpoint, live: Endpoint) -> None:
    job = _dies(endpoint, "c08", "generating")
    document = endpoint.document("c08")
    assert document is not None
    assert (document["status"], document["job_id"]) == ("processing", job)
    assert document["expires_at"] > document["heartbeat_at"]
    reap(endpoint.firebase)
    assert endpoint.status("c08") == "processing", "a lease that still runs is nobody else's business"
    endpoint.let_lease_run_out("c08")
    reap(endpoint.firebase)
    endpoint.check_failed("c08", None, "worker_lost", retryable=True)
    assert live.check_completed("c08", live.serve(cloud("c08")))["attempt"] == 2


@pytest.mark.e2e
def test_case_09_a_job_that_kills_its_workers_is_not_tried_a_fourth_time(endpoint: Endpoint, live: Endpoint) -> None:
    workers = [endpoint.start(f"mortal-{number}", die_at="generating") for number in range(3)]
    job = endpoint.plane.submit(cloud("c09"), "job-c09")
    for attempt in range(3):
        until(lambda least=attempt: _dead(workers) > least, 60, "death")  # type: ignore[misc]  # a default in a lambda
        if attempt < 2:
            endpoint.plane.deliver_again(job)
    assert endpoint.ledger.begun("c09") == 3
    response = _delivered_again(live, "c09", job)
    endpoint.check_failed("c09", response, "poison_job", retryable=False)
    live.plane.deliver_again(job)
    assert live.answer(job, count=2)["error_code"] == "poison_job"
    assert live.objects("c09") == {}


def _dead(workers: list[WorkerProcess]) -> int:
    return sum(1 for worker in workers if worker.returncode is not None)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_case_33_a_claim_that_was_lost_or_whose_answer_was_is_known_again(world: World, when: Any) -> None:
    world.firebase.fail_firestore("Commit", "UNAVAILABLE", when=when)
    response = await world.serve(cloud("c33"))
    document = world.check_completed("c33", response)
    assert (document["attempt"], response["warnings"]) == (1, [])
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
@pytest.mark.parametrize("seconds", [540, 4], ids=["frozen", "frozen past its own watchdog"])
def test_case_36_a_worker_that_was_frozen_past_its_lease_changes_nothing(
    endpoint: Endpoint, live: Endpoint, seconds: int
) -> None:
    name = f"c36-{seconds}"
    request = cloud(name, num_images=2, num_inference_steps=40)
    frozen = endpoint.ready("frozen", {"JOB_TIMEOUT_SECONDS": str(seconds)}, step_seconds=0.05)
    late = endpoint.plane.submit(request, f"job-{name}")
    until(lambda: len(endpoint.results(name)) == 1, what="first upload")
    os.kill(frozen.pid, signal.SIGSTOP)
    endpoint.let_lease_run_out(name)
    job = live.plane.submit(request)
    response = live.answer(job)
    document, generations = endpoint.document(name), endpoint.generations(name)
    if seconds < 10:
        time.sleep(seconds)
    os.kill(frozen.pid, signal.SIGCONT)
    assert endpoint.answer(late)["error_code"] in ("superseded", "timeout")
    endpoint.check_completed(name, response, count=2)
    assert (endpoint.document(name), endpoint.generations(name)) == (document, generations)
    assert document is not None
    assert (document["job_id"], document["attempt"]) == (job, 2)
    endpoint.lives(frozen)


async def test_case_36_who_gives_up_late_takes_no_object_from_its_successor(make_world: MakeWorld) -> None:
    """The late attempt has uploaded one image, and is told to stop before it learns of its successor."""
    late, successor = make_world(), make_world()
    request = cloud("c36b", "hangs at the second: a fox", num_images=2)
    frozen = asyncio.create_task(late.serve(request, "job-late"))
    await asyncio.to_thread(until, lambda: len(late.results("c36b")) == 1)
    late.let_lease_run_out("c36b")
    successor.painter.released.set()
    response = await successor.serve(request, "job-new")
    frozen.cancel()
    late.painter.released.set()
    await asyncio.wait({frozen})
    document = successor.check_completed("c36b", response, count=2)
    assert (document["job_id"], document["attempt"]) == ("job-new", 2)


async def test_case_48_a_document_of_a_newer_version_keeps_what_this_one_does_not_know(world: World) -> None:
    past = {"status": "failed", "schema_version": 7, "labels": ["mine"], "claim": {"nonce": "x", "colour": "red"}}
    world.write_as_app("c48", {**past, "attempt": 2, "error": {"code": "worker_lost"}, "future": {"deep": 1}})
    document = world.check_completed("c48", await world.serve(cloud("c48")))
    assert (document["schema_version"], document["labels"], document["future"]) == (7, ["mine"], {"deep": 1})
    assert document["attempt"] == 3


def _dies(endpoint: Endpoint, file_uid: str, moment: str, *, step_seconds: float = 0.02, **fields: Any) -> str:
    """Let a worker take a job and die silently at the moment; returns the job."""
    worker = endpoint.ready("mortal", die_at=moment, step_seconds=step_seconds)
    job = endpoint.plane.submit(cloud(file_uid, **fields), f"job-{file_uid}")
    assert worker.wait() == -signal.SIGKILL
    assert endpoint.plane.results(job) == []
    return job


def _delivered_again(live: Endpoint, file_uid: str, job: str, **fields: Any) -> dict[str, Any]:
    """Let RunPod hand the job to the worker that lives; returns the response."""
    return live.answer(live.plane.submit(cloud(file_uid, **fields), job))


def _token(blob: Any) -> str:
    return str(blob.metadata["firebaseStorageDownloadTokens"])
