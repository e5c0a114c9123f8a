"""The GPU queue: one thread that runs one call at a time, and a job's slot in the queue.

A job queues twice. Its weights load as soon as the thread is free, while its claim and downloads run; its generation is
queued once its sources are there, ahead of calls that only load. So a slow `image_url` never holds the GPU while
another job is ready. The claim is decided beside the generation, which stops at a denoising step if the job is refused.
A call that does not return cannot be interrupted: the thread is then `stuck`, and the process must be replaced. Idle
work runs in small pieces while no job is present. Knows no document and no file.
"""

import asyncio
import contextlib
import contextvars
import functools
import itertools
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from worker.api.params import Params
from worker.api.request import Request
from worker.core import timing
from worker.core.errors import Cancelled, GpuFault, JobError
from worker.core.logs import where
from worker.core.stop import mark_retrieved
from worker.core.types import Control, Progress, Sources
from worker.engine.protocol import Generated, Generator
from worker.job.context import JobContext

T = TypeVar("T")

QUIET_SECONDS = 2.0
"""Seconds without a job before the thread counts as idle: until then the last job uploads, or the next one arrives."""

log = logging.getLogger(__name__)


class GpuThread:
    """Runs one call at a time: those submitted with `ahead` first, otherwise in order of submission."""

    def __init__(self, idle: Callable[[], bool] = lambda: False, *, quiet: float = QUIET_SECONDS) -> None:
        """`idle` is called after `quiet` seconds without a job, and again as long as it returns True.

        A job that arrives meanwhile waits for it, so each call must be short.
        """
        self._idle, self._quiet = idle, quiet
        self.jobs: weakref.WeakSet[GpuSlot] = weakref.WeakSet()
        """Jobs in the queue, and those that will queue once their claim or downloads are done."""
        self._calls: queue.PriorityQueue[tuple[bool, int, Future[Any], Callable[[], Any]]] = queue.PriorityQueue()
        self._count = itertools.count()
        self.stuck = False
        self._watching: set[asyncio.Future[Any]] = set()
        self.longest_step = 0.0
        """Seconds of the longest denoising step of all jobs so far."""
        # A daemon, so that a hung CUDA call cannot keep a worker from exiting.
        threading.Thread(target=self._work, name="gpu", daemon=True).start()

    def _work(self) -> None:
        patience: float | None = None
        while True:
            try:
                *_, future, call = self._calls.get(timeout=patience)
            except queue.Empty:
                patience = self._quiet if self.jobs else self._use_idle_moment()
                continue
            if future.set_running_or_notify_cancel():
                _settle(future, call)
            del future, call  # keep no reference to a finished job's pictures
            patience = self._quiet

    def _use_idle_moment(self) -> float | None:
        """Run idle work; returns the seconds to wait for a call before more of it, None: no more is left."""
        done: Future[bool] = Future()
        _settle(done, self._idle)
        if (error := done.exception()) is not None:
            log.warning("idle work failed: %s", where(error), extra={"action": "idle"})
            self._idle = lambda: False
        return 0.0 if error is None and done.result() else None

    def submit(self, call: Callable[[], T], *, ahead: bool = False) -> "Future[T]":
        """Queue `call`; with `ahead`, before all calls without it.

        Raises:
            GpuFault: an earlier call never returned.
        """
        if self.stuck:
            raise GpuFault
        future: Future[T] = Future()
        call = functools.partial(contextvars.copy_context().run, call)  # so log lines carry the job's id
        self._calls.put((not ahead, next(self._count), future, call))
        return future

    async def finish(
        self, future: "Future[Any]", grace: float, moved_at: Callable[[], float] = lambda: 0.0
    ) -> BaseException | None:
        """Wait for a call that was asked to stop, as long as `moved_at` changes within `grace` seconds.

        Returns:
            The call's error, or None.

        Raises:
            GpuFault: it neither moved nor returned; the thread is `stuck` from now on.
        """
        answer = asyncio.wrap_future(future)
        answer.add_done_callback(mark_retrieved)  # a result after the grace has no receiver
        moved: float | None = None
        while not answer.done() and moved != moved_at():
            moved = moved_at()
            await asyncio.wait({answer}, timeout=grace)
        if not answer.done():
            self.stuck = True
            self._turn_away()
            raise GpuFault("gpu_fault.no_answer")
        return answer.exception()

    def watch(self, future: "Future[Any]", grace: float, moved_at: Callable[[], float]) -> None:
        """As `finish`, for a call that its job does not wait for: those behind it do."""
        watching = asyncio.ensure_future(self.finish(future, grace, moved_at))
        self._watching.add(watching)  # the event loop itself keeps no task
        watching.add_done_callback(mark_retrieved)
        watching.add_done_callback(self._watching.discard)

    def _turn_away(self) -> None:
        """Fail the calls queued behind one that never ends now, rather than when each times out."""
        with contextlib.suppress(queue.Empty):
            while True:
                *_, future, _ = self._calls.get_nowait()
                if future.set_running_or_notify_cancel():
                    future.set_exception(GpuFault())


