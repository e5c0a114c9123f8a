"""Results that could neither be uploaded nor returned: kept on the network volume until a worker can deliver them.

One folder an entry, written under another name first, so that an entry is whole or not there; taken by renaming, so
that of several workers one delivers it. Bounded in bytes and age. Knows folders; knows no model and no job that runs.
"""

import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from worker.api import response as result
from worker.api.response import Delivered, File
from worker.core.errors import BackendError, StorageUnavailable, Superseded
from worker.core.logs import where
from worker.core.types import Owner
from worker.document.schema import completed, disowned, document_path
from worker.document.session import DocumentSession
from worker.document.store import CALL_SECONDS, DocumentStore, Snapshot
from worker.document.transitions import WORKER_LOST, ClaimRequest, lease_is_over
from worker.media.image import Encoded
from worker.storage.results import ObjectOwner, Storage, Stored

MAX_BYTES = 2 << 30
MAX_AGE_SECONDS = 48 * 3600
TAKEN_SECONDS = 600
"""How long a worker may be busy with an entry; after that another one takes it."""
UPLOAD_SECONDS = 60
COMPLETE_SECONDS = 10
DELIVERED = "the upload was made up for later, from the worker's outbox"
KEPT = StorageUnavailable.code
"""The code that the document of a kept result has until then, if its job could write it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Item:
    """One file to deliver: its path in the bucket, its bytes, its seed, and what the content safety check said."""

    path: str
    encoded: Encoded
    seed: int
    nsfw: bool | None = None


class Spool:
    """Entries in one folder of the volume, which several workers may share."""

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES, max_age: float = MAX_AGE_SECONDS) -> None:
        self._folder, self._max_bytes, self._max_age = folder, max_bytes, max_age

    def keep(
        self, owner: Owner, provenance: ObjectOwner, items: Sequence[Item], request_data: Mapping[str, Any]
    ) -> bool:
        """Put a result aside, with what its document keeps of the request; whether there was room for it."""
        entry = self._folder / f"{int(time.time())}-{uuid.uuid4().hex}"
        draft = entry.with_name("draft-" + entry.name)
        size = sum(len(item.encoded.data) for item in items)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._drop_old()
            if size + _bytes_in(self._folder) > self._max_bytes:
                log.warning("the outbox is full", extra={"action": "outbox_full", "bytes": size})
                return False
            draft.mkdir()
            for index, item in enumerate(items):
                (draft / str(index)).write_bytes(item.encoded.data)
            (draft / "entry.json").write_text(
                json.dumps(_described(owner, provenance, items, request_data)), encoding="utf-8"
            )
            draft.rename(entry)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            log.warning("the outbox: %s", type(error).__name__, extra={"action": "outbox_failed"})
            return False
        log.info("a result is kept", extra={"action": "outbox_kept", "job_id": provenance.job_id, "bytes": size})
        return True

    def deliver(self, storage: Storage, documents: DocumentStore) -> int:
        """Deliver what is kept, oldest first, until something does not answer; how many results were delivered."""
        delivered = 0
        try:
            self._drop_old()
            for name in sorted(path.name for path in self._folder.iterdir() if path.name[:1].isdigit()):
                delivered += self._deliver_one(name, storage, documents)
        except FileNotFoundError:
            return delivered  # no outbox, or another worker was faster
        except (BackendError, OSError) as error:
            log.warning("the outbox waits: %s", type(error).__name__, extra={"action": "outbox_waits"})
        return delivered

    def _deliver_one(self, name: str, storage: Storage, documents: DocumentStore) -> bool:
        try:
            with self._taken(name) as entry:
                return entry is not None and _deliver(entry, storage, documents)
        except _NotYet:
            return False
        except (ValueError, KeyError, TypeError) as error:
            log.warning("an entry cannot be read: %s", where(error), extra={"action": "outbox_dropped"})
            return False

    @contextmanager
    def _taken(self, name: str) -> Iterator[Path | None]:
        """The entry under a name of this worker's own; put back where nothing answered, removed otherwise."""
        taken = self._folder / f"taken-{name}"
        try:
            (self._folder / name).rename(taken)
        except OSError:
            yield None
            return
        os.utime(taken)
        try:
            yield taken
        except (BackendError, OSError):
            taken.rename(self._folder / name)
            raise
        finally:
            shutil.rmtree(taken, ignore_errors=True)

    def _drop_old(self) -> None:
        now = time.time()
        for path in self._folder.iterdir():
            untouched = now - path.stat().st_mtime
            kept_at = path.name.removeprefix("taken-").removeprefix("draft-").partition("-")[0]
            old = now - (int(kept_at) if kept_at.isdigit() else path.stat().st_mtime) > self._max_age
            if path.name.startswith("taken-") and untouched > TAKEN_SECONDS:
                path.rename(path.with_name(path.name.removeprefix("taken-")))
            elif old or (path.name.startswith("draft-") and untouched > TAKEN_SECONDS):
                shutil.rmtree(path, ignore_errors=True)
                log.warning("an entry was too old", extra={"action": "outbox_dropped"})


