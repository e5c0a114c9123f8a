"""What has to be settled before a request may be generated: its document, its files, its source pictures.

All three are asked for at the same time, beside the loading weights, so that what they cost is hidden. Knows in which
order their answers count; knows no model and no GPU.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from worker.api.request import Img2ImgRequest, Img2VideoRequest, InpaintRequest, Request
from worker.core.stop import StopSignal
from worker.core.types import Sources
from worker.delivery.recovery import Finished, Found, recover, take_over
from worker.document.lease import Lease
from worker.document.transitions import AlreadyDone, Decision, Deny
from worker.job.services import Services
from worker.storage.results import ObjectOwner

NO_DOCUMENTS = "Firebase is not configured on this worker: no document is written"


class Preflight:
    """One request at the door. Tells `warn` what its receiver should know, and `clock` how long each part took."""

    def __init__(
        self,
        services: Services,
        request: Request,
        request_hash: str,
        record: Lease | None,
        *,
        stop: StopSignal,
        warn: Callable[[str], None],
        clock: Callable[[str, float], None],
    ) -> None:
        self._services, self._request, self._hash, self._record = services, request, request_hash, record
        self._stop, self._warn, self._clock = stop, warn, clock

    async def enter(
        self, request_data: Mapping[str, Any], provenance: Callable[[], ObjectOwner]
    ) -> Sources | AlreadyDone | Finished:
        """Pictures to generate from, or the result where there is one already.

        Args:
            request_data: what the document keeps of the request.
            provenance: whose the objects of this attempt are, once it is claimed.

        Raises:
            JobError: the document is another job's, or the sources cannot be had.
            Cancelled: the user did not want the job any more before it began.
        """
        sources = asyncio.create_task(self._load_sources())
        found = asyncio.create_task(self._recover())
        try:
            decision = await self._claim(request_data)
            if isinstance(decision, Deny):
                raise decision.error
            if isinstance(decision, AlreadyDone):
                return decision
            return await self._take_over(await found, provenance) or await sources
        finally:
            sources.cancel()
            found.cancel()
            await asyncio.gather(sources, found, return_exceptions=True)

    async def _claim(self, request_data: Mapping[str, Any]) -> Decision | None:
        if self._record is None:
            return None
        if self._services.documents is None:
            self._warn(NO_DOCUMENTS)
        started = time.monotonic()
        try:
            return await self._record.claim(request_data, self._hash, self._stop, self._warn)
        finally:
            self._clock("claim", started)

    async def _recover(self) -> Found | None:
        owner, storage = self._request.owner, self._services.storage
        if owner is None or storage is None:
            return None
        return await asyncio.to_thread(recover, storage, self._request, owner, self._hash)

    async def _take_over(self, found: Found | None, provenance: Callable[[], ObjectOwner]) -> Finished | None:
        if found is None or self._services.storage is None:
            return None
        return await asyncio.to_thread(take_over, self._services.storage, found, provenance())

    async def _load_sources(self) -> Sources:
        request = self._request
        if not isinstance(request, Img2ImgRequest | InpaintRequest | Img2VideoRequest):
            return Sources()
        started = time.monotonic()
        try:
            return await asyncio.to_thread(
                self._services.sources.load, request, request.user_id, self._stop.raise_if_stopped
            )
        finally:
            self._clock("sources", started)
