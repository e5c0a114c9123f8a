"""Runs one request from validation to result: the order of the stages, and the only place that decides an outcome.

    parse -> authenticate -> resolve -> claim | (sources | load) -> generate -> deliver -> complete

Knows Protocols only: no Google, no torch, no RunPod. Response and document are derived from the same outcome, once, and
no cancellation interrupts that.
"""

import asyncio
import hashlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from worker.api import response
from worker.api.fingerprint import fingerprint
from worker.api.params import VideoParams
from worker.api.request import DEFAULT_TASK, Request, envelope
from worker.core import logs, timing
from worker.core.errors import (
    Cancelled,
    Deleted,
    DownloadFailed,
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
from worker.core.types import Owner, Progress
from worker.delivery.delivered import Delivered
from worker.delivery.uploader import Destination, Uploader
from worker.document import schema
from worker.document.lease import Lease
from worker.document.transitions import AlreadyDone
from worker.engine.protocol import Generated
from worker.job import actions
from worker.job.context import Job, JobContext
from worker.job.gpu_queue import GpuSlot
from worker.job.limit import TimeLimit
from worker.job.plan import Plan, follow, plan, read
from worker.job.preflight import Preflight
from worker.job.preview import Previews, reason_for_none
from worker.job.services import Services
from worker.sources.lora_cache import InUse

UNSYNCED = "firestore_synced: false; the document could not be brought up to date"
NO_BUCKET = "use_cloud_storage: no bucket is configured on this worker, so the result is returned inline"

T = TypeVar("T")

log = logging.getLogger(__name__)


async def run(
    job: Job, services: Services, stop: StopSignal, on_progress: Callable[[Progress], None] = lambda _: None
) -> dict[str, Any]:
    """Serve one job and return its response, success or failure.

    Do not cancel this coroutine: to end the job early, give `stop` a reason and wait.
    """
    logs.job_id.set(job.id)
    asked = envelope(job.input)
    if actions.is_action(job.input):
        answered = await _outcome(actions.answer(job.input, services), job)
        return {**(answered if isinstance(answered, dict) else response.failure(answered, asked))}
    trace = services.telemetry.job(job.id)
    logs.trace_id.set(trace.id)
    lease = None if asked.owner is None else _lease(job, asked.owner, services, trace.id)
    context = JobContext(job, asked, stop, on_progress, lease, trace=trace)
    runner = _Runner(services, context)
    limit = services.settings.job_timeout_seconds

    def expire() -> None:
        # A generation that is too long for this card will be too long again.
        stop.request(JobTimeout("timeout.limit", seconds=limit, retryable=not context.generating))

    context.limit = TimeLimit(limit, expire)
    moving = asyncio.create_task(context.keep_moving())
    try:
        outcome = await _outcome(runner.serve(), job)
        answer = outcome if isinstance(outcome, dict) else await runner.answer(outcome)
    finally:
        context.ended = True
        context.limit.cancel()
        context.loras_in_use = InUse()  # their files are let go of now, not when Python's collector finds the context
        moving.cancel()
        if context.previews is not None:
            context.previews.close()
    _report_end(context, answer)
    return answer


def _lease(job: Job, owner: Owner, services: Services, trace_id: str | None) -> Lease:
    worker_id, retention = services.worker_id, services.settings.retention
    return Lease(services.documents, owner, job_id=job.id, worker_id=worker_id, retention=retention, trace_id=trace_id)


def _report_end(context: JobContext, answer: Mapping[str, Any]) -> None:
    """End the trace of the job, and log its last line."""
    code, usage = answer.get("error_code", "completed"), context.usage
    context.trace.end(
        code,
        task_type=answer["task_type"] or DEFAULT_TASK,
        gpu_seconds=usage["gpu_seconds"],
        units=usage["units"] if "error" not in answer else 0,
    )
    facts = {"action": "job_done", "job_id": context.job.id, "timings": context.timings, **usage}
    log.info("job %s", code, extra=facts)


async def _outcome(work: Awaitable[T], job: Job) -> T | JobError | Cancelled:
    """The result of `work`, or the error that it ended with."""
    try:
        return await work
    except (JobError, Cancelled) as error:
        # Frames of its traceback refer to the tasks that it ended, and so to itself: they would keep the pictures.
        return error.with_traceback(None)
    except Exception as error:  # noqa: BLE001 - the only broad except: any error ends the job with a response
        reference = uuid.uuid4().hex[:12]
        facts = {"action": "internal_error", "reference": reference, "job_id": job.id}
        log.error("unexpected %s", where(error), extra=facts)  # noqa: TRY400 - a traceback may quote the client
        error.with_traceback(None)
        return Internal("internal.unexpected", reference=reference)


class _Runner:
    """One job on its way through the worker."""

    def __init__(self, services: Services, context: JobContext) -> None:
        self._services, self._context = services, context
        self._started = time.monotonic()
        self._request_data: dict[str, Any] = {"task_type": context.envelope.task_type or DEFAULT_TASK}
        self._uploader: Uploader | None = None
        self._delivered: Delivered | None = None
        self._caller_known = False

    async def serve(self) -> dict[str, Any]:
        """Validate, generate and deliver; returns the response.

        Raises:
            JobError, Cancelled: the job has no result.
        """
        context = self._context
        with context.timed("validate"):
            request = await read(context.job.input, self._services)
            self._request_data = request.public()
            await self._authenticate(request)
            planned = await plan(request, self._services)
        self._start_course(planned)
        self._note_plan(planned)
        self._open_previews(request)
        # In a thread: an inline picture of 20 MB takes most of a second, which would block the event loop.
        context.fingerprint = await asyncio.to_thread(fingerprint, request)
        log.info("job accepted", extra={"action": "job_accepted", "job_id": context.job.id, **self._described(request)})
        result = await self._generate(planned)
        if isinstance(result, AlreadyDone):
            context.units = 0  # counted when the result was made
            return {**response.replay(request, result.generation_data)}
        return await self._complete(request, result)

    async def _authenticate(self, request: Request | None = None) -> None:
        """Check the caller before anything is read or written for a user.

        Raises:
            Unauthenticated, Forbidden: the caller may not act for this user.
            Internal: the check itself failed.
        """
        context = self._context
        acts_for_user = context.lease is not None or (request is not None and request.reads_bucket)
        identity = self._services.identity
        wanted = await identity.check(context.envelope, context.job.input, acts_for_user=acts_for_user)
        if context.lease is not None:
            context.lease.needs_slip = wanted
        self._caller_known = acts_for_user

    def _note_plan(self, planned: Plan) -> None:
        """Record the price, model and params of the plan."""
        context, params = self._context, planned.params
        context.units, context.manifest = planned.units, planned.manifest
        steps = params.num_inference_steps
        context.trace.describe(
            {"model": planned.model, "width": params.width, "height": params.height, "num_inference_steps": steps}
        )

    def _start_course(self, planned: Plan) -> None:
        """Measure progress by the estimate of the plan."""
        self._context.course = self._context.course.along(planned.estimate)
        self._context.longest_step = planned.estimate.longest_step if planned.estimate is not None else 0.0

    async def _generate(self, planned: Plan) -> AlreadyDone | Delivered:
        """Claim and generate concurrently; an existing result or a refusal stops the generation."""
        context = self._context
        preflight = Preflight(self._services, planned.request, context, planned.loras)
        making = asyncio.create_task(self._make(planned, self._slot(planned), preflight))
        try:
            there = await context.stop.guard(preflight.admit(self._request_data))
        except BaseException:
            await self._unmake(making)
            context.units = 0  # a refused job is not charged
            raise
        if there is not None:
            await self._unmake(making)
            for warning in planned.warnings:
                context.warn(warning)
            self._delivered = there if isinstance(there, Delivered) else None
            return there
        context.decide(admitted=True)
        uploader = await making
        delivered = await uploader.finish(self._services.settings.max_result_bytes)
        context.timings |= uploader.timings
        return delivered

    async def _make(self, planned: Plan, slot: GpuSlot, preflight: Preflight) -> Uploader:
        """Fetch the sources while the weights load, then generate; the uploader receives each result."""
        context = self._context
        try:
            sources = await context.stop.guard(preflight.sources())
            if sources.image is not None:
                expected = planned.estimate
                planned = await follow(planned, sources, self._services)
                if planned.estimate is not expected:
                    self._start_course(planned)
                self._note_plan(planned)
            if context.longest_step > timing.UNSURE_STEP_SECONDS:
                await context.stop.guard(context.admission())
        except BaseException:
            await slot.give_up()
            raise
        for warning in planned.warnings:
            context.warn(warning)
        self._uploader = uploader = self._open_uploader(planned)
        try:
            await slot.run(sources, planned.params)
        except DownloadFailed:
            # Another worker with the same cache folder removed a LoRA while this job waited; nothing has run yet.
            sources = await context.stop.guard(preflight.again(sources))
            await self._slot(planned).run(sources)
        return uploader

    async def _unmake(self, making: "asyncio.Task[Uploader]") -> None:
        """Stop a generation that began before the job was refused; returns once the GPU is free. Nothing was stored."""
        self._context.decide(admitted=False)
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
        uploader, self._uploader = self._uploader, None
        if uploader is not None:
            await uploader.settled()

    def _open_previews(self, request: Request) -> None:
        if not request.preview:
            return
        context, services = self._context, self._services
        has_document = context.lease is not None and services.documents is not None
        reason = reason_for_none(services.settings, has_document=has_document)
        if reason is not None:
            context.warn(reason)
        else:
            context.previews = Previews.of(request, services.settings, context.show)

    def _slot(self, planned: Plan) -> GpuSlot:
        generator, gpu = self._services.generator, self._services.gpu
        params, take = planned.params, self._take
        return GpuSlot(gpu, generator, request=planned.request, params=params, context=self._context, take=take)

    def _open_uploader(self, planned: Plan) -> Uploader:
        context, services, request, params = self._context, self._services, planned.request, planned.params
        destination, owner = None, request.owner
        if owner is not None and context.lease is not None and services.storage is not None:
            destination = Destination(
                services.storage,
                owner,
                context.object_owner,
                context.admission,
                services.spool,
                lambda: context.usage,
                needs_slip=context.lease.needs_slip,
                request_data=self._request_data,
            )
        elif owner is not None:
            context.warn(NO_BUCKET)
        fps = params.fps if isinstance(params, VideoParams) else 0
        blocks = services.settings.safety_checker == "block"
        marked = services.settings.ai_mark == "on"
        return Uploader(
            request,
            planned.manifest,
            fps,
            destination,
            context,
            blocks=blocks,
            marked=marked,
            signer=services.signer,
            trace=context.trace,
        )

    async def _complete(self, request: Request, delivered: Delivered) -> dict[str, Any]:
        """Bring the document to its terminal state, after the objects; returns the response."""
        context = self._context
        context.timings["total"] = time.monotonic() - self._started
        timings = {stage: round(seconds, 3) for stage, seconds in context.timings.items()}
        warnings = [*context.warnings, *delivered.warnings]
        data = delivered.generation_data(timings=timings, warnings=warnings, usage=context.usage)
        uris = delivered.uris if delivered.storage == "base64" else None
        response.check_size(response.success(request, data, uris), self._services.settings.max_result_bytes)
        context.ended = True
        if context.lease is not None:
            with context.timed("complete"):
                in_step = await context.lease.complete(data)
            if not in_step:
                warnings.append(UNSYNCED)
            elif context.lease.left_out and schema.LEFT_OUT not in warnings:
                warnings.append(schema.LEFT_OUT)
            data["warnings"] = warnings
        return {**response.success(request, data, uris)}

    async def answer(self, error: JobError | Cancelled) -> dict[str, Any]:
        """End a job that failed: its document and its objects first, then its response."""
        self._context.ended = True
        await _outcome(self._settle(error), self._context.job)
        fresh_worker = isinstance(error, GpuFault) or self._services.gpu.stuck
        usage = self._context.usage if self._context.used_card else None
        return {**response.failure(error, self._context.envelope, fresh_worker=fresh_worker, usage=usage)}

    async def _settle(self, error: JobError | Cancelled) -> None:
        lease, storage = self._context.lease, self._services.storage
        if lease is not None and await self._may_write(error):
            usage = self._context.usage if self._context.used_card else schema.UNUSED
            await lease.fail(error, self._request_data, usage)
        if self._uploader is not None and isinstance(error, Superseded):
            await self._uploader.leave()
        elif self._uploader is not None:
            await self._uploader.discard()
        elif self._delivered is not None and isinstance(error, Deleted) and storage is not None:
            await asyncio.to_thread(storage.remove, self._delivered.taken_over)

    async def _may_write(self, error: JobError | Cancelled) -> bool:
        """Whether the caller may write this document; a request that was refused early is authenticated only now."""
        if not self._caller_known and not isinstance(error, Unauthenticated | Forbidden):
            try:
                await self._authenticate()
            except JobError:
                return False
        return self._caller_known

    def _described(self, request: Request) -> dict[str, Any]:
        """Log fields of an accepted job: the prompt as length and hash only, unless `LOG_PROMPTS` is set."""
        prompt = request.prompt
        facts = {"task_type": request.task_type, "prompt_characters": len(prompt)}
        if self._services.settings.log_prompts:
            return {**facts, "prompt": prompt}
        return {**facts, "prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest()[:16]}

    def _take(self, generated: Generated) -> None:
        # A call that was given up may return late: nothing is stored for a job that has ended.
        if self._uploader is not None and not self._context.ended:
            self._uploader.take(generated)
