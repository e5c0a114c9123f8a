"""The Protocols of telemetry, and the default implementation, which does nothing.

A job is one trace; its stages are spans, its denoising steps are events. Knows no OpenTelemetry: `otlp` does, and is
imported only if the operator configures an endpoint.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class JobTrace(Protocol):
    """The trace of one job. All methods are thread-safe and return at once."""

    @property
    def id(self) -> str | None:
        """The trace id, 32 hexadecimal digits; None: not traced."""
        ...

    def describe(self, facts: Mapping[str, str | int | float]) -> None:
        """Add attributes of the job: numbers and the operator's names, never a user's text."""
        ...

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Trace the body as a stage of the job. Stages may overlap, and may raise."""
        ...

    def step(self, step: int, total_steps: int) -> None:
        """Record a finished denoising step."""
        ...

    def end(self, outcome: str, *, task_type: str, gpu_seconds: float, units: int) -> None:
        """End the trace; `outcome` is `completed` or an error code."""
        ...


class Telemetry(Protocol):
    """Receives traces and metrics."""

    def job(self, job_id: str) -> JobTrace:
        """Begin the trace of a job."""
        ...

    def ready(self, seconds: float) -> None:
        """Record the seconds from process start until the models were loaded."""
        ...


class _NoTrace:
    id = None

    def describe(self, facts: Mapping[str, str | int | float]) -> None: ...

    def stage(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def step(self, step: int, total_steps: int) -> None: ...

    def end(self, outcome: str, *, task_type: str, gpu_seconds: float, units: int) -> None: ...


NO_TRACE: JobTrace = _NoTrace()


class _Off:
    def job(self, job_id: str) -> JobTrace:
        return NO_TRACE

    def ready(self, seconds: float) -> None: ...


OFF: Telemetry = _Off()
