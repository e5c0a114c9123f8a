"""The Firestore adapter: lost writes are repeated, refused ones are not.

`test_contracts.py` has its behaviour when nothing is broken.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]  # its stubs are a separate package
import pytest
from google.auth.credentials import AnonymousCredentials

from tests.support.clock import FIREBASE_DOWN_SECONDS
from tests.support.faulty_firebase import FaultyFirebase
from tests.support.faulty_world import World
from tools.emulators.firebase import FirebaseEmulators
from worker.core.config import REPOSITORY
from worker.core.errors import BackendError
from worker.firebase import firestore
from worker.firebase.firestore import FirestoreStore, open_client

DOCUMENT = "generations/user/files/file"
NOBODY = AnonymousCredentials()  # type: ignore[no-untyped-call]  # google-auth is partly typed
AWAY_SECONDS = 17.5
"""By default gRPC would retry some 16 and 26 seconds after the connection was lost."""
BACK_SECONDS = 5.0


@pytest.mark.e2e
def test_after_an_outage_both_services_are_used_again_within_5_seconds_of_their_return(
    faulty_firebase: FaultyFirebase, tmp_path: Path
) -> None:
    services = World(faulty_firebase, tmp_path / "ledger").services
    documents, storage = services.documents, services.storage
    assert documents is not None
    assert storage is not None
    asked: tuple[Callable[[], object], ...] = (
        lambda: documents.read(DOCUMENT, timeout=2.0),
        lambda: storage.recall(["generating/user/image/none.png"], "none", "none", time.monotonic() + 2.0),
    )
    for ask in asked:
        ask()
    faulty_firebase.firestore_proxy.refuse()
    faulty_firebase.storage_proxy.refuse()
    gone = time.monotonic()
    while time.monotonic() - gone < AWAY_SECONDS:
        with pytest.raises(BackendError):
            documents.read(DOCUMENT, timeout=2.0)
        time.sleep(0.25)
    faulty_firebase.firestore_proxy.pass_through()
    faulty_firebase.storage_proxy.accept()
    back = time.monotonic()
    for ask in asked:
        while True:
            with contextlib.suppress(BackendError):
                ask()
                break
            time.sleep(0.1)
            assert time.monotonic() - back < BACK_SECONDS
    assert time.monotonic() - back < BACK_SECONDS


@pytest.mark.parametrize("emulator", ["127.0.0.1:9", None])
def test_no_channel_waits_longer_than_it_may_before_it_connects_again(
    emulator: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[dict[str, Any]] = []

    def seen(name: str) -> None:
        opens = getattr(grpc, name)

        def wrapped(*address: Any, **how: Any) -> Any:
            opened.append(dict(how["options"]))
            return opens(*address, **how)

        monkeypatch.setattr(grpc, name, wrapped)

    seen("insecure_channel")
    seen("secure_channel")
    client = open_client("demo-worker", "(default)", NOBODY, emulator)
    assert client._firestore_api.transport.grpc_channel is not None
    (options,) = opened
    longest = [options[f"grpc.{name}_ms"] for name in ("max_reconnect_backoff", "min_reconnect_backoff")]
    assert 1.2 * sum(longest) < 1000 * BACK_SECONDS, "the pause, a fifth of it as gRPC's jitter, and a connection"
    assert options["grpc.keepalive_timeout_ms"] < 1000 * BACK_SECONDS
    assert options["grpc.max_receive_message_length"] == -1
    assert emulator or options["grpc.keepalive_time_ms"]


@pytest.mark.e2e
def test_a_client_that_hears_nothing_for_long_gives_way_to_a_new_one(
    firebase: FirebaseEmulators, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No option bounds how long gRPC waits before it resolves the host's address again."""
    monkeypatch.setattr(firestore, "_RENEW_SECONDS", 0.3)
    opened: list[Any] = []

    def connect() -> Any:
        emulator = "127.0.0.1:9" if len(opened) < 3 else firebase.firestore_address
        opened.append(open_client("demo-worker", "(default)", NOBODY, emulator))
        return opened[-1]

    documents = FirestoreStore(connect(), connect)
    began = time.monotonic()
    while True:
        with contextlib.suppress(BackendError):
            assert documents.read(DOCUMENT, timeout=1.0).fields is None
            break
        time.sleep(0.02)
        assert time.monotonic() - began < FIREBASE_DOWN_SECONDS
    assert len(opened) == 4, "one at a time, and none that answers is given up"
    assert documents.client is opened[3]
    with pytest.raises(ValueError, match="Channel closed"):
        opened[1].document(DOCUMENT).get(retry=None, timeout=1.0)


FORKS = """
import os, subprocess
from worker.core.config import set_library_defaults
set_library_defaults()
import grpc
grpc.channel_ready_future(grpc.insecure_channel("127.0.0.1:9"))
asked = [subprocess.Popen(["true"], preexec_fn=os.getpid) for _ in range(200)]
print(sum(child.wait() != 0 for child in asked))
"""


@pytest.mark.e2e
def test_what_a_library_forks_beside_grpc_lives() -> None:
    """imageio does so for ffmpeg; about one such fork in forty used to die."""
    ended = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert (ended.stdout, ended.stderr) == ("0\n", "")
