"""The handler: every entry point of the SDK, and an exit that leaves document and GPU in order.

`test_sdk_loop.py` has the SDK's loop against a control plane; here are its local modes, and single calls.
"""

import asyncio
import dataclasses
import functools
import itertools
import json
import logging
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import handler
from benchmarks.full_size_models import WAN_TRANSFORMER
from tests.support import memory_world
from tests.support.fakes import (
    PATIENCE,
    HasNoModel,
    PaintingGenerator,
    Raises,
    Slow,
    TokenUsers,
    is_down,
)
from tests.support.memory_world import CLOUD, PATH, VolumeWorld
from tools import showing
from tools.emulators.ports import held_port
from tools.emulators.worker_process import clean_environment
from worker.api.params import Params, VideoParams
from worker.api.request import Request
from worker.auth.caller import Identity
from worker.core import timing
from worker.core.config import has_cuda_driver, load_settings
from worker.core.errors import GpuFault, Internal
from worker.core.types import Control, Progress, Sources
from worker.engine.estimate import Estimate, Estimator
from worker.engine.protocol import Generated, GeneratedClip, Placement
from worker.engine.work import Networks
from worker.job import course

ROOT = Path(__file__).parents[1]
SMALL = {"prompt": "a fox", "width": 64, "height": 64, "num_inference_steps": 2, "seed": 5}


