"""The emulators keep the guarantees that the worker's protocol relies on, tested through Google's own libraries."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import firebase_admin
import pytest
from firebase_admin import auth
from firebase_admin import firestore as admin_firestore
from firebase_admin import storage as admin_storage
from google.api_core import exceptions
from google.auth import credentials
from google.cloud import firestore

from tests.support.clock import until
from tests.support.gcs import FakeGcs
from tools.emulators.firebase import EmulatorError, FirebaseEmulators
from tools.emulators.process import group_members

pytestmark = pytest.mark.e2e

PATH = "generations/alice/files/f1"


@pytest.fixture
def app(firebase: FirebaseEmulators, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Yield firebase-admin, set up as the worker does it, with no key and no network."""
    for name, value in firebase.env.items():
        monkeypatch.setenv(name, value)
    options = {"projectId": firebase.project, "storageBucket": firebase.bucket}
    anonymous = credentials.AnonymousCredentials()  # type: ignore[no-untyped-call]  # google-auth is partly typed
    opened = firebase_admin.initialize_app(anonymous, options, name=f"test-{time.monotonic_ns()}")
    yield opened
    firebase_admin.delete_app(opened)


def fetch(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


def upload(bucket: Any, name: str, data: bytes, *, token: str = "token-1", **options: Any) -> Any:
    blob = bucket.blob(name, chunk_size=options.pop("chunk_size", None))
    blob.metadata = {"firebaseStorageDownloadTokens": token}
    blob.upload_from_file(io.BytesIO(data), size=len(data), content_type="image/png", **options)
    return blob


class TestStorageRules:
    """In the emulator a signed-in app may do what storage.rules allow, and nothing else."""

    @pytest.fixture
    def alice(self, firebase: FirebaseEmulators) -> str:
        return firebase.create_user("alice")

    @staticmethod
    def ask(
        firebase: FirebaseEmulators,
        token: str | None,
        method: str,
        name: str,
        *,
        kind: str = "image/png",
        size: int = 8,
    ) -> int:
        """Return the status that a phone gets for an upload (POST), a metadata read (GET) or a DELETE."""
        place = f"?name={quote(name, safe='')}" if method == "POST" else f"/{quote(name, safe='')}"
        request = urllib.request.Request(
            f"{firebase.storage_url}/v0/b/{firebase.bucket}/o{place}",
            data=bytes(size) if method == "POST" else None,
            headers={"Content-Type": kind} | ({"Authorization": f"Firebase {token}"} if token else {}),
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def test_an_owner_uploads_looks_and_deletes(self, firebase: FirebaseEmulators, alice: str) -> None:
        for method in ("POST", "GET", "DELETE"):
            assert self.ask(firebase, alice, method, "uploads/alice/in.png") in {200, 204}

    def test_an_owner_uploads_the_largest_picture_that_a_worker_takes(
        self, firebase: FirebaseEmulators, alice: str
    ) -> None:
        assert self.ask(firebase, alice, "POST", "uploads/alice/in.png", size=64 * 1024 * 1024 - 1) == 200
        assert self.ask(firebase, alice, "DELETE", "uploads/alice/in.png") in {200, 204}

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("uploads/bob/in.png", {}),
            ("uploads/alice/a b.png", {}),
            ("uploads/alice/deeper/in.png", {}),
            ("uploads/alice/in.html", {"kind": "text/html"}),
            ("uploads/alice/in.png", {"size": 64 * 1024 * 1024}),
            ("generating/alice/image/f1.png", {}),
        ],
        ids=["another's folder", "a name", "a folder", "a kind", "a size", "a result"],
    )
    def test_what_the_rules_do_not_allow_is_not_uploaded(
        self, firebase: FirebaseEmulators, alice: str, name: str, options: Any
    ) -> None:
        assert self.ask(firebase, alice, "POST", name, **options) == 403

    def test_nobody_uploads_unnamed(self, firebase: FirebaseEmulators) -> None:
        assert self.ask(firebase, None, "POST", "uploads/alice/in.png") == 403

    @pytest.mark.parametrize("name", ["generating/alice/image/f1.png", "generating/alice/image/thumbs/f1.webp"])
    def test_results_are_their_owners_to_delete_and_seen_by_their_urls_alone(
        self, app: Any, firebase: FirebaseEmulators, alice: str, name: str
    ) -> None:
        upload(admin_storage.bucket(app=app), name, b"pixels")
        bob = firebase.create_user("bob")
        assert [self.ask(firebase, bob, method, name) for method in ("GET", "DELETE")] == [403, 403]
        assert [self.ask(firebase, alice, method, name) for method in ("GET", "DELETE")] == [403, 204]


