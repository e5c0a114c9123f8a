"""Marks the documents of lost jobs as `failed`, so that no app waits for ever.

    python -m worker.reaper            once; for cron, or a scheduled job
    python -m worker.reaper --every 60 --queued 1500

A document that is still `processing` after its `expires_at` has lost its worker, and an order slip that has been
`queued` for longer than RunPod keeps a job (`--queued`) will never get one. The reaper marks both `worker_lost`,
retryable, unless they change meanwhile; a worker that returns finds its claim gone and writes nothing. Knows the lease,
not what is generated under it. Needs the indexes in `firestore.indexes.json`.
"""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from worker.core import logs, timing
from worker.core.config import ConfigError, default_settings, load_settings, set_library_defaults
from worker.core.errors import BackendError
from worker.document.session import expire
from worker.document.store import DocumentStore
from worker.firebase.app import Firebase

BATCH = 200
QUEUE_SECONDS = 24 * 3600.0
"""RunPod's default time to live of a job, used if the request sets no `policy.ttl`:
https://docs.runpod.io/serverless/endpoints/send-requests#execution-policies."""

log = logging.getLogger(__name__)


class OldDocuments(DocumentStore, Protocol):
    """A document store that can also be queried by age."""

    def older(self, status: str, field: str, than: datetime, *, limit: int, timeout: float) -> Sequence[str]:
        """Return paths of generations with this status whose time in `field` is before `than`, oldest first."""
        ...


def reap(
    documents: OldDocuments,
    *,
    queue_seconds: float = QUEUE_SECONDS,
    limit: int = BATCH,
    retention: timedelta | None = None,
) -> int:
    """Mark up to `limit` lost jobs and as many order slips. A document that changes meanwhile is left alone.

    `retention`: how long a marked document is kept; None: no limit.

    Returns:
        How many were marked.

    Raises:
        BackendError: Firestore does not answer.
    """
    marked, now = 0, datetime.now(UTC)
    old = {"expires_at": ("processing", now), "created_at": ("queued", now - timedelta(seconds=queue_seconds))}
    for field, (status, than) in old.items():
        for path in documents.older(status, field, than, limit=limit, timeout=5 * timing.CALL_SECONDS):
            try:
                job_id = expire(documents, path, queue_seconds, retention)
            except BackendError as error:
                if error.kind != "invalid":
                    raise
                # A document that cannot be written must not block the others.
                log.warning("a document could not be marked", extra={"action": "reap_failed"})
                continue
            if job_id is not None:
                marked += 1
                log.info("worker lost", extra={"action": "reaped", "job_id": job_id or None})
    return marked


def main(argv: list[str]) -> int:
    """Reap once or repeatedly; returns 0, or 1 if Firebase is not configured or does not answer."""
    parser = argparse.ArgumentParser(
        prog="python -m worker.reaper", description="Mark documents of lost workers failed."
    )
    parser.add_argument("--every", type=float, metavar="SECONDS", help="go on for ever, with this pause")
    parser.add_argument(
        "--queued",
        type=float,
        default=QUEUE_SECONDS,
        metavar="SECONDS",
        help="how long RunPod keeps a job that nobody takes: the ttl of your backend's requests (default: %(default)g)",
    )
    arguments = parser.parse_args(argv)
    set_library_defaults()
    logs.configure(default_settings())  # what is wrong with the environment is a log line too
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
            marked = reap(documents, queue_seconds=arguments.queued, retention=settings.retention)
            log.info("%d documents marked", marked, extra={"action": "reaper"})
        except BackendError as error:
            log.error("%s", error, extra={"action": "reaper_failed"})  # noqa: TRY400 - no traceback
            if arguments.every is None:
                return 1
        if arguments.every is None:
            return 0
        time.sleep(arguments.every)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
