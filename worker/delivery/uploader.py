"""Encodes and uploads each generated image or clip while the next one is being generated.

Decides when to fall back: if one upload fails for good, all files of the job are returned inline and none stays in the
bucket. Nothing stays of a result that the content safety check refuses. Knows no document and no model.
"""

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from worker.api.field_types import VideoQuality
from worker.api.request import ImageRequest, PictureRequest, Request, VideoRequest
from worker.api.shapes import Manifest
from worker.core import retry, timing
from worker.core.errors import (
    BackendError,
    Forbidden,
    IdempotencyMismatch,
    ResultTooLarge,
    StorageUnavailable,
    Superseded,
)
from worker.core.types import Control, Owner, Part, Progress
from worker.delivery.delivered import Delivered
from worker.delivery.spool import Spool
from worker.engine.protocol import Generated, GeneratedImage
from worker.media import mark
from worker.media.artifact import Artifact, flagged
from worker.media.credentials import NOT_SIGNED, NotSignedError, Signer
from worker.media.image import encode_image
from worker.media.inline import Fitted, data_uri, fit_images, fit_video
from worker.media.thumbnail import poster, thumbnail
from worker.media.video import VIDEO_CRFS, encode_video, quality_of
from worker.storage.results import NameTaken, ObjectOwner, Storage, StoredObject, object_path, thumbnail_path
from worker.telemetry.spans import NO_TRACE, JobTrace

NO_THUMBNAIL = "thumbnail_url: a thumbnail could not be stored; the file was"
ENVELOPE_BYTES = 6000
"""Reserve for everything in a response beside its inline data."""

