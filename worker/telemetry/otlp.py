"""Sends spans and metrics over OTLP, honouring OpenTelemetry's own variables (headers, sampling, timeouts).

The only importer of opentelemetry. Sends batches from its own threads; what cannot be sent is dropped, and logged once
until it can be sent again. Contains no text of a user, no user id and no error message. Names follow the semantic
conventions where they have one: https://opentelemetry.io/docs/specs/semconv/
"""

import asyncio
import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import Meter, NoOpMeter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import NoOpTracer, Span, Status, StatusCode, Tracer, format_trace_id, set_span_in_context

NAME = "generation-worker"
CLOSE_SECONDS = 3.0
"""How long an ending process waits for the last batches: a collector may hang."""
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
"""Histogram boundaries: from a claim to a ten-minute video generation."""
EVERYTHING: Mapping[str, str] = dict.fromkeys(("traces", "metrics"), "OTEL_EXPORTER_OTLP_ENDPOINT")

log = logging.getLogger(__name__)


class Otlp:
    """Implements `spans.Telemetry`. Connects on the first export; create it once, in the main thread."""

    def __init__(self, worker_id: str, sent: Mapping[str, str] = EVERYTHING) -> None:
        """Begin the threads that send.

        Args:
            worker_id: whose traces and metrics they are.
            sent: which of the two are sent, each with the variable that says where, as `Settings.signals`.

        Raises:
            ValueError: OpenTelemetry does not take what one of its variables holds.
        """
        resource = Resource.create({"service.instance.id": worker_id} | _service_name())
        self._exporters: list[_Spans | _Metrics] = []
        providers: list[TracerProvider | MeterProvider] = []
        self._tracer: Tracer = NoOpTracer()
        meter: Meter = NoOpMeter(NAME)
        if "traces" in sent:
            traces = TracerProvider(resource=resource, shutdown_on_exit=False)
            traces.add_span_processor(BatchSpanProcessor(spans := _Spans(sent["traces"])))
            self._tracer = traces.get_tracer(NAME)
            self._exporters.append(spans)
            providers.append(traces)
        if "metrics" in sent:
            reader = PeriodicExportingMetricReader(metrics := _Metrics(sent["metrics"]))
            meters = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
            meter = meters.get_meter(NAME)
            self._exporters.append(metrics)
            providers.append(meters)
        # An exporter describes each batch that it cannot send, with host and path; `_Outage` does it once, without.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL + 1)
        buckets = list(SECONDS)
        self.jobs = meter.create_histogram(
            "generation.job.duration", "s", "Jobs by outcome", explicit_bucket_boundaries_advisory=buckets
        )
        self.stages = meter.create_histogram(
            "generation.stage.duration", "s", "Stages of jobs", explicit_bucket_boundaries_advisory=buckets
        )
        self.gpu = meter.create_counter(
            "generation.gpu.time", "s", "For how long jobs used the GPU: its rate is the share in which it was busy"
        )
        self.units = meter.create_counter("generation.units", "{unit}", "What the jobs were worth")
        self._start = meter.create_histogram(
            "generation.cold_start.duration",
            "s",
            "From the start of the process until its models are loaded",
            explicit_bucket_boundaries_advisory=buckets,
        )
        self._over = threading.Event()
        # Started now, because an ending process cannot start threads.
        self._closing = [
            threading.Thread(target=self._close, args=(one,), name="telemetry", daemon=True) for one in providers
        ]
        for thread in self._closing:
            thread.start()
        atexit.register(self.close)
        this = weakref.ref(self)

        def forget() -> None:
            if (telemetry := this()) is not None:
                telemetry._forget()

        os.register_at_fork(after_in_child=forget)  # after what OpenTelemetry registers: they run in this order

    def _forget(self) -> None:
        """Send nothing from a fork of the worker, such as the one in which RunPod's SDK sends its pings.

        OpenTelemetry begins its threads anew there. They would send under the worker's name what it had counted until
        then, again and again, and over the very connections that the worker sends on.
        """
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
        for exporter in self._exporters:
            exporter.shutdown()

    def job(self, job_id: str) -> "_Trace":
        """As `spans.Telemetry.job`."""
        return _Trace(self, self._tracer.start_span("job", attributes={"generation.job.id": job_id}))

    def ready(self, seconds: float) -> None:
        """As `spans.Telemetry.ready`."""
        self._start.record(seconds)

    def start_stage(self, name: str, parent: Span) -> Span:
        """Start a child span of a job's span."""
        return self._tracer.start_span(name, set_span_in_context(parent))

    def close(self) -> None:
        """Send what is left, within `CLOSE_SECONDS`; also runs at exit."""
        atexit.unregister(self.close)
        deadline = time.monotonic() + CLOSE_SECONDS
        self._over.set()
        for thread, exporter in zip(self._closing, self._exporters, strict=True):
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():  # it would go on trying
                exporter.outage.note(exporter.session.ended or TimeoutError())

    def _close(self, provider: TracerProvider | MeterProvider) -> None:
        self._over.wait()
        provider.shutdown()


