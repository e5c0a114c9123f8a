"""A job from validation to result: the response, the document and the bucket agree."""

import asyncio
import contextlib
import gc
import io
import json
import threading
import time
from typing import Any, Literal

import pytest
from PIL import Image

from tests.support.clock import FIREBASE_DOWN_SECONDS, SOON_SECONDS, LoopAhead, until
from tests.support.fakes import (
    PATIENCE,
    Hangs,
    HasNoModel,
    PaintingGenerator,
    Raises,
    Slow,
    is_down,
)
from tests.support.memory_world import CLOUD, PATH, World, data_uri, ticket
from tools.showing import opened
from worker.api.params import Params
from worker.api.request import Request
from worker.core import logs, timing
from worker.core.errors import Cancelled, GpuFault, Internal, JobTimeout, OutOfMemory
from worker.core.stop import StopSignal
from worker.core.types import Control, Progress
from worker.engine.estimate import Estimate, Unit
from worker.engine.protocol import Placement
from worker.job.context import Job
from worker.job.runner import run


async def test_a_cloud_job_agrees_in_response_document_and_bucket() -> None:
    world = World()
    response = await world.run({**CLOUD, "num_images": 2})
    assert "error" not in response
    assert world.paths == ["generating/user/image/file_0.png", "generating/user/image/file_1.png"]
    assert world.document["status"] == "completed"
    data = world.document["generation_data"]
    for name in ("images", "image_url", "seed", "seeds", "files", "storage", "model", "timings"):
        assert response[name] == data[name]
    assert response["images"][0] == response["image_url"] == response["files"][0]["url"]
    assert (response["seed"], response["seeds"]) == (7, [7, 8])
    assert (response["storage"], response["task_type"]) == ("firebase", "text2img")
    assert (response["user_id"], response["file_uid"]) == ("user", "file")
    assert response["warnings"] == []
    for url, path in zip(response["images"], world.paths, strict=True):
        data_, info, content_type = world.bucket.objects[path]
        token = info.metadata["firebaseStorageDownloadTokens"]
        quoted = path.replace("/", "%2F")
        assert url == f"https://firebasestorage.googleapis.com/v0/b/demo-bucket/o/{quoted}?alt=media&token={token}"
        assert content_type == "image/png"
        assert Image.open(io.BytesIO(data_)).size == (64, 64)


async def test_a_single_image_has_no_number_in_its_path() -> None:
    world = World()
    await world.run({**CLOUD, "output_format": "jpeg"})
    assert world.paths == ["generating/user/image/file.jpg"]


async def test_a_video_is_delivered_with_its_facts() -> None:
    world = World()
    job = {**CLOUD, "task_type": "text2video", "num_frames": 5, "fps": 10}
    response = await world.run(job)
    assert world.paths == ["generating/user/video/file.mp4"]
    assert response["videos"] == [response["video_url"]]
    assert response["video_info"] == {"frames": 5, "width": 64, "height": 64, "fps": 10, "duration_seconds": 0.5}
    assert response["files"][0]["content_type"] == "video/mp4"
    assert "images" not in response


async def test_the_document_is_there_before_any_step_is_shown_and_its_terminal_state_comes_last() -> None:
    world, shown = World(Slow()), list[bool]()

    def watch(progress: Progress) -> None:
        if progress.stage == "generating":
            shown.append(PATH in world.documents.stored)

    await run(Job("job-1", CLOUD), world.services(), StopSignal(), watch)
    statuses = [state["status"] for state in world.documents.history[PATH]]
    assert statuses[0] == "processing"
    assert statuses[-1] == "completed"
    assert statuses.count("completed") == 1
    assert shown
    assert all(shown)


async def test_without_cloud_storage_the_result_is_inline_and_nothing_is_written() -> None:
    world = World()
    response = await world.run({"prompt": "a fox", "seed": 3, "num_images": 2})
    assert response["storage"] == "base64"
    assert [opened(uri).size for uri in response["images"]] == [(64, 64)] * 2
    assert response["image_url"] == response["images"][0]
    assert not world.documents.stored
    assert not world.bucket.objects
    assert response["warnings"] == []


