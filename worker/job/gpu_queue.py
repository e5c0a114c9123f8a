"""The line for the GPU: one thread that runs one call after another, and a job's place in that line.

The weights of a job load as soon as nothing else is to be done, beside its claim and its downloads; it stands in line
again to generate once it has all it needs, ahead of what only loads. So a slow `image_url` never holds the GPU while
another job is ready. Whether a job is wanted at all is asked beside its generation, which stops at a step if it is not.
A call that does not come back cannot be interrupted: the thread is `stuck`, and the process has to be replaced. What no
job waits for is done a little at a time, while there is none. Knows no document and no file.
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
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from worker.api.params import Params
from worker.api.request import Request
from worker.core import timing
from worker.core.errors import Cancelled, GpuFault, JobError
from worker.core.logs import where
from worker.core.types import Control, Progress, Sources
from worker.engine.protocol import Generated, Generator
from worker.job.context import JobContext

T = TypeVar("T")

QUIET_SECONDS = 2.0
"""Without a job, before the time counts as idle: the last one's files are on their way, or the next job is."""

log = logging.getLogger(__name__)


class GpuThread:
    """Runs calls one after another: those that were submitted `ahead` first, else in the order in which they came."""

    def __init__(self, idle: Callable[[], bool] = lambda: False, *, quiet: float = QUIET_SECONDS) -> None:
        """`idle` is called once no job has been there for `quiet` seconds, and again as long as it is true.

        A job that comes meanwhile waits until it returns: it does a little at a time.
        """
        self._idle, self._quiet = idle, quiet
        self.jobs: weakref.WeakSet[GpuSlot] = weakref.WeakSet()
        """Those that are in line, or will be: at their claim or their downloads."""
        self._calls: queue.PriorityQueue[tuple[bool, int, Future[Any], Callable[[], Any]]] = queue.PriorityQueue()
        self._count = itertools.count()
        self.stuck = False
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
            del future, call  # a finished job's pictures must not wait here for the next one
            patience = self._quiet

    def _use_idle_moment(self) -> float | None:
        """How long the next call is waited for before there is more to do; None: for ever."""
        done: Future[bool] = Future()
        _settle(done, self._idle)
        if (error := done.exception()) is not None:
            log.warning("idle work failed: %s", where(error), extra={"action": "idle"})
            self._idle = lambda: False
        return 0.0 if error is None and done.result() else None

    def submit(self, call: Callable[[], T], *, ahead: bool = False) -> "Future[T]":
        """Queue `call`, `ahead` of all that are not.

        Raises:
            GpuFault: an earlier call never came back.
        """
        if self.stuck:
            raise GpuFault
        future: Future[T] = Future()
        call = functools.partial(contextvars.copy_context().run, call)  # lines of the log belong to its job
        self._calls.put((not ahead, next(self._count), future, call))
        return future

    async def finish(
        self, future: "Future[Any]", grace: float, moved_at: Callable[[], float] = lambda: 0.0
    ) -> BaseException | None:
        """Wait for a call that was asked to stop, as long as it has moved within the last `grace` seconds; its error.

        Raises:
            GpuFault: it does not move and did not come back; the thread is `stuck` from now on.
        """
        answer = asyncio.wrap_future(future)
        # What comes after the grace is nobody's any more: without this asyncio would log it, with its traceback.
        answer.add_done_callback(lambda late: late.cancelled() or late.exception())
        moved: float | None = None
        while not answer.done() and moved != moved_at():
            moved = moved_at()
            await asyncio.wait({answer}, timeout=grace)
        if not answer.done():
            self.stuck = True
            self._turn_away()
            raise GpuFault("gpu_fault.no_answer")
        return answer.exception()

    def _turn_away(self) -> None:
        """Whoever stands in line behind a call that never ends is told now, not at the end of their patience."""
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
            # A model that calls exit() ends its job, not the worker with every other job.
            left = RuntimeError(f"{type(error).__name__} out of a call")
            left.__cause__ = error
            future.set_exception(left)
        else:
            future.set_exception(error)
    else:
        future.set_result(result)


