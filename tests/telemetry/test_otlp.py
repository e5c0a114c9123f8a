"""A job as a collector sees it: one trace whose stages are spans, and counts of outcomes and costs."""

import json
import logging
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.metrics.export import MetricsData

import handler
from tests.support.clock import SOON_SECONDS
from tests.support.collector import Collector, attributes, collector
from tests.support.fakes import PaintingGenerator, Raises, is_down
from tests.support.memory_world import CLOUD, PATH, World
from worker.core import logs
from worker.core.config import REPOSITORY, ConfigError, load_settings, set_library_defaults
from worker.core.errors import Cancelled, OutOfMemory
from worker.core.stop import StopSignal
from worker.telemetry import otlp
from worker.telemetry.otlp import CLOSE_SECONDS, Otlp

STAGES = "generation.stage.duration"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collector() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.endpoint)
        yield found


async def test_a_job_is_one_trace_whose_stages_are_spans(seen: Collector) -> None:
    world = World()
    world.telemetry = telemetry = Otlp("worker-1")
    response = await world.run({**CLOUD, "num_images": 2})
    telemetry.close()
    (job,) = seen.named("job")
    stages = [span for span in seen.spans if span.name != "job"]
    assert {span.trace_id for span in seen.spans} == {job.trace_id}
    assert {span.parent_span_id for span in stages} == {job.span_id}
    assert {span.name for span in stages} >= {"validate", "claim", "load", "generate", "encode", "upload", "complete"}
    assert len(seen.named("upload")) == 2
    assert all(job.start_time_unix_nano <= s.start_time_unix_nano <= s.end_time_unix_nano for s in stages)
    assert max(span.end_time_unix_nano for span in stages) <= job.end_time_unix_nano
    facts = attributes(job)
    assert facts["generation.outcome"] == "completed"
    assert facts["generation.job.id"] == "job-1"
    assert facts["generation.task_type"] == "text2img"
    assert (facts["generation.width"], facts["generation.units"]) == (64, response["usage"]["units"])
    assert seen.resources[0]["service.name"] == "generation-worker"
    assert seen.resources[0]["service.instance.id"] == "worker-1"


async def test_each_denoising_step_is_an_event_of_the_generation(seen: Collector) -> None:
    world = World(PaintingGenerator())
    world.telemetry = telemetry = Otlp("worker-1")
    await world.run({**CLOUD, "num_inference_steps": 3})
    telemetry.close()
    (generate,) = seen.named("generate")
    steps = [attributes(event)["generation.step"] for event in generate.events]
    assert steps == sorted(steps)
    assert steps


async def test_the_trace_is_named_in_the_document_and_in_every_line_of_the_log(
    seen: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    world.telemetry = telemetry = Otlp("worker-1")
    formatter = logs._Formatter(as_json=True)
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(formatter.format(record))

    root, handler = logging.getLogger(), Lines()
    root.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO):
            await world.run(CLOUD)
    finally:
        root.removeHandler(handler)
    telemetry.close()
    (job,) = seen.named("job")
    assert world.document["trace_id"] == job.trace_id.hex()
    told = [line for line in map(json.loads, lines) if line.get("job_id") == "job-1"]
    assert {line["action"] for line in told} >= {"job_accepted", "job_done"}
    assert {line["trace_id"] for line in told} == {job.trace_id.hex()}


async def test_a_document_that_was_traced_before_forgets_it_where_nobody_traces(seen: Collector) -> None:
    world = World(Raises(OutOfMemory()))
    world.telemetry = telemetry = Otlp("worker-1")
    await world.run(CLOUD)
    telemetry.close()
    assert "trace_id" in world.document
    again = World()
    again.documents = world.documents
    await again.run(CLOUD, job_id="job-2")
    assert again.document["status"] == "completed"
    assert "trace_id" not in again.document


async def test_a_failure_is_an_error_by_its_code_and_a_cancelled_job_is_none(seen: Collector) -> None:
    world = World(Raises(OutOfMemory()))
    world.telemetry = telemetry = Otlp("worker-1")
    await world.run(CLOUD)
    stop = StopSignal()
    stop.request(Cancelled())
    await World.run(world, {**CLOUD, "file_uid": "other"}, "job-2", stop)
    telemetry.close()
    failed, cancelled = sorted(seen.named("job"), key=lambda span: attributes(span)["generation.job.id"])
    assert attributes(failed)["error.type"] == "out_of_memory"
    assert failed.status.code == 2
    assert failed.status.message == ""
    assert attributes(cancelled)["generation.outcome"] == "cancelled"
    assert cancelled.status.code == 0


