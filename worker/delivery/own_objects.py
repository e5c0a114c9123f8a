"""Reads a job's sources from its user's own folders: uploads, and results whose documents are completed.

The first images of a job are in the bucket before the job is paid for. A second job that started from them would give
them away, and the first could then be cancelled. Knows objects and documents; knows no request.
"""

import time
from dataclasses import dataclass

from worker.api.field_types import file_uid
from worker.core import retry, timing
from worker.core.errors import BackendError, DownloadFailed, StorageUnavailable
from worker.core.types import Owner
from worker.document.schema import document_path, status_of
from worker.document.store import DocumentStore
from worker.storage.results import Storage


@dataclass(frozen=True, slots=True)
class OwnObjects:
    """Implements `ReadObject` on the bucket; without documents every object may be read."""

    storage: Storage
    documents: DocumentStore | None

    def __call__(self, path: str, max_bytes: int, seconds: float = timing.READ_OBJECT_SECONDS) -> bytes:
        """Return the object's bytes, within `seconds`; the caller has checked the owner.

        Raises:
            DownloadFailed: as `Storage.read_object`, or it is a result of a generation that is not completed.
            StorageUnavailable: the bucket or Firestore does not answer.
        """
        deadline = time.monotonic() + min(seconds, timing.READ_OBJECT_SECONDS)
        data, made_for = self.storage.read_object(path, max_bytes, seconds)
        folder, user_id, _ = path.split("/", 2)
        # After the read, so that the completed result is what was read. The metadata of uploads are the user's own.
        if folder == "generating" and made_for is not None and self.documents is not None:
            status = self._status(self.documents, user_id, made_for, deadline)
            if status != "completed":
                under_way = status in {"queued", "processing"}
                raise DownloadFailed("download_failed.not_completed", retryable=under_way)
        return data

    def _status(self, documents: DocumentStore, user_id: str, made_for: str, deadline: float) -> str | None:
        """Return the status of the generation's document; None if there is none."""
        if file_uid(made_for) != made_for:
            return None
        path = document_path(Owner(user_id, made_for))

        def once() -> str | None:
            found = documents.read(path, timeout=retry.seconds_left(deadline, timing.CALL_SECONDS))
            return status_of(found.fields)

        try:
            return retry.until(deadline, once)
        except BackendError:
            raise StorageUnavailable("storage_unavailable.source") from None
