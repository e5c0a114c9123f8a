"""A finished generation found again: its objects are complete, only its document (or its worker) was lost.

Knows which objects a request ends in and what they say of themselves; knows no document and no model.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from worker.api.request import ImageRequest, Request
from worker.api.response import Delivered, File, flagged
from worker.core.errors import BackendError
from worker.core.types import Owner
from worker.media.image import SUFFIXES
from worker.storage.results import ObjectOwner, Storage, Stored, object_path
from worker.storage.store import ObjectInfo

RECALL_SECONDS = 2.0
RECOVERED = "the files of this generation were already stored; its document was finished from them"


@dataclass(frozen=True, slots=True)
class Finished:
    """A result whose files are all there: what is known of it (`result.manifest`) and where they are."""

    facts: Mapping[str, Any]
    delivered: Delivered
    warnings: tuple[str, ...] = ()
    taken_over: tuple[Stored, ...] = ()
    """Objects of an earlier attempt that are this one's now."""


@dataclass(frozen=True, slots=True)
class Found:
    """Objects that make up a whole result, as they were seen; whose they are is decided by `adopt`."""

    objects: Sequence[tuple[Stored, ObjectInfo]]
    finished: Finished


def recover(storage: Storage, request: Request, owner: Owner, request_hash: str) -> Found | None:
    """The result as its objects alone tell it; None where they are not all there, or cannot be asked for."""
    try:
        objects = storage.recall(object_paths(request, owner), request_hash, time.monotonic() + RECALL_SECONDS)
    except BackendError:
        return None
    if not objects:
        return None
    try:
        facts = json.loads(objects[0][1].metadata["manifest"])
        files = tuple(_file(stored, info) for stored, info in objects)
    except (KeyError, ValueError):
        return None
    if not isinstance(facts, Mapping) or "model" not in facts:
        return None
    delivered = Delivered("firebase", tuple(str(file.url) for file in files), files)
    return Found(objects, Finished(facts, delivered, (RECOVERED, *flagged(files))))


def take_over(storage: Storage, found: Found, provenance: ObjectOwner) -> Finished | None:
    """Make the objects this attempt's own, so that whoever made them cannot take them back; None where that fails."""
    deadline = time.monotonic() + RECALL_SECONDS
    taken_over: list[Stored] = []
    try:
        for stored, seen in found.objects:
            mine = storage.take_over(stored, seen, provenance, deadline)
            if mine is None:
                return None
            taken_over.append(mine)
    except BackendError:
        return None
    return replace(found.finished, taken_over=tuple(taken_over))


def object_paths(request: Request, owner: Owner) -> list[str]:
    """Where the files of a finished request lie."""
    if isinstance(request, ImageRequest):
        suffix, count = SUFFIXES[request.output_format], request.num_images
        return [object_path(owner, video=False, suffix=suffix, index=index, count=count) for index in range(count)]
    return [object_path(owner, video=True, suffix=SUFFIXES["mp4"], index=0, count=1)]


def _file(stored: Stored, info: ObjectInfo) -> File:
    return File(
        url=stored.url,
        storage_path=stored.path,
        content_type=info.content_type,
        bytes=info.size,
        width=int(info.metadata["width"]),
        height=int(info.metadata["height"]),
        seed=int(info.metadata["seed"]),
        nsfw={"true": True, "false": False}.get(info.metadata.get("nsfw", "")),
    )
