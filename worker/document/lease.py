"""One job's document as the task sees it: claimed, kept up, ended; or nothing at all where there is none to write.

Knows deadlines and what to do when Firestore does not answer; knows no field (that is `fields`) and no result. With one
upload (8 s at most without success) these deadlines keep what a dead Firebase costs a job below 15 s in all.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from worker.core.errors import BackendError, Cancelled, Deleted, JobError, Superseded
from worker.core.stop import StopSignal
from worker.core.types import Owner, Progress
from worker.document.keeper import LeaseKeeper
from worker.document.session import DocumentSession
from worker.document.store import DocumentStore
from worker.document.transitions import ClaimRequest, Decision

CLAIM_SECONDS = 3.5
TERMINAL_SECONDS = 2.5
UNREACHED = "firestore: could not be reached when the job started; its document may be missing"

log = logging.getLogger(__name__)


class Lease:
    """All methods are for the event loop. Without `documents` every method does nothing."""

    def __init__(self, documents: DocumentStore | None, owner: Owner, *, job_id: str, worker_id: str) -> None:
        self._documents, self._owner = documents, owner
        self._job_id, self._worker_id = job_id, worker_id
        self._began = datetime.now(UTC)
        self._document: DocumentSession | None = None
        self._keeper: LeaseKeeper | None = None
        self._claiming: asyncio.Task[Decision] | None = None

    @property
    def claimed(self) -> bool:
        """Whether the document is known to be this job's, or there is none to claim; objects are replaced only then."""
        return self._documents is None or (self._document is not None and self._document.claimed)

    @property
    def attempt(self) -> int:
        """The fence of this attempt; 1 where no document says otherwise."""
        return max(1, self._document.attempt) if self._document else 1

    @property
    def claimed_at(self) -> str:
        """When the document was claimed (server time), or this attempt began; a UTC timestamp that sorts."""
        known = self._document.claimed_at if self._document else None
        return (known or self._began).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    async def claim(
        self, request_data: Mapping[str, Any], request_hash: str, stop: StopSignal, warn: Callable[[str], None]
    ) -> Decision | None:
        """Claim the document and keep it from now on; None where that could not be decided.

        Then the keeper goes on trying: a job that Firestore did not know when it began is known as soon as it can be.
        """
        if self._documents is None:
            return None
        document = self._document = self._open(request_data, request_hash)
        claim = asyncio.to_thread(document.claim, time.monotonic() + CLAIM_SECONDS)
        self._claiming = asyncio.create_task(claim)
        decision = None
        try:
            # Who gives up on a claim does not end it: it is waited for before anything else is written (`close`).
            decision = await asyncio.shield(self._claiming)
        except BackendError as reason:
            warn(UNREACHED)
            facts = {"action": "unclaimed", "job_id": self._job_id}
            log.warning("the document could not be claimed, the job goes on without it: %s", reason, extra=facts)
        if not document.refused:
            self._keeper = LeaseKeeper(document, stop)
        return decision

    async def confirm(self) -> None:
        """Learn, if the last news are not fresh, whether the job is still wanted; if not, it is told to stop."""
        if self._keeper is not None:
            await self._keeper.confirm()

    def note(self, progress: Progress) -> None:
        """Have progress written when it is due."""
        if self._keeper is not None:
            self._keeper.note(progress)

    async def complete(self, generation_data: Mapping[str, Any]) -> bool:
        """Write the result; whether the document is in step now.

        Raises:
            Deleted, Superseded, IdempotencyMismatch: the result must not be kept, or is not this attempt's to give.
        """
        if self._document is None:
            return True
        await self.close()
        try:
            await asyncio.to_thread(self._document.complete, generation_data, time.monotonic() + TERMINAL_SECONDS)
        except BackendError:
            return False
        return True

    async def fail(self, error: JobError | Cancelled, request_data: Mapping[str, Any]) -> None:
        """Write the failure where it is this job's to write: on its claim, or as a refusal that harms nobody."""
        await self.close()
        if self._documents is None or isinstance(error, Deleted | Superseded):
            return
        deadline = time.monotonic() + TERMINAL_SECONDS
        try:
            if self._document is None:
                await asyncio.to_thread(self._open(request_data, "").refuse, error, deadline)
            elif not self._document.refused:
                await asyncio.to_thread(self._document.fail, error, deadline)
        except (BackendError, JobError) as reason:
            log.warning(
                "a failure was not written: %s", reason, extra={"action": "not_written", "job_id": self._job_id}
            )

    async def close(self) -> None:
        """Write no progress and no heartbeat any more; a claim that nobody waits for comes to its end first."""
        if self._claiming is not None:
            await asyncio.gather(self._claiming, return_exceptions=True)
        if self._keeper is not None:
            await self._keeper.close()

    def _open(self, request_data: Mapping[str, Any], request_hash: str) -> DocumentSession:
        assert self._documents is not None  # noqa: S101 - asked by every caller
        bid = ClaimRequest(self._job_id, self._worker_id, request_hash, uuid.uuid4().hex)
        return DocumentSession(self._documents, self._owner, bid, request_data)
