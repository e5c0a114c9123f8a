"""From pixels to files: each thing a job generates is encoded and uploaded while the next one is still being made.

Knows when to fall back: if one upload fails for good, all files of the job go back inline and nothing of it stays in
the bucket. The same holds for a result that the content safety check refuses. Knows no document and no model.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from worker.api.request import ImageRequest, Request
from worker.api.response import Delivered, File, flagged
from worker.core.errors import BackendError, Forbidden, ResultTooLarge, StorageUnavailable
from worker.core.types import Owner, Progress
from worker.delivery.spool import Item, Spool
from worker.engine.protocol import Generated, GeneratedImage
from worker.media.image import Encoded, encode_image
from worker.media.inline import data_uri, fit_images, fit_video
from worker.media.video import encode_video
from worker.storage.results import ObjectOwner, Storage, Stored, object_path

UPLOAD_SECONDS = 8.0
"""How long one upload may go without success before its result goes back inline."""
ENVELOPE_BYTES = 6000
"""What the response holds beside the inline data."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Destination:
    """A place in the bucket for one job's files, and one on the volume for when the bucket cannot be had."""

    storage: Storage
    owner: Owner
    provenance: Callable[[], ObjectOwner]
    """Whose the objects are; asked again for each, because a document may be claimed late."""
    spool: Spool | None = None