async def test_image_k_of_a_batch_is_the_single_image_with_seed_plus_k() -> None:
    world = World()
    batch = await world.run({"prompt": "x", "seed": 4294967295, "num_images": 2})
    single = await world.run({"prompt": "x", "seed": 0})
    assert batch["seeds"] == [4294967295, 0]
    assert batch["images"][1] == single["images"][0]


async def test_without_firebase_a_cloud_job_comes_back_inline_with_a_warning() -> None:
    world = World()
    world.firebase = False
    response = await world.run(CLOUD)
    assert response["storage"] == "base64"
    assert any("use_cloud_storage" in warning for warning in response["warnings"])


@pytest.mark.parametrize("kind", ["unreachable", "refused"])
async def test_a_failed_upload_comes_back_inline_and_the_document_says_so(kind: str) -> None:
    world = World()
    world.bucket.before = is_down("storage", kind)
    response = await world.run({**CLOUD, "num_images": 2})
    assert response["storage"] == "base64"
    assert [opened(uri).size for uri in response["images"]] == [(64, 64)] * 2
    assert any("upload failed" in warning for warning in response["warnings"])
    data = world.document["generation_data"]
    assert world.document["status"] == "completed"
    assert (data["storage"], data["images"], data["image_url"]) == ("base64", [], None)
    assert world.document["job_id"] == "job-1"


async def test_when_one_of_two_uploads_fails_nothing_partial_stays() -> None:
    world = World()

    def second_fails(call: str, path: str) -> None:
        if path.endswith("_1.png"):
            is_down("storage")(call, path)

    world.bucket.before = second_fails
    response = await world.run({**CLOUD, "num_images": 2})
    assert response["storage"] == "base64"
    assert len(response["images"]) == 2
    assert world.paths == []


async def test_two_generations_whose_files_would_have_one_name_do_not_replace_each_other() -> None:
    """The first of several images of `photo` has the same name as the only one of `photo_0`."""
    world = World()
    first = await world.run({**CLOUD, "file_uid": "photo", "num_images": 2})
    stored = dict(world.bucket.objects)
    second = await world.run({**CLOUD, "file_uid": "photo_0", "seed": 9}, job_id="job-2")
    assert (first["storage"], second["storage"]) == ("firebase", "base64")
    assert world.bucket.objects == stored
    assert world.documents.stored["generations/user/files/photo_0"][0]["status"] == "completed"


@pytest.mark.slow
async def test_a_dead_firestore_costs_the_document_not_the_result() -> None:
    world = World()
    world.documents.before = is_down("firestore")
    started = time.monotonic()
    response = await world.run(CLOUD)
    assert response["storage"] == "firebase"
    assert world.paths == ["generating/user/image/file.png"]
    assert any("firestore_synced: false" in warning for warning in response["warnings"])
    assert time.monotonic() - started < FIREBASE_DOWN_SECONDS


@pytest.mark.slow
async def test_a_result_that_cannot_fit_is_an_error_not_silence() -> None:
    world = World(PaintingGenerator(side=256), max_result_bytes=20_000)
    response = await world.run({"prompt": "x", "task_type": "text2video", "num_frames": 81})
    assert response["error_code"] == "result_too_large"


async def test_a_result_too_large_for_base64_is_encoded_again_until_it_fits() -> None:
    world = World(PaintingGenerator(side=256), max_result_bytes=100_000)
    response = await world.run({"prompt": "x"})
    assert len(json.dumps(response)) <= 100_000
    assert response["files"][0]["content_type"] == "image/webp"
    assert response["warnings"]