class TestStorage:
    def test_an_object_opens_only_with_its_download_token(self, app: Any, firebase: FirebaseEmulators) -> None:
        blob = upload(admin_storage.bucket(app=app), "generating/alice/image/f1.png", b"pixels")
        url = f"{firebase.storage_url}/v0/b/{firebase.bucket}/o/{quote(blob.name, safe='')}?alt=media"
        assert fetch(f"{url}&token=token-1") == (200, b"pixels")
        assert fetch(f"{url}&token=another")[0] == 403
        assert fetch(url)[0] == 403

    def test_a_changed_token_replaces_the_old_one(self, app: Any, firebase: FirebaseEmulators) -> None:
        blob = upload(admin_storage.bucket(app=app), "generating/alice/image/f1.png", b"pixels")
        blob.metadata = {"firebaseStorageDownloadTokens": "token-2"}
        blob.patch()
        url = f"{firebase.storage_url}/v0/b/{firebase.bucket}/o/{quote(blob.name, safe='')}?alt=media"
        assert fetch(f"{url}&token=token-1")[0] == 403
        assert fetch(f"{url}&token=token-2") == (200, b"pixels")

    def test_a_resumable_upload_in_chunks_arrives_whole(self, app: Any) -> None:
        data = os.urandom(3 * 262_144 + 17)
        blob = upload(admin_storage.bucket(app=app), "generating/alice/video/f1.mp4", data, chunk_size=262_144)
        blob.reload()
        assert blob.size == len(data)
        assert blob.download_as_bytes(checksum="crc32c") == data

    def test_a_wrong_checksum_stores_nothing(self, app: Any) -> None:
        bucket = admin_storage.bucket(app=app)
        blob = bucket.blob("generating/alice/image/f1.png")
        blob.crc32c = "AAAAAA=="
        with pytest.raises(exceptions.BadRequest):
            blob.upload_from_string(b"pixels", checksum=None)
        assert not bucket.blob(blob.name).exists()

    def test_an_unknown_bucket_does_not_exist(self, app: Any) -> None:
        with pytest.raises(exceptions.NotFound):
            upload(admin_storage.bucket("somebody-elses", app=app), "a.png", b"pixels")

    def test_reset_forgets_objects(self, app: Any, firebase: FirebaseEmulators) -> None:
        upload(admin_storage.bucket(app=app), "generating/alice/image/f1.png", b"pixels")
        firebase.reset()
        assert list(firebase.objects.list_blobs()) == []


@pytest.mark.parametrize("server", ["firebase", "fake_gcs"])
def test_generation_preconditions_are_honoured(server: str, request: pytest.FixtureRequest) -> None:
    """The extended Storage emulator and the independent server refuse the same requests by precondition."""
    started: FirebaseEmulators | FakeGcs = request.getfixturevalue(server)
    name = "generating/alice/image/f1.png"
    first = upload(started.objects, name, b"one", if_generation_match=0)
    with pytest.raises(exceptions.PreconditionFailed):
        upload(started.objects, name, b"two", if_generation_match=0)
    with pytest.raises(exceptions.PreconditionFailed):
        upload(started.objects, name, b"two" * 200_000, if_generation_match=0, chunk_size=262_144)
    second = upload(started.objects, name, b"two", if_generation_match=first.generation)
    assert second.generation > first.generation
    assert started.objects.blob(name).download_as_bytes() == b"two"
    with pytest.raises(exceptions.PreconditionFailed):
        upload(started.objects, name, b"three", if_generation_match=first.generation)


