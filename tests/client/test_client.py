"""The app's side, `client/`: compiled as strictly as its own settings say, and its cases run in Node."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.fixtures import missing
from tools.emulators.install import InstallError, MissingNodeError, find_node, install, node_environment
from worker.core.config import REPOSITORY

CLIENT = REPOSITORY / "client"


@pytest.fixture(scope="module")
def packages() -> Path:
    """The compiler and Firebase, as the client's lock file has them."""
    try:
        installed = install(CLIENT, development=True)
    except (MissingNodeError, InstallError) as error:
        missing(f"the client cannot be compiled: {error}")
    return installed


@pytest.fixture(scope="module")
def compiled(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `src/` and `test/` as JavaScript, and the packages that the tests import."""
    folder = tmp_path_factory.mktemp("client")
    # The compiler looks for packages above the files that it reads.
    for name in ("src", "test", "tsconfig.json"):
        (folder / name).symlink_to(CLIENT / name)
    (folder / "node_modules").symlink_to(packages)
    (folder / "package.json").write_text(json.dumps({"type": "module"}))
    out = folder / "out"
    tsc = packages / "typescript" / "bin" / "tsc"
    done = node(folder, str(tsc), "-p", "test/tsconfig.json", "--outDir", str(out), "--preserveSymlinks")
    assert done.returncode == 0, done.stdout + done.stderr
    (out / "node_modules").symlink_to(packages)
    (out / "package.json").write_text(json.dumps({"type": "module"}))
    return out


def node(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(find_node()), *arguments],
        cwd=folder,
        env=node_environment() | variables,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def passed(folder: Path, *files: str, **variables: str) -> int:
    """Run test files of the client's; the number of cases that passed, which is all of them."""
    ran = node(folder, "--test", "--test-reporter=tap", *files, **variables)
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
    assert "\n# fail 0" in ran.stdout
    assert "\n# skipped 0" in ran.stdout
    return int(re.search(r"^# pass (\d+)$", ran.stdout, re.MULTILINE)[1])  # type: ignore[index]


@pytest.mark.e2e
def test_the_client_does_what_its_cases_say(compiled: Path) -> None:
    """Against a phone, a server and workers in a time of their own; each case names the report it comes from."""
    assert passed(compiled, "test/liveness.test.js") > 100


def test_the_client_has_no_dependency_of_its_own() -> None:
    package = json.loads((CLIENT / "package.json").read_text())
    assert not {"dependencies", "peerDependencies", "optionalDependencies"} & set(package)
    sources = [path.read_text(encoding="utf-8") for path in (CLIENT / "src").glob("*.ts")]
    assert sources
    imported = {name for text in sources for name in re.findall(r'(?:from|import) "([^"]+)"', text)}
    assert all(name.startswith("./") for name in imported), imported
