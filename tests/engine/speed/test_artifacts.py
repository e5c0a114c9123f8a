"""Compiled kernels on a disk: complete or absent, bounded in size, and never in the way of a job."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch._inductor.runtime.autotune_cache import AutotuneCacheArtifact
from torch.compiler._cache import CacheArtifactManager

from worker.engine.speed import artifacts
from worker.engine.speed.artifacts import Artifacts, one_piece


def of(folder: Path, **changes: str) -> Artifacts:
    return Artifacts(folder, **({"card": "NVIDIA H100 80GB", "model": "sdxl:demo", "mode": "regional"} | changes))


@pytest.fixture(autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make this process look as if it had compiled something."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("torch")))
    with CacheArtifactManager.with_fresh_cache():
        CacheArtifactManager.record_artifact(AutotuneCacheArtifact.type(), "key", {"best": 1})
        yield


def test_what_is_kept_is_read_by_the_next_worker_of_the_same_card_model_and_mode_alone(tmp_path: Path) -> None:
    folder = tmp_path / "compiled"
    assert not of(folder).read()
    of(folder).write()
    assert of(folder).read()
    assert not of(folder, card="NVIDIA L40S").read()
    assert not of(folder, model="wan:demo").read()
    assert not of(folder, mode="full").read()
    (path,) = folder.iterdir()
    assert path.name.startswith("nvidia-h100-80gb-")


def test_every_piece_is_there_for_the_next_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiles(key: str) -> None:
        with one_piece():
            CacheArtifactManager.record_artifact(AutotuneCacheArtifact.type(), key, {"best": 1})
            of(tmp_path).write()

    for key in ("first", "second", "third"):
        compiles(key)
    read: list[str] = []
    monkeypatch.setattr(AutotuneCacheArtifact, "populate_cache", lambda artifact: read.append(artifact.key))
    assert of(tmp_path).read()
    assert read == ["first", "second", "third"]
    monkeypatch.setattr(artifacts, "MAX_BYTES", 2 * next(tmp_path.iterdir()).stat().st_size // 3)
    with one_piece():
        CacheArtifactManager.record_artifact(AutotuneCacheArtifact.type(), "fourth", {"best": 1})
        of(tmp_path).write()
    read.clear()
    assert of(tmp_path).read()
    assert read == ["fourth"], "what has no room beside it is compiled again"


@pytest.mark.parametrize("spoilt", [b"", b"x" * 100, None], ids=["empty", "something else", "cut short"])
def test_a_spoilt_file_is_one_line_in_the_log_and_is_written_anew(
    tmp_path: Path, spoilt: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    of(tmp_path).write()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1] if spoilt is None else spoilt)
    with caplog.at_level(logging.INFO):
        assert not of(tmp_path).read()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    of(tmp_path).write()
    assert of(tmp_path).read()
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_too_large_is_neither_read_nor_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of(tmp_path).write()
    monkeypatch.setattr(artifacts, "MAX_BYTES", 40)
    assert not of(tmp_path).read()
    of(tmp_path, mode="full").write()
    assert len(list(tmp_path.iterdir())) == 1


def test_of_many_files_those_that_were_written_first_go(tmp_path: Path) -> None:
    for number in range(artifacts.MAX_FILES + 3):
        of(tmp_path, model=str(number)).write()
        for path in tmp_path.iterdir():
            os.utime(path, (path.stat().st_mtime - 10,) * 2)
    assert len(list(tmp_path.iterdir())) == artifacts.MAX_FILES
    assert not of(tmp_path, model="2").read()
    assert of(tmp_path, model="3").read()


def test_without_a_volume_nothing_is_kept_and_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    of(tmp_path / "volume" / "compiled").write()
    assert not list(tmp_path.iterdir())
    assert not caplog.records


def test_a_volume_that_takes_nothing_is_one_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "compiled").touch()
    of(tmp_path / "compiled").write()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(tmp_path) not in caplog.text
