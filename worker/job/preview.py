"""The previews of one job: who may see them, how often one is made, and its way into the document.

Knows times and threads: a picture is looked for in the event loop and encoded in a thread, so that neither the thread
that denoises nor the loop ever waits for one. Knows no latents and no encoder's settings.
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
"""How often a picture that is on its way from the GPU is looked for: a copy takes less."""

log = logging.getLogger(__name__)


def reason_for_none(settings: Settings, *, has_document: bool) -> str | None:
    """Why no job of this worker shows previews, or not this one, as a warning; None: it does.

    Where the check only flags, the result itself is delivered, so what comes before it may be seen, too.
    """
    if settings.safety_checker == "block":
        return WITHHELD
    return None if has_document else UNSEEN


class Previews:
    """One job's; made in the event loop that serves it. `viewer` and what it gives are safe in any thread."""

    def __init__(
        self, tell: Callable[[str], None], xmp: bytes | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`tell` is handed each preview as a data URI, in the event loop; `xmp` is their mark."""
        self._tell, self._xmp, self._clock = tell, xmp, clock
        self._loop = asyncio.get_running_loop()
        self._due = 0.0
        self._under_way = self._closed = False
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, request: Request, settings: Settings, tell: Callable[[str], None]) -> "Previews":
        """Those of a request, marked as its files are."""
        return cls(tell, mark.packet_for(request) if settings.ai_mark == "on" else None)

    def viewer(self) -> Callable[[Preview], None] | None:
        """Who takes a preview now; None: the last one is not a second old, or still under way."""
        return None if self._under_way or self._clock() < self._due else self._take

    def close(self) -> None:
        """Nothing more is told; in the event loop."""
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
    """A preview that could not be made is the last one of its job, and is not worth its result."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a preview was not made: %s", where(error), extra={"action": "preview_failed"})
