"""The command that makes the demo models."""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from worker.config import REPOSITORY
from worker.pipelines import demo


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_two_processes_at_once_make_the_same_bytes_and_leave_nothing_behind(tmp_path: Path, demo_models: Path) -> None:
    out = tmp_path / "cache" / "demo"

    def make() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "worker.pipelines.demo", "--out", str(out)]
        # One thread each: what is compared is bytes, and two processes of many threads get in each other's way.
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=240
        )

    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(lambda _: make(), range(2)):
            assert done.returncode == 0, done.stderr
    assert digests(out) == digests(demo_models)
    assert [path.name for path in out.parent.iterdir()] == ["demo"]


def test_models_of_this_recipe_are_not_made_again(demo_models: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo_models.rglob("*")}
    demo.ensure(demo_models)
    assert {path: path.stat().st_mtime_ns for path in demo_models.rglob("*")} == before


def test_models_of_another_recipe_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(out: Path) -> None:
        (out / "made").write_text("anew")
        (out / "fingerprint.txt").write_text(demo.fingerprint())

    monkeypatch.setattr(demo, "build", build)
    out = tmp_path / "demo"
    out.mkdir()
    (out / "fingerprint.txt").write_text("another recipe")
    (out / "old").touch()
    demo.ensure(out)
    assert sorted(path.name for path in out.iterdir()) == ["fingerprint.txt", "made"]
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_a_build_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(out: Path) -> None:
        (out / "half").touch()
        raise OSError("no space")

    monkeypatch.setattr(demo, "build", build)
    with pytest.raises(OSError, match="no space"):
        demo.ensure(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


def test_the_models_are_small(demo_models: Path) -> None:
    assert sum(path.stat().st_size for path in demo_models.rglob("*") if path.is_file()) < 15_000_000
