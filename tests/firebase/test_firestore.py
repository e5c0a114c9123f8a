"""Firestore at the border: what gets lost is written all the same, and what is refused is not asked for again.

What it does where nothing is broken is in `test_contracts.py`.
"""

import time

import pytest

from tests.support.faulty_firebase import FaultyFirebase
from tests.support.firebase_worker import DOCUMENT, Worker


@pytest.fixture
def worker(faulty_firebase: FaultyFirebase) -> Worker:
    return Worker(faulty_firebase)


@pytest.mark.e2e
async def test_a_firestore_that_refuses_is_not_tried_again(worker: Worker) -> None:
    worker.firebase.fail_firestore("BatchGetDocuments", "PERMISSION_DENIED", times=None)
    worker.firebase.fail_firestore("Commit", "PERMISSION_DENIED", times=None)
    started = time.monotonic()
    response = await worker.job()
    assert time.monotonic() - started < 4
    assert response["storage"] == "firebase"
    assert any("firestore_synced: false" in warning for warning in response["warnings"])


@pytest.mark.e2e
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_claim_or_an_end_that_gets_lost_once_is_written_all_the_same(worker: Worker, when: str) -> None:
    worker.firebase.fail_firestore("Commit", "UNAVAILABLE", times=1, when=when)  # type: ignore[arg-type]  # a Literal
    response = await worker.job()
    assert response["warnings"] == []
    document = worker.document()
    assert (document["status"], document["attempt"]) == ("completed", 1)
    statuses = [write.fields["status"] for write in worker.firebase.writes(DOCUMENT) if "status" in write.fields]
    assert statuses[-1] == "completed"
    assert statuses.count("completed") == 1