class TestFirestore:
    def test_every_server_timestamp_and_nested_field_of_a_write_is_set(self, app: Any) -> None:
        document = admin_firestore.client(app).document(PATH)
        now = firestore.SERVER_TIMESTAMP
        document.set({"created_at": now, "updated_at": now, "progress": {"at": now, "step": 1}, "label": "mine"})
        document.update({"progress.step": 2, "label": firestore.DELETE_FIELD, "count": firestore.Increment(2)})
        fields = document.get().to_dict()
        assert fields["created_at"] == fields["updated_at"] == fields["progress"]["at"]
        assert abs(fields["created_at"].timestamp() - time.time()) < 60
        assert (fields["progress"]["step"], fields["count"], "label" in fields) == (2, 2, False)

    def test_set_replaces_and_merge_keeps(self, app: Any) -> None:
        document = admin_firestore.client(app).document(PATH)
        document.set({"a": 1, "b": 1})
        document.set({"b": 2}, merge=True)
        assert document.get().to_dict() == {"a": 1, "b": 2}
        document.set({"b": 3})
        assert document.get().to_dict() == {"b": 3}

    def test_create_refuses_a_document_that_is_there_and_update_one_that_is_not(self, app: Any) -> None:
        document = admin_firestore.client(app).document(PATH)
        with pytest.raises(exceptions.NotFound):
            document.update({"status": "completed"})
        document.create({"status": "processing"})
        with pytest.raises(exceptions.AlreadyExists):
            document.create({"status": "processing"})

    def test_a_stale_update_time_is_refused(self, app: Any) -> None:
        client = admin_firestore.client(app)
        document = client.document(PATH)
        document.set({"attempt": 1})
        seen = document.get().update_time
        document.update({"attempt": 2})
        with pytest.raises(exceptions.FailedPrecondition):
            document.update({"attempt": 3}, option=client.write_option(last_update_time=seen))
        fresh = document.get().update_time
        document.update({"attempt": 3}, option=client.write_option(last_update_time=fresh))
        assert document.get().get("attempt") == 3

    def test_transactions_that_meet_count_every_one(self, app: Any) -> None:
        client = admin_firestore.client(app)
        document = client.document(PATH)
        document.set({"attempt": 0})
        together = threading.Barrier(2)
        tries: list[int] = []

        @firestore.transactional
        def claim(transaction: Any) -> None:
            attempt = document.get(transaction=transaction).get("attempt")
            tries.append(attempt)
            if len(tries) <= 2:
                together.wait(timeout=30)
            transaction.update(document, {"attempt": attempt + 1})

        threads = [threading.Thread(target=claim, args=(client.transaction(),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert document.get().get("attempt") == 2
        assert tries == [0, 0, 1]

    def test_a_batch_is_all_or_nothing(self, app: Any) -> None:
        client = admin_firestore.client(app)
        batch = client.batch()
        batch.set(client.document("a/1"), {"x": 1})
        batch.update(client.document("a/missing"), {"x": 1})
        with pytest.raises(exceptions.NotFound):
            batch.commit()
        assert not client.document("a/1").get().exists

    def test_a_listener_sees_creation_change_and_deletion(self, app: Any) -> None:
        document = admin_firestore.client(app).document(PATH)
        seen: list[Any] = []
        changed = threading.Condition()

        def note(snapshots: list[Any], _changes: Any, _time: Any) -> None:
            with changed:
                seen.append([snapshot.to_dict() for snapshot in snapshots if snapshot.exists])
                changed.notify_all()

        def expect(state: list[Any]) -> None:
            with changed:
                assert changed.wait_for(lambda: seen and seen[-1] == state, timeout=60), seen

        watch = document.on_snapshot(note)
        expect([])
        document.set({"status": "processing"})
        expect([{"status": "processing"}])
        document.update({"status": "completed"})
        expect([{"status": "completed"}])
        document.delete()
        expect([])
        watch.unsubscribe()

    def test_a_collection_group_query_finds_every_users_documents(self, app: Any) -> None:
        client = admin_firestore.client(app)
        for user in ("alice", "bob"):
            client.document(f"generations/{user}/files/f1").set({"status": "processing", "by": user})
        client.document("generations/carol/files/f1").set({"status": "completed"})
        query = client.collection_group("files").where(filter=firestore.FieldFilter("status", "==", "processing"))
        assert sorted(found.get("by") for found in query.stream()) == ["alice", "bob"]

    def test_the_journal_tells_every_write_in_order(self, app: Any, firebase: FirebaseEmulators) -> None:
        document = admin_firestore.client(app).document(PATH)
        document.set({"status": "processing", "updated_at": firestore.SERVER_TIMESTAMP})
        document.update({"progress": {"step": 1}})
        document.delete()
        told = [(write.kind, write.fields) for write in firebase.writes(PATH)]
        assert told == [
            ("write", {"status": "processing", "updated_at": None}),
            ("write", {"progress": {"step": 1}}),
            ("delete", {}),
        ]

    def test_a_commit_whose_answer_is_lost_took_effect(self, app: Any, firebase: FirebaseEmulators) -> None:
        document = admin_firestore.client(app).document(PATH)
        firebase.fail_firestore("Commit", "UNAVAILABLE", when="after")
        with pytest.raises(exceptions.ServiceUnavailable):
            document.create({"attempt": 1}, retry=None)
        assert firebase.documents.document(PATH).get().to_dict() == {"attempt": 1}

    def test_a_refused_commit_changes_nothing(self, app: Any, firebase: FirebaseEmulators) -> None:
        firebase.fail_firestore("Commit", "PERMISSION_DENIED")
        with pytest.raises(exceptions.PermissionDenied):
            admin_firestore.client(app).document(PATH).set({"attempt": 1})
        assert not firebase.documents.document(PATH).get().exists


def test_an_id_token_of_the_auth_emulator_is_verified(
    firebase: FirebaseEmulators, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`verify_id_token` accepts a phone's token, and refuses it once the user is deleted."""
    token = firebase.create_user("Alice")
    monkeypatch.setenv("FIREBASE_AUTH_EMULATOR_HOST", firebase.env["FIREBASE_AUTH_EMULATOR_HOST"])
    anonymous = credentials.AnonymousCredentials()  # type: ignore[no-untyped-call]  # google-auth is partly typed
    app = firebase_admin.initialize_app(anonymous, {"projectId": firebase.project}, name="auth")
    try:
        assert auth.verify_id_token(token, app=app, check_revoked=True)["uid"] == "Alice"
        firebase.reset()
        with pytest.raises(auth.UserNotFoundError):
            auth.verify_id_token(token, app=app, check_revoked=True)
    finally:
        firebase_admin.delete_app(app)


def test_the_emulators_end_with_a_parent_that_is_killed() -> None:
    """SIGKILL of the test process leaves no Node behind."""
    code = (
        "import time; from tools.emulators.firebase import FirebaseEmulators\n"
        "with FirebaseEmulators() as f: print(f._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    until(lambda: not group_members(pid), what="end of the group")


def test_a_failed_start_says_what_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error contains Node's own output instead of a timeout."""
    monkeypatch.setattr("tools.emulators.firebase.install", lambda: "/nonexistent")
    monkeypatch.delenv("NODE_PATH", raising=False)
    with pytest.raises(EmulatorError, match="Cannot find module"), FirebaseEmulators():
        pass
