"""`make app` in a terminal: it prints one address, and Ctrl-C, however often pressed, leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.app.page import FileServer
from tools.emulators.google_firestore import MissingEmulatorError, find
from worker.core.config import REPOSITORY

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


class Terminal:
    """`python -m tools.app` with all its temporary folders in `folder`, which also identifies its processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tools.app", "--port", "0"],
            cwd=REPOSITORY,
            env={**os.environ, "TMPDIR": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, text: str) -> str:
        """Return the first line that contains it."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if text in line:
                return line.strip()
        raise AssertionError(f"it never said {text!r}: {self._process.communicate()[1]}")

    def press_ctrl_c(self, times: int) -> None:
        for _ in range(times):
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGINT)
            time.sleep(0.05)  # pending signals of one kind count once

    def end(self) -> tuple[int, str]:
        """End it; returns its exit status, and its error output."""
        wrong = self._process.communicate(timeout=120)[1]
        return self._process.returncode, wrong

    @property
    def left(self) -> list[str]:
        """Return the remaining processes, and folders except torch's own cache, which is meant to stay."""
        mark = f"TMPDIR={self._folder}\0".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return found + [path.name for path in self._folder.iterdir() if not path.name.startswith("torchinductor_")]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    try:
        find()
    except MissingEmulatorError as error:
        pytest.skip(str(error))
    opened = Terminal(tmp_path)
    yield opened
    opened.press_ctrl_c(1)
    opened.end()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked for under /proc")
class TestCtrlC:
    def test_while_it_starts(self, terminal: Terminal) -> None:
        terminal.wait_for("Firestore")
        terminal.press_ctrl_c(3)
        assert terminal.end() == (0, "")
        assert terminal.left == []

    def test_while_somebody_uses_it(self, terminal: Terminal) -> None:
        address = terminal.wait_for("http://127.0.0.1:")
        with urllib.request.urlopen(address) as page:
            assert b"<title>Studio</title>" in page.read()
        assert len(terminal.left) > 5, "emulators, functions and worker, with their folders"
        terminal.press_ctrl_c(5)
        assert terminal.end() == (0, "")
        assert terminal.left == []


def test_without_java_it_says_what_to_install(tmp_path: Path) -> None:
    """And nothing else: the reader may not know Python."""
    (tmp_path / "node").symlink_to(shutil.which("node") or "/nonexistent")
    ran = subprocess.run(
        [sys.executable, "-m", "tools.app"],
        cwd=REPOSITORY,
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("Java is needed")
    assert ran.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_left_to_whoever_has_it(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("here")
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with FileServer(tmp_path, taken) as server:
            assert server.port != taken
            with urllib.request.urlopen(server.url) as page:
                assert page.read() == b"here"