class _NotYet(BackendError):
    """The worker that kept the result may still be about to write its document."""


def _described(
    owner: Owner, provenance: ObjectOwner, items: Sequence[Item], request_data: Mapping[str, Any]
) -> dict[str, Any]:
    files = [
        {
            "path": item.path,
            "seed": item.seed,
            "nsfw": item.nsfw,
            "content_type": item.encoded.content_type,
            "suffix": item.encoded.suffix,
            "width": item.encoded.width,
            "height": item.encoded.height,
        }
        for item in items
    ]
    described = {"owner": asdict(owner), "provenance": asdict(provenance)}
    return {**described, "files": files, "request_data": dict(request_data)}


def _deliver(entry: Path, storage: Storage, documents: DocumentStore) -> bool:
    """Upload an entry's files and finish its document; False where nobody waits for it any more."""
    description = json.loads((entry / "entry.json").read_text(encoding="utf-8"))
    owner, provenance = Owner(**description["owner"]), ObjectOwner(**description["provenance"])
    stored: list[Stored] = []
    files: list[File] = []
    try:
        _look(documents, owner, provenance)
        for index, facts in enumerate(description["files"]):
            path, seed, nsfw = facts.pop("path"), facts.pop("seed"), facts.pop("nsfw", None)
            encoded = Encoded(data=(entry / str(index)).read_bytes(), **facts)
            put = storage.put(path, encoded, seed, provenance, time.monotonic() + UPLOAD_SECONDS, nsfw=nsfw)
            stored.append(put)
            files.append(File.of(encoded, seed, url=put.url, storage_path=put.path, nsfw=nsfw))
        delivered = Delivered("firebase", tuple(str(file.url) for file in files), tuple(files))
        manifest, warnings = json.loads(provenance.manifest), [DELIVERED, *result.flagged(files)]
        data = result.generation_data(manifest, delivered, timings={}, warnings=warnings)
        _complete(documents, owner, provenance, description["request_data"], data)
    except Superseded:
        storage.remove([put for put in stored if not put.found])
        return False
    log.info("a kept result was delivered", extra={"action": "outbox_delivered", "job_id": provenance.job_id})
    return True


def _complete(
    documents: DocumentStore,
    owner: Owner,
    provenance: ObjectOwner,
    request_data: Mapping[str, Any],
    data: Mapping[str, Any],
) -> None:
    """Write the result where the document is still as its job left it.

    Raises:
        Superseded, BackendError.
    """
    if not provenance.claimed:
        bid = ClaimRequest(provenance.job_id, "outbox", provenance.request_hash, uuid.uuid4().hex)
        DocumentSession(documents, owner, bid, request_data).complete(data, time.monotonic() + COMPLETE_SECONDS)
        return
    version = None
    while version is None:
        snapshot = _look(documents, owner, provenance)
        # Disowned: the job that kept the result cannot take the document for its own any more.
        done = {**completed(data), "claim": disowned(snapshot.fields)}
        version = documents.update(document_path(owner), done, unchanged=snapshot.version, timeout=CALL_SECONDS * 2)


def _look(documents: DocumentStore, owner: Owner, provenance: ObjectOwner) -> Snapshot:
    """The document, as long as it waits for this result.

    Raises:
        Superseded: it was deleted, ended in another way, or is another job's.
        BackendError: that could not be found out, or cannot be told yet.
    """
    snapshot = documents.read(document_path(owner), timeout=CALL_SECONDS * 2)
    if not _still_waits(snapshot, provenance):
        raise Superseded
    return snapshot


def _still_waits(snapshot: Snapshot, provenance: ObjectOwner) -> bool:
    """Whether a document is as its job left it: failed for want of storage, never told of its end, or not known."""
    fields = snapshot.fields or {}
    status, code = fields.get("status"), (fields.get("error") or {}).get("code")
    if status not in {"processing", "completed", "failed"}:
        return not provenance.claimed  # Firestore was away all the time; else it was there, and its user deleted it
    if fields.get("job_id") != provenance.job_id:
        return False
    if provenance.claimed and fields.get("attempt") != provenance.attempt:
        return False
    if status == "processing" and not lease_is_over(fields, snapshot.read_at):
        raise _NotYet("firestore", "unreachable")
    return status == "processing" or (status == "failed" and code in {KEPT, WORKER_LOST})


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