@pytest.mark.parametrize(
    ("job_input", "code"),
    [
        ({**CLOUD, "width": 1023}, "invalid_input"),
        ({**CLOUD, "width": 2048, "height": 2048}, "invalid_input"),
        ({**CLOUD, "high_noise_frac": 0.8}, "invalid_input"),
    ],
)
async def test_a_refused_cloud_job_ends_as_a_failed_document(job_input: dict[str, Any], code: str) -> None:
    world = World()
    response = await world.run(job_input)
    assert response["error_code"] == code
    assert response["error"].startswith(f"{code}: ")
    assert (response["user_id"], response["file_uid"], response["task_type"]) == ("user", "file", "text2img")
    assert world.document["status"] == "failed"
    assert world.document["error"] == {
        "code": code,
        "message": response["error"].removeprefix(f"{code}: "),
        "retryable": False,
    }
    assert world.generator.generated == 0


@pytest.mark.parametrize(
    ("change", "code"), [({"width": 1023}, "invalid_input"), ({"seed": 8}, "idempotency_mismatch")]
)
async def test_a_refusal_touches_no_result_under_the_same_id(change: dict[str, Any], code: str) -> None:
    world = World()
    await world.run(CLOUD)
    before = world.document
    response = await world.run({**CLOUD, **change}, job_id="job-2")
    assert response["error_code"] == code
    assert world.document == before


async def test_a_task_without_a_model_says_which_variable_to_set() -> None:
    world = World(HasNoModel())
    response = await world.run(CLOUD)
    assert response["error_code"] == "model_unavailable"
    assert "SDXL_MODEL" in response["error"]
    assert world.document["status"] == "failed"


async def test_a_job_over_the_cost_limit_is_refused_before_the_model() -> None:
    world = World(max_job_cost=64 * 64 * 5 - 1)
    response = await world.run({"prompt": "x"})
    assert response["error_code"] == "invalid_input"
    assert str(64 * 64 * 5) in response["error"]
    assert world.generator.generated == 0


@pytest.mark.parametrize("error", [OutOfMemory(), Internal("internal.no_picture")])
async def test_a_model_that_fails_is_told_and_the_next_job_succeeds(error: Exception) -> None:
    generator = Raises(error)
    world = World(generator)
    response = await world.run(CLOUD)
    assert response["error_code"] == error.code  # type: ignore[attr-defined]  # a JobError
    assert world.document["status"] == "failed"
    generator.error = None
    assert (await world.run(CLOUD, job_id="job-2"))["storage"] == "firebase"
    assert (world.document["status"], world.document["attempt"]) == ("completed", 2)


async def test_an_unexpected_error_tells_nothing_of_the_inside(caplog: pytest.LogCaptureFixture) -> None:
    world = World(Raises(RuntimeError("/secret/path a fox token=abc")))
    response = await world.run(CLOUD)
    assert response["error_code"] == "internal"
    assert response["retryable"] is True
    said = json.dumps(response) + json.dumps(world.document, default=str) + caplog.text
    for secret in ("secret", "token=abc", "Traceback", "RuntimeError("):
        assert secret not in said
    reference = response["error"].split("reference ")[1].rstrip(")")
    assert any(getattr(record, "reference", None) == reference for record in caplog.records)


async def test_a_gpu_fault_asks_for_a_fresh_worker() -> None:
    response = await World(Raises(GpuFault())).run(CLOUD)
    assert (response["error_code"], response["refresh_worker"]) == ("gpu_fault", True)


async def test_a_stop_reaches_the_model_within_a_step_and_the_document() -> None:
    generator = Slow(steps=30)
    world = World(generator)
    stop = StopSignal()
    job = asyncio.create_task(world.run(CLOUD, stop=stop))
    while generator.steps_done < 3:
        await asyncio.sleep(0.01)
    stop.request(Cancelled())
    done = generator.steps_done
    response = await job
    assert response["error_code"] == "cancelled"
    assert generator.steps_done <= done + 1
    assert generator.running == 0
    assert world.document["status"] == "failed"
    assert world.document["error"]["code"] == "cancelled"
    assert world.paths == []