class World(memory_world.World):
    """A worker in memory, in place of the handler's real one."""

    def start(self, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> "asyncio.Task[dict[str, Any]]":
        services = self.services()
        monkeypatch.setattr(handler, "shared_services", lambda: services)
        return asyncio.create_task(handler.handler({"id": "job-1", "input": {**CLOUD, **fields}}))

    async def step(self, number: int) -> None:
        while self.generator.steps_done < number:
            await asyncio.sleep(0.005)


# -- beside the jobs


async def test_a_worker_that_lives_on_delivers_what_it_has_put_aside_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that always runs is never followed by another one that starts."""
    monkeypatch.setattr(timing, "SPOOL_AGAIN_SECONDS", 0.02)
    world = VolumeWorld(tmp_path / "outbox")
    over = handler.deliver_spool(world.services())
    try:
        world.bucket.before = is_down("storage", "refused")
        response = await world.run(CLOUD)
        assert "is kept and will be delivered later" in response["error"]
        assert world.document["status"] == "failed"
        world.bucket.before = lambda *_: None
        async with asyncio.timeout(PATIENCE):
            while world.document["status"] != "completed":
                await asyncio.sleep(0.02)
    finally:
        over.set()
    assert world.paths == ["generating/user/image/file.png"]


# -- one call


@pytest.mark.e2e
@pytest.mark.skipif(has_cuda_driver(), reason="on a card the default models are the real ones, which are not here")
async def test_one_awaited_call_makes_a_picture_with_no_variable_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler, "shared_services", functools.cache(lambda: handler.build(load_settings())))
    response = await handler.handler({"id": "job-1", "input": SMALL})
    assert (response["storage"], response["model"], response["seeds"]) == ("base64", "demo", [5])
    showing.check_image(showing.content(response["image_url"]), 64, 64)
    refused = await handler.handler({"input": {"prompt": ""}})
    assert refused["error_code"] == "invalid_input"


@pytest.mark.parametrize("job", [{}, {"id": None}, {"id": 5, "input": []}, {"input": {}, "s3Config": {"secret": "x"}}])
async def test_a_job_without_sense_is_answered(monkeypatch: pytest.MonkeyPatch, job: dict[str, Any]) -> None:
    monkeypatch.setattr(handler, "shared_services", lambda: World(PaintingGenerator()).services())
    response = await handler.handler(job)
    assert response["error_code"] == "invalid_input"
    assert isinstance(response["error"], str)


# -- a stop signal


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_a_cancelled_call_ends_only_when_model_and_document_have_ended(
    monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    world = World(Slow(steps=30))
    call = world.start(monkeypatch)
    await world.step(3)
    call.cancel()
    await asyncio.sleep(0)
    done = world.generator.steps_done
    for _ in range(times - 1):
        call.cancel()
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (world.generator.running, world.generator.steps_done <= done + 2) == (0, True)
    assert (world.document["status"], world.document["error"]["code"]) == ("failed", "cancelled")
    assert world.bucket.objects == {}
    assert await asyncio.wrap_future(world.gpu.submit(lambda: "free")) == "free"


async def test_a_call_cancelled_before_it_began_touches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(Slow())
    call = world.start(monkeypatch)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (world.generator.steps_done, world.documents.stored) == (0, {})


async def test_a_call_cancelled_at_its_very_beginning_ends_in_a_failed_document(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(Slow(steps=30))
    call = world.start(monkeypatch)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert world.generator.running == 0
    assert world.document["error"]["code"] == "cancelled"


async def test_after_a_cancelled_call_the_same_request_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(slow := Slow(steps=30))
    call = world.start(monkeypatch)
    await world.step(1)
    call.cancel()
    await asyncio.wait({call})
    slow.step_seconds = 0.0
    response = await world.start(monkeypatch)
    assert (response["storage"], world.document["status"], world.document["attempt"]) == ("firebase", "completed", 2)


async def test_a_wish_to_cancel_that_was_there_before_the_job_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A phone may cancel while the job still waits in RunPod's queue."""
    world = World(Slow(steps=1000))
    world.documents.write_as_app(PATH, {"status": "queued", "cancel_requested": True})
    response = await asyncio.wait_for(world.start(monkeypatch), 30)
    assert response["error_code"] == "cancelled"
    assert (world.document["status"], world.generator.generated) == ("failed", 0)


async def test_a_wish_that_came_too_late_does_not_end_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(PaintingGenerator())
    world.documents.write_as_app(PATH, {"status": "failed", "cancel_requested": True})
    assert (await world.start(monkeypatch))["storage"] == "firebase"
    assert "cancel_requested" not in world.document


# -- unexpected errors


async def test_a_mistake_of_ours_in_the_middle_of_failing_is_answered_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No exception may leave the handler: the SDK would pass its traceback to the client."""
    world = World(Raises(Internal("internal.no_picture")))

    def broken(call: str, _path: str) -> None:
        raise RuntimeError(f"SECRET {call}")

    world.documents.before = broken
    response = await world.start(monkeypatch)
    assert (response["error_code"], response["retryable"]) == ("internal", True)
    assert "SECRET" not in json.dumps(response) + caplog.text


@pytest.mark.slow
async def test_a_document_that_breaks_while_the_job_runs_does_not_cost_the_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(Slow(steps=15))
    call = world.start(monkeypatch)
    await world.step(2)

    def broken(_call: str, _path: str) -> None:
        world.documents.before = lambda *_: None
        raise RuntimeError("once")

    world.documents.before = broken
    response = await call
    assert response["storage"] == "firebase"
    assert world.document["status"] == "completed"


class LoadsSlowly(PaintingGenerator):
    """Loads its weights until released, whatever the job's stop signal says."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded = threading.Event()

    def prepare(self, request: Request, params: Params, control: Control) -> Placement:
        assert self.loaded.wait(PATIENCE)
        return super().prepare(request, params, control)


@pytest.mark.slow
async def test_a_bad_source_does_not_wait_for_the_weights_nor_call_them_hung(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "STOP_GRACE_SECONDS", 0.2)
    generator = LoadsSlowly()
    world = World(generator)
    source = {"task_type": "img2img", "image_url": "https://127.0.0.1/x.png"}
    response = await world.start(monkeypatch, **source)
    assert (response["error_code"], generator.loaded.is_set()) == ("url_blocked", False)
    await asyncio.sleep(2 * timing.STOP_GRACE_SECONDS)
    assert world.gpu.stuck is False
    generator.loaded.set()
    assert (await world.start(monkeypatch, file_uid="next"))["storage"] == "firebase"


async def test_progress_is_seen_in_order_and_ends_before_the_response() -> None:
    world = World(PaintingGenerator())
    seen: list[Progress] = []
    await handler.serve({"id": "job-1", "input": CLOUD}, world.services(), seen.append)
    count = len(seen)
    assert [progress.stage for progress in seen][:1] == ["loading"]
    assert [progress.percent for progress in seen] == sorted(progress.percent for progress in seen)
    await asyncio.sleep(0.05)
    assert len(seen) == count


class FilmsByTheScript(PaintingGenerator):
    """Makes a clip in the seconds of a script: Wan 2.1 at 1.3B on a card that is slower than its rates say."""

    networks = Networks("wan", WAN_TRANSFORMER, {"base_dim": 96, "scale_factor_spatial": 8})

    def __init__(self, slower: dict[str, float]) -> None:
        super().__init__()
        self.slower, self.now = slower, 1000.0
        self.loop = asyncio.get_running_loop()

    def monotonic(self) -> float:
        return self.now

    def estimate(self, request: Request, params: Params) -> Estimate:
        assert isinstance(params, VideoParams)
        estimator = Estimator()
        estimator.card = "NVIDIA A100-SXM4-80GB"
        full = replace(params, width=832, height=480, num_frames=81)
        return estimator.estimate(self.networks, full, from_image=False)

    def generate(self, request: Request, params: Params, sources: Sources, control: Control) -> Iterator[Generated]:
        steps, done = params.num_inference_steps, 0
        for unit in self.estimate(request, params).units:
            seconds = unit.seconds * self.slower.get(unit.part, 1.0)
            if unit.part == "step":
                done += 1
                self.report(control, seconds, Progress("generating", done, steps))
            elif unit.part == "decode":
                for frame in range(22):
                    self.report(control, seconds / 21, Progress("generating", done, steps, "decode", frame / 21))
            elif unit.part == "text":
                self.now += seconds
        frames = np.random.default_rng(7).integers(0, 256, (81, 64, 64, 3), dtype=np.uint8)
        yield GeneratedClip(7, frames)

    def report(self, control: Control, seconds: float, progress: Progress) -> None:
        """Report progress after so many seconds; returns once the event loop has taken note of it."""
        self.now += seconds
        control.report(progress)
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self.loop).result()


