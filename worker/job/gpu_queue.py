"""A job's turn on the GPU: it stands in line at once, loads its weights, and generates when it has been admitted.

Knows when the card may be used and that it is left for the next job; knows no document and no file.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass

from worker.api.params import Params
from worker.api.request import Request
from worker.core.errors import Cancelled, GpuFault, JobError
from worker.core.stop import StopSignal
from worker.core.types import Control, Progress, Sources
from worker.engine.protocol import Generated, Generator
from worker.job.gpu_thread import GpuThread

STOP_GRACE_SECONDS = 30.0
"""How long a denoising step may take before the GPU counts as hung, once the job was asked to stop."""
LOADING_GRACE_SECONDS = 180.0
"""The same for one network that is being read from a slow disk."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be generated, and whom to ask and to tell meanwhile."""

    request: Request
    params: Params
    control: Control
    confirm: Callable[[], Awaitable[None]]
    """Asked in the event loop before the card is used: whoever does not want the job any more stops it."""
    take: Callable[[Generated], None]
    """Told in the event loop of each thing that was generated."""
    clock: Callable[[str, float], None]


class GpuSlot:
    """For the event loop; `_work_through` alone runs in the GPU thread."""

    def __init__(self, gpu: GpuThread, generator: Generator, work: Work, stop: StopSignal) -> None:
        """Stand in line. The weights load as soon as it is this job's turn, admitted or not.

        Raises:
            GpuFault: an earlier call never came back.
        """
        self._gpu, self._generator, self._work, self._stop = gpu, generator, work, stop
        self._loop = asyncio.get_running_loop()
        self._gate: Future[Sources] = Future()
        self._generating = False
        self._call = gpu.submit(self._work_through)

    async def run(self, sources: Sources) -> None:
        """Generate; comes back when the GPU is free for the next job.

        Raises:
            JobError, Cancelled: what came in between, or the reason that the job was given to stop.
        """
        self._gate.set_result(sources)
        try:
            await self._stop.guard(self._finished())
        finally:
            await self._leave()
        self._stop.raise_if_stopped()

    async def give_up(self) -> None:
        """Generate nothing. What is being loaded is for the next job: only who was asked to stop waits for it.

        Raises:
            GpuFault, or the job's reason to stop: the GPU does not answer any more.
        """
        self._gate.set_exception(Cancelled())
        if not self._call.cancel() and self._stop.reason is not None:
            await self._leave()

    def _work_through(self) -> None:
        work, started = self._work, time.monotonic()
        self._stop.raise_if_stopped()
        work.control.report(Progress("loading"))
        self._generator.prepare(work.request.task_type, work.control)
        work.clock("load", started)
        sources = self._gate.result()
        self._confirm()
        self._generating, started = True, time.monotonic()
        for generated in self._generator.generate(work.request, work.params, sources, work.control):
            self._loop.call_soon_threadsafe(work.take, generated)
        work.clock("generate", started)

    def _confirm(self) -> None:
        """Who had to wait may have been taken over, cancelled or deleted meanwhile: the card is not used for that."""

        async def confirm() -> None:
            await self._work.confirm()

        asyncio.run_coroutine_threadsafe(confirm(), self._loop).result()
        self._stop.raise_if_stopped()

    async def _leave(self) -> None:
        if self._call.done() or self._call.cancel():
            return
        try:
            await self._gpu.finish(self._call, STOP_GRACE_SECONDS if self._generating else LOADING_GRACE_SECONDS)
        except GpuFault:
            self._stop.raise_if_stopped()
            raise
        except (JobError, Cancelled) as error:
            log.debug("the GPU was left: %s", error, extra={"action": "gpu_left"})

    async def _finished(self) -> None:
        """Wait for the call, without ending it when nobody waits any more."""
        future = asyncio.wrap_future(self._call)
        future.add_done_callback(lambda done: done.cancelled() or done.exception())  # somebody has seen it
        await asyncio.shield(future)
