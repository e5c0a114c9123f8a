"""RunPod's stand-in drives the real SDK loop: jobs, results, progress, pings, stop signals, SIGTERM."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clock import until
from tools.emulators.control_plane import ControlPlane
from tools.emulators.process import group_members
from tools.emulators.worker_process import WorkerProcess, clean_environment

pytestmark = pytest.mark.e2e
ECHO = Path(__file__).parents[1] / "support" / "echo_handler.py"


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane() as started:
        yield started


@pytest.fixture(scope="module")
def worker(plane: ControlPlane) -> Iterator[WorkerProcess]:
    with WorkerProcess(plane, script=ECHO, worker_id="shared") as started:
        yield started.wait_ready()


def test_a_job_comes_back_as_a_result(plane: ControlPlane, worker: WorkerProcess) -> None:
    job = plane.submit({"prompt": "a red star"})
    assert plane.wait(job) == {"output": {"echo": {"prompt": "a red star"}}}
    assert plane.state(job) == "COMPLETED"
    assert plane.workers_of(job) == ["shared"]


def test_an_error_fails_the_job(plane: ControlPlane, worker: WorkerProcess) -> None:
    job = plane.submit({"error": "invalid_input: width"})
    assert plane.wait(job)["error"] == "invalid_input: width"
    assert plane.state(job) == "FAILED"


def test_progress_is_kept_apart_from_the_result(plane: ControlPlane, worker: WorkerProcess) -> None:
    job = plane.submit({"steps": 3, "pause": 0.3})
    plane.wait_progress(job, lambda output: output["step"] == 2)
    assert plane.state(job) == "IN_PROGRESS"
    plane.wait(job)
    times = [post.at for post in plane.progress(job)]
    assert times == sorted(times)
    assert len(times) >= 2


def test_pings_name_the_job_in_progress(plane: ControlPlane, worker: WorkerProcess) -> None:
    job = plane.submit({"steps": 5, "pause": 0.3})
    plane.wait(job)
    assert any(job in ping.job_ids and ping.worker_id == "shared" for ping in plane.pings)


def test_a_stop_signal_cancels_the_running_job_and_the_worker_takes_the_next(
    plane: ControlPlane, worker: WorkerProcess
) -> None:
    job = plane.submit({"steps": 1000, "pause": 0.1})
    plane.wait_progress(job, lambda output: output["step"] >= 2)
    plane.stop(job)
    following = plane.submit({"after": "stop"})
    assert plane.wait(following, timeout=60)["output"] == {"echo": {"after": "stop"}}
    assert plane.results(job) == []
    assert plane.state(job) == "CANCELLED"


def test_a_job_can_be_delivered_twice(plane: ControlPlane, worker: WorkerProcess) -> None:
    job = plane.submit({"n": 1})
    plane.wait(job)
    plane.deliver_again(job)
    assert plane.wait(job, count=2) == plane.wait(job)
    assert plane.workers_of(job) == ["shared", "shared"]


def test_a_refused_result_does_not_count(plane: ControlPlane, worker: WorkerProcess) -> None:
    plane.answer_results(400)
    job = plane.submit({"n": 1})
    following = plane.submit({"n": 2})
    plane.wait(following)
    assert [post.answered for post in plane.posts if post.job_id == job] == [400]
    assert plane.results(job) == []


def test_a_result_that_is_not_json_is_dropped_as_the_platform_drops_it(
    plane: ControlPlane, worker: WorkerProcess
) -> None:
    job = plane.submit({"nan": True})
    plane.wait(plane.submit({}))
    (post,) = [post for post in plane.posts if post.job_id == job]
    assert (post.payload, post.answered) == (None, 400)


def test_sigterm_lets_the_job_finish_and_the_worker_leave_with_zero() -> None:
    with ControlPlane() as plane, WorkerProcess(plane, script=ECHO) as worker:
        worker.wait_ready()
        job = plane.submit({"steps": 3, "pause": 0.2})
        plane.wait_taken(job)
        worker.terminate()
        assert plane.wait(job)["output"] == {"echo": {"steps": 3, "pause": 0.2}}
        assert worker.wait(timeout=60) == 0


def test_a_killed_worker_and_its_heartbeat_are_gone_and_the_job_can_go_to_another() -> None:
    with ControlPlane() as plane:
        with WorkerProcess(plane, script=ECHO, worker_id="first") as worker:
            worker.wait_ready()
            job = plane.submit({"steps": 2, "pause": 0.5})
            plane.wait_taken(job)
            worker.kill()
            assert worker.wait() == -signal.SIGKILL
        pings = len(plane.pings)
        plane.deliver_again(job)
        with WorkerProcess(plane, script=ECHO, worker_id="second"):
            assert "output" in plane.wait(job)
        assert plane.workers_of(job) == ["first", "second"]
        assert all(ping.worker_id == "second" for ping in plane.pings[pings:])


def test_a_worker_that_cannot_start_says_why() -> None:
    with ControlPlane() as plane, WorkerProcess(plane, script=ECHO.with_name("missing.py")) as worker:
        with pytest.raises(RuntimeError, match="No such file"):
            worker.wait_ready(timeout=60)
        assert worker.returncode == 2


def test_a_worker_sees_nothing_of_the_testers_own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNPOD_ENDPOINT_ID", "FIREBASE_SERVICE_ACCOUNT_KEY", "FIRESTORE_EMULATOR_HOST"):
        monkeypatch.setenv(name, "mine")
    assert "mine" not in clean_environment().values()


def test_a_worker_ends_with_a_parent_that_is_killed() -> None:
    """SIGKILL of the test process leaves neither the worker nor its heartbeat behind."""
    code = (
        "import time; from pathlib import Path\n"
        "from tools.emulators.control_plane import ControlPlane\n"
        "from tools.emulators.worker_process import WorkerProcess\n"
        f"with ControlPlane() as p, WorkerProcess(p, script=Path({str(ECHO)!r})) as w:\n"
        "    w.wait_ready(); print(w.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        group = int(parent.stdout.readline())
        parent.kill()
    until(lambda: not group_members(group), what="end of the group")