@pytest.mark.parametrize(
    "slower", [{}, {"step": 1.5}, {"decode": 6.0}, {"step": 0.5, "decode": 3.0}], ids=["as estimated", *"abc"]
)
async def test_percent_of_a_clip_never_stands_still_for_a_tenth_of_its_time(
    monkeypatch: pytest.MonkeyPatch, slower: dict[str, float]
) -> None:
    generator = FilmsByTheScript(slower)
    monkeypatch.setattr(course, "time", generator)
    seen = [(generator.now, 0)]
    order = {**CLOUD, "task_type": "text2video", "num_frames": 81, "num_inference_steps": 12}
    began = generator.now
    told: list[Progress] = []

    def watch(progress: Progress) -> None:
        told.append(progress)
        if progress.percent > seen[-1][1]:
            seen.append((generator.now, progress.percent))

    response = await handler.serve({"id": "job-1", "input": order}, World(generator).services(), watch)
    assert response["storage"] == "firebase"
    longest = max(later - earlier for (earlier, _), (later, _) in itertools.pairwise(seen))
    assert longest <= 0.1 * (generator.now - began)
    # A small clip may be encoded before the loop learns that it was the last.
    assert "upload" in {progress.part for progress in told if progress.stage == "uploading"} <= {"pack", "upload", None}
    assert seen[-1][1] == 100
    assert all((progress.eta_seconds or 0) >= 0 for progress in told)
    assert told[-1].eta_seconds == 0


# -- the composition


def test_without_firebase_there_are_neither_documents_nor_urls_nor_users() -> None:
    services = handler.build(load_settings())
    assert (services.documents, services.storage, services.identity.users) == (None, None, None)
    assert services.worker_id.startswith("local-")
    assert handler.build(load_settings(runpod_pod_id="pod-1")).worker_id == "pod-1"


def test_a_bucket_without_a_key_blames_the_key(caplog: pytest.LogCaptureFixture) -> None:
    services = handler.build(load_settings(firebase_storage_bucket="my-app"))
    assert (services.documents, services.storage) == (None, None)
    (record,) = caplog.records
    assert record.getMessage().startswith("FIREBASE_SERVICE_ACCOUNT_KEY: is not set")


def test_a_garbled_key_costs_firebase_and_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    services = handler.build(
        load_settings(firebase_service_account_key='{"private_key": "SECRET', firebase_storage_bucket="demo-bucket")
    )
    assert services.documents is None
    (record,) = caplog.records
    assert getattr(record, "action", "") == "firebase_disabled"
    assert record.getMessage().startswith("FIREBASE_SERVICE_ACCOUNT_KEY: ")
    assert "SECRET" not in caplog.text
    assert record.exc_info is None


