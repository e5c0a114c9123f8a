"""Stores a file for its owner: an object in the bucket, and the URL that serves it.

Uploads are conditional: an object is created only if its name is free, and replaced only while its generation is the
one that was read. Knows paths and download tokens (docs/api.md); knows no prompt, no document and no Google client.
"""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from worker.core import timing
from worker.core.errors import BackendError, DownloadFailed, StorageUnavailable, Superseded
from worker.core.types import Owner
from worker.media.artifact import Artifact
from worker.storage.store import Bucket, ObjectEncoded, ObjectInfo, ObjectTooLarge

TOKENS = "firebaseStorageDownloadTokens"
"""The custom metadata key under which Firebase keeps an object's download tokens, separated by commas."""
SERVICE = "https://firebasestorage.googleapis.com"
MAX_CHANGES = 6
"""How often an object may change between a look and the write before its upload is given up."""


@dataclass(frozen=True, slots=True)
class ObjectOwner:
    """Which job made an object. Kept in its metadata, so that attempts recognise their own objects and newer ones."""

    job_id: str
    attempt: int
    fingerprint: str
    claimed_at: str
    """When the attempt claimed the document: a sortable UTC timestamp. The later of two attempts wins."""
    manifest: str = "{}"
    """JSON of the result's model and params, from which its document can be completed without the worker."""
    claimed: bool = True
    """Whether the document is claimed. Without a claim nothing is replaced: it may be another job's."""
    file_uid: str = ""
    """The generation. The path does not determine it: the file of `a_0` has the name of the first of several of `a`."""

    def claim(self) -> dict[str, str]:
        """Return the metadata that identify the owner."""
        return {"job_id": self.job_id, "attempt": str(self.attempt), "claimed_at": self.claimed_at}

    def metadata(self, token: str, file: Artifact) -> dict[str, str]:
        """Return the custom metadata of an object, at most 8 KiB by Cloud Storage's limit."""
        return {
            TOKENS: token,
            **self.claim(),
            "file_uid": self.file_uid,
            "request_hash": self.fingerprint,
            "manifest": self.manifest,
            **file.metadata(),
        }


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object in the bucket, and its URL."""

    path: str
    url: str
    generation: int
    metageneration: int = 1
    found: bool = False
    """Whether it existed before and was only taken over."""


class NameTaken(BackendError):
    """An object of this name belongs to another generation of the same user; it is not replaced."""


class Storage:
    """Results in one bucket. All methods block; callers run them in threads, several at once."""

    def __init__(self, bucket: Bucket, emulator_url: str | None = None, *, retention: timedelta | None = None) -> None:
        """`retention`: how long stored objects are kept; None: no limit."""
        self._bucket, self._retention = bucket, retention
        self._service = emulator_url or SERVICE

    def put(self, path: str, file: Artifact, owner: ObjectOwner, deadline: float) -> StoredObject:
        """Upload a file, or take over an identical object of an earlier attempt. A repeated upload keeps its token.

        Raises:
            Superseded: a newer attempt has written the object.
            NameTaken: another generation owns the object.
            BackendError: it could not be stored by `deadline`, or only by replacing an object without a claim.
        """
        # A first attempt needs no look: the precondition detects an existing object.
        found = self._bucket.info(path, deadline=deadline) if owner.attempt > 1 else None
        for _ in range(MAX_CHANGES):
            token = str(uuid.uuid4())
            if found is not None:
                if _is_anothers(found, owner.file_uid):
                    raise NameTaken("storage", "refused")
                if found.metadata.get("claimed_at", "") > owner.claimed_at:
                    raise Superseded
                same_request = found.metadata.get("request_hash") == owner.fingerprint
                if same_request and _token(found) and found.crc32c == self._bucket.crc32c(file.data):
                    taken_over = self.take_over(self._stored(path, _token(found), found), found, owner, deadline)
                    if taken_over is not None:
                        return taken_over
                    found = self._bucket.info(path, deadline=deadline)
                    continue
                if not owner.claimed:
                    raise BackendError("storage", "refused")
                if same_request:
                    token = _token(found) or token
            stored = self._bucket.upload(
                path,
                file.data,
                content_type=file.content_type,
                metadata=owner.metadata(token, file),
                replaces=found.generation if found else 0,
                deadline=deadline,
                delete_at=self._delete_at(),
            )
            if stored is not None:
                return self._stored(path, token, stored)
            found = self._bucket.info(path, deadline=deadline)
        raise BackendError("storage", "unreachable")  # others kept changing the object

    def recall(
        self, paths: Sequence[str], file_uid: str, fingerprint: str, deadline: float
    ) -> list[tuple[StoredObject, ObjectInfo]] | None:
        """Return the objects under these paths; None unless all exist and were made for this request and id.

        Raises:
            BackendError: the bucket did not answer by `deadline`.
        """
        found: list[tuple[StoredObject, ObjectInfo]] = []
        for path in paths:
            info = self._bucket.info(path, deadline=deadline)
            if info is None or _is_anothers(info, file_uid):
                return None
            if info.metadata.get("request_hash") != fingerprint or not _token(info):
                return None
            found.append((self._stored(path, _token(info), info), info))
        return found

    def take_over(
        self, stored: StoredObject, seen: ObjectInfo, owner: ObjectOwner, deadline: float
    ) -> StoredObject | None:
        """Make an existing object this attempt's own; None if another attempt was faster or is newer.

        Raises:
            BackendError: the bucket did not answer by `deadline`.
        """
        if seen.metadata.get("claimed_at", "") > owner.claimed_at:
            return None
        taken_over = self._bucket.take_over(
            stored.path, owner.claim(), seen=seen, deadline=deadline, delete_at=self._delete_at()
        )
        return self._stored(stored.path, _token(seen), taken_over, found=True) if taken_over is not None else None

    def _delete_at(self) -> datetime | None:
        return datetime.now(UTC) + self._retention if self._retention is not None else None

    def _stored(self, path: str, token: str, info: ObjectInfo, *, found: bool = False) -> StoredObject:
        return StoredObject(path, self.url(path, token), info.generation, info.metageneration, found)

    def is_kept(self, stored: StoredObject, deadline: float) -> bool:
        """Whether an object is as this attempt left it: not taken over, replaced or deleted.

        Raises:
            BackendError: the bucket did not answer by `deadline`.
        """
        info = self._bucket.info(stored.path, deadline=deadline)
        return info is not None and (info.generation, info.metageneration) == (stored.generation, stored.metageneration)

    def remove(self, stored: Sequence[StoredObject]) -> None:
        """Delete the objects of a result that is not kept.

        Raises:
            BackendError: some may still exist.
        """
        deadline, failure = time.monotonic() + timing.REMOVE_SECONDS, None
        for item in stored:
            try:
                self._bucket.delete(
                    item.path, generation=item.generation, metageneration=item.metageneration, deadline=deadline
                )
            except BackendError as error:
                failure = error
        if failure is not None:
            raise failure

    def read_object(
        self, path: str, max_bytes: int, seconds: float = timing.READ_OBJECT_SECONDS
    ) -> tuple[bytes, str | None]:
        """Read a source picture from the bucket within `seconds`, at most `timing.READ_OBJECT_SECONDS`.

        Returns:
            The bytes, and the `file_uid` of the generation whose result they are; None: an upload.

        Raises:
            DownloadFailed: there is no such object, it is larger than `max_bytes`, or it has a content encoding.
            StorageUnavailable: the bucket does not answer.
        """
        try:
            deadline = time.monotonic() + min(seconds, timing.READ_OBJECT_SECONDS)
            found = self._bucket.read(path, max_bytes=max_bytes, deadline=deadline)
        except ObjectTooLarge:
            raise DownloadFailed("download_failed.object_too_large", most=max_bytes, retryable=False) from None
        except ObjectEncoded:
            raise DownloadFailed("download_failed.object_encoded", retryable=False) from None
        except BackendError:
            raise StorageUnavailable("storage_unavailable.source") from None
        if found is None:
            raise DownloadFailed("download_failed.no_object", retryable=False)
        info, data = found
        return data, info.metadata.get("file_uid")

    def url(self, path: str, token: str) -> str:
        """Return the download URL: anyone who has it can read the object."""
        return f"{self._service}/v0/b/{self._bucket.name}/o/{quote(path, safe='')}?alt=media&token={token}"


def object_path(owner: Owner, *, video: bool, suffix: str, index: int, count: int) -> str:
    """`generating/{user_id}/image/{file_uid}[_k].{suffix}` or `…/video/{file_uid}.mp4`; `suffix` has its dot."""
    number = f"_{index}" if count > 1 else ""
    return f"generating/{owner.user_id}/{'video' if video else 'image'}/{owner.file_uid}{number}{suffix}"


def thumbnail_path(path: str) -> str:
    """Return the path of an object's thumbnail: `…/{name}.png` -> `…/thumbs/{name}.webp`."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/thumbs/{name.rpartition('.')[0]}.webp"


def _is_anothers(found: ObjectInfo, file_uid: str) -> bool:
    return found.metadata.get("file_uid", file_uid) != file_uid


def _token(found: ObjectInfo) -> str:
    return found.metadata.get(TOKENS, "").split(",")[0]
