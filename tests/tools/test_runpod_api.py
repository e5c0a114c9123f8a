"""RunPod's API as a backend calls it, over the real SDK loop: run, runsync, status, cancel, and the time to live."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import clock
from tools.emulators.control_plane import ControlPlane
from tools.emulators.worker_process import WorkerProcess

pytestmark = pytest.mark.e2e
ECHO = Path(__file__).parents[1] / "support" / "echo_handler.py"
Call = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane() as started, WorkerProcess(started, script=ECHO) as worker:
        worker.wait_ready()
        yield started


@pytest.fixture(scope="module")
def call(plane: ControlPlane) -> Call:
    def ask(path: str, body: Any = None, *, method: str = "POST", key: str = "any key") -> tuple[int, Any]:
        """Return the status code and the parsed response."""
        request = urllib.request.Request(
            f"{plane.url}/endpoint-1/{path}",
            data=None if method == "GET" else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return ask


def until(call: Call, job: str, state: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answer: dict[str, Any] = call(f"status/{job}", method="GET")[1]
        if answer["status"] == state:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"{job} was not {state} in time: {answer}")


def test_runsync_answers_with_the_result(call: Call) -> None:
    code, answer = call("runsync", {"input": {"prompt": "a red star"}})
    assert code == 200
    assert answer["status"] == "COMPLETED"
    assert answer["output"] == {"echo": {"prompt": "a red star"}}


def test_run_answers_at_once_and_status_tells_the_rest(call: Call) -> None:
    code, queued = call("run", {"input": {"steps": 1000, "pause": 0.1}, "policy": {"ttl": 600_000}})
    assert (code, queued["status"]) == (200, "IN_QUEUE")
    assert until(call, queued["id"], "IN_PROGRESS")["workerId"] == "worker-1"
    call(f"cancel/{queued['id']}")
    short = call("run", {"input": {"steps": 4, "pause": 0.1}, "policy": {"ttl": 600_000}})[1]
    assert until(call, short["id"], "COMPLETED")["output"] == {"echo": {"steps": 4, "pause": 0.1}}


def test_status_takes_post_too_and_shows_the_error_of_a_failure(call: Call) -> None:
    failed = call("runsync", {"input": {"error": "invalid_input: width"}})[1]
    assert failed["status"] == "FAILED"
    assert call(f"status/{failed['id']}") == (200, failed)
    assert failed["error"] == "invalid_input: width"


def test_cancel_stops_a_running_job(call: Call, plane: ControlPlane) -> None:
    job = call("run", {"input": {"steps": 200, "pause": 0.1}})[1]["id"]
    plane.wait_progress(job, lambda output: output["step"] >= 1)
    assert call(f"cancel/{job}")[1]["status"] == "CANCELLED"
    assert call("runsync", {"input": {"n": 1}})[1]["status"] == "COMPLETED"


def test_a_waiting_job_is_forgotten_when_its_time_is_over(call: Call, plane: ControlPlane) -> None:
    plane.pause()
    try:
        jobs = [call("run", {"input": {"n": 1}, "policy": {"ttl": ttl}})[1]["id"] for ttl in (300, 600_000)]
        clock.until(lambda: call(f"status/{jobs[0]}")[0] == 404)
        assert call(f"status/{jobs[1]}")[0] == 200
    finally:
        plane.pause(False)
    assert call("runsync", {"input": {"n": 2}})[1]["output"] == {"echo": {"n": 2}}


def test_a_running_job_is_stopped_when_its_time_is_over(call: Call, plane: ControlPlane) -> None:
    job = call("run", {"input": {"steps": 1000, "pause": 0.1}, "policy": {"ttl": 4000}})[1]["id"]
    plane.wait_progress(job, lambda output: output["step"] >= 1)
    clock.until(lambda: call(f"status/{job}")[0] == 404)
    assert call("runsync", {"input": {"n": 3}})[1]["status"] == "COMPLETED"


@pytest.mark.parametrize("body", [{}, {"input": "a red star"}, []])
def test_what_is_no_job_is_refused(call: Call, body: Any) -> None:
    assert call("run", body)[0] == 400


def test_nothing_is_taken_without_a_key(call: Call) -> None:
    assert call("run", {"input": {"n": 1}}, key="")[0] == 401
