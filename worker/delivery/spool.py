"""Keeps results that could be neither uploaded nor returned on the network volume until a worker can deliver them.

Each entry is a folder. It is written under a draft name and then renamed, so an entry is either whole or absent; a
worker takes it by renaming it again, so only one of several workers delivers it. Total bytes and age are bounded. Knows
folders; knows no model and no running job.
"""

import contextlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from worker.core import timing
from worker.core.errors import BackendError, Deleted, IdempotencyMismatch, Superseded
from worker.core.logs import where
from worker.core.types import Owner
from worker.delivery.delivered import Delivered
from worker.document.session import SpooledDocument, StillLeased
from worker.document.store import DocumentStore
from worker.media.artifact import CONTENT_TYPES, Artifact, flagged
from worker.storage.results import NameTaken, ObjectOwner, Storage, StoredObject, thumbnail_path

MAX_BYTES = 2 << 30
MAX_AGE_SECONDS = 48 * 3600
DELIVERED = "the upload was made up for later, from the worker's outbox"

log = logging.getLogger(__name__)

T = TypeVar("T")


class Spool:
    """The entries in one folder of the volume, which several workers may share."""

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int = MAX_BYTES,
        max_age: float = MAX_AGE_SECONDS,
        retention: timedelta | None = None,
    ) -> None:
        """`retention`: how long a result is kept, here and after its delivery; None: no limit once delivered."""
        self._folder, self._max_bytes, self._retention = folder, max_bytes, retention
        self._max_age = max_age if retention is None else min(max_age, retention.total_seconds())

    def keep(
        self,
        owner: Owner,
        object_owner: ObjectOwner,
        files: Sequence[Artifact],
        request_data: Mapping[str, Any],
        usage: Mapping[str, Any] | None = None,
        *,
        needs_slip: bool = False,
    ) -> bool:
        """Keep a result with its request data and usage; returns whether there was room.

        `needs_slip`: if the document is absent at delivery, its user deleted it.
        """
        entry = self._folder / f"{int(time.time())}-{uuid.uuid4().hex}"
        draft = entry.with_name("draft-" + entry.name)
        thumbnails = {
            f"{index}.thumb": file.thumbnail for index, file in enumerate(files) if file.thumbnail is not None
        }
        size = sum(file.size for file in (*files, *thumbnails.values()))
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._drop_old()
            if size + _bytes_in(self._folder) > self._max_bytes:
                log.warning("the spool is full", extra={"action": "spool_full", "bytes": size})
                return False
            draft.mkdir()
            for index, file in enumerate(files):
                (draft / str(index)).write_bytes(file.data)
            for name, thumbnail in thumbnails.items():
                (draft / name).write_bytes(thumbnail.data)
            (draft / "entry.json").write_text(
                json.dumps(_described(owner, object_owner, files, request_data, usage, needs_slip=needs_slip)),
                encoding="utf-8",
            )
            draft.rename(entry)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            log.warning("the spool: %s", type(error).__name__, extra={"action": "spool_failed"})
            return False
        log.info("a result is kept", extra={"action": "spool_kept", "job_id": object_owner.job_id, "bytes": size})
        return True

    def deliver(self, storage: Storage, store: DocumentStore) -> int:
        """Deliver the entries, oldest first, until Firebase does not answer; returns how many were delivered."""
        delivered = 0
        try:
            self._drop_old()
            for name in sorted(path.name for path in self._folder.iterdir() if path.name[:1].isdigit()):
                delivered += self._deliver_one(name, storage, store)
        except FileNotFoundError:
            return delivered  # no spool folder, or another worker was faster
        except (BackendError, OSError) as error:
            log.warning("the spool waits: %s", type(error).__name__, extra={"action": "spool_waits"})
        return delivered

    def _deliver_one(self, name: str, storage: Storage, store: DocumentStore) -> bool:
        try:
            with self._taken(name) as entry:
                return entry is not None and _deliver(entry, storage, store, self._retention)
        except StillLeased:
            return False
        except BackendError as error:
            if error.kind == "unreachable":
                raise
            return False  # an entry that Firebase refuses must not block the others
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            log.warning("an entry cannot be read: %s", where(error), extra={"action": "spool_dropped"})
            return False

    @contextlib.contextmanager
    def _taken(self, name: str) -> Iterator[Path | None]:
        """Rename the entry for this worker; afterwards remove it, or put it back if Firebase could not take it.

        An entry that lacks a file is removed, too: another worker ended while it was removing it.
        """
        taken = self._folder / f"taken-{name}"
        try:
            (self._folder / name).rename(taken)
        except OSError:
            yield None
            return
        os.utime(taken)
        with contextlib.ExitStack() as gone:
            gone.callback(shutil.rmtree, taken, ignore_errors=True)
            try:
                yield taken
            except FileNotFoundError:
                raise
            except (BackendError, OSError):
                gone.pop_all()  # if this rename fails, too, `_drop_old` puts the entry back later
                taken.rename(self._folder / name)
                raise

    def _drop_old(self) -> None:
        now = time.time()
        for path in self._folder.iterdir():
            # Other workers rename and remove entries meanwhile.
            with contextlib.suppress(FileNotFoundError):
                self._drop_if_old(path, now)

    def _drop_if_old(self, path: Path, now: float) -> None:
        touched = path.stat().st_mtime
        untouched = now - touched
        kept_at = path.name.removeprefix("taken-").removeprefix("draft-").partition("-")[0]
        old = now - (int(kept_at) if kept_at.isdigit() else touched) > self._max_age
        if path.name.startswith("taken-") and untouched > timing.SPOOL_TAKEN_SECONDS:
            path.rename(path.with_name(path.name.removeprefix("taken-")))
        elif old or (path.name.startswith("draft-") and untouched > timing.SPOOL_TAKEN_SECONDS):
            shutil.rmtree(path, ignore_errors=True)
            log.warning("an entry was too old", extra={"action": "spool_dropped"})


