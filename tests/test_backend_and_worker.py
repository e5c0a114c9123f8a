"""The example backend with real workers behind it: cancelled jobs, and deleted users."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.clock import until
from tests.support.faulty_firebase import Fault, FaultyFirebase
from tests.support.faulty_world import Endpoint
from tests.support.fixtures import missing
from tools.emulators.functions import FunctionsEmulator
from tools.emulators.install import InstallError, MissingNodeError

pytestmark = pytest.mark.e2e

UID = "alice"
SECRET = "0123456789abcdef-0123456789abcdef"
SMALL = {"width": 64, "height": 64, "num_inference_steps": 4, "seed": 7}


@pytest.fixture
def endpoint(faulty_firebase: FaultyFirebase, tmp_path: Path) -> Iterator[Endpoint]:
    made = Endpoint(faulty_firebase, tmp_path)
    yield made
    made.close()


@pytest.fixture
def functions(endpoint: Endpoint) -> Iterator[FunctionsEmulator]:
    firebase = endpoint.firebase
    env = {
        "FIREBASE_AUTH_EMULATOR_HOST": firebase.auth_host,
        "RUNPOD_URL": endpoint.plane.url,
        "RUNPOD_ENDPOINT": "endpoint-1",
        "RUNPOD_API_KEY": "the-key",
        "TICKET_SECRET": SECRET,
        "STORAGE_BUCKET": firebase.bucket,
        "CREDITS": "on",
        "FREE_CREDITS": "100000",
    }
    direct = {"FIRESTORE_EMULATOR_HOST": firebase.firestore_address, "STORAGE_EMULATOR_HOST": firebase.storage_url}
    try:
        with FunctionsEmulator({**firebase.env, **direct}, env=env) as running:
            yield running
    except (MissingNodeError, InstallError) as error:
        missing(f"functions cannot be hosted: {error}")


def left(firebase: FaultyFirebase) -> set[str]:
    """Return every document about the user, and every object."""
    documents = set()
    for group in ("generations", "users", "wallets", "submissions", "quotes", "reports"):
        documents |= {found.reference.path for found in firebase.documents.collection(group).stream()}
    for group in ("files", "devices", "pushed", "holds", "ledger"):
        documents |= {found.reference.path for found in firebase.documents.collection_group(group).stream()}
    return documents | {blob.name for blob in firebase.objects.list_blobs()}


def test_nothing_is_left_of_a_user_with_jobs_in_flight(
    endpoint: Endpoint, functions: FunctionsEmulator, tmp_path: Path
) -> None:
    """One is running, one waits with an order slip, one without; a result waits on the volume, another is done."""
    firebase, volume = endpoint.firebase, tmp_path / "outbox"
    env = {"OUTBOX_DIR": str(volume), "MAX_RESULT_BYTES": "20000", "TICKET_SECRET": SECRET, "REQUIRE_ID_TOKEN": "true"}

    def document(file_uid: str) -> Any:
        return firebase.documents.document(f"generations/{UID}/files/{file_uid}")

    def generate(file_uid: str, *, slip: bool = False, **fields: Any) -> str:
        if slip:
            document(file_uid).create({"status": "queued"})
        asked = {"fileUid": file_uid, "input": {"prompt": "a fox", **SMALL, **fields}, "slip": slip}
        job_id: str = functions.call("generate", asked, uid=UID)["jobId"]
        return job_id

    first = endpoint.ready("worker-1", env)
    assert "error" not in endpoint.answer(generate("done"))
    functions.call("registerDevice", {"token": "token-1", "platform": "ios"}, uid=UID)
    functions.call("report", {"fileUid": "done", "reason": "offensive"}, uid=UID)
    firebase.objects.blob(f"uploads/{UID}/photo.png").upload_from_string(b"photo")
    firebase.storage_proxy.add(Fault("status", method="POST|PUT", path="/upload/", times=None, status=403))
    kept = endpoint.answer(generate("kept", num_images=2, width=512, height=512))
    assert "delivered later" in kept["error"]
    firebase.storage_proxy.clear()
    assert len(list(volume.iterdir())) == 1
    first.terminate()
    first.wait()

    endpoint.start("worker-2", {**env, "OUTBOX_DIR": str(tmp_path / "none" / "outbox")}, steps=100, step_seconds=0.15)
    making = generate("making", num_images=2, num_inference_steps=100)
    until(lambda: (document("making").get().to_dict() or {}).get("progress", {}).get("stage") == "generating", 60)
    waiting, without = generate("waiting", slip=True), generate("without")
    assert len(left(firebase)) > 10

    functions.user_deleted(UID)
    # The backend may have taken a job back before a worker saw that its document is gone.
    jobs, over = (making, waiting, without), {"FAILED", "COMPLETED", "CANCELLED"}
    until(lambda: {endpoint.plane.state(job) for job in jobs} <= over, 60)
    for job in jobs:
        assert all(answer["output"]["error_code"] == "deleted" for answer in endpoint.plane.results(job)), job
    endpoint.ready("worker-3", env)
    until(lambda: not list(volume.iterdir()), what="end of the entry on the volume")
    until(lambda: not left(firebase), what="end of all that is the user's")
    assert not left(firebase), left(firebase)


def test_a_job_that_is_stopped_in_the_queue_leaves_it_and_costs_nothing(
    endpoint: Endpoint, functions: FunctionsEmulator
) -> None:
    """No worker is up: none has to start just to end it."""
    document = endpoint.firebase.documents.document(f"generations/{UID}/files/waiting")
    wallet = endpoint.firebase.documents.document(f"wallets/{UID}")
    document.create({"status": "queued"})
    asked = {"fileUid": "waiting", "input": {"prompt": "a fox", **SMALL}, "slip": True}
    job = functions.call("generate", asked, uid=UID)["jobId"]
    assert endpoint.plane.state(job) == "IN_QUEUE"
    held = wallet.get().to_dict()
    document.update({"cancel_requested": True})
    until(lambda: (document.get().to_dict() or {}).get("status") == "failed", what="end of the document")
    assert (document.get().to_dict() or {})["error"]["code"] == "cancelled"
    assert endpoint.plane.state(job) == "CANCELLED"
    assert (held["held"], held["credits"]) == (8000, 92000)
    until(lambda: wallet.get().to_dict()["credits"] == 100000, what="credits that come back")

    endpoint.ready("worker-1", {"TICKET_SECRET": SECRET, "REQUIRE_ID_TOKEN": "true"})
    again = functions.call("generate", asked | {"slip": False}, uid=UID)["jobId"]
    assert "error" not in endpoint.answer(again)
    until(lambda: wallet.get().to_dict()["held"] == 0, what="price that is taken")
    assert wallet.get().to_dict()["spent"] == (document.get().to_dict() or {})["usage"]["units"]