async def test_a_stage_that_was_given_up_is_no_error_and_one_without_its_service_says_why(seen: Collector) -> None:
    """For a job whose result exists already, or that is refused or cancelled, nothing went wrong."""
    world = World()
    await world.run(CLOUD)
    world.telemetry = telemetry = Otlp("worker-1")
    world.generator.lingers = True
    reading, refused = threading.Event(), threading.Event()

    def is_slow(call: str, _path: str) -> None:
        if call == "read":
            reading.set()
            refused.wait(10)

    world.bucket.before = is_slow
    world.documents.before = lambda *_: (reading.wait(10), None)[1]
    again = {**CLOUD, "task_type": "img2img", "image_url": f"gs://{world.bucket.name}/{world.paths[0]}"}
    assert (await world.run(again, job_id="job-2"))["error_code"] == "idempotency_mismatch"
    refused.set()
    world.documents.before, world.bucket.before = lambda *_: None, is_down("storage", "refused", ["upload"])
    world.generator.lingers = False
    await world.run({**CLOUD, "file_uid": "other"}, job_id="job-3")
    telemetry.close()
    (sources,), (upload,) = seen.named("sources"), seen.named("upload")
    assert (attributes(sources)["error.type"], sources.status.code) == ("cancelled", 0)
    assert (attributes(upload)["error.type"], upload.status.code) == ("refused", 2)
    outcomes = {facts["generation.stage"]: facts["generation.outcome"] for facts, _ in seen.points(STAGES)}
    assert (outcomes["sources"], outcomes["upload"]) == ("cancelled", "refused")


async def test_counts_tell_jobs_by_outcome_seconds_by_stage_and_what_the_gpu_did(seen: Collector) -> None:
    world = World()
    world.telemetry = telemetry = Otlp("worker-1")
    telemetry.ready(2.0)
    answers = [await world.run({**CLOUD, "file_uid": f"file-{index}"}) for index in range(3)]
    telemetry.close()
    ((facts, jobs),) = seen.points("generation.job.duration")
    assert facts == {"generation.task_type": "text2img", "generation.outcome": "completed"}
    assert jobs.count == 3
    stages = {facts["generation.stage"]: point.count for facts, point in seen.points(STAGES)}
    assert stages["claim"] == stages["generate"] == stages["upload"] == 3
    ((_, gpu),) = seen.points("generation.gpu.time")
    assert gpu.as_double == pytest.approx(sum(answer["usage"]["gpu_seconds"] for answer in answers), abs=0.01)
    ((_, units),) = seen.points("generation.units")
    assert units.as_int == sum(answer["usage"]["units"] for answer in answers)
    ((_, start),) = seen.points("generation.cold_start.duration")
    assert (start.count, start.sum) == (1, 2.0)


async def test_an_answer_that_was_there_already_is_no_work_anew(seen: Collector) -> None:
    world = World()
    world.telemetry = telemetry = Otlp("worker-1")
    first = await world.run(CLOUD)
    again = await world.run(CLOUD, job_id="job-2")
    assert again["usage"] == first["usage"]
    telemetry.close()
    ((_, units),) = seen.points("generation.units")
    assert units.as_int == first["usage"]["units"]


async def test_nothing_that_a_user_wrote_is_sent(seen: Collector) -> None:
    world = World(Raises(RuntimeError("a fox of /secret/path")))
    world.telemetry = telemetry = Otlp("worker-1")
    await world.run({**CLOUD, "user_id": "somebody", "negative_prompt": "no badgers"})
    telemetry.close()
    sent = b"".join(seen.bodies)
    for private in (b"fox", b"badgers", b"somebody", b"/secret", PATH.encode()):
        assert private not in sent, private