async def test_a_users_cancel_wish_stops_the_job_within_seconds() -> None:
    generator = Slow(steps=1000)
    world = World(generator)
    job = asyncio.create_task(world.run(CLOUD))
    while generator.steps_done < 3:
        await asyncio.sleep(0.01)
    world.documents.write_as_app(PATH, {"cancel_requested": True})
    response = await asyncio.wait_for(job, 30)
    assert response["error_code"] == "cancelled"
    assert world.document["status"] == "failed"


async def test_a_document_deleted_in_between_stays_deleted_and_its_objects_go() -> None:
    generator = Slow(steps=10)
    world = World(generator)
    job = asyncio.create_task(world.run(CLOUD))
    while generator.steps_done < 3:
        await asyncio.sleep(0.01)
    world.documents.write_as_app(PATH, None)
    assert (await job)["error_code"] == "deleted"
    assert PATH not in world.documents.stored
    assert world.paths == []


@pytest.mark.parametrize("call", ["read", "create"])
async def test_a_stop_in_the_middle_of_the_claim_leaves_no_document_processing(call: str) -> None:
    """The claim cannot be interrupted: it is awaited, so that the end is written after it."""
    world = World()
    arrived = threading.Event()

    def slow(name: str, _path: str) -> None:
        if name == call and not arrived.is_set():
            arrived.set()
            time.sleep(0.5)

    world.documents.before = slow
    world.generator.lingers = True
    stop = StopSignal()
    job = asyncio.create_task(world.run(CLOUD, stop=stop))
    assert await asyncio.to_thread(arrived.wait, PATIENCE)
    stop.request(Cancelled())
    assert (await job)["error_code"] == "cancelled"
    await asyncio.sleep(0.7)
    assert world.document["error"]["code"] == "cancelled"
    assert [state["status"] for state in world.documents.history[PATH]][-1] == "failed"
    assert world.generator.generated == 0


async def test_the_watchdog_ends_a_job_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = LoopAhead(monkeypatch)
    world = World(Slow(steps=1000), job_timeout_seconds=500)
    job = asyncio.create_task(world.run(CLOUD))
    await asyncio.to_thread(until, lambda: generating(world))
    ahead.seconds += 500
    response = await job
    assert (response["error_code"], response["retryable"]) == ("timeout", False)
    assert world.document["error"]["code"] == "timeout"
    assert world.document["error"]["retryable"] is False


def generating(world: World) -> bool:
    return any(progress.stage == "generating" for progress in world.progress)


class LoadsForLong(PaintingGenerator):
    """Loads until released or asked to stop; `downloads` tells that other jobs wait for the same model."""

    def __init__(self, *, downloads: bool) -> None:
        super().__init__()
        self.downloads, self.loading, self.loaded = downloads, threading.Event(), threading.Event()

    def prepare(self, request: Request, params: Params, control: Control) -> Placement:
        with control.untimed() if self.downloads else contextlib.nullcontext():
            self.loading.set()
            while not self.loaded.wait(0.01):
                control.raise_if_stopped()
        return super().prepare(request, params, control)


