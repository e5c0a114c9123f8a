"""The requests that run beside the generation: the document's claim, stored files, source pictures and LoRAs.

Claim and stored files decide whether this job makes the result, while it is already being generated; pictures and LoRAs
are its input. Knows which answer takes precedence; knows no model and no GPU.
"""

import asyncio
import contextvars
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from worker.api.loras import WantedLora
from worker.api.request import Request
from worker.core.errors import Cancelled
from worker.core.types import LoraFile, Sources
from worker.delivery.delivered import Delivered
from worker.delivery.recovery import Found, recover, take_over
from worker.document.transitions import AlreadyDone, Decision, Deny
from worker.job.context import JobContext
from worker.job.services import Services

_DOWNLOADS = ThreadPoolExecutor(32, thread_name_prefix="sources")
"""Threads for pictures and LoRAs, two for each of the most jobs that a worker takes at once. Downloads last minutes:
in the event loop's threads, which are few on a small machine, they would keep claims and heartbeats waiting."""
NO_DOCUMENTS = "Firebase is not configured on this worker: no document is written"

T = TypeVar("T")


class Preflight:
    """The preflight of one request."""

    def __init__(
        self, services: Services, request: Request, context: JobContext, loras: Sequence[WantedLora] = ()
    ) -> None:
        self._services, self._request, self._context = services, request, context
        self._loras = loras

    async def admit(self, request_data: Mapping[str, Any]) -> AlreadyDone | Delivered | None:
        """Claim the document; returns the result if it exists already, None if this job makes it.

        Args:
            request_data: the request as the document stores it.

        Raises:
            JobError: another job holds the document, or another request has its id.
            Cancelled: the user cancelled the job before it began.
        """
        found = asyncio.create_task(self._recover())
        try:
            decision = await self._claim(request_data)
            if isinstance(decision, Deny):
                raise decision.error
            if isinstance(decision, AlreadyDone):
                return decision
            return await self._take_over(await found)
        finally:
            found.cancel()
            await asyncio.gather(found, return_exceptions=True)

    async def _claim(self, request_data: Mapping[str, Any]) -> Decision | None:
        context = self._context
        if context.lease is None:
            return None
        if self._services.documents is None:
            context.warn(NO_DOCUMENTS)
        with context.timed("claim"):
            return await context.lease.claim(request_data, context.fingerprint, context.stop, context.warn)

    async def _recover(self) -> Found | None:
        owner, storage = self._request.owner, self._services.storage
        if owner is None or storage is None:
            return None
        return await asyncio.to_thread(recover, storage, self._request, owner, self._context.fingerprint)

    async def _take_over(self, found: Found | None) -> Delivered | None:
        if found is None or self._services.storage is None:
            return None
        return await asyncio.to_thread(take_over, self._services.storage, found, self._context.object_owner())

    async def sources(self) -> Sources:
        """Load pictures and LoRAs concurrently; the first failure cancels the rest.

        Raises:
            JobError: that failure.
        """
        pictures, loras = asyncio.create_task(self._load_pictures()), asyncio.create_task(self._load_loras())
        try:
            sources, files = await asyncio.gather(pictures, loras)
        finally:
            pictures.cancel()
            loras.cancel()
            await asyncio.gather(pictures, loras, return_exceptions=True)
        return dataclasses.replace(sources, loras=files)

    async def again(self, sources: Sources) -> Sources:
        """The same sources with their LoRAs fetched again, because another worker removed one of the files.

        Raises:
            As `sources`.
        """
        return dataclasses.replace(sources, loras=await self._load_loras())

    async def _load_loras(self) -> tuple[LoraFile, ...]:
        context = self._context
        if not self._loras:
            return ()

        def load() -> tuple[LoraFile, ...]:
            files = self._services.loras.load(self._loras, context.loras_in_use, self._raise_if_unwanted)
            self._services.generator.check(self._request, Sources(loras=files))
            return files

        with context.timed("loras"):
            return await _in_thread(load)

    async def _load_pictures(self) -> Sources:
        request, context = self._request, self._context
        if not request.pictures():
            return Sources()
        with context.timed("sources"):
            load = self._services.sources.load
            sources = await _in_thread(partial(load, request, request.user_id, self._raise_if_unwanted))
        for warning in sources.warnings:
            context.warn(warning)
        return sources

    def _raise_if_unwanted(self) -> None:
        self._context.raise_if_stopped()
        if self._context.ended:  # the result is no longer needed
            raise Cancelled


async def _in_thread(load: Callable[[], T]) -> T:
    """As `asyncio.to_thread`, in the threads for downloads."""
    context = contextvars.copy_context()  # so log lines carry the job's id
    return await asyncio.get_running_loop().run_in_executor(_DOWNLOADS, context.run, load)