def _described(
    owner: Owner,
    object_owner: ObjectOwner,
    files: Sequence[Artifact],
    request_data: Mapping[str, Any],
    usage: Mapping[str, Any] | None,
    *,
    needs_slip: bool,
) -> dict[str, Any]:
    return {
        "owner": asdict(owner),
        "object_owner": asdict(object_owner),
        "files": [file.entry() for file in files],
        "thumbnails": [file.thumbnail and file.thumbnail.metadata() for file in files],
        "request_data": dict(request_data),
        "usage": usage,
        "needs_slip": needs_slip,
    }


def _deliver(entry: Path, storage: Storage, store: DocumentStore, retention: timedelta | None) -> bool:
    """Upload an entry's files and complete its document; False if the document no longer waits for the result."""
    description = json.loads((entry / "entry.json").read_text(encoding="utf-8"))
    owner, by = _known(Owner, description["owner"]), _known(ObjectOwner, description["object_owner"])
    document = SpooledDocument(
        store,
        owner,
        job_id=by.job_id,
        attempt=by.attempt,
        fingerprint=by.fingerprint,
        claimed=by.claimed,
        needs_slip=bool(description.get("needs_slip")),
        retention=retention,
    )
    stored: list[StoredObject] = []
    files: list[Artifact] = []
    try:
        document.look()
        for index, kept in enumerate(description["files"]):
            file = Artifact.from_entry(kept, (entry / str(index)).read_bytes())
            put = storage.put(str(file.storage_path), file, by, time.monotonic() + timing.SPOOL_UPLOAD_SECONDS)
            stored.append(put)
            files.append(replace(file, url=put.url))
            if thumbnail := _thumbnail(entry / f"{index}.thumb", description["thumbnails"][index]):
                path, deadline = thumbnail_path(put.path), time.monotonic() + timing.SPOOL_UPLOAD_SECONDS
                stored.append(put := storage.put(path, thumbnail, by, deadline))
                files[-1] = replace(files[-1], thumbnail=replace(thumbnail, url=put.url, storage_path=put.path))
        delivered = Delivered.stored(json.loads(by.manifest), files)
        warnings = [DELIVERED, *flagged(files)]
        data = delivered.generation_data(timings={}, warnings=warnings, usage=description.get("usage"))
        document.complete(description["request_data"], data)
    except (Superseded, Deleted, IdempotencyMismatch):
        storage.remove([put for put in stored if not put.found])
        return False
    except NameTaken:
        storage.remove([put for put in stored if not put.found])
        error = IdempotencyMismatch("idempotency_mismatch.name_taken")
        with contextlib.suppress(Superseded, Deleted, IdempotencyMismatch):
            document.fail(description["request_data"], error, description.get("usage"))
        log.warning("a file of an entry has another generation's name", extra={"action": "spool_dropped"})
        return False
    log.info("a spooled result was delivered", extra={"action": "spool_delivered", "job_id": by.job_id})
    return True


def _known(kind: type[T], said: Mapping[str, Any]) -> T:
    """What this worker knows of what an entry says: a newer one, before it was rolled back, may have said more."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # both are dataclasses
    return kind(**{name: value for name, value in said.items() if name in names})


def _thumbnail(kept: Path, said: Mapping[str, str] | None) -> Artifact | None:
    if said is None:
        return None
    data, kind = kept.read_bytes(), CONTENT_TYPES["webp"]
    file = Artifact.from_metadata(said, content_type=kind, size=len(data), url="", storage_path="")
    return replace(file, data=data)


def _bytes_in(folder: Path) -> int:
    """Return the total size of the files; other workers may remove some meanwhile."""
    found = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found += (Path(parent) / name).stat().st_size
    return found