@pytest.mark.parametrize("downloads", [False, True])
async def test_the_time_of_a_download_is_not_the_jobs_and_a_timeout_before_any_step_may_be_tried_again(
    downloads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead, generator = LoopAhead(monkeypatch), LoadsForLong(downloads=downloads)
    job = asyncio.create_task(World(generator, job_timeout_seconds=500).run(CLOUD))
    assert await asyncio.to_thread(generator.loading.wait, PATIENCE)
    ahead.seconds += 500
    await asyncio.sleep(0.1)  # time for a limit that runs on to end the job
    generator.loaded.set()
    response = await job
    if downloads:
        assert response["storage"] == "firebase"
    else:
        assert (response["error_code"], response["retryable"]) == ("timeout", True)


async def test_a_job_that_waits_for_a_download_can_be_cancelled() -> None:
    generator = LoadsForLong(downloads=True)
    world, stop = World(generator), StopSignal()
    job = asyncio.create_task(world.run(CLOUD, stop=stop))
    assert await asyncio.to_thread(generator.loading.wait, PATIENCE)
    stop.request(Cancelled())
    assert (await asyncio.wait_for(job, SOON_SECONDS))["error_code"] == "cancelled"


class Estimated(PaintingGenerator):
    """Estimates its jobs; each of its steps takes a hundred seconds."""

    def __init__(self, basis: Literal["card", "measured", "guess"], *, step: float = 50.0) -> None:
        super().__init__()
        self.step = step
        self.basis: Literal["card", "measured", "guess"] = basis
        self.touched = False

    def estimate(self, request: Request, params: Params) -> Estimate:
        steps = [Unit("step", self.step)] * params.num_inference_steps
        units = (Unit("load", 1000.0), *steps, Unit("decode", 60.0), Unit("pack", 10.0), Unit("upload", 0.0))
        return Estimate(units, self.basis, "NVIDIA A100-SXM4-80GB")

    def prepare(self, request: Request, params: Params, control: Control) -> Placement:
        self.touched = True
        return super().prepare(request, params, control)


async def test_a_job_that_cannot_end_in_time_is_refused_with_numbers_before_a_model_is_touched() -> None:
    generator = Estimated("card")
    world = World(generator)
    response = await world.run({**CLOUD, "num_inference_steps": 22})
    assert (response["error_code"], response["retryable"], generator.touched) == ("invalid_input", False, False)
    for words in ("num_inference_steps", "1,170 s", "A100", "540 s", "at most 9 steps"):
        assert words in response["error"]
    assert world.document["status"] == "failed"
    assert (await world.run({**CLOUD, "num_inference_steps": 9}, job_id="job-2"))["storage"] == "firebase"


@pytest.mark.parametrize(("basis", "refused"), [("card", True), ("measured", False), ("guess", False)])
async def test_a_job_that_would_be_deaf_for_longer_than_a_minute_is_refused(
    basis: Literal["card", "measured", "guess"], refused: bool
) -> None:
    """A clip of 121 frames at 1280x1280 takes 84 s a step on an A100, during which it cannot be cancelled."""
    generator = Estimated(basis, step=84.0)
    response = await World(generator).run({**CLOUD, "num_inference_steps": 1})
    assert (response.get("error_code") == "invalid_input") is refused
    assert generator.touched is not refused
    if refused:
        for words in ("width", "84 s", "A100", "at most 60 s", "smaller size"):
            assert words in response["error"]
    assert "error" not in await World(Estimated(basis, step=59.0)).run({**CLOUD, "num_inference_steps": 1})


async def test_where_not_even_a_step_fits_a_smaller_size_is_asked_for() -> None:
    response = await World(Estimated("card"), job_timeout_seconds=100).run(CLOUD)
    assert response["error_code"] == "invalid_input"
    assert "ask for a smaller size" in response["error"]


@pytest.mark.parametrize(("basis", "refused"), [("guess", False), ("measured", True)])
async def test_on_an_unknown_card_only_what_was_measured_refuses(
    basis: Literal["measured", "guess"], refused: bool
) -> None:
    response = await World(Estimated(basis)).run({**CLOUD, "num_inference_steps": 22})
    assert (response.get("error_code") == "invalid_input") is refused
    assert "error" not in await World(Estimated(basis)).run({**CLOUD, "num_inference_steps": 18})


async def test_a_hung_step_is_a_timeout_and_the_worker_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "STOP_GRACE_SECONDS", 0.3)
    ahead = LoopAhead(monkeypatch)
    world = World(generator := Hangs(), job_timeout_seconds=500)
    job = asyncio.create_task(world.run(CLOUD))
    while not generator.running:
        await asyncio.sleep(0.01)
    ahead.seconds += 500
    response = await job
    assert (response["error_code"], response["refresh_worker"]) == ("timeout", True)
    assert world.document["error"]["code"] == "timeout"
    later = await world.run({"prompt": "x"}, job_id="job-2")
    assert (later["error_code"], later["refresh_worker"]) == ("gpu_fault", True)
    generator.release.set()


