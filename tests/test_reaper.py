"""The reaper ends a document past its lease, and leaves everything else alone. Tested over the emulator, as it runs."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tools.emulators.firebase import FirebaseEmulators, environment
from worker.core.config import REPOSITORY, load_settings
from worker.core.errors import Superseded
from worker.core.types import Owner
from worker.document.schema import ClaimRequest, document_path
from worker.document.session import DocumentSession
from worker.document.transitions import Deny, Grant
from worker.firebase.app import Firebase
from worker.firebase.firestore import FirestoreStore
from worker.reaper import reap

FIELDS = ("project_id", "client_email", "private_key", "token_uri")


@pytest.fixture
def documents(firebase: FirebaseEmulators) -> Iterator[FirestoreStore]:
    with environment(firebase.env):
        found = Firebase(load_settings()).documents
        assert found is not None
        yield found


def claimed(documents: FirestoreStore, user: str, job: str = "job-1") -> DocumentSession:
    document = DocumentSession(
        documents, Owner(user, "file"), ClaimRequest(job, "w", "hash", f"nonce-{time.time()}"), {}
    )
    assert isinstance(document.claim(time.monotonic() + 5), Grant)
    return document


def fields(firebase: FirebaseEmulators, user: str) -> dict[str, Any]:
    found: dict[str, Any] = firebase.documents.document(document_path(Owner(user, "file"))).get().to_dict()
    return found


def expire(firebase: FirebaseEmulators, user: str) -> None:
    over = datetime.now(UTC) - timedelta(seconds=5)
    firebase.documents.document(document_path(Owner(user, "file"))).update({"expires_at": over})


def ran(variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "worker.reaper"]
    with environment(variables):
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.e2e
def test_a_wrong_environment_is_told_in_one_log_line() -> None:
    done = ran({"RUNPOD_ENDPOINT_ID": "e1", "LOG_LEVEL": "SECRET"})
    said = json.loads(done.stderr)
    assert (done.returncode, said["action"]) == (1, "reaper_failed")
    assert said["message"].startswith("LOG_LEVEL: ")
    assert "SECRET" not in done.stderr


def test_only_documents_past_their_lease_are_marked(firebase: FirebaseEmulators, documents: FirestoreStore) -> None:
    lost, alive, done = (claimed(documents, user) for user in ("lost", "alive", "done"))
    done.complete({"storage": "firebase"}, time.monotonic() + 5)
    expire(firebase, "lost")
    expire(firebase, "done")
    assert reap(documents) == 1
    marked = fields(firebase, "lost")
    assert (marked["status"], marked["error"]["code"], marked["error"]["retryable"]) == ("failed", "worker_lost", True)
    assert "progress" not in marked
    assert isinstance(marked["completed_at"], datetime)
    assert fields(firebase, "alive")["status"] == "processing"
    assert fields(firebase, "done")["status"] == "completed"
    alive.complete({"storage": "firebase"}, time.monotonic() + 5)
    with pytest.raises(Superseded):
        lost.complete({"storage": "firebase"}, time.monotonic() + 5)
    assert reap(documents) == 0


def test_a_job_that_was_reaped_three_times_is_poison(firebase: FirebaseEmulators, documents: FirestoreStore) -> None:
    for _ in range(3):
        claimed(documents, "poor")
        expire(firebase, "poor")
        assert reap(documents) == 1
    document = DocumentSession(documents, Owner("poor", "file"), ClaimRequest("job-1", "w", "hash", "n"), {})
    decision = document.claim(time.monotonic() + 5)
    assert isinstance(decision, Deny)
    assert fields(firebase, "poor")["error"]["code"] == "poison_job"


def test_a_foreign_document_of_the_same_name_is_left_alone_and_keeps_no_lost_job_waiting(
    firebase: FirebaseEmulators, documents: FirestoreStore
) -> None:
    """Another collection of an app may be called `files`, and be writable by anybody."""
    over = datetime.now(UTC) - timedelta(hours=1)
    strange = {"status": "processing", "expires_at": over, "claim": "x", "attempt": "y"}
    foreign = ["projects/p1/files/evil", "a/b/generations/u/files/deep", *(f"projects/p{n}/files/f" for n in range(7))]
    for path in foreign:
        firebase.documents.document(path).set(strange)
    firebase.documents.document("generations/odd/files/file").set(strange)
    claimed(documents, "lost")
    expire(firebase, "lost")
    assert reap(documents, limit=3) == 2
    assert fields(firebase, "lost")["error"]["code"] == "worker_lost"
    assert fields(firebase, "odd")["error"]["code"] == "worker_lost"
    for path in foreign:
        assert firebase.documents.document(path).get().to_dict() == strange


def test_a_slip_whose_job_was_never_taken_ends(firebase: FirebaseEmulators, documents: FirestoreStore) -> None:
    ages = {"stale": 1000, "fresh": 800}
    for user, age in ages.items():
        created = datetime.now(UTC) - timedelta(seconds=age)
        firebase.documents.document(f"generations/{user}/files/file").set(
            {"status": "queued", "created_at": created, "favorite": True}
        )
    assert reap(documents, queue_seconds=900) == 1
    ended = fields(firebase, "stale")
    assert (ended["status"], ended["error"]["code"], ended["favorite"]) == ("failed", "worker_lost", True)
    assert fields(firebase, "fresh")["status"] == "queued"
    session = claimed(documents, "stale")
    session.complete({"storage": "firebase"}, time.monotonic() + 5)
    assert fields(firebase, "stale")["status"] == "completed"


def test_it_runs_as_a_command_in_the_database_that_is_named(firebase: FirebaseEmulators) -> None:
    lost = {"status": "processing", "expires_at": datetime(2020, 1, 1, tzinfo=UTC)}
    photos, default = firebase.documents_in(firebase.project, "photos"), firebase.documents
    for client in (photos, default):
        client.document("generations/lost/files/file").set(lost)
    done = ran({**firebase.env, "FIRESTORE_DATABASE": "photos"})
    assert done.returncode == 0, done.stderr
    statuses = [client.document("generations/lost/files/file").get().get("status") for client in (photos, default)]
    assert statuses == ["failed", "processing"]


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FIREBASE_SERVICE_ACCOUNT_KEY", json.dumps(dict.fromkeys(FIELDS, "x") | {"type": "service_account"})),
        ("FIREBASE_STORAGE_BUCKET", "gs://a/b"),
    ],
)
def test_a_wrong_variable_is_named_in_one_line(variable: str, value: str) -> None:
    done = ran({variable: value})
    assert done.returncode == 1
    assert f"{variable}: " in done.stderr
    assert done.stderr.count("\n") == 1


def test_it_runs_as_a_command(firebase: FirebaseEmulators, documents: FirestoreStore) -> None:
    claimed(documents, "lost")
    expire(firebase, "lost")
    done = ran(dict(firebase.env))
    assert done.returncode == 0, done.stderr
    assert "1 documents marked" in done.stderr
    assert fields(firebase, "lost")["status"] == "failed"


@pytest.mark.e2e
def test_without_firebase_it_says_so() -> None:
    done = ran({})
    assert done.returncode == 1
    assert "FIREBASE_SERVICE_ACCOUNT_KEY: is not set" in done.stderr
