"""A server that stands for the internet: one a module, which each test finds as if it had just begun."""

from collections.abc import Iterator

import pytest

from tests.support.https_server import HttpsServer


@pytest.fixture(scope="module")
def server() -> Iterator[HttpsServer]:
    with HttpsServer() as running:
        yield running


@pytest.fixture
def _forget(server: HttpsServer) -> None:
    """What other tests asked of it, and told it to answer."""
    server.requests.clear()
    server.files.clear()
    server.locations.clear()
