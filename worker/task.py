"""Runs one request from validation to result. The order of things, and the one place where an outcome is decided.

    parse -> authenticate -> resolve -> claim | sources | load -> generate -> deliver -> complete

Knows Protocols only: no Google, no torch, no RunPod. What a job is told and what its document says are derived from the
same outcome, once, and no cancellation interrupts that.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, cast

from worker import result
from worker.claim import Bid, Refuse, Replay, request_hash
from worker.config import Settings
from worker.delivery import Delivery, Destination
from worker.errors import (
    BackendError,
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
from worker.generation import Generated, Generator, Progress, Sources
from worker.gpu import GpuThread
from worker.keeper import Keeper
from worker.logs import where
from worker.params import Params, VideoParams, resolve
from worker.request import (
    DEFAULT_TASK,
    Envelope,
    Img2ImgRequest,
    Img2VideoRequest,
    InpaintRequest,
    Owner,
    Request,
    Source,
    envelope,
    parse,
)
from worker.status import Documents, StatusDocument
from worker.stop import StopSignal
from worker.storage import Provenance, Storage

CLAIM_SECONDS = 3.5
TERMINAL_SECONDS = 2.5
"""With one upload (8 s at most without success) a dead Firebase costs a job less than 15 s in all."""
IDENTITY_SECONDS = 6.0
STOP_GRACE_SECONDS = 30.0
"""How long a denoising step may take before the GPU counts as hung, once the job was asked to stop."""

UNSYNCED = "firestore_synced: false; the document could not be brought up to date"

log = logging.getLogger(__name__)


class Users(Protocol):
    """Who an ID token belongs to."""

    def uid(self, id_token: str) -> str:
        """The user id of a valid token.

        Raises:
            Unauthenticated, BackendError.
        """
        ...


class SourceImages(Protocol):
    """The client's pictures."""

    def load(self, request: Source, checkpoint: Callable[[], None]) -> Sources:
        """Fetch and decode.

        Raises:
            UrlBlocked, DownloadFailed, InvalidImage, InvalidInput, Forbidden.
        """
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """What the platform hands over."""

    id: str
    input: object


@dataclass(frozen=True, slots=True)
class Collaborators:
    """Everything a job needs, passed in. None stands for what is not configured."""

    settings: Settings
    generator: Generator
    gpu: GpuThread
    sources: SourceImages
    documents: Documents | None
    storage: Storage | None
    users: Users | None
    worker_id: str


async def run(
    job: Job, tools: Collaborators, stop: StopSignal, on_progress: Callable[[Progress], None] = lambda _: None
) -> dict[str, Any]:
    """Serve one job and return its response, success or failure; raises nothing.

    Must not be cancelled itself: to end it early, give `stop` a reason and wait.
    """
    run_ = _Run(job, tools, stop, on_progress)
    limit = tools.settings.job_timeout_seconds
    timeout = JobTimeout(f"the job took longer than {limit:g} s; ask for fewer steps, frames or pixels")
    watchdog = asyncio.get_running_loop().call_later(limit, stop.request, timeout)
    try:
        response = await run_.serve()
    except (JobError, Cancelled) as error:
        response = await run_.settle(error)
    except Exception as error:  # noqa: BLE001 - the one broad except: whatever it was, the job ends with an answer
        reference = uuid.uuid4().hex[:12]
        log.error(  # noqa: TRY400 - no traceback: its messages may hold what the client sent
            "unexpected %s", where(error), extra={"action": "internal_error", "reference": reference, "job_id": job.id}
        )
        response = await run_.settle(Internal(f"the worker met an unexpected error (reference {reference})"))
    finally:
        watchdog.cancel()
    log.info(
        "job %s",
        response.get("error_code", "completed"),
        extra={"action": "job_done", "job_id": job.id, "timings": run_.timings},
    )
    return response


