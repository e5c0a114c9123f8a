"""The proxies do exactly what a fault says, as often as it says, and otherwise change nothing."""

from __future__ import annotations

import http.client
import threading
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import firestore

from tests.support.clock import is_within, took, until
from tests.support.faulty_firebase import Fault, FaultyFirebase
from tools.emulators.firebase import bucket_at, environment

NAME = "generating/alice/image/f1.png"


class Answer(Exception):
    """A response whose status code is not 2xx."""


def request(firebase: FaultyFirebase, method: str, path: str, body: bytes = b"", timeout: float = 5) -> bytes:
    connection = http.client.HTTPConnection(firebase.storage_proxy.address, timeout=timeout)
    try:
        connection.request(method, path, body, {"Authorization": "Bearer owner", "Content-Type": "image/png"})
        response = connection.getresponse()
        data = response.read()
    finally:
        connection.close()
    if response.status >= 300:
        raise Answer(response.status)
    return data


def upload(firebase: FaultyFirebase, body: bytes = b"pixels", **options: Any) -> bytes:
    path = f"/upload/storage/v1/b/{firebase.bucket}/o?uploadType=media&name={NAME}"
    return request(firebase, "POST", path, body, **options)


def stored(firebase: FaultyFirebase) -> bytes | None:
    blob = firebase.objects.get_blob(NAME)
    return blob.download_as_bytes() if blob else None


def documents(firebase: FaultyFirebase) -> Any:
    with environment({"FIRESTORE_EMULATOR_HOST": firebase.env["FIRESTORE_EMULATOR_HOST"]}):
        return firestore.Client(project=firebase.project, credentials=firebase.documents._credentials)


class TestStorage:
    def test_without_faults_requests_pass_and_are_remembered_without_credentials(
        self, faulty_firebase: FaultyFirebase
    ) -> None:
        upload(faulty_firebase)
        (seen,) = faulty_firebase.storage_proxy.requests
        assert (seen.method, seen.body_bytes, seen.fault) == ("POST", 6, None)
        assert seen.path.endswith(f"name={NAME}")
        assert "authorization" not in seen.headers
        assert stored(faulty_firebase) == b"pixels"

    def test_a_status_is_answered_as_often_as_said_and_nothing_is_stored(self, faulty_firebase: FaultyFirebase) -> None:
        faulty_firebase.storage_proxy.add(Fault("status", method="POST", path="/upload/", times=2, status=503))
        for _ in range(2):
            with pytest.raises(Answer, match="503"):
                upload(faulty_firebase)
        assert stored(faulty_firebase) is None
        upload(faulty_firebase)
        assert stored(faulty_firebase) == b"pixels"

    def test_a_fault_leaves_other_requests_alone(self, faulty_firebase: FaultyFirebase) -> None:
        faulty_firebase.storage_proxy.add(Fault("status", method="DELETE", times=None, status=403))
        upload(faulty_firebase)
        with pytest.raises(Answer, match="403"):
            request(faulty_firebase, "DELETE", f"/storage/v1/b/{faulty_firebase.bucket}/o/x")

    def test_a_lost_answer_is_lost_after_the_effect(self, faulty_firebase: FaultyFirebase) -> None:
        faulty_firebase.storage_proxy.add(Fault("lose_answer"))
        with pytest.raises(ConnectionResetError):
            upload(faulty_firebase)
        assert stored(faulty_firebase) == b"pixels"

    def test_a_failure_after_the_effect_is_still_the_effect(self, faulty_firebase: FaultyFirebase) -> None:
        faulty_firebase.storage_proxy.add(Fault("status_after", status=500))
        with pytest.raises(Answer, match="500"):
            upload(faulty_firebase)
        assert stored(faulty_firebase) == b"pixels"

    def test_a_reset_in_the_middle_of_a_body_stores_nothing(self, faulty_firebase: FaultyFirebase) -> None:
        faulty_firebase.storage_proxy.add(Fault("reset", after_bytes=100_000))
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            upload(faulty_firebase, bytes(20_000_000))
        assert stored(faulty_firebase) is None

    def test_an_answer_can_be_cut(self, faulty_firebase: FaultyFirebase) -> None:
        upload(faulty_firebase, bytes(1000))
        faulty_firebase.storage_proxy.add(Fault("cut_answer", method="GET", after_bytes=10))
        path = f"/download/storage/v1/b/{faulty_firebase.bucket}/o/{NAME.replace('/', '%2F')}?alt=media"
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            request(faulty_firebase, "GET", path)

    def test_corruption_is_caught_by_the_checksum(self, faulty_firebase: FaultyFirebase) -> None:
        proxy = faulty_firebase.storage_proxy
        bucket = bucket_at(proxy.url, faulty_firebase.project, faulty_firebase.bucket)
        proxy.add(Fault("corrupt", method="POST"))
        with pytest.raises(exceptions.BadRequest, match="CRC32C"):
            bucket.blob(NAME).upload_from_string(b"p" * 10_000, content_type="image/png")
        assert stored(faulty_firebase) is None

    def test_a_hanging_request_is_never_answered(self, faulty_firebase: FaultyFirebase) -> None:
        faulty_firebase.storage_proxy.add(Fault("hang"))
        with pytest.raises(TimeoutError):
            upload(faulty_firebase, timeout=0.3)

    def test_a_delay_and_latency_take_their_time(self, faulty_firebase: FaultyFirebase) -> None:
        faulty_firebase.storage_proxy.add(Fault("delay", seconds=0.2))
        faulty_firebase.set_latency(0.1)
        assert took(lambda: upload(faulty_firebase)) >= 0.4
        assert took(lambda: upload(faulty_firebase)) >= 0.2
        assert is_within(0.4, lambda: upload(faulty_firebase))

    def test_a_service_that_is_down_refuses_and_comes_back(self, faulty_firebase: FaultyFirebase) -> None:
        faulty_firebase.storage_proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            upload(faulty_firebase)
        faulty_firebase.storage_proxy.accept()
        upload(faulty_firebase)
        assert stored(faulty_firebase) == b"pixels"