class GpuSlot:
    """One job's place in the line; for the event loop. `_load` and `_generate` alone run in the GPU thread."""

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
        """Stand in line for loading the weights, admitted or not.

        `params` are as far as they are known: the room that they ask for is made beside the weights. `take` is told of
        each thing that was generated.

        Raises:
            GpuFault: an earlier call never came back.
        """
        self._gpu, self._generator, self._request, self._params = gpu, generator, request, params
        self._context, self._take = context, take
        self._loop = asyncio.get_running_loop()
        self._generating: Future[None] | None = None
        self._denoising = False
        self._in_line = contextlib.ExitStack()
        gpu.jobs.add(self)
        # Last: an idle GPU begins at once, in its own thread.
        self._loading: Future[None] = gpu.submit(self._load)

    async def run(self, sources: Sources, params: Params | None = None) -> None:
        """Generate; comes back when the GPU is free for the next job.

        Args:
            sources: the pictures that the job starts from.
            params: the job's, now that the size of these is known; None: as they were.

        Raises:
            JobError, Cancelled: what came in between, or the reason that the job was given to stop.
            Cancelled: it was refused meanwhile.
        """
        stop = self._context.stop
        self._params = params or self._params
        if not self._loading.running():
            # Until its own work begins it waits for other jobs: their time is not counted against it.
            self._in_line.enter_context(self._context.untimed())
            self._in_line.enter_context(self._context.timed("wait"))
        try:
            self._generating = self._gpu.submit(functools.partial(self._generate, sources), ahead=True)
            await stop.guard(_result(self._generating))
        finally:
            await self._leave()
            self._in_line.close()
            self._gpu.jobs.discard(self)
        stop.raise_if_stopped()

    async def give_up(self) -> None:
        """Generate nothing. What is being loaded is for the next job: only who was asked to stop waits for it.

        Raises:
            GpuFault, or the job's reason to stop: the GPU does not answer any more.
        """
        self._gpu.jobs.discard(self)
        if not self._loading.cancel() and self._context.stop.reason is not None:
            await self._leave()

    def _load(self, control: Control | None = None) -> None:
        context, control = self._context, control or self._context
        self._in_line.close()
        control.raise_if_stopped()
        context.report(Progress("loading"))
        with context.timed("load"):
            self._generator.prepare(self._request, self._params, control)

    def _generate(self, sources: Sources) -> None:
        self._in_line.close()
        context, control = self._context, _Unsure(self._context)
        if self._loading.cancel():
            self._load(control)  # somebody was before it in the line all the time
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
        """Who had to wait may have been taken over, cancelled or deleted meanwhile: that is heard at a step."""
        asked = asyncio.run_coroutine_threadsafe(self._context.confirm(), self._loop)
        if self._context.longest_step > timing.UNSURE_STEP_SECONDS:
            asked.result()

    async def _leave(self) -> None:
        """Nothing of this job stands in the line or uses the GPU any more."""
        if self._generating is not None:
            self._generating.cancel()
        if self._context.refused and self._context.stop.reason is None:
            self._loading.cancel()  # what is being loaded is for the next job
        else:
            await self._end(self._loading, timing.LOADING_GRACE_SECONDS)
        if self._generating is not None:
            # It may still be loading itself: then the patience is that for a disk, not that for a step.
            longest = min(max(self._gpu.longest_step, self._context.longest_step), timing.MAX_STEP_SECONDS)
            grace = max(timing.STOP_GRACE_SECONDS, timing.GRACE_STEPS * longest)
            grace = grace if self._denoising else timing.LOADING_GRACE_SECONDS
            await self._end(self._generating, grace)

    async def _end(self, call: "Future[None]", grace: float) -> None:
        if call.done() or call.cancel():
            return
        try:
            error = await self._gpu.finish(call, grace, lambda: self._context.moved_at)
        except GpuFault:
            self._context.raise_if_stopped()
            raise
        if error is not None and not isinstance(error, JobError | Cancelled):
            # The job ends for the reason that it was given.
            log.warning("the GPU was left with %s", where(error), extra={"action": "gpu_left"})


class _Unsure:
    """The `Control` of a job that is generated before it is known to be wanted: being refused ends it, too."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self.report, self.untimed, self.warn, self.viewer = (
            context.report,
            context.untimed,
            context.warn,
            context.viewer,
        )

    def raise_if_stopped(self) -> None:
        """As the job's own."""
        self._context.raise_if_stopped()
        if self._context.refused:
            raise Cancelled


async def _result(call: "Future[None]") -> None:
    """Wait for a call, without ending it when nobody waits any more."""
    future = asyncio.wrap_future(call)
    future.add_done_callback(lambda done: done.cancelled() or done.exception())  # somebody has seen it
    await asyncio.shield(future)
