"""The bucket at the border: what passes is tried again, what is refused is not, and nothing damaged is ever stored.

What it does where nothing is broken is in `test_contracts.py`.
"""

import time

import pytest

from tests.support.clock import FIREBASE_DOWN_SECONDS, SOON_SECONDS
from tests.support.faulty_firebase import Fault, FaultyFirebase
from tests.support.firebase_worker import OBJECT, Worker, check_inline
from tools import showing
from worker.storage.results import thumbnail_path


@pytest.fixture
def worker(faulty_firebase: FaultyFirebase) -> Worker:
    return Worker(faulty_firebase)


PASSING: dict[str, list[Fault]] = {
    "503 twice": [Fault("status", method="POST", times=2, status=503)],
    "429": [Fault("status", method="POST", status=429)],
    "reset mid-body": [Fault("reset", method="POST", after_bytes=300)],
    "lost answer after commit": [Fault("lose_answer", method="POST")],
    "503 after commit": [Fault("status_after", method="POST", status=503)],
    "corrupted twice": [Fault("corrupt", method="POST", times=2)],
    "an answer that is cut": [Fault("cut_answer", method="POST", after_bytes=20)],
    "slow": [Fault("delay", method="POST", seconds=2.0)],
}


@pytest.mark.e2e
@pytest.mark.parametrize("fault", PASSING)
async def test_a_fault_that_passes_ends_in_one_object_whose_url_serves_it(worker: Worker, fault: str) -> None:
    worker.firebase.storage_proxy.add(*PASSING[fault])
    started = time.monotonic()
    response = await worker.job()
    assert time.monotonic() - started < FIREBASE_DOWN_SECONDS
    assert response["storage"] == "firebase", response
    assert response["warnings"] == []
    assert sorted(worker.objects()) == [OBJECT, thumbnail_path(OBJECT)]
    served = showing.content(response["image_url"])
    assert len(served) == response["files"][0]["bytes"]
    assert served == worker.firebase.objects.blob(OBJECT).download_as_bytes()
    showing.check_image(served, 64, 64)
    assert worker.document()["generation_data"]["image_url"] == response["image_url"]


@pytest.mark.e2e
@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_refusal_is_not_tried_again(worker: Worker, status: int) -> None:
    worker.firebase.storage_proxy.add(Fault("status", method="POST", times=None, status=status))
    started = time.monotonic()
    response = await worker.job()
    assert time.monotonic() - started < SOON_SECONDS
    check_inline(response)
    assert len(worker.uploads()) == 2, "the file and its thumbnail, once each"


@pytest.mark.e2e
async def test_of_two_images_of_which_one_cannot_be_stored_none_stays(worker: Worker) -> None:
    worker.firebase.storage_proxy.add(Fault("delay", method="POST", seconds=0.1))
    worker.firebase.storage_proxy.add(Fault("status", method="POST", times=None, status=403))
    response = await worker.job(num_images=2)
    assert response["storage"] == "base64"
    assert len(response["images"]) == 2
    assert worker.objects() == []


@pytest.mark.e2e
async def test_what_is_corrupted_every_time_is_given_up_in_time_and_never_stored(worker: Worker) -> None:
    worker.firebase.storage_proxy.add(Fault("corrupt", method="POST", times=None))
    started = time.monotonic()
    response = await worker.job()
    assert 4 < time.monotonic() - started < FIREBASE_DOWN_SECONDS, "it was not tried for as long as an upload may take"
    check_inline(response)
    assert len(worker.uploads()) > 2
    assert worker.objects() == []


@pytest.mark.e2e
async def test_what_the_bucket_says_of_an_upload_is_told_once_a_try_by_its_name(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    worker.firebase.storage_proxy.add(Fault("corrupt", method="POST"))
    response = await worker.job()
    assert (response["storage"], response["warnings"]) == ("firebase", [])
    told = [record.getMessage() for record in caplog.records if getattr(record, "action", "") == "backend_error"]
    assert told == ["storage: BadRequest"]
