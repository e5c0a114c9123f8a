"""What is told of jobs to those who watch the worker from outside, as Protocols; and the default, which tells nothing.

A job is one trace. Its stages are spans, its denoising steps are events. Knows no OpenTelemetry: that is `otlp`, which
is imported only where the operator named a place to send to.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class JobTrace(Protocol):
    """One job, as it is seen from outside. Every method is safe in any thread and returns at once."""

    @property
    def id(self) -> str | None:
        """The trace's id, 32 hexadecimal digits; None where nothing is traced."""
        ...

    def describe(self, facts: Mapping[str, str | int | float]) -> None:
        """Say what the job is: numbers and names of the operator's, nothing that a user wrote."""
        ...

    def stage(self, name: str) -> AbstractContextManager[None]:
        """The body is a stage of the job. Stages may run beside each other, and end with an error."""
        ...

    def step(self, step: int, total_steps: int) -> None:
        """A denoising step is done."""
        ...

    def end(self, outcome: str, *, task_type: str, gpu_seconds: float, units: int) -> None:
        """The job has ended: `completed`, or with an error's code."""
        ...


class Telemetry(Protocol):
    """Where it is told."""

    def job(self, job_id: str) -> JobTrace:
        """A job begins."""
        ...

    def ready(self, seconds: float) -> None:
        """The worker's models are loaded, so long after its process began: it may take jobs."""
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