NOT_UPLOADED = f"{StorageUnavailable.code}: the upload failed, so the result is returned inline"
NAME_TAKEN = (
    f"{IdempotencyMismatch.code}: a file of this name belongs to another generation, so the result is returned inline; "
    "use a new file_uid"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Destination:
    """Where one job's files go: the bucket, or the spool if the bucket does not take them."""

    storage: Storage
    owner: Owner
    object_owner: Callable[[], ObjectOwner]
    """Returns the owner of an object; called per upload, because the document may be claimed late."""
    admitted: Callable[[], Awaitable[None]]
    """Returns once the job may store objects; raises `Cancelled` if it may not."""
    spool: Spool | None = None
    usage: Callable[[], Mapping[str, Any]] = dict
    """Returns the job's usage, for the document of a spooled result."""
    needs_slip: bool = False
    """Whether the document existed when the job was submitted (`document.lease`)."""
    request_data: Mapping[str, Any] | None = None
    """The client's request as the document stores it; None: the public form of the delivered one."""


class Uploader:
    """Delivers what one job generates; used in the event loop."""

    def __init__(
        self,
        request: Request,
        manifest: Manifest,
        fps: int,
        destination: Destination | None,
        control: Control,
        *,
        blocks: bool = False,
        marked: bool = True,
        signer: Signer | None = None,
        trace: JobTrace = NO_TRACE,
    ) -> None:
        """`blocks`: deliver only what the content safety check has passed.

        `marked`: embed the AI mark in each file, and sign it if there is a `signer`.
        """
        self._request, self._manifest, self._fps, self._destination = request, manifest, fps, destination
        self._count = request.num_images if isinstance(request, ImageRequest) else 1
        self._control, self._blocks = control, blocks
        self._xmp = mark.packet_for(request) if marked else None
        self._origin = mark.origin(request)
        self._signer, self._unsigned = signer, False
        self._trace = trace
        self._done, self._refused, self._all_generated = 0, 0, False
        self._generated: list[Generated] = []
        self._tasks: list[asyncio.Task[_File]] = []
        self._thumbnails: list[StoredObject] = []
        self.timings = {"encode": 0.0, "upload": 0.0}

    def take(self, generated: Generated) -> None:
        """Start encoding and uploading; called in the order of generation."""
        index = len(self._generated)
        self._generated.append(generated)
        if self._blocks and generated.nsfw is not False:
            self._refused += 1
            return
        self._tasks.append(asyncio.create_task(self._deliver(generated, index)))

    async def finish(self, max_result_bytes: int) -> Delivered:
        """Wait for all files and return the result.

        Raises:
            Forbidden: the content safety check refused some; none is delivered.
            ResultTooLarge: they do not fit into a response, and no storage was requested.
            StorageUnavailable: they could not be stored and do not fit; the message says whether they are spooled.
            IdempotencyMismatch: as above, but permanent: another generation owns one of the names.
            Superseded: a newer attempt owns the objects.
            DiskFull, Internal: a file could not be encoded.
        """
        if self._refused:
            await self.discard()
            if self._count > 1:
                raise Forbidden("forbidden.unsafe_images", refused=self._refused, count=self._count)
            raise Forbidden("forbidden.unsafe")
        self._all_generated = True
        self._tell()
        files: list[_File] = []
        for outcome in await self.settled():
            if isinstance(outcome, BaseException):
                await self.discard()
                raise outcome
            files.append(outcome)
        artifacts = [file.artifact for file in files]
        if all(file.stored for file in files):
            hidden = any(file.thumbnail is None or file.thumbnail.url is None for file in artifacts)
            return Delivered.stored(
                self._manifest,
                artifacts,
                (*flagged(artifacts), *((NO_THUMBNAIL,) if hidden else ()), *self._signature_warnings),
            )
        warnings: tuple[str, ...] = ()
        name_taken = any(file.name_taken for file in files)
        if self._destination is not None:
            await self.discard()
            artifacts = [_not_stored(file) for file in artifacts]
            warnings = (NAME_TAKEN if name_taken else NOT_UPLOADED,)
        try:
            return await self._inline(artifacts, warnings, max_result_bytes)
        except ResultTooLarge:
            if self._destination is None:
                raise
            if name_taken:
                raise IdempotencyMismatch("idempotency_mismatch.name_taken") from None
            raise await self._spool(self._destination, artifacts) from None

    async def _spool(self, destination: Destination, artifacts: Sequence[Artifact]) -> StorageUnavailable:
        """Spool a result that can be neither stored nor returned; returns the error for the caller."""
        kept = [
            replace(file, storage_path=self._path(destination, file, index)) for index, file in enumerate(artifacts)
        ]
        spool, owner = destination.spool, destination.owner
        asked = self._request.public() if destination.request_data is None else destination.request_data
        about = (owner, destination.object_owner(), kept, asked, destination.usage())
        if spool is not None and await asyncio.to_thread(spool.keep, *about, needs_slip=destination.needs_slip):
            return StorageUnavailable("storage_unavailable.kept", retryable=False)
        return StorageUnavailable("storage_unavailable.not_kept")

    async def discard(self) -> None:
        """Delete what was uploaded, after waiting for running uploads. Objects that cannot be deleted are logged.

        Objects that existed before stay if the document was never claimed: they may be another job's result.
        """
        outcomes = await self.settled()
        stored = [file.stored for file in outcomes if isinstance(file, _File) and file.stored is not None]
        stored += self._thumbnails
        if self._destination is None:
            return
        if not self._destination.object_owner().claimed:
            stored = [item for item in stored if not item.found]
        if not stored:
            return
        try:
            await asyncio.to_thread(self._destination.storage.remove, stored)
        except BackendError:
            log.warning("objects of a discarded result are left", extra={"action": "orphans", "count": len(stored)})

    async def leave(self) -> None:
        """Leave what was uploaded to a newer attempt, which takes it over or replaces it; waits for running uploads.

        An attempt that has taken over a file has already looked for its thumbnail. A thumbnail stored after that would
        belong to no document, so it is deleted.
        """
        outcomes = await self.settled()
        if self._destination is None or not self._thumbnails:
            return
        files = [file.stored for file in outcomes if isinstance(file, _File) and file.stored is not None]
        try:
            await asyncio.to_thread(_remove_unwanted, self._destination.storage, files, self._thumbnails)
        except BackendError:
            extra = {"action": "orphans", "count": len(self._thumbnails)}
            log.warning("thumbnails of a newer attempt's files may be left", extra=extra)

    async def settled(self) -> Sequence["_File | BaseException"]:
        """Wait for all running deliveries; returns each file or its error."""
        return await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _deliver(self, generated: Generated, index: int) -> "_File":
        started = time.monotonic()
        thumbnail = asyncio.create_task(asyncio.to_thread(self._thumbnail, generated))
        try:
            with self._trace.stage("encode"):
                encoded = await asyncio.to_thread(self._encode, generated)
            self.timings["encode"] += time.monotonic() - started
            file = _File(replace(encoded, seed=generated.seed, nsfw=generated.nsfw))
            if self._destination is not None:
                await self._destination.admitted()
        except BaseException:
            await asyncio.gather(thumbnail, return_exceptions=True)
            raise
        self._tell("upload")
        storing = asyncio.create_task(self._store_thumbnail(thumbnail, file.artifact, index))
        try:
            if self._destination is not None:
                file = await self._upload(self._destination, file.artifact, index)
        finally:
            stored_thumbnail = await storing
        file = replace(file, artifact=replace(file.artifact, thumbnail=stored_thumbnail))
        self._done += file.stored is not None or self._destination is None
        self._tell()
        return file

    def _tell(self, part: Part | None = None, share: float = 0.0) -> None:
        """Report delivery progress once generation is over; until then generation determines the progress."""
        if self._all_generated:
            self._control.report(Progress("uploading", self._done, self._count, part, share))

    async def _upload(self, destination: Destination, artifact: Artifact, index: int) -> "_File":
        """Upload a file; if that fails, return it without a URL."""
        started = time.monotonic()
        path = self._path(destination, artifact, index)
        put = functools.partial(destination.storage.put, path, artifact, destination.object_owner())
        try:
            with self._trace.stage("upload"):
                stored = await retry.in_thread(timing.UPLOAD_SECONDS, put)
        except BackendError as error:
            return _File(artifact, name_taken=isinstance(error, NameTaken))
        finally:
            self.timings["upload"] += time.monotonic() - started
        return _File(replace(artifact, url=stored.url, storage_path=stored.path), stored)

    def _thumbnail(self, generated: Generated) -> Artifact:
        pixels = generated.pixels if isinstance(generated, GeneratedImage) else poster(generated.frames, self._fps)
        return replace(self._signed(thumbnail(pixels, self._xmp)), seed=generated.seed)

    async def _store_thumbnail(self, thumbnail: Awaitable[Artifact], of: Artifact, index: int) -> Artifact:
        """Upload the thumbnail of a file, if the bucket takes it in time; the file does not wait for it."""
        made = await thumbnail
        if self._destination is None:
            return made
        path = thumbnail_path(self._path(self._destination, of, index))
        put = functools.partial(self._destination.storage.put, path, made, self._destination.object_owner())
        try:
            stored = await retry.in_thread(timing.THUMBNAIL_SECONDS, put)
        except (BackendError, Superseded):
            return made
        self._thumbnails.append(stored)
        return replace(made, url=stored.url, storage_path=stored.path)

    def _path(self, destination: Destination, artifact: Artifact, index: int) -> str:
        video = not isinstance(self._request, PictureRequest)
        return object_path(destination.owner, video=video, suffix=artifact.suffix, index=index, count=self._count)

    @property
    def _video_quality(self) -> VideoQuality:
        assert isinstance(self._request, VideoRequest)  # noqa: S101 - clips come from video requests
        return self._request.video_quality

    def _encode(self, generated: Generated) -> Artifact:
        if isinstance(generated, GeneratedImage):
            assert isinstance(self._request, PictureRequest)  # noqa: S101 - images come from picture requests
            chosen = self._request.output_format, self._request.output_quality
            return self._signed(encode_image(generated.pixels, *chosen, self._xmp))
        clip = encode_video(
            generated.frames,
            self._fps,
            crf=VIDEO_CRFS[self._video_quality],
            xmp=self._xmp,
            raise_if_stopped=self._control.raise_if_stopped,
            tell=functools.partial(self._tell, "pack"),
        )
        return self._signed(clip)

    @property
    def _signature_warnings(self) -> tuple[str, ...]:
        return (NOT_SIGNED,) if self._unsigned else ()

    def _signed(self, file: Artifact) -> Artifact:
        """Sign the file if there is a signer; a failed signature never costs the result."""
        if self._signer is None:
            return file
        try:
            return self._signer.sign(file, self._origin)
        except NotSignedError:
            self._unsigned = True
            return file

    async def _inline(
        self, artifacts: Sequence[Artifact], warnings: tuple[str, ...], max_result_bytes: int
    ) -> Delivered:
        budget = max_result_bytes - ENVELOPE_BYTES
        first = self._generated[0]
        if isinstance(first, GeneratedImage):
            images = [item.pixels for item in self._generated if isinstance(item, GeneratedImage)]
            # The first one stands in `images` and again in `image_url`.
            copies = [2] + [1] * (len(images) - 1)
            quality = self._request.output_quality if isinstance(self._request, PictureRequest) else None
            fitted = await asyncio.to_thread(
                fit_images, images, artifacts, budget, copies, quality=quality, xmp=self._xmp, finish=self._signed
            )
        else:
            fitted = await asyncio.to_thread(
                fit_video,
                first.frames,
                self._fps,
                artifacts[0],
                budget=budget,
                copies=2,
                quality=self._video_quality,
                xmp=self._xmp,
                finish=self._signed,
                raise_if_stopped=self._control.raise_if_stopped,
            )
        files = tuple(
            replace(file, seed=generated.seed, nsfw=generated.nsfw, thumbnail=before.thumbnail)
            for file, before, generated in zip(fitted.files, artifacts, self._generated, strict=True)
        )
        uris = tuple(data_uri(file) for file in files)
        manifest, said = self._as_fitted(fitted)
        said = [*warnings, *fitted.warnings, *said, *flagged(files), *self._signature_warnings]
        return Delivered(manifest, files, uris, tuple(said))

    def _as_fitted(self, fitted: Fitted) -> tuple[Manifest, list[str]]:
        """Return the manifest with what the files were encoded at, and a warning for a level that was asked for."""
        params, said = dict(self._manifest["params"]), list[str]()
        if fitted.quality is not None:
            params["output_quality"] = fitted.quality
        if fitted.crf is not None:
            params.pop("video_quality", None)
            reached = quality_of(fitted.crf)
            if reached is not None:
                params["video_quality"] = reached
            if "video_quality" in self._request.model_fields_set:
                now = reached or "below low"
                said.append(f"video_quality: {self._video_quality} has no effect; what fits into the response is {now}")
        return {**self._manifest, "params": params}, said


@dataclass(frozen=True, slots=True)
class _File:
    """One encoded file, and its object if it could be stored."""

    artifact: Artifact
    stored: StoredObject | None = None
    name_taken: bool = False
    """Whether another generation owns its name, so that a retry cannot help."""


def _remove_unwanted(storage: Storage, files: Sequence[StoredObject], thumbnails: Sequence[StoredObject]) -> None:
    """Delete the thumbnails whose files another attempt has taken over, unless it took over the thumbnail as well."""
    deadline = time.monotonic() + timing.REMOVE_SECONDS
    kept = {thumbnail_path(file.path) for file in files if storage.is_kept(file, deadline)}
    storage.remove([thumbnail for thumbnail in thumbnails if thumbnail.path not in kept])


def _not_stored(file: Artifact) -> Artifact:
    """Return the file without its URL and its thumbnail's, after both were deleted."""
    shown = file.thumbnail and replace(file.thumbnail, url=None, storage_path=None)
    return replace(file, url=None, storage_path=None, thumbnail=shown)