class _Trace:
    """Implements `spans.JobTrace`."""

    def __init__(self, telemetry: Otlp, span: Span) -> None:
        self._telemetry, self._span, self._started = telemetry, span, time.monotonic()
        self._stages: dict[str, Span] = {}

    @property
    def id(self) -> str | None:
        seen = self._span.get_span_context()
        return format_trace_id(seen.trace_id) if seen.is_valid else None

    def describe(self, facts: Mapping[str, str | int | float]) -> None:
        self._span.set_attributes({f"generation.{name}": value for name, value in facts.items()})

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started, outcome = time.monotonic(), "completed"
        span = self._stages[name] = self._telemetry.start_stage(name, self._span)
        try:
            yield
        except BaseException as error:
            outcome = _outcome(error)
            _fail(span, outcome)
            raise
        finally:
            span.end()
            seconds = time.monotonic() - started
            self._telemetry.stages.record(seconds, {"generation.stage": name, "generation.outcome": outcome})

    def step(self, step: int, total_steps: int) -> None:
        span = self._stages.get("generate")
        if span is not None:
            span.add_event("step", {"generation.step": step, "generation.total_steps": total_steps})

    def end(self, outcome: str, *, task_type: str, gpu_seconds: float, units: int) -> None:
        facts = {"generation.task_type": task_type, "generation.outcome": outcome}
        self._span.set_attributes({**facts, "generation.gpu_seconds": gpu_seconds, "generation.units": units})
        if outcome != "completed":
            _fail(self._span, outcome)
        self._span.end()
        self._telemetry.jobs.record(time.monotonic() - self._started, facts)
        self._telemetry.gpu.add(gpu_seconds, facts)
        self._telemetry.units.add(units, facts)


def _outcome(error: BaseException) -> str:
    """Return the outcome of a stage that raised: the error's code, or a `BackendError`'s kind."""
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"  # the job's own outcome has the reason
    return str(getattr(error, "code", None) or getattr(error, "kind", "internal"))


def _fail(span: Span, code: str) -> None:
    span.set_attribute("error.type", code)
    # A cancellation is not an error.
    if code != "cancelled":
        span.set_status(Status(StatusCode.ERROR))


def _service_name() -> dict[str, str]:
    """The default service name, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES set one."""
    named = Resource.create().attributes.get("service.name")
    unnamed = not isinstance(named, str) or named.startswith("unknown_service")
    return {"service.name": NAME} if unnamed else {}


class _Session(requests.Session):
    """Remembers how its last request ended, which an exporter does not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: int | Exception | None = None
        """The HTTP status, or the error for want of one; None: no request was made."""

    def request(self, *about: Any, **more: Any) -> requests.Response:
        try:
            answer = super().request(*about, **more)
        except Exception as error:
            self.ended = error
            raise
        self.ended = answer.status_code
        return answer


class _Outage:
    """Logs that one signal cannot be sent, and that it can again, once each."""

    def __init__(self, signal: str, variable: str | None) -> None:
        """`variable` says where it is sent; None: nothing is logged."""
        self._signal, self._variable, self._lasts = signal, variable, False

    def note(self, ended: int | Exception | None) -> None:
        # An exporter takes a redirection, which it does not follow, for success.
        lasts = not (isinstance(ended, int) and ended < HTTPStatus.MULTIPLE_CHOICES)
        if self._variable is None or ended is None or lasts == self._lasts:
            return
        self._lasts = lasts
        if not lasts:
            log.info("%s are sent again", self._signal, extra={"action": "telemetry"})
            return
        why = f"HTTP {ended}" if isinstance(ended, int) else type(ended).__name__
        text = "%s: %s could not be sent there (%s); jobs go on without"
        log.warning(text, self._variable, self._signal, why, extra={"action": "telemetry_lost"})


class _Spans(OTLPSpanExporter):
    def __init__(self, variable: str | None, timeout: float | None = None) -> None:
        self.session, self.outage = _Session(), _Outage("traces", variable)
        super().__init__(session=self.session, timeout=timeout)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.session.ended = None
        result = super().export(spans)
        self.outage.note(self.session.ended)
        return result


class _Metrics(OTLPMetricExporter):
    def __init__(self, variable: str | None, timeout: float | None = None) -> None:
        self.session, self.outage = _Session(), _Outage("metrics", variable)
        super().__init__(session=self.session, timeout=timeout)

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **more: Any
    ) -> MetricExportResult:
        self.session.ended = None
        result = super().export(metrics_data, timeout_millis, **more)
        self.outage.note(self.session.ended)
        return result


def ask(signals: Iterable[str], seconds: float) -> dict[str, int | Exception | None]:
    """Send an empty batch of each signal as a worker would; returns as soon as each has been answered.

    Returns:
        For each the HTTP status, or the error for want of one; None: no answer within `seconds`.
    """
    exporters: dict[str, _Spans | _Metrics] = {}
    for signal in signals:
        exporter = exporters[signal] = (_Spans if signal == "traces" else _Metrics)(None, seconds)
        empty: Any = () if signal == "traces" else MetricsData(())
        # A thread that may be left behind, because no time limit binds the resolver.
        threading.Thread(target=exporter.export, args=(empty,), daemon=True).start()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(one.session.ended is None for one in exporters.values()):
        time.sleep(0.02)
    ended = {signal: one.session.ended for signal, one in exporters.items()}
    for one in exporters.values():
        one.shutdown()  # it would try again
    return ended
