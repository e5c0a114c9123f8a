"""Runs one request from validation to result. The order of things, and the one place where an outcome is decided.

    parse -> authenticate -> resolve -> claim | sources | load -> generate -> deliver -> complete

Knows Protocols only: no Google, no torch, no RunPod. What a job is told and what its document says are derived from the
same outcome, once, and no cancellation interrupts that.
"""

import asyncio
import hashlib
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from worker.api import response as result
from worker.api.fingerprint import fingerprint
from worker.api.params import Params, VideoParams, resolve
from worker.api.request import DEFAULT_TASK, Request, Source, envelope, parse
from worker.core.errors import (
    Cancelled,
    Deleted,
    Forbidden,
    GpuFault,
    Internal,
    JobError,
    JobTimeout,
    Superseded,
    Unauthenticated,
)
from worker.core.logs import where
from worker.core.stop import StopSignal
from worker.core.types import Progress, Sources
from worker.delivery.recovery import Finished
from worker.delivery.uploader import Destination, Uploader
from worker.document.lease import Lease
from worker.document.transitions import AlreadyDone
from worker.engine.protocol import Generated
from worker.job.gpu_queue import GpuSlot, Work
from worker.job.preflight import Preflight
from worker.job.services import Services
from worker.storage.results import ObjectOwner, Stored

UNSYNCED = "firestore_synced: false; the document could not be brought up to date"

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """What the platform hands over."""

    id: str
    input: object


async def run(
    job: Job, services: Services, stop: StopSignal, on_progress: Callable[[Progress], None] = lambda _: None
) -> dict[str, Any]:
    """Serve one job and return its response, success or failure.

    Must not be cancelled itself: to end it early, give `stop` a reason and wait.
    """
    run_ = _Run(job, services, stop, on_progress)
    limit = services.settings.job_timeout_seconds
    timeout = JobTimeout(f"the job took longer than {limit:g} s; ask for fewer steps, frames or pixels")
    watchdog = asyncio.get_running_loop().call_later(limit, stop.request, timeout)
    try:
        outcome = await _outcome(run_.serve(), job)
        response = outcome if isinstance(outcome, dict) else await run_.answer(outcome)
    finally:
        watchdog.cancel()
    log.info(
        "job %s",
        response.get("error_code", "completed"),
        extra={"action": "job_done", "job_id": job.id, "timings": run_.timings},
    )
    return response


async def _outcome(work: Awaitable[T], job: Job) -> T | JobError | Cancelled:
    """What came of `work`: its result, or why there is none."""
    try:
        return await work
    except (JobError, Cancelled) as error:
        return error
    except Exception as error:  # noqa: BLE001 - the one broad except: whatever it was, the job ends with an answer
        reference = uuid.uuid4().hex[:12]
        facts = {"action": "internal_error", "reference": reference, "job_id": job.id}
        log.error("unexpected %s", where(error), extra=facts)  # noqa: TRY400 - a traceback may quote the client
        return Internal(f"the worker met an unexpected error (reference {reference})")