class TestFirestore:
    def test_without_faults_documents_and_listeners_pass(self, faulty_firebase: FaultyFirebase) -> None:
        document = documents(faulty_firebase).document("a/1")
        seen = threading.Event()
        watch = document.on_snapshot(lambda found, *_: seen.set() if any(one.exists for one in found) else None)
        document.set({"x": 1})
        assert document.get().to_dict() == {"x": 1}
        assert seen.wait(timeout=10)
        watch.unsubscribe()

    def test_a_service_that_is_down_fails_and_comes_back(self, faulty_firebase: FaultyFirebase) -> None:
        document = documents(faulty_firebase).document("a/1")
        document.set({"x": 1})
        faulty_firebase.firestore_proxy.refuse()
        with pytest.raises((exceptions.ServiceUnavailable, exceptions.RetryError)):
            document.set({"x": 2}, retry=None, timeout=2)
        faulty_firebase.firestore_proxy.accept()
        document.set({"x": 3}, timeout=20)
        assert document.get().to_dict() == {"x": 3}

    def test_a_reset_reaches_the_caller(self, faulty_firebase: FaultyFirebase) -> None:
        document = documents(faulty_firebase).document("a/1")
        document.set({"x": 1})
        faulty_firebase.firestore_proxy.black_hole()
        timer = threading.Timer(0.2, faulty_firebase.firestore_proxy.reset_connections)
        timer.start()
        with pytest.raises(exceptions.ServiceUnavailable):
            document.set({"x": 2}, retry=None, timeout=10)
        assert faulty_firebase.documents.document("a/1").get().to_dict() == {"x": 1}

    def test_a_black_hole_lets_nothing_through_until_it_opens(self, faulty_firebase: FaultyFirebase) -> None:
        document = documents(faulty_firebase).document("a/1")
        faulty_firebase.firestore_proxy.black_hole()
        with pytest.raises(exceptions.DeadlineExceeded):
            document.set({"x": 1}, retry=None, timeout=0.4)
        faulty_firebase.firestore_proxy.pass_through()
        document.set({"x": 2})
        assert document.get().to_dict() == {"x": 2}

    def test_held_answers_are_lost_after_the_commit(self, faulty_firebase: FaultyFirebase) -> None:
        document = documents(faulty_firebase).document("a/1")
        document.get()
        faulty_firebase.firestore_proxy.hold_answers()
        truth = faulty_firebase.documents.document("a/1")

        def lose_the_answer() -> None:
            until(lambda: truth.get().exists, what="commit")
            faulty_firebase.firestore_proxy.reset_connections()

        losing = threading.Thread(target=lose_the_answer)
        losing.start()
        with pytest.raises(exceptions.ServiceUnavailable):
            document.create({"x": 1}, retry=None, timeout=60)
        losing.join()
        assert truth.get().to_dict() == {"x": 1}

    def test_latency_is_added_each_way(self, faulty_firebase: FaultyFirebase) -> None:
        document = documents(faulty_firebase).document("a/1")
        document.set({"x": 1})
        faulty_firebase.set_latency(0.1)
        assert took(lambda: document.set({"x": 2})) >= 0.2
        assert is_within(0.5, lambda: document.set({"x": 3}))
