"""Cases 10-17: a job or its worker is told to leave, or has to."""

import asyncio
import time
from typing import Any

import pytest

from tests.faults.conftest import MakeWorld
from tests.support.clock import SOON_SECONDS, until
from tests.support.faulty_world import Endpoint, cloud
from tests.support.painting_worker import Script

SLOW: dict[str, Any] = {"num_inference_steps": 100}
"""Two seconds of painting."""


@pytest.mark.e2e
def test_case_10_sigterm_in_the_middle_of_a_job(endpoint: Endpoint) -> None:
    worker = endpoint.ready()
    job = endpoint.plane.submit(cloud("c10", **SLOW))
    endpoint.wait_processing("c10")
    worker.terminate()
    endpoint.check_completed("c10", endpoint.answer(job))
    assert worker.wait() == 0


@pytest.mark.e2e
def test_case_11_sigterm_and_the_grace_is_over_before_the_job(endpoint: Endpoint, live: Endpoint) -> None:
    worker = endpoint.ready(step_seconds=0.1)
    job = endpoint.plane.submit(cloud("c11", **SLOW), "job-c11")
    endpoint.wait_processing("c11")
    worker.terminate()
    time.sleep(0.5)
    assert worker.returncode is None
    worker.kill()
    worker.wait()
    assert endpoint.plane.results(job) == []
    document = endpoint.document("c11")
    assert document is not None
    assert document["status"] == "processing", "nothing but a lease that ends is left behind"
    assert document["expires_at"] > document["heartbeat_at"]
    assert endpoint.objects("c11") == {}
    again = live.plane.submit(cloud("c11", **SLOW), job)
    assert live.check_completed("c11", live.answer(again))["attempt"] == 2


@pytest.mark.e2e
def test_case_12_a_job_that_arrives_while_an_idle_worker_leaves(endpoint: Endpoint, live: Endpoint) -> None:
    """It may be on its way when the poll ends: then it must be delivered again, and nothing may prevent that."""
    leaving = endpoint.ready()
    leaving.terminate()
    job = endpoint.plane.submit(cloud("c12"), "job-c12")
    assert leaving.wait() == 0
    assert endpoint.plane.results(job) == [] or endpoint.status("c12") == "completed"
    live.check_completed("c12", live.answer(live.plane.submit(cloud("c12"), job)))


@pytest.mark.e2e
def test_case_13_cancelled_while_queued(live: Endpoint) -> None:
    live.plane.pause()
    job = live.plane.submit(cloud("c13"))
    live.plane.stop(job)
    live.plane.pause(False)
    live.lives()
    assert live.plane.state(job) == "CANCELLED"
    assert live.plane.workers_of(job) == []
    assert (live.document("c13"), live.objects("c13"), live.ledger.begun("c13")) == (None, {}, 0)


@pytest.mark.e2e
def test_case_14_cancelled_while_running(live: Endpoint) -> None:
    job = live.plane.submit(cloud("c14", num_images=4, **SLOW))
    until(lambda: len(live.results("c14")) >= 1, what="first upload")
    stopped = time.time()
    live.plane.stop(job)
    after = live.plane.submit(cloud("c14-after"))
    live.check_completed("c14-after", live.answer(after))
    live.check_failed("c14", None, "cancelled", retryable=False)
    assert (live.plane.results(job), live.plane.state(job)) == ([], "CANCELLED")
    events = [event for event in live.ledger.events() if event["file_uid"] in ("c14", "c14-after")]
    assert [event["event"] for event in events] == ["begin", "end", "begin", "painted", "end"]
    assert events[1]["at"] - stopped < 4, "six seconds were left: the GPU was not left within a step of the signal"


@pytest.mark.e2e
def test_case_15_cancelled_between_upload_and_completion(live: Endpoint) -> None:
    job = live.plane.submit(cloud("c15", num_inference_steps=40))
    live.wait_processing("c15")
    live.firebase.fail_firestore("Commit", None, delay=1.2, times=None)
    until(lambda: live.results("c15"), what="upload")
    live.plane.stop(job)
    until(lambda: live.status("c15") in ("completed", "failed"), what="end")
    live.firebase.clear_firestore_faults()
    document = live.document("c15")
    assert document is not None
    if document["status"] == "completed":
        live.check_files("c15", document["generation_data"])
    else:
        live.check_failed("c15", None, "cancelled", retryable=False)
    assert live.plane.state(job) == "CANCELLED"


async def test_case_15_cancelled_while_the_document_is_being_completed(make_world: MakeWorld) -> None:
    """Wherever the stop comes, document and objects agree; 12 moments from the claim to the response."""
    world = make_world(Script(step_seconds=0.0))
    ended = []
    for number in range(12):
        name = f"c15-{number}"
        job = asyncio.create_task(world.serve(cloud(name), name))
        await asyncio.sleep(0.012 * number)
        job.cancel()
        await asyncio.wait({job})
        document = world.document(name)
        ended.append((document or {}).get("status"))
        if document is not None and document["status"] == "completed":
            world.check_files(name, document["generation_data"])
        elif document is not None:
            world.check_failed(name, None, "cancelled", retryable=False)
        else:
            assert world.objects(name) == {}
    assert "processing" not in ended
    await world.lives()


async def test_case_16_the_watchdog_is_there_before_the_platform(make_world: MakeWorld) -> None:
    world = make_world(Script(step_seconds=0.05), job_timeout_seconds=2)
    started = time.monotonic()
    response = await world.serve(cloud("c16", num_images=2, num_inference_steps=100))
    assert time.monotonic() - started < SOON_SECONDS
    world.check_failed("c16", response, "timeout", retryable=False)
    await world.lives()


@pytest.mark.e2e
def test_case_17_a_step_that_never_comes_back(endpoint: Endpoint) -> None:
    worker = endpoint.ready(env={"JOB_TIMEOUT_SECONDS": "4"}, stop_grace=1)
    job = endpoint.plane.submit(cloud("c17", "hangs: a fox"))
    response = endpoint.answer(job)
    endpoint.check_failed("c17", response, "timeout", retryable=False)
    assert endpoint.plane.wait(job)["stopPod"] is True
    until(lambda: worker.returncode is not None, what="end of the worker with the hung card")
