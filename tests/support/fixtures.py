"""pytest fixtures for the local world: `pytest_plugins = ["tests.support.fixtures"]` in a conftest.

On a laptop without Node a test that needs the emulators is skipped with the reason; with CI=true it fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypeVar

import pytest

from worker.core import timing

if TYPE_CHECKING:  # quick tests do without, and so does xdist's main process
    from tests.support.faulty_firebase import FaultyFirebase
    from tests.support.gcs import FakeGcs
    from tools.emulators.control_plane import ControlPlane
    from tools.emulators.firebase import FirebaseEmulators

Emulators = TypeVar("Emulators")


def missing(reason: str) -> None:
    """Skip the running test with a reason, or fail it where CI=true forbids skipping."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _running(emulators: AbstractContextManager[Emulators]) -> Iterator[Emulators]:
    from tools.emulators.firebase import EmulatorError
    from tools.emulators.install import InstallError, MissingNodeError

    try:
        started = emulators.__enter__()
    except (MissingNodeError, InstallError, EmulatorError) as error:
        missing(f"the emulators are not available: {error}")
        return
    try:
        yield started
    finally:
        emulators.__exit__(None, None, None)


@pytest.fixture(scope="session")
def firebase_session() -> Iterator[FirebaseEmulators]:
    """Yield the emulators, started once for all tests."""
    from tools.emulators.firebase import FirebaseEmulators

    yield from _running(FirebaseEmulators())


@pytest.fixture
def firebase(firebase_session: FirebaseEmulators) -> FirebaseEmulators:
    """Return Firestore and Storage, empty; Auth starts when a test reads `auth_host` or creates a user."""
    firebase_session.reset()
    return firebase_session


@pytest.fixture(scope="session")
def faulty_firebase_session() -> Iterator[FaultyFirebase]:
    """Yield the emulators behind proxies, started once for all tests."""
    from tests.support.faulty_firebase import FaultyFirebase

    yield from _running(FaultyFirebase())


@pytest.fixture
def faulty_firebase(faulty_firebase_session: FaultyFirebase) -> Iterator[FaultyFirebase]:
    """Yield Firestore and Storage behind fault-injecting proxies, empty and without faults."""
    faulty_firebase_session.reset()
    yield faulty_firebase_session
    faulty_firebase_session.reset()


@pytest.fixture(scope="session")
def fake_gcs_session() -> Iterator[FakeGcs]:
    """Yield the independent Cloud Storage server, started once for all tests."""
    from tests.support.gcs import FakeGcs

    yield from _running(FakeGcs())


@pytest.fixture
def fake_gcs(fake_gcs_session: FakeGcs) -> FakeGcs:
    """Return the independent Cloud Storage server, empty."""
    fake_gcs_session.reset()
    return fake_gcs_session


@pytest.fixture
def control_plane() -> Iterator[ControlPlane]:
    """Yield a fresh stand-in for RunPod."""
    from tools.emulators.control_plane import ControlPlane

    with ControlPlane() as plane:
        yield plane


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the worker give up on its documents soon, for tests of what it does then rather than of how long it tries."""
    for name in ("CLAIM_SECONDS", "TERMINAL_SECONDS"):
        monkeypatch.setattr(timing, name, 0.2)
