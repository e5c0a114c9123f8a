"""The state that one job carries through every stage: its caller, stop reason, progress, timings and warnings.

`JobContext` is the `Control` that the engine calls. `report`, `raise_if_stopped`, `untimed` and `viewer` are safe in
any thread; everything else belongs to the event loop.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from worker.api.request import Envelope
from worker.api.shapes import Manifest
from worker.core import timing
from worker.core.errors import Cancelled
from worker.core.stop import StopSignal
from worker.core.types import Preview, Progress, Usage
from worker.document.lease import Lease
from worker.job.course import Course
from worker.job.limit import TimeLimit
from worker.job.preview import Previews
from worker.sources.lora_cache import InUse
from worker.storage.results import ObjectOwner
from worker.telemetry.spans import NO_TRACE, JobTrace


@dataclass(frozen=True, slots=True)
class Job:
    """A job as RunPod delivers it."""

    id: str
    input: object


@dataclass(slots=True)
class JobContext:
    """One running job; created in the event loop that serves it."""

    job: Job
    envelope: Envelope
    stop: StopSignal
    watch: Callable[[Progress], None]
    """Receives all progress, in the event loop."""
    lease: Lease | None
    """The lease on the document; None: the job has no document."""
    fingerprint: str = ""
    manifest: Manifest | None = None
    """The result's model and params; None: not resolved yet."""
    loras_in_use: InUse = field(default_factory=InUse)
    """LoRA files that must stay on disk until the job has ended."""
    warnings: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds per stage, including stages that failed."""
    gpu_seconds: float = 0.0
    """GPU time of the generations that have returned, successful or not."""
    gpu_since: float | None = None
    """When the current generation began (`time.monotonic`); None: the GPU is not in use."""
    units: int = 0
    """The price in units; see `api.cost.job_units`."""
    admitted: bool = False
    """Whether this job makes the result: it holds the document's lease, or Firestore could not be reached, and no
    stored files were found. Until then nothing that is generated is reported or stored."""
    refused: bool = False
    """Whether the job was denied that; both are False until it is decided."""
    ended: bool = False
    """Whether the outcome is decided; anything that arrives later is ignored."""
    limit: TimeLimit | None = None
    """None: no time limit."""
    course: Course = field(default_factory=Course)
    """The position along its estimate."""
    previews: Previews | None = None
    """None: the job shows no previews."""
    longest_step: float = 0.0
    """Seconds: the longest denoising step by the estimate, or the longest interval between two reports so far."""
    moved_at: float = field(default_factory=time.monotonic)
    """When the engine last reported (`time.monotonic`)."""
    trace: JobTrace = NO_TRACE
    """Its OpenTelemetry trace."""
    _decided: asyncio.Event = field(default_factory=asyncio.Event)
    _step_began: float | None = None
    _newest: Progress = field(default_factory=lambda: Progress("queued"))
    _preview: str | None = None
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def raise_if_stopped(self) -> None:
        """Raise if the job has been given a reason to end.

        Raises:
            JobError, Cancelled: that reason.
        """
        self.stop.raise_if_stopped()

    def decide(self, *, admitted: bool) -> None:
        """Record whether this job makes the result, and wake what waits in `admission`."""
        self.admitted, self.refused = admitted, not admitted
        self._decided.set()
        if admitted and self.generating:
            self._tell(self._newest)

    async def admission(self) -> None:
        """Wait until the job is admitted.

        Raises:
            Cancelled: the job was refused.
        """
        await self._decided.wait()
        if self.refused:
            raise Cancelled

    def untimed(self) -> AbstractContextManager[None]:
        """Do not count the body against the time limit."""
        return contextlib.nullcontext() if self.limit is None else self.limit.paused()

    def report(self, progress: Progress) -> None:
        """Note progress; returns at once."""
        now = time.monotonic()
        if progress.stage == "generating" and self._step_began is not None:
            self.longest_step = max(self.longest_step, now - self._step_began)
        self._step_began = now if progress.stage == "generating" else None
        self.moved_at = now
        if progress.stage == "generating" and progress.part is None and progress.step > 0:
            self.trace.step(progress.step, progress.total_steps)
        self._loop.call_soon_threadsafe(self._note, progress)

    def warn(self, warning: str) -> None:
        """Add a warning to the response, once."""
        if warning not in self.warnings:
            self.warnings.append(warning)

    def viewer(self) -> Callable[[Preview], None] | None:
        """The callable that takes a preview now; None: no preview is due."""
        return None if self.previews is None else self.previews.viewer()

    def show(self, preview: str) -> None:
        """Put a preview into the document until a newer one replaces it. RunPod does not receive it."""
        self._preview = preview
        if self.lease is not None and self.admitted and not self.ended:
            self.lease.note(replace(self._newest, preview=preview))

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the body's seconds to the stage, even if it raises."""
        started = time.monotonic()
        try:
            with self.trace.stage(stage):
                yield
        finally:
            self.timings[stage] = self.timings.get(stage, 0.0) + time.monotonic() - started

    async def confirm(self) -> None:
        """Ask the document whether the job is still wanted, before it uses the GPU."""
        if self.lease is not None:
            await self.lease.confirm()

    def object_owner(self) -> ObjectOwner:
        """The owner to record on objects that are stored from now on."""
        lease = self.lease
        assert lease is not None  # noqa: S101 - only a job with a document stores objects
        return ObjectOwner(
            job_id=self.job.id,
            attempt=lease.attempt,
            fingerprint=self.fingerprint,
            claimed_at=lease.claimed_at,
            manifest=json.dumps(self.manifest or {}),
            claimed=lease.claimed,
            file_uid=self.envelope.file_uid or "",
        )

    @property
    def usage(self) -> Usage:
        """GPU seconds so far, and the price, which does not depend on the card."""
        running = time.monotonic() - self.gpu_since if self.gpu_since is not None else 0.0
        return {"gpu_seconds": round(self.gpu_seconds + running, 3), "units": self.units}

    @property
    def used_card(self) -> bool:
        """Whether the job has used the GPU at all."""
        return self.gpu_seconds > 0 or self.gpu_since is not None

    @property
    def generating(self) -> bool:
        """Whether the generation has begun."""
        return self._newest.stage in {"generating", "uploading"}

    async def keep_moving(self) -> None:
        """Report estimated progress between two reports of the engine, until the job has ended."""
        while not self.ended:
            await asyncio.sleep(timing.PROGRESS_SECONDS)
            progress = self.course.between()
            if progress.percent > self._newest.percent:
                self._tell(progress)

    def _note(self, progress: Progress) -> None:
        """Pass progress on, never backwards: an early upload must not look like the end of the generation."""
        placed = self.course.at(progress)
        if placed is not None:
            self._tell(replace(placed, percent=max(placed.percent, self._newest.percent)))

    def _tell(self, progress: Progress) -> None:
        if self.ended:
            return
        self._newest = progress
        if self.generating and not self.admitted:
            return
        if self.lease is not None:
            self.lease.note(replace(progress, preview=self._preview))
        self.watch(progress)
