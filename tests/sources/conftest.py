"""A server that stands for the internet: one per module, reset before each test."""

from collections.abc import Iterator

import pytest

from tests.support.https_server import HttpsServer


@pytest.fixture(scope="module")
def server() -> Iterator[HttpsServer]:
    with HttpsServer() as running:
        yield running


@pytest.fixture
def _forget(server: HttpsServer) -> None:
    """Forget the requests that other tests made, and the responses they set."""
    server.requests.clear()
    server.files.clear()
    server.locations.clear()
