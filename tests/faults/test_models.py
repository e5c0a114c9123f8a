"""Cases 18-21, 40, 41, 45, 46, 48: the model, its card, the disk or the result fails."""

import signal
import time

import pytest

from tests.faults.conftest import MakeWorld
from tests.support.clock import until
from tests.support.faulty_world import Endpoint, World, children, cloud
from tests.support.fixtures import missing
from tests.support.painting_worker import Script


@pytest.mark.e2e
def test_case_18_out_of_memory(live: Endpoint) -> None:
    response = live.serve(cloud("c18", "out of memory: a fox"))
    live.check_failed("c18", response, "out_of_memory", retryable=False)
    assert "smaller" in response["error"]


@pytest.mark.e2e
def test_case_19_a_card_that_is_poisoned(endpoint: Endpoint, live: Endpoint) -> None:
    worker = endpoint.ready()
    job = endpoint.plane.submit(cloud("c19", "gpu fault: a fox"))
    endpoint.check_failed("c19", endpoint.answer(job), "gpu_fault", retryable=True)
    assert endpoint.plane.wait(job)["stopPod"] is True, "RunPod is asked for a fresh worker"
    until(lambda: worker.returncode is not None, what="end of the worker with the poisoned card")
    assert live.check_completed("c19", live.serve(cloud("c19", "gpu is fine: a fox")))["attempt"] == 2


@pytest.mark.e2e
def test_case_20_the_container_is_killed_for_its_memory(endpoint: Endpoint, live: Endpoint) -> None:
    worker = endpoint.ready(step_seconds=0.1)
    job = endpoint.plane.submit(cloud("c20", num_inference_steps=100), "job-c20")
    until(lambda: any(job in ping.job_ids for ping in endpoint.plane.pings), what="ping with the job")
    worker.kill()
    assert worker.wait() == -signal.SIGKILL
    until(lambda: not children(worker), what="end of the pinger")
    seen = len(endpoint.plane.pings)
    time.sleep(1.5)
    assert len(endpoint.plane.pings) == seen, "somebody still says that the job is being worked on"
    again = live.plane.submit(cloud("c20", num_inference_steps=100), job)
    assert live.check_completed("c20", live.answer(again))["attempt"] == 2


@pytest.mark.e2e
def test_case_21_the_disk_is_full(endpoint: Endpoint) -> None:
    worker = endpoint.start(disk_bytes=200_000)
    try:
        worker.wait_ready()
    except RuntimeError:
        if "no file system of its own" in worker.log:
            missing("this machine lets a process have no file system of its own")
        raise
    video = {"task_type": "text2video", "video_width": 256, "video_height": 256, "num_frames": 21}
    response = endpoint.serve(cloud("c21", **video))
    endpoint.check_failed("c21", response, "disk_full", retryable=True)
    small = {**video, "video_width": 64, "video_height": 64, "num_frames": 5}
    after = endpoint.serve(cloud("c21-after", **small))
    assert after["storage"] == "firebase", "the disk was not cleaned"
    endpoint.lives(worker)


@pytest.mark.e2e
def test_case_40_a_result_that_is_no_json(live: Endpoint) -> None:
    response = live.serve(cloud("c40", "not json: a fox"))
    if "error" in response:
        live.check_failed("c40", response, "internal", retryable=True)
    else:
        live.check_completed("c40", response)


async def test_case_41_a_result_that_cannot_be_returned(make_world: MakeWorld) -> None:
    world = make_world(Script(side=512), max_result_bytes=20_000)
    response = await world.serve({"prompt": "a fox", "num_images": 4, "seed": 1})
    assert (response["error_code"], response["retryable"]) == ("result_too_large", False)
    await world.lives()


@pytest.mark.e2e
def test_case_45_no_job_is_taken_without_a_model(endpoint: Endpoint) -> None:
    worker = endpoint.start(healthy=False)
    job = endpoint.plane.submit(cloud("c45"))
    assert worker.wait() == 1
    assert endpoint.plane.workers_of(job) == []
    assert endpoint.document("c45") is None
    assert "could not be read" in worker.log


@pytest.mark.e2e
@pytest.mark.parametrize("how", ["raises", "exits", "interrupts"])
def test_case_46_a_model_raises_anything(live: Endpoint, how: str) -> None:
    name = f"c46-{how}"
    response = live.serve(cloud(name, f"{how}: a fox"))
    live.check_failed(name, response, "internal", retryable=True)
    assert "reference" in response["error"]
    said = str(response) + str(live.document(name)) + live.workers[-1].log
    for secret in ("Traceback", "/secret/path", "token=abc", "painting_worker.py"):
        assert secret not in said


async def test_case_40_a_document_that_firestore_cannot_hold(world: World) -> None:
    """A prompt with half a surrogate pair is refused or repaired, never dropped in silence."""
    response = await world.serve(cloud("c40b", "a fox \ud800"))
    if "error" in response:
        assert response["error_code"] == "invalid_input"
        assert world.status("c40b") == "failed"
    else:
        world.check_completed("c40b", response)
