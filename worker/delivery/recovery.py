"""Recovers a finished generation whose objects are complete although its document or its worker was lost.

Knows which objects a request produces and reads their metadata; knows no document and no model.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from worker.api.request import ImageRequest, PictureRequest, Request
from worker.api.shapes import Manifest
from worker.core import timing
from worker.core.errors import BackendError
from worker.core.types import Owner
from worker.delivery.delivered import Delivered
from worker.media.artifact import CONTENT_TYPES, SUFFIXES, Artifact, flagged
from worker.storage.results import ObjectOwner, Storage, StoredObject, object_path, thumbnail_path
from worker.storage.store import ObjectInfo

RECOVERED = "the files of this generation were already stored; its document was finished from them"


@dataclass(frozen=True, slots=True)
class Found:
    """The objects of a whole result, as they were read; `take_over` makes them this attempt's."""

    objects: Sequence[tuple[StoredObject, ObjectInfo]]
    delivered: Delivered
    """Without thumbnails: `take_over` looks for them once it owns their files."""


def recover(storage: Storage, request: Request, owner: Owner, fingerprint: str) -> Found | None:
    """Rebuild a result from its objects alone; None if one is missing or the bucket does not answer."""
    deadline = time.monotonic() + timing.RECALL_SECONDS
    try:
        objects = storage.recall(object_paths(request, owner), owner.file_uid, fingerprint, deadline)
    except BackendError:
        return None
    if not objects:
        return None
    try:
        manifest = json.loads(objects[0][1].metadata["manifest"])
        files = [_artifact(*seen) for seen in objects]
    except (KeyError, ValueError):
        return None
    if not isinstance(manifest, dict) or "model" not in manifest:
        return None
    return Found(objects, Delivered.stored(cast("Manifest", manifest), files, (RECOVERED, *flagged(files))))


def take_over(storage: Storage, found: Found, owner: ObjectOwner) -> Delivered | None:
    """Make the objects this attempt's own, so that the earlier attempt cannot delete them; None if that fails.

    Thumbnails come last: an earlier attempt that is still running deletes those it stores later (`Uploader.leave`).
    """
    deadline = time.monotonic() + timing.RECALL_SECONDS
    taken_over: list[StoredObject] = []
    try:
        for stored, seen in found.objects:
            mine = storage.take_over(stored, seen, owner, deadline)
            if mine is None:
                return None
            taken_over.append(mine)
    except BackendError:
        return None
    files = []
    for file in found.delivered.files:
        thumbnail = _thumbnail(storage, file, owner, deadline)
        if thumbnail is not None:
            taken_over.append(thumbnail[0])
        files.append(replace(file, thumbnail=thumbnail and _artifact(*thumbnail)))
    return replace(found.delivered, files=tuple(files), taken_over=tuple(taken_over))


def object_paths(request: Request, owner: Owner) -> list[str]:
    """Return the paths of a finished request's files."""
    is_image = isinstance(request, PictureRequest)
    suffix = SUFFIXES[CONTENT_TYPES[request.output_format if isinstance(request, PictureRequest) else "mp4"]]
    count = request.num_images if isinstance(request, ImageRequest) else 1
    return [object_path(owner, video=not is_image, suffix=suffix, index=k, count=count) for k in range(count)]


def _thumbnail(
    storage: Storage, file: Artifact, owner: ObjectOwner, deadline: float
) -> tuple[StoredObject, ObjectInfo] | None:
    """Take over the thumbnail of a file, if it has one: a result is complete without it."""
    path = thumbnail_path(str(file.storage_path))
    try:
        found = storage.recall([path], owner.file_uid, owner.fingerprint, deadline)
        mine = storage.take_over(*found[0], owner, deadline) if found else None
    except BackendError:
        return None
    return (mine, found[0][1]) if found and mine is not None else None


def _artifact(stored: StoredObject, info: ObjectInfo) -> Artifact:
    return Artifact.from_metadata(
        info.metadata, content_type=info.content_type, size=info.size, url=stored.url, storage_path=stored.path
    )
