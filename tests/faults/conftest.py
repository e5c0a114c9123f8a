"""Fixtures of the fault tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.faulty_firebase import FaultyFirebase
from tests.support.faulty_world import Endpoint, World
from tests.support.painting_worker import Script

MakeWorld = Callable[..., World]


@pytest.fixture
def make_world(faulty_firebase: FaultyFirebase, tmp_path: Path) -> Iterator[MakeWorld]:
    """Yield a function that builds workers inside this process, all on one Firebase."""
    worlds: list[World] = []

    def make(script: Script | None = None, **settings: Any) -> World:
        worlds.append(World(faulty_firebase, tmp_path / "ledger.jsonl", script, **settings))
        return worlds[-1]

    yield make
    for world in worlds:
        world.painter.released.set()
    assert all(world.nothing_outside() for world in worlds)


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """Return one worker inside this process."""
    return make_world()


@pytest.fixture
def endpoint(faulty_firebase: FaultyFirebase, tmp_path: Path) -> Iterator[Endpoint]:
    """Yield a control plane without workers; everything that is started ends with the test."""
    made = Endpoint(faulty_firebase, tmp_path)
    yield made
    try:
        made.check_posts()
    finally:
        made.close()


@pytest.fixture(scope="session")
def _live(faulty_firebase_session: FaultyFirebase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    made = Endpoint(faulty_firebase_session, tmp_path_factory.mktemp("live"))
    yield made
    made.close()


@pytest.fixture
def live(_live: Endpoint, faulty_firebase: FaultyFirebase) -> Iterator[Endpoint]:
    """Yield an endpoint whose one worker process serves test after test: a test that ends it fails."""
    if not _live.workers or _live.workers[-1].returncode is not None:
        _live.ready(f"live-{len(_live.workers)}")
    yield _live
    _live.check_posts()
    _live.lives()