def _settle(future: "Future[T]", call: Callable[[], T]) -> None:
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - handed to whoever awaits the future, nothing is swallowed
        if not isinstance(error, Exception):
            # A model that calls exit() ends its job, not the whole worker.
            left = RuntimeError(f"{type(error).__name__} out of a call")
            left.__cause__ = error
            future.set_exception(left)
        else:
            future.set_exception(error)
    else:
        future.set_result(result)
    finally:
        # The traceback refers to this frame: an error would keep itself, and the pictures of its job.
        del future, call


class GpuSlot:
    """One job's slot in the queue, used from the event loop. Only `_load` and `_generate` run in the GPU thread.

    While the job is ready and the GPU works for others, the job is in line: that time does not count against its limit.
    """

    def __init__(
        self,
        gpu: GpuThread,
        generator: Generator,
        *,
        request: Request,
        params: Params,
        context: JobContext,
        take: Callable[[Generated], None],
    ) -> None:
        """Queue the loading of the weights, before the job is admitted.

        `params` may still change with the sources; memory for them is reserved beside the weights. `take` receives each
        generated image or clip.

        Raises:
            GpuFault: an earlier call never returned.
        """
        self._gpu, self._generator, self._request, self._params = gpu, generator, request, params
        self._context, self._take = context, take
        self._loop = asyncio.get_running_loop()
        self._generating: Future[None] | None = None
        self._denoising = False
        self._lock, self._in_line = threading.Lock(), contextlib.ExitStack()
        self._ready, self._on_gpu = False, False
        gpu.jobs.add(self)
        # Last, because an idle GPU thread begins at once.
        self._loading: Future[None] = gpu.submit(self._load_ahead)

    async def run(self, sources: Sources, params: Params | None = None) -> None:
        """Generate; returns when the GPU is free for the next job.

        Args:
            sources: the job's pictures and LoRAs.
            params: the job's, once the size of the source is known; None: unchanged.

        Raises:
            JobError, Cancelled: the generation failed, or the job was given that reason to stop.
            Cancelled: the job was refused meanwhile.
        """
        stop = self._context.stop
        self._params = params or self._params
        self._queue_up(ready=True)
        try:
            self._generating = self._gpu.submit(functools.partial(self._generate, sources), ahead=True)
            await stop.guard(_result(self._generating))
        finally:
            self._queue_up(ready=False)
            await self._leave()
            self._generating = None  # the traceback of its error refers to this object
            self._gpu.jobs.discard(self)
        stop.raise_if_stopped()

    async def give_up(self) -> None:
        """Leave the queue without generating.

        Weights that are loading stay for the next job; only a job that was asked to stop waits for them.

        Raises:
            GpuFault, or the job's reason to stop: the GPU no longer responds.
        """
        self._gpu.jobs.discard(self)
        if self._context.stop.reason is not None:
            await self._leave()
        else:
            self._leave_behind()

    def _queue_up(self, *, ready: bool | None = None, on_gpu: bool | None = None) -> None:
        """Note a change, and enter or leave the line by it; called in both threads."""
        with self._lock:
            self._ready = self._ready if ready is None else ready
            self._on_gpu = self._on_gpu if on_gpu is None else on_gpu
            self._in_line.close()
            if self._ready and not self._on_gpu:
                self._in_line.enter_context(self._context.untimed())
                self._in_line.enter_context(self._context.timed("wait"))

    def _load_ahead(self) -> None:
        self._queue_up(on_gpu=True)
        try:
            self._load(_Ahead(self._context))
        finally:
            self._queue_up(on_gpu=False)

    def _load(self, control: Control) -> None:
        context = self._context
        control.raise_if_stopped()
        context.report(Progress("loading"))
        with context.timed("load"):
            self._generator.prepare(self._request, self._params, control)

    def _generate(self, sources: Sources) -> None:
        self._queue_up(on_gpu=True)
        context, control = self._context, _Unsure(self._context)
        if self._loading.cancel():
            self._load(control)  # its turn to load never came: other jobs were ahead
        else:
            self._loading.result()
        self._confirm()
        control.raise_if_stopped()
        context.gpu_since = started = time.monotonic()
        self._denoising = True
        try:
            with context.timed("generate"):
                for generated in self._generator.generate(self._request, self._params, sources, control):
                    self._loop.call_soon_threadsafe(self._take, generated)
        finally:
            context.gpu_seconds += time.monotonic() - started
            context.gpu_since = None
            self._gpu.longest_step = max(self._gpu.longest_step, context.longest_step)

    def _confirm(self) -> None:
        """Ask whether the job was taken over, cancelled or deleted meanwhile; a denoising step sees the answer."""
        asked = asyncio.run_coroutine_threadsafe(self._context.confirm(), self._loop)
        if self._context.longest_step > timing.UNSURE_STEP_SECONDS:
            asked.result()

    async def _leave(self) -> None:
        """Remove this job from the queue and wait until it does not use the GPU."""
        if self._generating is not None:
            self._generating.cancel()
        if self._context.refused and self._context.stop.reason is None:
            self._leave_behind()
        else:
            await self._end(self._loading, timing.LOADING_GRACE_SECONDS)
        if self._generating is not None:
            # It may still be loading: then the grace is that for reading a disk, not that for a denoising step.
            longest = min(max(self._gpu.longest_step, self._context.longest_step), timing.MAX_STEP_SECONDS)
            grace = max(timing.STOP_GRACE_SECONDS, timing.GRACE_STEPS * longest)
            grace = grace if self._denoising else timing.LOADING_GRACE_SECONDS
            await self._end(self._generating, grace)

    def _leave_behind(self) -> None:
        """Weights that are loading stay for the next job; others are not loaded."""
        if not self._loading.cancel() and not self._loading.done():
            self._gpu.watch(self._loading, timing.LEFT_LOADING_SECONDS, lambda: self._context.moved_at)

    async def _end(self, call: "Future[None]", grace: float) -> None:
        if call.done() or call.cancel():
            return
        try:
            error = await self._gpu.finish(call, grace, lambda: self._context.moved_at)
        except GpuFault:
            self._context.raise_if_stopped()
            raise
        if error is not None and not isinstance(error, JobError | Cancelled):
            # Logged only: the job ends for the reason that it was given.
            log.warning("the GPU was left with %s", where(error), extra={"action": "gpu_left"})


class _Unsure:
    """The `Control` of a job that generates before it is admitted: a refusal stops it, too."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self.report, self.untimed, self.warn, self.viewer = (
            context.report,
            context.untimed,
            context.warn,
            context.viewer,
        )

    def raise_if_stopped(self) -> None:
        """As the job's own, and also once the job is refused or has ended."""
        self._context.raise_if_stopped()
        if self._context.refused or self._context.ended:
            raise Cancelled


class _Ahead(_Unsure):
    """As `_Unsure`, but that stops only the wait for a download: weights that are being read stay for the next job."""

    def __init__(self, context: JobContext) -> None:
        super().__init__(context)
        self.untimed, self._waits = self._waiting, False

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        self._waits = True
        try:
            with self._context.untimed():
                yield
        finally:
            self._waits = False

    def raise_if_stopped(self) -> None:
        """As the job's own, and in `untimed` also once the job is refused or has ended."""
        if self._waits:
            super().raise_if_stopped()
        else:
            self._context.raise_if_stopped()


async def _result(call: "Future[None]") -> None:
    """Wait for a call; cancelling the wait does not cancel the call."""
    future = asyncio.wrap_future(call)
    future.add_done_callback(mark_retrieved)
    await asyncio.shield(future)
