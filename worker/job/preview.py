"""The previews of one job: whether any are shown, how often one is made, and how it reaches the document.

The event loop polls for a picture and a thread encodes it, so neither the GPU thread nor the loop waits for a preview.
Knows no latents and no encoder settings.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from worker.api.request import Request
from worker.core import timing
from worker.core.config import Settings
from worker.core.logs import where
from worker.core.types import Preview
from worker.media import mark
from worker.media.preview import preview_uri

UNSEEN = "preview: has no effect without a document, which is where it would be seen (use_cloud_storage)"
WITHHELD = "preview: has no effect; this worker shows nothing before its content safety check has seen the result"

_LOOK_SECONDS = 0.02
"""Interval at which the loop polls for a picture that is being copied from the GPU; a copy takes less."""

log = logging.getLogger(__name__)


def reason_for_none(settings: Settings, *, has_document: bool) -> str | None:
    """The warning that says why a job shows no previews; None: it shows them.

    A safety check that only flags delivers the result itself, so its previews may be seen as well.
    """
    if settings.safety_checker == "block":
        return WITHHELD
    return None if has_document else UNSEEN


class Previews:
    """The previews of one job. Made in its event loop; `viewer` and the callable it returns are safe in any thread."""

    def __init__(
        self, tell: Callable[[str], None], xmp: bytes | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`tell` receives each preview as a data URI, in the event loop; `xmp` is the AI mark to embed."""
        self._tell, self._xmp, self._clock = tell, xmp, clock
        self._loop = asyncio.get_running_loop()
        self._due = 0.0
        self._under_way = self._closed = False
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, request: Request, settings: Settings, tell: Callable[[str], None]) -> "Previews":
        """The previews of a request, marked as its files are."""
        return cls(tell, mark.packet_for(request) if settings.ai_mark == "on" else None)

    def viewer(self) -> Callable[[Preview], None] | None:
        """The callable that takes a preview; None: the last one is under a second old, or is still being encoded."""
        return None if self._under_way or self._clock() < self._due else self._take

    def close(self) -> None:
        """Send no further preview; called in the event loop."""
        self._under_way = self._closed = True
        if self._task is not None:
            self._task.cancel()

    def _take(self, preview: Preview) -> None:
        self._under_way, self._due = True, self._clock() + timing.PROGRESS_SECONDS
        self._loop.call_soon_threadsafe(self._begin, preview)

    def _begin(self, preview: Preview) -> None:
        if not self._closed:
            self._task = asyncio.create_task(self._encode(preview))
            self._task.add_done_callback(_seen)

    async def _encode(self, preview: Preview) -> None:
        while not preview.ready():
            await asyncio.sleep(_LOOK_SECONDS)
        self._tell(await asyncio.to_thread(lambda: preview_uri(preview.picture(), self._xmp)))
        self._under_way = False


def _seen(task: "asyncio.Task[None]") -> None:
    """Log a failure: it ends the previews of its job, never the job."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a preview was not made: %s", where(error), extra={"action": "preview_failed"})