class _Run:
    """The state of one job while it runs."""

    def __init__(
        self, job: Job, tools: Collaborators, stop: StopSignal, on_progress: Callable[[Progress], None]
    ) -> None:
        self.job, self.tools, self.stop = job, tools, stop
        self._on_progress = on_progress
        self._loop = asyncio.get_running_loop()
        self._started = time.monotonic()
        self.envelope: Envelope = envelope(job.input)
        self.warnings: list[str] = []
        self.timings: dict[str, float] = {}
        self._document: StatusDocument | None = None
        self._keeper: Keeper | None = None
        self._delivery: Delivery | None = None
        self._claim_asked = self._may_write = self._ended = False
        self._request_data: dict[str, Any] = {"task_type": self.envelope.task_type or DEFAULT_TASK}

    # Control, as the GPU thread sees the job.

    def checkpoint(self) -> None:
        self.stop.checkpoint()

    def report(self, progress: Progress) -> None:
        self._loop.call_soon_threadsafe(self._note, progress)

    def warn(self, warning: str) -> None:
        if warning not in self.warnings:
            self.warnings.append(warning)

    # The way of a request.

    async def serve(self) -> dict[str, Any]:
        request = parse(self.job.input)
        self._request_data = request.public()
        await self._authenticate(request.owner, request.user_id, request)
        defaults = self.tools.generator.describe(request.task_type)
        self.warnings.extend(defaults.warnings)
        limits = self.tools.settings
        params = resolve(request, defaults, max_image_pixels=limits.max_image_pixels, max_job_cost=limits.max_job_cost)
        self._clock("validate")
        self._document = self._open_document(request)
        stored = await self._generate(request, params)
        if stored is not None:
            return result.replay(request, stored.generation_data)
        return await self._complete(request, params, defaults.name)

    async def _authenticate(self, owner: Owner | None, user_id: str | None, request: Request | None = None) -> None:
        """Check who asks, before anything is read or written for them."""
        reads_bucket = isinstance(request, Source) and any(
            getattr(request, name).startswith("gs://") for name in request.inline_fields
        )
        users, token = self.tools.users, self.envelope.id_token
        if owner is None and not reads_bucket:
            return
        if token is None or users is None:
            if self.tools.settings.require_id_token:
                raise Unauthenticated if users else Unauthenticated("this worker cannot check id_token: no Firebase")
        else:
            try:
                uid = await asyncio.wait_for(asyncio.to_thread(users.uid, token), IDENTITY_SECONDS)
            except (BackendError, TimeoutError):
                raise Internal("the id_token could not be checked right now; try again") from None
            if uid != user_id:
                raise Forbidden("user_id: must be the user that the id_token belongs to")
        self._may_write = True

    def _open_document(self, request: Request) -> StatusDocument | None:
        owner = request.owner
        if owner is None:
            return None
        if self.tools.documents is None:
            self.warn("Firebase is not configured on this worker: no document is written")
            return None
        bid = Bid(self.job.id, self.tools.worker_id, request_hash(request), uuid.uuid4().hex)
        return StatusDocument(self.tools.documents, owner, bid, self._request_data)

    async def _generate(self, request: Request, params: Params) -> Replay | None:
        """Claim, fetch sources and load weights side by side, then run the model; a stored result ends it early."""
        gate: Future[Sources] = Future()
        generator = self.tools.generator

        def on_gpu() -> None:
            started = time.monotonic()
            self.checkpoint()
            self.report(Progress("loading"))
            generator.prepare(request.task_type, self)
            self.timings["load"] = time.monotonic() - started
            sources = gate.result()
            started = time.monotonic()
            for generated in generator.generate(request, params, sources, self):
                self._loop.call_soon_threadsafe(self._take, generated)
            self.timings["generate"] = time.monotonic() - started

        call = self.tools.gpu.submit(on_gpu)
        try:
            decision, sources = await self.stop.guard(self._admit(request))
        except BaseException as error:
            gate.set_exception(error)
            await self._leave_gpu(call)
            raise
        if isinstance(decision, Replay | Refuse):
            # What is being loaded is for the next job: nobody waits for it here.
            gate.set_exception(Cancelled())
            if isinstance(decision, Refuse):
                raise decision.error
            return decision
        self._delivery = self._open_delivery(request, params)
        gate.set_result(sources)
        await self._follow(call)
        return None

    async def _admit(self, request: Request) -> tuple[Any, Sources]:
        claim = asyncio.create_task(self._claim())
        sources = asyncio.create_task(self._load_sources(request))
        try:
            decision = await claim
            return decision, (Sources() if isinstance(decision, Replay | Refuse) else await sources)
        finally:
            sources.cancel()

    async def _claim(self) -> Any:
        if self._document is None:
            return None
        started = time.monotonic()
        self._claim_asked = True
        try:
            decision = await asyncio.to_thread(self._document.claim, started + CLAIM_SECONDS)
        except BackendError:
            self.warn("firestore: could not be reached when the job started; its document may be missing")
            return None
        finally:
            self.timings["claim"] = time.monotonic() - started
        if self._document.claimed:
            self._keeper = Keeper(self._document, self.stop)
        return decision

    async def _load_sources(self, request: Request) -> Sources:
        if not isinstance(request, Img2ImgRequest | InpaintRequest | Img2VideoRequest):
            return Sources()
        started = time.monotonic()
        try:
            return await asyncio.to_thread(self.tools.sources.load, request, self.checkpoint)
        finally:
            self.timings["sources"] = time.monotonic() - started

    def _open_delivery(self, request: Request, params: Params) -> Delivery:
        destination, owner = None, request.owner
        if owner is not None and self.tools.storage is not None:
            attempt = max(1, self._document.attempt if self._document else 1)
            provenance = Provenance(self.job.id, attempt, request_hash(request))
            destination = Destination(self.tools.storage, owner, provenance)
        elif owner is not None:
            self.warn("use_cloud_storage: no bucket is configured on this worker, so the result is returned inline")
        count = 1 if isinstance(params, VideoParams) else len(params.seeds)
        fps = params.fps if isinstance(params, VideoParams) else 0
        return Delivery(
            request, fps, destination, lambda done: self._note(Progress("uploading", done, count)), self.checkpoint
        )

    async def _follow(self, call: "Future[None]") -> None:
        finished = asyncio.wrap_future(call)
        stopped = asyncio.create_task(self.stop.wait())
        try:
            await asyncio.wait(cast(set[asyncio.Future[Any]], {finished, stopped}), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        try:
            await self.tools.gpu.finish(call, STOP_GRACE_SECONDS)
        except GpuFault:
            self.stop.checkpoint()  # a hung step after a timeout is a timeout
            raise
        self.stop.checkpoint()

    async def _leave_gpu(self, call: "Future[None]") -> None:
        """The next job starts when the GPU is free: wait for a call that is bound to end."""
        if call.cancel():
            return
        try:
            await self.tools.gpu.finish(call, STOP_GRACE_SECONDS)
        except GpuFault:
            raise
        except (JobError, Cancelled):
            log.debug("left the GPU", extra={"action": "gpu_left", "job_id": self.job.id})

    async def _complete(self, request: Request, params: Params, model: str) -> dict[str, Any]:
        assert self._delivery is not None  # noqa: S101 - opened before anything was generated
        self._note(Progress("uploading"))
        delivered = await self._delivery.finish(self.tools.settings.max_result_bytes)
        self.timings |= self._delivery.timings
        self._clock("total")
        self.warnings.extend(delivered.warnings)
        data = result.generation_data(
            params, delivered, model=model, timings=self._rounded_timings(), warnings=self.warnings
        )
        uris = delivered.uris if delivered.storage == "base64" else None
        result.check_size(result.success(request, data, uris), self.tools.settings.max_result_bytes)
        await self._close_keeper()
        if self._document is not None and not await self._write_result(data):
            data["warnings"] = [
                *data["warnings"],
                UNSYNCED,
            ]
        return result.success(request, data, uris)

    async def _write_result(self, data: dict[str, Any]) -> bool:
        assert self._document is not None  # noqa: S101 - asked by the caller
        deadline = time.monotonic() + TERMINAL_SECONDS
        try:
            await asyncio.to_thread(self._document.complete, data, deadline)
        except BackendError:
            return False
        return True

    # The end of a job that did not succeed.

    async def settle(self, error: JobError | Cancelled) -> dict[str, Any]:
        """Derive the response, and bring the document to its terminal state where it is this job's to write."""
        await self._close_keeper()
        if self._delivery is not None and not isinstance(error, Superseded):
            await self._delivery.discard()
        try:
            await self._write_failure(error)
        except (BackendError, Deleted, Superseded) as reason:
            log.warning(
                "the failure was not written: %s", reason, extra={"action": "not_written", "job_id": self.job.id}
            )
        return result.failure(error, self.envelope, fresh_worker=isinstance(error, GpuFault) or self.tools.gpu.stuck)

    async def _write_failure(self, error: JobError | Cancelled) -> None:
        if isinstance(error, Deleted | Superseded):
            return
        deadline = time.monotonic() + TERMINAL_SECONDS
        if self._document is not None and (self._document.claimed or self._claim_asked):
            if self._document.refused:
                return
            await asyncio.to_thread(self._document.fail, error, deadline)
            return
        owner, documents = self.envelope.owner, self.tools.documents
        if owner is None or documents is None or not await self._caller_may_write(error):
            return
        bid = Bid(self.job.id, self.tools.worker_id, "", uuid.uuid4().hex)
        document = StatusDocument(documents, owner, bid, self._request_data)
        await asyncio.to_thread(document.refuse, error, deadline)

    async def _caller_may_write(self, error: JobError | Cancelled) -> bool:
        if isinstance(error, Unauthenticated | Forbidden):
            return False
        if not self._may_write:
            try:
                await self._authenticate(self.envelope.owner, self.envelope.user_id)
            except JobError:
                return False
        return self._may_write

    # Small things.

    def _take(self, generated: Generated) -> None:
        assert self._delivery is not None  # noqa: S101 - opened before the gate
        self._delivery.take(generated)

    def _note(self, progress: Progress) -> None:
        if self._ended:
            return
        if self._keeper is not None:
            self._keeper.note(progress)
        self._on_progress(progress)

    async def _close_keeper(self) -> None:
        self._ended = True
        if self._keeper is not None:
            await self._keeper.close()

    def _clock(self, stage: str) -> None:
        self.timings[stage] = time.monotonic() - self._started

    def _rounded_timings(self) -> dict[str, float]:
        return {stage: round(seconds, 3) for stage, seconds in self.timings.items()}
