"""What one job carries through every stage: who asked, why it should stop, how far it is, what to say of its result.

The `Control` that the model asks and tells. `report`, `raise_if_stopped`, `untimed` and `viewer` are safe in any
thread, the rest belongs to the event loop.
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
    """What the platform hands over."""

    id: str
    input: object


@dataclass(slots=True)
class JobContext:
    """One job while it runs; made in the event loop that serves it."""

    job: Job
    envelope: Envelope
    stop: StopSignal
    watch: Callable[[Progress], None]
    """Told of all progress, in the event loop."""
    lease: Lease | None
    """On the document; None for a job that has none."""
    fingerprint: str = ""
    manifest: Manifest | None = None
    """What is known of the result beside its files; None: it is not known yet."""
    loras_in_use: InUse = field(default_factory=InUse)
    """Files of LoRAs that stay on the disk until the job has ended."""
    warnings: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds per stage, also of a stage that failed."""
    gpu_seconds: float = 0.0
    """How long the job has used the GPU, whatever became of it."""
    gpu_since: float | None = None
    """Since when it uses the GPU, on `time.monotonic`; None: it does not."""
    units: int = 0
    """What it is worth."""
    admitted: bool = False
    """Whether the result is this job's to make: its document is, or nothing could be learned of one, and no files are
    there. Until then what is made is neither told nor stored."""
    refused: bool = False
    """Whether it is known not to be."""
    ended: bool = False
    """Whether its outcome is decided: nothing that comes later counts."""
    limit: TimeLimit | None = None
    """How long the job may take; None: as long as it likes."""
    course: Course = field(default_factory=Course)
    """How far it is, by its estimate."""
    previews: Previews | None = None
    """What shows what is being made; None: nobody is to see it."""
    longest_step: float = 0.0
    """Seconds of its longest denoising step by the estimate, or of the longest silence between two reports so far."""
    moved_at: float = field(default_factory=time.monotonic)
    """When it last reported anything (`time.monotonic`)."""
    trace: JobTrace = NO_TRACE
    """How it is seen from outside."""
    _decided: asyncio.Event = field(default_factory=asyncio.Event)
    _step_began: float | None = None
    _newest: Progress = field(default_factory=lambda: Progress("queued"))
    _preview: str | None = None
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def raise_if_stopped(self) -> None:
        """Return to go on.

        Raises:
            JobError, Cancelled: why the job is to end.
        """
        self.stop.raise_if_stopped()

    def decide(self, *, admitted: bool) -> None:
        """Whether the result is this job's to make; what waits for that goes on or ends."""
        self.admitted, self.refused = admitted, not admitted
        self._decided.set()
        if admitted and self.generating:
            self._tell(self._newest)

    async def admission(self) -> None:
        """Return once the job is admitted.

        Raises:
            Cancelled: it is not.
        """
        await self._decided.wait()
        if self.refused:
            raise Cancelled

    def untimed(self) -> AbstractContextManager[None]:
        """The body is not counted against the job's time limit."""
        return contextlib.nullcontext() if self.limit is None else self.limit.paused()

    def report(self, progress: Progress) -> None:
        """Take note of progress; returns at once."""
        now = time.monotonic()
        if progress.stage == "generating" and self._step_began is not None:
            self.longest_step = max(self.longest_step, now - self._step_began)
        self._step_began = now if progress.stage == "generating" else None
        self.moved_at = now
        if progress.stage == "generating" and progress.part is None and progress.step > 0:
            self.trace.step(progress.step, progress.total_steps)
        self._loop.call_soon_threadsafe(self._note, progress)

    def warn(self, warning: str) -> None:
        """Say something of the result that its receiver should know, once."""
        if warning not in self.warnings:
            self.warnings.append(warning)

    def viewer(self) -> Callable[[Preview], None] | None:
        """Who takes a preview now."""
        return None if self.previews is None else self.previews.viewer()

    def show(self, preview: str) -> None:
        """Have a preview stand in the document from now on until there is a newer one; RunPod is not sent it."""
        self._preview = preview
        if self.lease is not None and self.admitted and not self.ended:
            self.lease.note(replace(self._newest, preview=preview))

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Measure the body, however it ends."""
        started = time.monotonic()
        try:
            with self.trace.stage(stage):
                yield
        finally:
            self.timings[stage] = time.monotonic() - started

    async def confirm(self) -> None:
        """Learn whether the job is still wanted, before the GPU is used for it."""
        if self.lease is not None:
            await self.lease.confirm()

    def object_owner(self) -> ObjectOwner:
        """Whose the objects are that are stored from now on."""
        lease = self.lease
        assert lease is not None  # noqa: S101 - only who has an owner, and so a document, stores anything
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
        """How long the job has used the card until now, and its price on any card."""
        running = time.monotonic() - self.gpu_since if self.gpu_since is not None else 0.0
        return {"gpu_seconds": round(self.gpu_seconds + running, 3), "units": self.units}

    @property
    def used_card(self) -> bool:
        """Whether a job that comes to nothing has cost something."""
        return self.gpu_seconds > 0 or self.gpu_since is not None

    @property
    def generating(self) -> bool:
        """Whether its generation has begun."""
        return self._newest.stage in {"generating", "uploading"}

    async def keep_moving(self) -> None:
        """Pass on, until the job has ended, that it goes on between two reports."""
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