async def test_a_finished_generation_asked_for_again_costs_no_second_one() -> None:
    world = World()
    first = await world.run(CLOUD)
    world.generator.lingers = True
    again = await world.run(CLOUD, job_id="job-2")
    assert again["images"] == first["images"]
    assert again["warnings"]
    assert (world.generator.generated, world.bucket.uploads) == (1, 1)


async def test_twins_generate_once() -> None:
    world = World(generator := Hangs())
    first = asyncio.create_task(world.run(CLOUD))
    await asyncio.to_thread(until, lambda: generator.running and PATH in world.documents.stored)
    second = await world.run(CLOUD, job_id="job-2")
    assert second["error_code"] == "duplicate_in_progress"
    generator.release.set()
    assert "error" not in await first
    assert world.generator.generated == 1


async def test_two_jobs_at_once_never_generate_at_the_same_time() -> None:
    world = World(Slow())
    jobs = [world.run({**CLOUD, "file_uid": f"f{number}"}, job_id=f"job-{number}") for number in range(3)]
    responses = await asyncio.gather(*jobs)
    assert all(response["storage"] == "firebase" for response in responses)
    assert world.generator.most_running == 1


@pytest.mark.parametrize(
    ("token", "code"),
    [(None, "unauthenticated"), ("forged", "unauthenticated"), ("token-of-mallory", "forbidden")],
)
async def test_where_tokens_are_required_only_the_user_gets_a_document(token: str | None, code: str) -> None:
    world = World(require_id_token=True)
    response = await world.run({**CLOUD, "id_token": token})
    assert response["error_code"] == code
    bad = await world.run({**CLOUD, "id_token": token, "width": 1023})
    assert bad["error_code"] == "invalid_input"
    assert not world.documents.stored
    assert not world.bucket.objects
    good = await world.run({**CLOUD, "id_token": "token-of-user"})
    assert good["storage"] == "firebase"
    assert "token-of" not in json.dumps(world.document, default=str)


async def test_a_job_that_queued_for_hours_is_served_on_its_ticket_and_its_refusal_is_written() -> None:
    world = World(require_id_token=True)
    response = await world.run({**CLOUD, "id_token": ticket(CLOUD)})
    assert response["storage"] == "firebase"
    assert world.document["status"] == "completed"
    assert "eyJ" not in json.dumps([response, world.document], default=str)
    signed_but_wrong = {**CLOUD, "width": 1023, "file_uid": "other"}
    response = await world.run({**signed_but_wrong, "id_token": ticket(signed_but_wrong)})
    assert response["error_code"] == "invalid_input"
    assert world.documents.stored["generations/user/files/other"][0]["error"]["code"] == "invalid_input"


@pytest.mark.parametrize("width", [1024, 1023])
async def test_a_slip_that_was_deleted_while_its_job_waited_ends_the_job_and_stays_deleted(width: int) -> None:
    """Refused or not: whoever deletes it wants neither pictures nor a document."""
    world = World(require_id_token=True)
    wanted = {**CLOUD, "width": width, "height": 1024}
    world.generator.lingers = True
    gone = await world.run({**wanted, "id_token": ticket(wanted, slip=True)})
    world.generator.lingers = False
    assert gone["error_code"] == ("deleted" if width == 1024 else "invalid_input")
    assert (world.documents.stored, world.bucket.objects, world.generator.generated) == ({}, {}, 0)
    world.documents.write_as_app(PATH, {"status": "queued"})
    there = await world.run({**wanted, "id_token": ticket(wanted, slip=True)}, job_id="job-2")
    assert there.get("storage") == ("firebase" if width == 1024 else None)
    assert world.document["status"] == ("completed" if width == 1024 else "failed")


