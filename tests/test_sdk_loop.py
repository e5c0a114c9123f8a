"""The whole worker as RunPod runs it: `python handler.py` under the real SDK, a local control plane, the emulators.

The platform's view, the document, the bucket's objects and the content behind their URLs agree.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.clock import until
from tests.support.faulty_world import SCRIPT as PAINTING
from tools import showing
from tools.emulators.control_plane import ControlPlane
from tools.emulators.firebase import FirebaseEmulators
from tools.emulators.worker_process import ROOT, WorkerProcess

pytestmark = pytest.mark.e2e

USER = "user-1"
SIDE = 64
PICTURE = showing.data_uri(showing.source_picture(SIDE, SIDE))
MASK = showing.data_uri(showing.centre_mask(SIDE, SIDE))
IMAGE = {"width": SIDE, "height": SIDE, "num_inference_steps": 3, "seed": 5}
VIDEO = {"video_width": SIDE, "video_height": SIDE, "num_frames": 5, "num_inference_steps": 2, "seed": 5, "fps": 5}
TASKS: dict[str, dict[str, Any]] = {
    "text2img": {"prompt": "a fox", "num_images": 2, **IMAGE},
    "img2img": {"task_type": "img2img", "prompt": "a fox", "image_url": PICTURE, "output_format": "webp", **IMAGE},
    "inpaint": {"task_type": "inpaint", "prompt": "a fox", "image_url": PICTURE, "mask_url": MASK, **IMAGE},
    "text2video": {"task_type": "text2video", "prompt": "a fox", **VIDEO},
    "img2video": {"task_type": "img2video", "prompt": "a fox", "image_url": PICTURE, **VIDEO},
}


class Endpoint:
    """One worker process, the control plane that feeds it, and the Firebase behind it."""

    def __init__(self, plane: ControlPlane, firebase: FirebaseEmulators, worker: WorkerProcess) -> None:
        self.plane, self.firebase, self.worker = plane, firebase, worker

    def send(self, file_uid: str, job_input: dict[str, Any]) -> str:
        owner = {"user_id": USER, "file_uid": file_uid, "use_cloud_storage": True}
        return self.plane.submit({**owner, **job_input})

    def document(self, file_uid: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.firebase.documents.document(self.path(file_uid)).get().to_dict()
        return found

    def statuses(self, file_uid: str) -> list[str]:
        writes = self.firebase.writes(self.path(file_uid))
        return [str(write.fields["status"]) for write in writes if write.fields and "status" in write.fields]

    def objects(self, file_uid: str) -> list[str]:
        names = [blob.name for blob in self.firebase.objects.list_blobs()]
        return sorted(name for name in names if f"/{file_uid}" in name)

    @staticmethod
    def path(file_uid: str) -> str:
        return f"generations/{USER}/files/{file_uid}"


@pytest.fixture(scope="module")
def endpoint(firebase_session: FirebaseEmulators) -> Iterator[Endpoint]:
    with ControlPlane() as plane, WorkerProcess(plane, firebase_session.env) as worker:
        worker.wait_ready(180)
        yield Endpoint(plane, firebase_session, worker)


@pytest.mark.parametrize("task", TASKS)
def test_response_document_object_and_url_agree(endpoint: Endpoint, task: str) -> None:
    file_uid = f"agree-{task}"
    job = endpoint.send(file_uid, TASKS[task])
    posted = endpoint.plane.wait(job, 120)
    assert "error" not in posted, posted
    response = posted["output"]
    document = endpoint.document(file_uid)
    assert document is not None
    assert document["status"] == "completed"
    assert (document["job_id"], document["attempt"]) == (job, 1)
    data = document["generation_data"]
    for field in ("files", "seed", "storage", "model", "video_url" if "video" in task else "image_url"):
        assert data[field] == response[field]
    assert (response["storage"], response["model"], response["task_type"]) == ("firebase", "demo", task)
    paths = [path for file in response["files"] for path in (file["storage_path"], file["thumbnail_path"])]
    assert endpoint.objects(file_uid) == sorted(paths)
    for said, uri in zip(response["files"], showing.uris(response), strict=True):
        content = showing.content(uri)
        assert len(content) == said["bytes"]
        if "video" in task:
            showing.check_video(content, SIDE, SIDE, 5, 5)
        else:
            showing.check_image(content, SIDE, SIDE)
    statuses = endpoint.statuses(file_uid)
    assert statuses[0] == "processing"
    assert statuses[-1] == "completed"
    assert set(statuses) == {"processing", "completed"}


def test_progress_reaches_the_platform_in_order_and_never_after_the_result(endpoint: Endpoint) -> None:
    job = endpoint.send(
        "progress", {"prompt": "a fox", **IMAGE, "width": 384, "height": 384, "num_inference_steps": 40}
    )
    endpoint.plane.wait(job, 120)
    posts = endpoint.plane.progress(job)
    percents = [(post.payload or {})["output"]["percent"] for post in posts]
    assert posts, "no progress was posted"
    assert percents == sorted(percents)
    seen = len(posts)
    time.sleep(1.5)
    assert len(endpoint.plane.progress(job)) == seen
    everything = [post for post in endpoint.plane.posts if post.job_id == job]
    assert (everything[-1].payload or {}).get("status") != "IN_PROGRESS"


def test_a_refused_request_fails_the_document_and_names_every_field(endpoint: Endpoint) -> None:
    job = endpoint.send("refused", {"prompt": "", "width": 1023, "num_frames": 5})
    posted = endpoint.plane.wait(job)
    assert posted["error"].startswith("invalid_input: ")
    for field in ("prompt", "width", "num_frames"):
        assert f"{field}: " in posted["error"]
    document = endpoint.document("refused")
    assert document is not None
    assert (document["status"], document["error"]["code"]) == ("failed", "invalid_input")
    assert f"invalid_input: {document['error']['message']}" == posted["error"]
    assert endpoint.objects("refused") == []


def test_a_stop_signal_at_an_early_step_ends_the_job_and_frees_the_gpu(endpoint: Endpoint) -> None:
    slow = {"prompt": "a fox", **IMAGE, "width": 1024, "height": 1024, "num_inference_steps": 100, "num_images": 4}
    job = endpoint.send("stopped", slow)
    until(lambda: ((endpoint.document("stopped") or {}).get("progress") or {}).get("step", 0) >= 3, 120, "third step")
    endpoint.plane.stop(job)
    until(lambda: (endpoint.document("stopped") or {}).get("status") != "processing", 120, "end")
    document = endpoint.document("stopped")
    assert document is not None
    assert (document["status"], document["error"]["code"]) == ("failed", "cancelled")
    writes = endpoint.firebase.writes(endpoint.path("stopped"))
    steps = [((write.fields or {}).get("progress") or {}).get("step", 0) for write in writes]
    assert max(steps) < 4 * 100
    after = endpoint.plane.wait(endpoint.send("after-stop", TASKS["text2img"]), 120)
    assert after["output"]["storage"] == "firebase"
    assert endpoint.plane.results(job) == []
    assert endpoint.objects("stopped") == []


def test_a_user_cancels_through_their_own_document(endpoint: Endpoint) -> None:
    slow = {"prompt": "a fox", **IMAGE, "width": 1024, "height": 1024, "num_inference_steps": 100}
    job = endpoint.send("cancelled", slow)
    reference = endpoint.firebase.documents.document(endpoint.path("cancelled"))
    endpoint.plane.wait_taken(job)
    until(lambda: (endpoint.document("cancelled") or {}).get("status") == "processing", 60, "claim")
    reference.update({"cancel_requested": True})
    posted = endpoint.plane.wait(job, 60)
    assert posted["output"]["error_code"] == "cancelled"
    document = endpoint.document("cancelled")
    assert document is not None
    assert document["status"] == "failed"


def test_a_job_without_cloud_storage_comes_back_inline(endpoint: Endpoint) -> None:
    posted = endpoint.plane.wait(endpoint.plane.submit({"prompt": "a fox", **IMAGE}), 120)
    response = posted["output"]
    assert response["storage"] == "base64"
    showing.check_image(showing.content(response["image_url"]), SIDE, SIDE)


def test_nothing_that_must_not_be_said_is_in_the_log(endpoint: Endpoint) -> None:
    """Neither of this job nor of any other one here."""
    assert "error" not in endpoint.plane.wait(endpoint.send("logged", TASKS["img2img"]), 120)
    log = endpoint.worker.log
    for secret in ("a fox", "Traceback", "token=", ";base64,", "/work", "site-packages"):
        assert secret not in log, f"{secret!r} is in the log"
    assert "job completed" in log


def test_a_worker_that_was_told_to_leave_drops_no_job_and_leaves_with_its_last_one() -> None:
    """The SDK waits up to 90 s for its polls, and runs no job that one of them brings meanwhile."""
    variables = {"PYTHONPATH": str(ROOT), "WORKER_CONCURRENCY": "2", "PAINTER": json.dumps({"step_seconds": 0.1})}
    with ControlPlane(poll_seconds=300) as plane, WorkerProcess(plane, variables, script=PAINTING) as worker:
        worker.wait_ready()
        job = plane.submit({"prompt": "a fox", **IMAGE, "num_inference_steps": 40})
        plane.wait_progress(job, lambda said: said["step"] > 0)
        worker.terminate()
        assert plane.wait(job, 60)["output"]["storage"] == "base64"
        late = plane.submit({"prompt": "a fox", **IMAGE})
        assert worker.wait(60) == 0
        assert plane.workers_of(late) == [] or plane.results(late)


def test_sigterm_in_the_middle_of_a_job_lets_it_finish(endpoint: Endpoint) -> None:
    """It ends the worker that served all tests above."""
    job = endpoint.send("sigterm", {"prompt": "a fox", **IMAGE, "width": 512, "height": 512})
    endpoint.plane.wait_progress(job, lambda _said: True)
    endpoint.worker.terminate()
    posted = endpoint.plane.wait(job, 120)
    assert posted["output"]["storage"] == "firebase"
    assert endpoint.worker.wait(60) == 0
    document = endpoint.document("sigterm")
    assert document is not None
    assert document["status"] == "completed"