class Uploader:
    """Takes what one job generates, in the event loop, and delivers it."""

    def __init__(
        self,
        request: Request,
        fps: int,
        destination: Destination | None,
        on_done: Callable[[Progress], None],
        raise_if_stopped: Callable[[], None],
        *,
        blocks: bool = False,
    ) -> None:
        """`blocks`: only what the content safety check has seen and not flagged is delivered."""
        self._request, self._fps, self._destination = request, fps, destination
        self._count = request.num_images if isinstance(request, ImageRequest) else 1
        self._on_done, self._raise_if_stopped, self._blocks = on_done, raise_if_stopped, blocks
        self._done, self._refused, self._all_taken = 0, 0, False
        self._taken: list[Generated] = []
        self._tasks: list[asyncio.Task[tuple[Encoded, Stored | None]]] = []
        self.timings = {"encode": 0.0, "upload": 0.0}

    def take(self, generated: Generated) -> None:
        """Start to encode and upload; called in the order in which things are generated."""
        index = len(self._taken)
        self._taken.append(generated)
        if self._blocks and generated.nsfw is not False:
            self._refused += 1
            return
        self._tasks.append(asyncio.create_task(self._deliver(generated, index)))

    async def finish(self, max_result_bytes: int) -> Delivered:
        """Wait for all files; where they are now.

        Raises:
            Forbidden: the content safety check refused some; then none is delivered.
            ResultTooLarge: they do not fit into a response, and no storage was asked for.
            StorageUnavailable: they could not be stored and do not fit; the message says whether they are kept.
            Superseded: a newer attempt owns the objects.
            DiskFull, Internal: a file could not be encoded.
        """
        if self._refused:
            await self.discard()
            part = f": {self._refused} of {self._count} images" if self._count > 1 else ""
            raise Forbidden(f"the content safety check refused this result{part}")
        self._all_taken = True
        self._tell()
        outcomes = await self.settled()
        if all(isinstance(outcome, tuple) and outcome[1] is not None for outcome in outcomes):
            return self._stored([outcome for outcome in outcomes if isinstance(outcome, tuple)])
        encoded: list[Encoded] = []
        for outcome in outcomes:
            if isinstance(outcome, _NotStored):
                encoded.append(outcome.encoded)
            elif isinstance(outcome, BaseException):
                await self.discard()
                raise outcome
            else:
                encoded.append(outcome[0])
        warnings: tuple[str, ...] = ()
        if self._destination is not None:
            await self.discard()
            warnings = (f"{StorageUnavailable.code}: the upload failed, so the result is returned inline",)
        try:
            return await self._inline(encoded, warnings, max_result_bytes)
        except ResultTooLarge:
            if self._destination is None:
                raise
            raise await self._put_aside(self._destination, encoded) from None

    async def _put_aside(self, destination: "Destination", encoded: list[Encoded]) -> StorageUnavailable:
        """Keep what can neither be stored nor returned, if there is a place for it; what to tell the caller."""
        items = [
            Item(self._path(destination, file, index), file, taken.seed, taken.nsfw)
            for index, (file, taken) in enumerate(zip(encoded, self._taken, strict=True))
        ]
        spool, owner = destination.spool, destination.owner
        about = (owner, destination.provenance(), items, self._request.public())
        if spool is not None and await asyncio.to_thread(spool.keep, *about):
            kept = "the upload failed; the result is kept and will be delivered later"
            return StorageUnavailable(kept, retryable=False)
        return StorageUnavailable("the upload failed, and the result is too large to be returned; try again")

    async def discard(self) -> None:
        """Take back what was uploaded; waits for uploads under way. What cannot be deleted now is logged.

        What was there before stays if the document was never claimed: it may be another job's result.
        """
        outcomes = await self.settled()
        stored = [outcome[1] for outcome in outcomes if isinstance(outcome, tuple) and outcome[1] is not None]
        if self._destination is None:
            return
        if not self._destination.provenance().claimed:
            stored = [item for item in stored if not item.found]
        if not stored:
            return
        try:
            await asyncio.to_thread(self._destination.storage.remove, stored)
        except BackendError:
            log.warning("objects of a discarded result are left", extra={"action": "orphans", "count": len(stored)})

    async def settled(self) -> Sequence[tuple[Encoded, Stored | None] | BaseException]:
        """Wait until nothing is under way any more; what became of each file."""
        return await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _deliver(self, generated: Generated, index: int) -> tuple[Encoded, Stored | None]:
        started = time.monotonic()
        encoded = await asyncio.to_thread(self._encode, generated)
        self.timings["encode"] += time.monotonic() - started
        stored = None
        if self._destination is not None:
            stored = await self._upload(self._destination, encoded, index)
        self._done += 1
        if self._all_taken:
            self._tell()
        return encoded, stored

    def _tell(self) -> None:
        self._on_done(Progress("uploading", self._done, self._count))

    async def _upload(self, destination: Destination, encoded: Encoded, index: int) -> Stored:
        started = time.monotonic()
        path, taken = self._path(destination, encoded, index), self._taken[index]
        deadline = started + UPLOAD_SECONDS
        try:
            return await asyncio.to_thread(
                destination.storage.put, path, encoded, taken.seed, destination.provenance(), deadline, nsfw=taken.nsfw
            )
        except BackendError as error:
            raise _NotStored(encoded) from error
        finally:
            self.timings["upload"] += time.monotonic() - started

    def _path(self, destination: "Destination", encoded: Encoded, index: int) -> str:
        video = not isinstance(self._request, ImageRequest)
        return object_path(destination.owner, video=video, suffix=encoded.suffix, index=index, count=self._count)

    def _encode(self, generated: Generated) -> Encoded:
        if isinstance(generated, GeneratedImage):
            assert isinstance(self._request, ImageRequest)  # noqa: S101 - images come from image requests
            return encode_image(generated.pixels, self._request.output_format)
        return encode_video(generated.frames, self._fps, raise_if_stopped=self._raise_if_stopped)

    def _stored(self, outcomes: list[tuple[Encoded, Stored | None]]) -> Delivered:
        files = tuple(
            File.of(encoded, generated.seed, url=stored.url, storage_path=stored.path, nsfw=generated.nsfw)
            for (encoded, stored), generated in zip(outcomes, self._taken, strict=True)
            if stored is not None
        )
        return Delivered("firebase", tuple(file.url or "" for file in files), files, flagged(files))

    async def _inline(self, encoded: list[Encoded], warnings: tuple[str, ...], max_result_bytes: int) -> Delivered:
        budget = max_result_bytes - ENVELOPE_BYTES
        first = self._taken[0]
        if isinstance(first, GeneratedImage):
            images = [item.pixels for item in self._taken if isinstance(item, GeneratedImage)]
            # The first one stands in `images` and again in `image_url`.
            copies = [2] + [1] * (len(images) - 1)
            fitted = await asyncio.to_thread(fit_images, images, encoded, budget, copies)
        else:
            fitted = await asyncio.to_thread(
                fit_video,
                first.frames,
                self._fps,
                encoded[0],
                budget=budget,
                copies=2,
                raise_if_stopped=self._raise_if_stopped,
            )
        files = tuple(
            File.of(file, generated.seed, nsfw=generated.nsfw)
            for file, generated in zip(fitted.files, self._taken, strict=True)
        )
        uris = tuple(data_uri(file) for file in fitted.files)
        return Delivered("base64", uris, files, (*warnings, *fitted.warnings, *flagged(files)))


class _NotStored(Exception):
    """An upload failed for good; what was to be uploaded is kept."""

    def __init__(self, encoded: Encoded) -> None:
        self.encoded = encoded
        super().__init__("not stored")