@pytest.mark.parametrize("change", [{"user_id": "victim"}, {"file_uid": "other"}, {"num_images": 4}, {"width": 1023}])
async def test_a_ticket_for_another_job_reaches_nobodys_document(change: dict[str, Any]) -> None:
    world = World(require_id_token=True)
    response = await world.run({**CLOUD, **change, "id_token": ticket(CLOUD)})
    assert response["error_code"] == ("invalid_input" if "width" in change else "forbidden")
    assert not world.documents.stored
    assert not world.bucket.objects
    assert world.generator.generated == 0


@pytest.mark.parametrize("url", ["https://127.0.0.1/x.png", "https://localhost/x.png", "https://169.254.169.254/"])
async def test_a_blocked_source_fails_the_document_before_the_model(url: str) -> None:
    world = World()
    response = await world.run({**CLOUD, "task_type": "img2img", "image_url": url})
    assert response["error_code"] == "url_blocked"
    assert world.document["error"]["code"] == "url_blocked"
    assert world.generator.generated == 0


async def test_a_job_that_is_refused_leaves_none_of_its_pictures_in_memory() -> None:
    """Without waiting for Python's collector, which may not come before many such jobs."""
    wrong = {"type": "canny", "image_url": "data:image/png;base64,AAAA"}
    size = (88, 40)
    gc.disable()
    try:
        response = await World().run(
            {**CLOUD, "task_type": "img2img", "image_url": data_uri(size), "controlnets": [wrong]}
        )
        left = pictures_of(size)
    finally:
        gc.enable()
    assert response["error_code"] == "invalid_image"
    assert left == []


@pytest.mark.parametrize("error", [OutOfMemory(), RuntimeError(), Cancelled(), JobTimeout()])
async def test_a_job_that_ends_on_the_gpu_leaves_none_of_its_pictures_in_memory(error: Exception) -> None:
    """As above; a clip has hundreds of megabytes."""
    stops = isinstance(error, Cancelled | JobTimeout)
    generator = PaintingGenerator() if stops else Raises(error)
    generator.lingers = stops
    stop, size = StopSignal(), (88, 40)
    gc.disable()
    try:
        job_input = {**CLOUD, "task_type": "img2img", "image_url": data_uri(size)}
        running = asyncio.create_task(World(generator).run(job_input, stop=stop))
        assert await asyncio.to_thread(generator.stepped.wait, PATIENCE)
        if isinstance(error, Cancelled | JobTimeout):
            stop.request(error)
        response = await running
        await asyncio.to_thread(until, lambda: not pictures_of(size), PATIENCE, "end of the pictures")
    finally:
        gc.enable()
    assert response["error_code"] == getattr(error, "code", "internal")


def pictures_of(size: tuple[int, int]) -> list[Image.Image]:
    return [one for one in gc.get_objects() if type(one) is Image.Image and one.size == size]


async def test_a_source_image_reaches_the_model_and_not_the_document() -> None:
    world = World()
    response = await world.run({**CLOUD, "task_type": "img2img", "image_url": data_uri()})
    assert response["storage"] == "firebase"
    assert world.document["request_data"]["image_url"].startswith("(inline image")


async def test_progress_only_moves_on_and_ends_before_the_result() -> None:
    world = World()
    await world.run({**CLOUD, "num_images": 2})
    percents = [progress.percent for progress in world.progress]
    assert percents == sorted(percents)
    stages = list(dict.fromkeys(progress.stage for progress in world.progress))
    assert stages == ["loading", "generating", "uploading"]
    seen = len(world.progress)
    await asyncio.sleep(0.1)
    assert len(world.progress) == seen


@pytest.mark.parametrize("job_input", [None, [], "x", {}, {"prompt": 5}])
async def test_nonsense_is_answered(job_input: object) -> None:
    response = await World().run(job_input)
    assert response["error_code"] == "invalid_input"
    assert response["retryable"] is False


