"""What a job may start from in its user's own folders: uploads, and results once their documents are completed.

The first pictures of a job lie in the bucket before it is paid for. Who could start another one from them would have
them, and cancel the rest. Knows objects and documents; knows no request and whose job asks.
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
    """`ReadObject` over the bucket; without documents everything there may be read."""

    storage: Storage
    documents: DocumentStore | None

    def __call__(self, path: str, max_bytes: int, seconds: float = timing.READ_OBJECT_SECONDS) -> bytes:
        """The object's bytes, within so many seconds; whose it is was looked at before.

        Raises:
            DownloadFailed: as `Storage.read_object`, or it is a result of a generation that is not completed.
            StorageUnavailable: the bucket or Firestore does not answer.
        """
        deadline = time.monotonic() + min(seconds, timing.READ_OBJECT_SECONDS)
        data, made_for = self.storage.read_object(path, max_bytes, seconds)
        folder, user_id, _ = path.split("/", 2)
        # After the bytes: what was completed by then is what was read. Of an upload its user says what they like.
        if folder == "generating" and made_for is not None and not self._is_completed(user_id, made_for, deadline):
            raise DownloadFailed("download_failed.not_completed", retryable=False)
        return data

    def _is_completed(self, user_id: str, made_for: str, deadline: float) -> bool:
        if self.documents is None:
            return True
        if file_uid(made_for) != made_for:
            return False
        documents, path = self.documents, document_path(Owner(user_id, made_for))

        def once() -> bool:
            found = documents.read(path, timeout=retry.seconds_left(deadline, timing.CALL_SECONDS))
            return status_of(found.fields) == "completed"

        try:
            return retry.until(deadline, once)
        except BackendError:
            raise StorageUnavailable("storage_unavailable.source") from None