def test_the_log_says_once_which_project_database_and_bucket_are_in_use(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", "127.0.0.1:1")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    handler.build(load_settings(firebase_storage_bucket=" gs://demo-app.appspot.com/", firestore_database="photos"))
    said = [record.getMessage() for record in caplog.records if getattr(record, "action", "") == "firebase"]
    assert said == ["Firebase: project demo-worker (emulators), database photos, bucket demo-app.appspot.com"]


@pytest.fixture
def fitness_checks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    from runpod.serverless.modules import rp_fitness

    registered: list[Any] = []
    monkeypatch.setattr(rp_fitness, "_fitness_checks", registered)
    return registered


def test_a_sound_worker_passes_its_fitness_checks(fitness_checks: list[Any]) -> None:
    handler._register_fitness_checks(World(PaintingGenerator()).services())
    assert len(fitness_checks) == 2
    for check in fitness_checks:
        check()


def test_a_worker_without_a_usable_model_or_card_is_replaced(fitness_checks: list[Any]) -> None:
    class Unfit(HasNoModel):
        """Fails its check with a message."""

        def health(self) -> list[str]:
            raise Internal("internal.no_verdict")

    handler._register_fitness_checks(World(Unfit()).services())
    with pytest.raises(Internal, match="no answer"):
        fitness_checks[0]()


def test_a_worker_that_must_check_users_and_cannot_is_replaced(fitness_checks: list[Any]) -> None:
    services = World(PaintingGenerator(), require_id_token=True).services()
    unable = dataclasses.replace(services, identity=Identity(None, None, required=True))
    handler._register_fitness_checks(unable)
    with pytest.raises(RuntimeError, match="REQUIRE_ID_TOKEN"):
        fitness_checks[1]()


@pytest.mark.parametrize("required", [True, False])
def test_a_worker_that_believes_every_user_id_says_so_once_at_its_start(
    fitness_checks: list[Any], caplog: pytest.LogCaptureFixture, required: bool
) -> None:
    services = World(PaintingGenerator(), require_id_token=required).services()
    known = dataclasses.replace(services, identity=Identity(TokenUsers(), None, required=required))
    handler._register_fitness_checks(known)
    fitness_checks[1]()
    said = [record.getMessage() for record in caplog.records if getattr(record, "action", "") == "users_unproven"]
    assert len(said) == (not required)
    assert all("REQUIRE_ID_TOKEN is off" in line for line in said)


# -- the SDK's local entry points, as separate processes


class Process:
    """`python handler.py` with arguments and variables; its output goes to a file, which never fills up."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        env = clean_environment() | {"PRELOAD_TASKS": "text2img", "SDXL_MODEL": "demo"} | variables
        command = [sys.executable, str(ROOT / "handler.py"), *arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=self._log, stderr=subprocess.STDOUT)

    @property
    def said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode()

    def ended(self) -> tuple[int, str]:
        """Return its exit status and all of its output."""
        try:
            self.process.wait(120)
        finally:
            self.close()
        return self.process.returncode, self.said

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@pytest.mark.e2e
def test_a_test_input_on_the_command_line_ends_with_its_outcome() -> None:
    good = Process("--test_input", json.dumps({"input": SMALL}), SAFETY_CHECK="block", OTEL_TRACES_EXPORTER="otlp")
    bad = Process("--test_input", json.dumps({"input": {**SMALL, "width": 1023}}))
    code, said = good.ended()
    assert code == 0, said[-3000:]
    assert "'model': 'demo'" in said
    assert "SAFETY_CHECK: nobody reads this variable; is SAFETY_CHECKER meant?" in said
    assert "OTEL_TRACES_EXPORTER: traces are not sent: neither OTEL_EXPORTER_OTLP_ENDPOINT nor" in said
    code, said = bad.ended()
    assert code != 0
    assert "invalid_input: width: must be a multiple of 8 (got 1023)" in said
    assert "Traceback" not in said


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("variables", "names"),
    [
        ({"WORKER_CONCURRENCY": "SECRET", "LOG_LEVEL": "SECRET"}, ["WORKER_CONCURRENCY: ", "LOG_LEVEL: "]),
        (
            {"RUNPOD_ENDPOINT_ID": "e1", "FIREBASE_AUTH_EMULATOR_HOST": "127.0.0.1:9099"},
            ["FIREBASE_AUTH_EMULATOR_HOST must not be set on RunPod"],
        ),
        ({"C2PA_CERTIFICATE": "/SECRET"}, ["C2PA_KEY: is not set"]),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://SECRET", "OTEL_METRIC_EXPORT_INTERVAL": "0"},
            ["OTEL_METRIC_EXPORT_INTERVAL"],
        ),
    ],
    ids=["wrong values", "an emulator on the platform", "half of what signs", "what another reader does not take"],
)
def test_a_wrong_environment_ends_the_worker_with_one_clear_line(variables: dict[str, str], names: list[str]) -> None:
    code, said = Process(**variables).ended()
    assert code == 1
    (line,) = said.splitlines()
    if "RUNPOD_ENDPOINT_ID" in variables:
        entry = json.loads(line)
        assert (entry["level"], entry["action"]) == ("CRITICAL", "cannot_start")
        line = f"CRITICAL worker: {entry['message']}"
    assert line.startswith("CRITICAL worker: cannot start: ")
    assert all(name in said for name in names)
    assert "SECRET" not in said


@pytest.mark.e2e
@pytest.mark.parametrize("given", ["{'input': {}}", "5"])
def test_a_test_input_that_a_shell_has_spoilt_is_told_before_anything_is_loaded(given: str) -> None:
    code, said = Process("--test_input", given).ended()
    (line,) = said.splitlines()
    assert code == 1
    assert line.startswith("CRITICAL worker: cannot start: --test_input: must be a JSON object")


@pytest.mark.e2e
def test_a_worker_that_is_told_to_leave_while_it_loads_leaves_at_once() -> None:
    """As process 1, as in a container, a SIGTERM without a handler is ignored."""
    code = (
        "import time, handler; handler._preload = lambda _: (print('loading', flush=True), time.sleep(300));"
        "handler.main()"
    )
    env = clean_environment() | {"RUNPOD_WEBHOOK_GET_JOB": "http://127.0.0.1:9/job-take/$ID"}
    with subprocess.Popen([sys.executable, "-c", code], env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "loading\n"
        worker.terminate()
        assert worker.wait(timeout=60) == 128 + signal.SIGTERM


class LocalApi:
    """`python handler.py --rp_serve_api`, and requests to it."""

    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"

    def request(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.base + path, data=data, method=method, headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def api() -> Iterator[LocalApi]:
    with held_port() as port:
        worker = Process("--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", str(port))
        deadline = time.monotonic() + 120
        try:
            while not listens(port):
                assert worker.process.poll() is None, worker.said[-3000:]
                assert time.monotonic() < deadline, "the local API did not start"
                time.sleep(0.1)
            yield LocalApi(port)
        finally:
            worker.close()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.e2e
def test_runsync_answers_with_the_result(api: LocalApi) -> None:
    status, answer = api.request("POST", "/runsync", {"input": SMALL})
    assert (status, answer["status"]) == (200, "COMPLETED")
    assert (answer["output"]["storage"], answer["output"]["model"]) == ("base64", "demo")
    showing.check_image(showing.content(answer["output"]["image_url"]), 64, 64)


@pytest.mark.e2e
def test_run_takes_a_job_and_status_gives_its_result(api: LocalApi) -> None:
    status, taken = api.request("POST", "/run", {"input": SMALL})
    assert (status, taken["status"]) == (200, "IN_PROGRESS")
    status, answer = api.request("POST", f"/status/{taken['id']}")
    assert (status, answer["status"]) == (200, "COMPLETED")
    showing.check_image(showing.content(answer["output"]["image_url"]), 64, 64)
    assert api.request("GET", f"/status/{taken['id']}")[0] == 405


@pytest.mark.e2e
def test_a_refused_request_is_failed_with_one_string(api: LocalApi) -> None:
    status, answer = api.request("POST", "/runsync", {"input": {**SMALL, "widht": 5}})
    assert (status, answer["status"]) == (200, "FAILED")
    assert answer["error"] == "invalid_input: widht: is not a known field; did you mean width?"


@pytest.mark.e2e
def test_an_input_that_is_no_object_is_stopped_by_the_sdk(api: LocalApi) -> None:
    assert api.request("POST", "/runsync", {"input": [1]})[0] == 422


def test_a_broken_card_ends_at_the_health_check_in_words_and_not_before_it(caplog: pytest.LogCaptureFixture) -> None:
    """While models load there is no health check yet: the card's error is logged, and the process lives on for it."""

    class Broken(PaintingGenerator):
        def preload(self, tasks: Any, control: Control) -> tuple[str, ...]:
            raise GpuFault

    handler._preload(World(Broken()).services())
    assert GpuFault().message in caplog.text