@pytest.mark.parametrize("log_prompts", [False, True])
async def test_an_accepted_job_is_logged_with_its_prompt_only_where_the_operator_asked(
    caplog: pytest.LogCaptureFixture, log_prompts: bool
) -> None:
    caplog.set_level("INFO", "worker")
    await World(log_prompts=log_prompts).run(CLOUD)
    (accepted,) = [record for record in caplog.records if getattr(record, "action", "") == "job_accepted"]
    assert (vars(accepted)["job_id"], vars(accepted)["prompt_characters"]) == ("job-1", 5)
    assert ("a fox" in str(vars(accepted))) is log_prompts
    assert ("prompt_sha256" in vars(accepted)) is not log_prompts


async def test_each_line_of_a_job_names_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "worker")
    caplog.handler.setFormatter(logs._Formatter(as_json=True))
    await World(Raises(RuntimeError("a fox"))).run({**CLOUD, "task_type": "img2img", "image_url": data_uri()})
    lines = [json.loads(line) for line in caplog.text.splitlines()]
    assert {line["action"] for line in lines} >= {"job_accepted", "decoded", "internal_error", "job_done"}
    assert {line["job_id"] for line in lines} == {"job-1"}


async def test_a_result_says_what_it_has_cost_in_the_response_and_twice_in_the_document() -> None:
    world = World(Slow(steps=2))
    began = time.monotonic()
    response = await world.run(CLOUD)
    usage = response["usage"]
    assert usage["units"] == 1
    assert 0.2 <= usage["gpu_seconds"] < time.monotonic() - began
    assert world.document["usage"] == world.document["generation_data"]["usage"] == usage
    again = await world.run(CLOUD, job_id="job-2")
    assert again["usage"] == usage


@pytest.mark.parametrize("error", [OutOfMemory(), GpuFault(), Cancelled()])
async def test_a_failure_that_has_used_the_card_says_what_it_has_cost(error: Exception) -> None:
    world = World(Raises(error))
    response = await world.run({**CLOUD, "width": 1024, "height": 1024})
    assert response["usage"] == world.document["usage"]
    assert response["usage"]["units"] == 6
    assert response["usage"]["gpu_seconds"] >= 0


async def test_a_call_that_never_comes_back_is_counted_until_the_job_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "STOP_GRACE_SECONDS", 0.2)
    ahead, generator = LoopAhead(monkeypatch), Hangs()
    job = asyncio.create_task(World(generator, job_timeout_seconds=500).run(CLOUD))
    await asyncio.to_thread(until, lambda: generator.running)
    ahead.seconds += 500
    response = await job
    generator.release.set()
    assert response["usage"]["gpu_seconds"] > 0.1


async def test_a_refusal_has_cost_nothing_and_a_new_attempt_forgets_what_the_last_one_did() -> None:
    world = World(Raises(OutOfMemory()))
    response = await world.run({**CLOUD, "width": 63})
    assert "usage" not in response
    assert world.document["usage"] == {"gpu_seconds": 0.0, "units": 0}
    await world.run(CLOUD, job_id="job-2")
    assert world.document["usage"]["units"] == 1
    claimed = [state for state in world.documents.history[PATH] if state["status"] == "processing"]
    assert not any("usage" in state for state in claimed)


async def test_what_has_no_effect_is_said_in_response_and_document() -> None:
    world = World()
    response = await world.run({**CLOUD, "negative_prompt": "star", "guidance_scale": 1, "output_quality": 50})
    assert [warning.partition(":")[0] for warning in response["warnings"]] == ["negative_prompt", "output_quality"]
    assert world.document["generation_data"]["warnings"] == response["warnings"]


async def test_the_quality_that_was_asked_for_is_that_of_the_file() -> None:
    sizes = []
    for quality in (None, 30, 95):
        response = await World().run({"prompt": "x", "seed": 1, "output_format": "JPG", "output_quality": quality})
        assert response["files"][0]["content_type"] == "image/jpeg"
        sizes.append(response["files"][0]["bytes"])
    assert sizes[1] < sizes[2] == sizes[0]