async def test_a_collector_that_is_away_costs_a_job_nothing_and_is_said_once_without_its_host(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as taken:  # nobody listens there, and nobody else can
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        world = World()
        world.telemetry = telemetry = Otlp("worker-1")
        for index in range(3):
            assert "error" not in await world.run({**CLOUD, "file_uid": f"file-{index}"})
        telemetry.close()
    said = sorted(record.getMessage() for record in caplog.records if getattr(record, "action", "") == "telemetry_lost")
    lost = "OTEL_EXPORTER_OTLP_ENDPOINT: {} could not be sent there (ConnectionError); jobs go on without"
    assert said == [lost.format("metrics"), lost.format("traces")]
    assert "127.0.0.1" not in caplog.text


@pytest.mark.parametrize("signal", ["traces", "metrics"])
async def test_each_signal_is_sent_alone_to_where_its_own_variable_says(
    monkeypatch: pytest.MonkeyPatch, signal: str
) -> None:
    with collector() as found:
        name = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
        monkeypatch.setenv(name, f"{found.endpoint}/v1/{signal}")
        world = World()
        world.telemetry = telemetry = handler._telemetry(load_settings(), "worker-1")
        await world.run(CLOUD)
        assert isinstance(telemetry, Otlp)
        telemetry.close()
    assert bool(found.spans) is (signal == "traces")
    assert bool(found.metrics) is (signal == "metrics")
    assert ("trace_id" in world.document) is (signal == "traces")


def test_what_a_collector_refuses_is_said_once_until_it_takes_it_again(
    seen: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    """One that takes traces alone answers 404 for metrics; an exporter takes a redirection for success."""
    caplog.set_level("INFO", "worker")
    seen.answers = {"/v1/traces": 301, "/v1/metrics": 404}
    spans, metrics = otlp._Spans("OTEL_EXPORTER_OTLP_ENDPOINT"), otlp._Metrics("OTEL_EXPORTER_OTLP_ENDPOINT")
    for answers in (seen.answers, seen.answers, {}):
        seen.answers = answers
        spans.export(())
        metrics.export(MetricsData(()))
    lost = "OTEL_EXPORTER_OTLP_ENDPOINT: {} could not be sent there (HTTP {}); jobs go on without"
    said = [record.getMessage() for record in caplog.records if record.name == otlp.__name__]
    assert said == [
        lost.format("traces", 301), lost.format("metrics", 404), "traces are sent again", "metrics are sent again"
    ]  # fmt: skip


def test_a_value_that_opentelemetry_ignores_is_not_said_to_be_a_loss(
    seen: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "SECRET")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "10s")
    telemetry = Otlp("worker-1")
    telemetry.close()
    assert "telemetry_lost" not in {getattr(record, "action", "") for record in caplog.records}


async def test_a_long_job_shows_each_of_its_steps(seen: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_SPAN_EVENT_COUNT_LIMIT", raising=False)
    set_library_defaults()
    telemetry = Otlp("worker-1")
    trace = telemetry.job("job-1")
    with trace.stage("generate"):
        for step in range(4 * 100):
            trace.step(step + 1, 4 * 100)
    telemetry.close()
    (generate,) = seen.named("generate")
    assert len(generate.events) == 4 * 100


async def test_a_job_has_no_trace_where_opentelemetry_is_switched_off(
    seen: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    world = World()
    world.telemetry = telemetry = Otlp("worker-1")
    await world.run(CLOUD)
    telemetry.close()
    assert seen.bodies == []
    assert world.document["status"] == "completed"
    assert "trace_id" not in world.document


@pytest.mark.parametrize("name", ["OTEL_METRIC_EXPORT_INTERVAL", "OTEL_BSP_MAX_QUEUE_SIZE"])
def test_what_opentelemetry_does_not_take_is_said_with_its_name_and_without_its_value(
    seen: Collector, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "-17")
    with pytest.raises(ConfigError) as caught:
        handler._telemetry(load_settings(), "worker-1")
    assert name in str(caught.value)
    assert "-17" not in str(caught.value)
    assert seen.endpoint not in str(caught.value)


@pytest.mark.e2e
def test_a_fork_of_the_worker_sends_nothing(seen: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """RunPod's SDK forks one for its pings; everything counted until then would be counted twice."""
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "1000")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    code = (
        "import multiprocessing, time; from worker.telemetry.otlp import Otlp; telemetry = Otlp('worker-1');"
        "telemetry.ready(2.0); fork = multiprocessing.get_context('fork').Process(target=time.sleep, args=(4,));"
        "fork.start(); fork.join()"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    starts = [metric for metric in seen.metrics if metric.name == "generation.cold_start.duration"]
    assert sum(point.count for metric in starts for point in metric.histogram.data_points) == 1


@pytest.mark.e2e
def test_a_collector_that_never_answers_keeps_no_process_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry's own shutdown would wait for ten seconds, twice."""
    code = (
        "import time; from worker.telemetry.otlp import Otlp; job = Otlp('worker-1').job('job-1');"
        "job.end('completed', task_type='text2img', gpu_seconds=1.0, units=1); print(time.time(), flush=True)"
    )
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        ran = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert time.time() - float(ran.stdout) < CLOSE_SECONDS + SOON_SECONDS
    assert ran.stderr.count("could not be sent there (TimeoutError)") == 2


@pytest.mark.e2e
def test_the_worker_sends_what_is_left_as_its_process_ends(seen: Collector) -> None:
    """`python handler.py --test_input`: the variable alone enables it."""
    request = {"input": {"prompt": "a red star on blue", "num_inference_steps": 2}}
    began = time.time_ns()
    ran = subprocess.run(
        [sys.executable, "handler.py", "--test_input", json.dumps(request)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    (job,) = seen.named("job")
    assert began < job.start_time_unix_nano < job.end_time_unix_nano < time.time_ns()
    assert seen.points("generation.job.duration")


@pytest.mark.e2e
@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
    ],
    ids=["not set", "disabled", "none"],
)
def test_without_the_variables_nothing_of_it_is_imported(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code = (
        "import sys, handler; handler.build(handler.load_settings()); print([n for n in sys.modules if 'opentel' in n])"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_the_dashboard_and_the_document_ask_for_instruments_that_there_are() -> None:
    made = set(re.findall(r'"(generation\.[\w.]+)",\s*"', (REPOSITORY / "worker/telemetry/otlp.py").read_text()))
    assert len(made) == 5
    document = (REPOSITORY / "docs/deploy.md").read_text()
    assert set(re.findall(r"^\| `(generation\.[\w.]+)`", document, re.MULTILINE)) == made
    dashboard = (REPOSITORY / "docs/dashboard.json").read_text()
    asked = set(re.findall(r"generation_[a-z_]+(?=_(?:seconds_)?(?:bucket|count|total))", dashboard))
    assert {name.removesuffix("_seconds") for name in asked} == {name.replace(".", "_") for name in made}
    assert not re.search(r"\b(?:rate|increase)\(", dashboard), "of a worker that serves one job they are 0"
