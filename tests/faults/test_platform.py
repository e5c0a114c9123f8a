"""Cases 37, 39, 42, 43: RunPod's side fails, a worker thaws, a key is unreadable."""

import os
import signal
import time

import pytest

from tests.support.clock import until
from tests.support.faulty_world import Endpoint, cloud


@pytest.mark.e2e
@pytest.mark.parametrize("key", ["", '{"type": "service_account", "private_key": "SECRET-KEY-MATERIAL", '])
def test_case_37_no_key_or_a_garbled_one_at_boot(endpoint: Endpoint, key: str) -> None:
    env = {"FIREBASE_SERVICE_ACCOUNT_KEY": key, "FIRESTORE_EMULATOR_HOST": "", "STORAGE_EMULATOR_HOST": ""}
    worker = endpoint.ready(env=env)
    response = endpoint.serve(cloud("c37", num_images=2))
    assert (response["storage"], len(response["images"])) == ("base64", 2)
    assert any("Firebase is not configured" in warning for warning in response["warnings"])
    assert endpoint.document("c37") is None
    assert worker.returncode is None
    assert "firebase_disabled" in worker.log or "FIREBASE_SERVICE_ACCOUNT_KEY" in worker.log
    assert "SECRET-KEY" not in worker.log
    assert "SECRET-KEY" not in str(response)


@pytest.mark.e2e
def test_case_39_a_worker_that_was_frozen_between_two_jobs(live: Endpoint) -> None:
    live.lives()
    pid = live.workers[-1].pid
    os.kill(pid, signal.SIGSTOP)
    live.firebase.storage_proxy.reset_connections()
    live.firebase.firestore_proxy.reset_connections()
    time.sleep(2)
    os.kill(pid, signal.SIGCONT)
    response = live.serve(cloud("c39"))
    document = live.check_completed("c39", response)
    assert response["warnings"] == []
    assert abs(document["completed_at"].timestamp() - time.time()) < 60


@pytest.mark.e2e
def test_case_39_connections_that_went_silent_while_a_worker_slept(live: Endpoint) -> None:
    """After hours nobody sends a reset any more: packets just vanish. The first job is late, not lost."""
    live.lives()
    live.firebase.firestore_proxy.black_hole()
    live.plane.pause()
    time.sleep(0.5)
    live.firebase.firestore_proxy.reset_connections()
    live.firebase.firestore_proxy.pass_through()
    live.plane.pause(False)
    live.check_completed("c39b", live.serve(cloud("c39b")))


@pytest.mark.e2e
@pytest.mark.parametrize("codes", [(503, 503, 503), (400,)])
def test_case_42_the_platform_does_not_take_the_result(live: Endpoint, codes: tuple[int, ...]) -> None:
    name = f"c42-{len(codes)}"
    live.plane.answer_results(*codes)
    job = live.plane.submit(cloud(name))
    until(lambda: live.status(name) == "completed", what="completed document")
    until(
        lambda: sum(1 for post in live.plane.posts if (post.job_id, post.kind) == (job, "result")) == len(codes),
        30,
        "posts",
    )
    document = live.document(name)
    assert document is not None
    live.check_files(name, document["generation_data"])
    assert live.plane.results(job) == []


@pytest.mark.e2e
def test_case_43_no_progress_after_the_end(live: Endpoint) -> None:
    job = live.plane.submit(cloud("c43", num_images=2, num_inference_steps=80))
    live.check_completed("c43", live.answer(job), count=2)
    time.sleep(1.5)
    posts = [post for post in live.plane.posts if post.job_id == job]
    assert [post.kind for post in posts][-1] == "result"
    percents = [post.payload["output"]["percent"] for post in posts[:-1] if post.payload]
    assert percents == sorted(percents)
    assert len(percents) >= 2
    writes = live.writes("c43")
    assert (writes[-1].fields or {}).get("status") == "completed"
