"""Sends spans and metrics over OTLP, honouring OpenTelemetry's own variables (headers, sampling, timeouts).

The only importer of opentelemetry. Sends batches from its own threads; what cannot be sent is dropped, and logged once.
Contains no text of a user, no user id and no error message. Names follow the semantic conventions where they have one:
https://opentelemetry.io/docs/specs/semconv/
"""

import asyncio
import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, Status, StatusCode, format_trace_id, set_span_in_context

NAME = "generation-worker"
CLOSE_SECONDS = 3.0
"""How long an ending process waits for the last batches: a collector may hang."""
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
"""Histogram boundaries: from a claim to a ten-minute video generation."""

log = logging.getLogger(__name__)


class Otlp:
    """Implements `spans.Telemetry`. Connects on the first export; create it once, in the main thread."""

    def __init__(self, worker_id: str) -> None:
        """Begin the threads that send.

        Raises:
            ValueError: OpenTelemetry does not take what one of its variables holds.
        """
        _quiet()
        resource = Resource.create({"service.instance.id": worker_id} | _service_name())
        self._traces = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._exporters = OTLPSpanExporter(), OTLPMetricExporter()
        self._traces.add_span_processor(BatchSpanProcessor(self._exporters[0]))
        readers = [PeriodicExportingMetricReader(self._exporters[1])]
        self._meters = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
        self._tracer = self._traces.get_tracer(NAME)
        meter = self._meters.get_meter(NAME)
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
            threading.Thread(target=self._close, args=(one,), name="telemetry", daemon=True)
            for one in (self._traces, self._meters)
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
        logging.getLogger("opentelemetry").handlers = [logging.NullHandler()]
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
        for thread in self._closing:
            thread.join(max(0.0, deadline - time.monotonic()))

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
        return format_trace_id(seen.trace_id) if seen.is_valid else None  # OTEL_SDK_DISABLED

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


class _Undelivered(logging.Handler):
    """Replaces OpenTelemetry's repeated export errors, which name host and path, by one line without them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self._said:
            self._said = True
            log.warning(
                "OTEL_EXPORTER_OTLP_ENDPOINT: traces or metrics could not be sent there; jobs go on without",
                extra={"action": "telemetry_lost"},
            )


def _quiet() -> None:
    theirs = logging.getLogger("opentelemetry")
    theirs.handlers, theirs.propagate = [_Undelivered()], False