class _Run:
    """The state of one job while it runs; also the `Control` that the model asks and tells."""

    def __init__(self, job: Job, services: Services, stop: StopSignal, on_progress: Callable[[Progress], None]) -> None:
        self.job, self.services, self.stop = job, services, stop
        self.envelope = envelope(job.input)
        self.warnings: list[str] = []
        self.timings: dict[str, float] = {}
        self._on_progress, self._newest = on_progress, Progress("queued")
        self._loop = asyncio.get_running_loop()
        self._started = time.monotonic()
        self._request_data: dict[str, Any] = {"task_type": self.envelope.task_type or DEFAULT_TASK}
        owner = self.envelope.owner
        self._record = Lease(services.documents, owner, job_id=job.id, worker_id=services.worker_id) if owner else None
        self._uploader: Uploader | None = None
        self._taken_over: tuple[Stored, ...] = ()
        self._facts: dict[str, Any] = {}
        self._hash = ""
        self._caller_known = self._ended = False

    # Control, as the model sees the job.

    def raise_if_stopped(self) -> None:
        self.stop.raise_if_stopped()

    def report(self, progress: Progress) -> None:
        self._loop.call_soon_threadsafe(self._note, progress)

    def warn(self, warning: str) -> None:
        if warning not in self.warnings:
            self.warnings.append(warning)

    # The way of a request.

    async def serve(self) -> dict[str, Any]:
        request = parse(self.job.input)
        self._request_data = request.public()
        await self._authenticate(request)
        defaults = self.services.generator.describe(request.task_type)
        self.warnings.extend(defaults.warnings)
        limits = self.services.settings
        params = resolve(request, defaults, max_image_pixels=limits.max_image_pixels, max_job_cost=limits.max_job_cost)
        self._clock("validate", self._started)
        self._facts = result.manifest(params, defaults.name)
        # In a thread: an inline picture of 20 MB takes most of a second, in which nothing else may wait.
        self._hash = await asyncio.to_thread(fingerprint, request)
        log.info("job accepted", extra={"action": "job_accepted", "job_id": self.job.id, **self._described(request)})
        stored = await self._generate(request, params)
        if isinstance(stored, AlreadyDone):
            return result.replay(request, stored.generation_data)
        self._taken_over = stored.taken_over if stored else ()
        return await self._complete(request, stored or await self._delivered())

    async def _authenticate(self, request: Request | None = None) -> None:
        """Check who asks before anything is read or written for them.

        Raises:
            Unauthenticated, Forbidden: the caller may not act for this user.
            Internal: that could not be found out.
        """
        reads_bucket = isinstance(request, Source) and any(
            getattr(request, name).startswith("gs://") for name in request.inline_fields
        )
        acts_for_user = self._record is not None or reads_bucket
        await self.services.identity.check(self.envelope, self.job.input, acts_for_user=acts_for_user)
        self._caller_known = acts_for_user

    async def _generate(self, request: Request, params: Params) -> AlreadyDone | Finished | None:
        """Claim, fetch sources and load weights side by side, then run the model; a stored result ends it early."""
        work = Work(request, params, self, confirm=self._confirm, take=self._take, clock=self._clock)
        turn = GpuSlot(self.services.gpu, self.services.generator, work, self.stop)
        door = Preflight(
            self.services, request, self._hash, self._record, stop=self.stop, warn=self.warn, clock=self._clock
        )
        try:
            admitted = await self.stop.guard(door.enter(self._request_data, self._provenance))
        except BaseException:
            await turn.give_up()
            raise
        if not isinstance(admitted, Sources):
            await turn.give_up()
            return admitted
        self._uploader = self._open_delivery(request, params)
        await turn.run(admitted)
        return None

    async def _confirm(self) -> None:
        if self._record is not None:
            await self._record.confirm()

    def _open_delivery(self, request: Request, params: Params) -> Uploader:
        destination, owner = None, request.owner
        if owner is not None and self._record is not None and self.services.storage is not None:
            destination = Destination(self.services.storage, owner, self._provenance, self.services.spool)
        elif owner is not None:
            self.warn("use_cloud_storage: no bucket is configured on this worker, so the result is returned inline")
        fps = params.fps if isinstance(params, VideoParams) else 0
        blocks = self.services.settings.safety_checker == "block"
        return Uploader(
            request, fps, destination, on_done=self._note, raise_if_stopped=self.raise_if_stopped, blocks=blocks
        )

    async def _delivered(self) -> Finished:
        """Wait for the files of what was generated."""
        assert self._uploader is not None  # noqa: S101 - opened before anything was generated
        delivered = await self._uploader.finish(self.services.settings.max_result_bytes)
        self.timings |= self._uploader.timings
        self.warnings.extend(delivered.warnings)
        return Finished(self._facts, delivered)

    async def _complete(self, request: Request, finished: Finished) -> dict[str, Any]:
        """Bring the document to its terminal state, after the objects, and answer."""
        self._clock("total", self._started)
        timings = {stage: round(seconds, 3) for stage, seconds in self.timings.items()}
        delivered, warnings = finished.delivered, [*self.warnings, *finished.warnings]
        data = result.generation_data(finished.facts, delivered, timings=timings, warnings=warnings)
        uris = delivered.uris if delivered.storage == "base64" else None
        result.check_size(result.success(request, data, uris), self.services.settings.max_result_bytes)
        self._ended = True
        if self._record is not None and not await self._record.complete(data):
            data["warnings"] = [*warnings, UNSYNCED]
        return result.success(request, data, uris)

    async def answer(self, error: JobError | Cancelled) -> dict[str, Any]:
        """The end of a job that did not succeed: its response, its document and its objects say so."""
        self._ended = True
        await _outcome(self._settle(error), self.job)
        fresh_worker = isinstance(error, GpuFault) or self.services.gpu.stuck
        return result.failure(error, self.envelope, fresh_worker=fresh_worker)

    async def _settle(self, error: JobError | Cancelled) -> None:
        if self._record is not None and await self._may_write(error):
            await self._record.fail(error, self._request_data)
        if self._uploader is not None and isinstance(error, Superseded):
            await self._uploader.settled()  # what it stored is its successor's to adopt or to replace
        elif self._uploader is not None:
            await self._uploader.discard()
        elif self._taken_over and isinstance(error, Deleted) and self.services.storage is not None:
            await asyncio.to_thread(self.services.storage.remove, self._taken_over)

    async def _may_write(self, error: JobError | Cancelled) -> bool:
        """Whether the caller may have this document written; a request that was refused early is checked only now."""
        if not self._caller_known and not isinstance(error, Unauthenticated | Forbidden):
            try:
                await self._authenticate()
            except JobError:
                return False
        return self._caller_known

    # Small things, in the event loop.

    def _provenance(self) -> ObjectOwner:
        """Whose the objects are that are stored from now on."""
        record = self._record
        assert record is not None  # noqa: S101 - only who has an owner, and so a document, stores anything
        return ObjectOwner(
            job_id=self.job.id,
            attempt=record.attempt,
            request_hash=self._hash,
            claimed_at=record.claimed_at,
            manifest=json.dumps(self._facts),
            claimed=record.claimed,
        )

    def _described(self, request: Request) -> dict[str, Any]:
        """An accepted job for the log: its prompt only as length and hash, unless the operator asked for it."""
        prompt = request.prompt
        facts = {"task_type": request.task_type, "prompt_characters": len(prompt)}
        if self.services.settings.log_prompts:
            return {**facts, "prompt": prompt}
        return {**facts, "prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest()[:16]}

    def _take(self, generated: Generated) -> None:
        # A call that was given up on may come back late: nothing is stored for a job that has ended.
        if self._uploader is not None and not self._ended:
            self._uploader.take(generated)

    def _note(self, progress: Progress) -> None:
        """Pass progress on, never backwards: an early upload must not look like the end of the generation."""
        if self._ended or progress.percent < self._newest.percent:
            return
        self._newest = progress
        if self._record is not None:
            self._record.note(progress)
        self._on_progress(progress)

    def _clock(self, stage: str, started: float) -> None:
        self.timings[stage] = time.monotonic() - started
