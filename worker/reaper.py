"""Nobody waits for ever: documents whose worker is gone are brought to `failed`.

    python -m worker.reaper            once; for cron, or a scheduled job
    python -m worker.reaper --every 60

A document that is still `processing` after its `expires_at` has no worker any more. The reaper marks it `worker_lost`,
retryable, if nothing has changed it since; a worker that comes back finds its claim gone and changes nothing. Knows the
lease, not what is generated under it. Needs the index in `firestore.indexes.json`.
"""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from typing import Protocol

from worker.core import logs, timing
from worker.core.config import ConfigError, load_settings, set_library_defaults
from worker.core.errors import BackendError
from worker.document.session import expire
from worker.document.store import DocumentStore
from worker.firebase.app import Firebase

BATCH = 200

log = logging.getLogger(__name__)


class ExpiredDocuments(DocumentStore, Protocol):
    """Documents that can also be found by their lease."""

    def expired(self, *, limit: int, timeout: float) -> Sequence[str]:
        """Paths of documents that are `processing` and past `expires_at`, oldest first."""
        ...


def reap(documents: ExpiredDocuments, limit: int = BATCH) -> int:
    """Mark up to `limit` expired documents; how many were marked. A document that changes meanwhile is left alone.

    Raises:
        BackendError: Firestore does not answer.
    """
    marked = 0
    for path in documents.expired(limit=limit, timeout=5 * timing.CALL_SECONDS):
        try:
            job_id = expire(documents, path)
        except BackendError as error:
            if error.kind != "invalid":
                raise
            continue  # what cannot be written must not keep the others waiting
        if job_id is not None:
            marked += 1
            log.info("worker lost", extra={"action": "reaped", "job_id": job_id})
    return marked


def main(argv: list[str]) -> int:
    """Reap once or repeatedly; 0, or 1 when Firebase is not configured or does not answer."""
    parser = argparse.ArgumentParser(
        prog="python -m worker.reaper", description="Mark documents of lost workers failed."
    )
    parser.add_argument("--every", type=float, metavar="SECONDS", help="go on for ever, with this pause")
    arguments = parser.parse_args(argv)
    set_library_defaults()
    try:
        settings = load_settings()
        logs.configure(settings)
        documents = Firebase(settings).documents
    except ConfigError as error:
        log.error("%s", error, extra={"action": "reaper_failed"})  # noqa: TRY400 - no traceback
        return 1
    if documents is None:
        log.error("no Firestore is configured", extra={"action": "reaper_failed"})
        return 1
    while True:
        try:
            log.info("%d documents marked", reap(documents), extra={"action": "reaper"})
        except BackendError as error:
            log.error("%s", error, extra={"action": "reaper_failed"})  # noqa: TRY400 - no traceback
            if arguments.every is None:
                return 1
        if arguments.every is None:
            return 0
        time.sleep(arguments.every)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
