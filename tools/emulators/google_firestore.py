"""Runs Google's own Firestore emulator, which browsers can connect to and which enforces the security rules.

It needs Java; the worker's tests use the smaller one in `node/`. Knows where its jar may be and how to start it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tools.emulators.ports import held_port
from tools.emulators.process import GuardedProcess

MAIN_CLASS = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
START_SECONDS = 90.0
BREW_JAVA = Path("/opt/homebrew/opt/openjdk/bin/java")
PLACES: tuple[tuple[Path, str], ...] = (
    (Path("/usr/lib/google-cloud-sdk"), "platform/cloud-firestore-emulator/*.jar"),
    (Path("/opt/homebrew/share/google-cloud-sdk"), "platform/cloud-firestore-emulator/*.jar"),
    (Path.home() / "google-cloud-sdk", "platform/cloud-firestore-emulator/*.jar"),
)


class MissingEmulatorError(RuntimeError):
    """Java or the jar is missing; the message says what to install."""


class GoogleFirestore:
    """Context manager: Firestore on a free loopback port, for gRPC and browsers, with a file of security rules.

    The address is known immediately; `wait_ready` waits until the emulator listens.

    Raises:
        MissingEmulatorError: Java or the jar is missing.
    """

    def __init__(self, *, project: str, rules: Path) -> None:
        self._project = project
        java, jar = find()
        options = [f"--rules={rules}", f"--project_id={project}"]
        self._command: list[str | Path] = [java, "-Duser.language=en", "-cp", jar, MAIN_CLASS, *options]

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="firestore-")
        self._holding = contextlib.ExitStack()
        self._port = self._holding.enter_context(held_port())
        command = [*self._command, "--host=127.0.0.1", f"--port={self._port}"]
        self._process = GuardedProcess(command, env=os.environ, cwd=Path(self._folder.name))
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close()
        self._holding.close()
        self._folder.cleanup()

    @property
    def address(self) -> str:
        """`127.0.0.1:port`."""
        return f"127.0.0.1:{self._port}"

    def wait_ready(self) -> Self:
        """Wait until it listens.

        Raises:
            RuntimeError: it exited or was not ready in time; the message carries its output.
        """
        deadline = time.monotonic() + START_SECONDS
        while self._process.returncode is None and time.monotonic() < deadline:
            if f"API endpoint: http://{self.address}" in self._process.log:
                return self
            time.sleep(0.05)
        raise RuntimeError(f"Google's Firestore emulator did not start: {self._process.log[-2000:]}")

    def listen_once(self, path: str, token: str) -> None:
        """Read a document with this ID token, the way a browser listens to it.

        The emulator takes seconds for its first listener, which misses a write during that time; so would the first
        page. The protocol: `goog.labs.net.webChannel` in https://github.com/google/closure-library.
        """
        database = f"projects/{self._project}/databases/(default)"
        target = {"documents": {"documents": [f"{database}/documents/{path}"]}, "targetId": 2}
        request = json.dumps({"database": database, "addTarget": target})
        asked = {"RID": "1", "CVER": "22", "$httpHeaders": f"Authorization:Bearer {token}\r\n"}
        begun = self._channel(database, asked, {"count": "1", "ofs": "0", "req0___data__": request})
        session = json.loads(begun.partition("\n")[2])[0][1][1]
        self._channel(database, {"RID": "rpc", "SID": session, "AID": "0", "CI": "1", "TYPE": "xmlhttp"})

    def _channel(self, database: str, asked: Mapping[str, str], body: Mapping[str, str] | None = None) -> str:
        query = urllib.parse.urlencode({"VER": "8", "database": database, **asked})
        url = f"http://{self.address}/google.firestore.v1.Firestore/Listen/channel?{query}"
        data = urllib.parse.urlencode(body).encode() if body is not None else None
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, data, START_SECONDS) as answer:
            return str(answer.read().decode())


def find() -> tuple[Path, Path]:
    """Return Java and the emulator's jar: FIRESTORE_EMULATOR_JAR, or firebase-tools' newest, or gcloud's.

    Raises:
        MissingEmulatorError: one of them is missing.
    """
    java, jar = _java(), _jar()
    if java is None:
        raise MissingEmulatorError(
            "Java is needed for Google's Firestore emulator: "
            "`apt install default-jre-headless` on Debian and Ubuntu, `brew install openjdk` on a Mac."
        )
    if jar is None:
        raise MissingEmulatorError(
            "Google's Firestore emulator is not here: `npx firebase-tools setup:emulators:firestore` fetches it once."
        )
    return java, jar


def _java() -> Path | None:
    """Find Java. On a Mac `java` may be a stub that reports no Java, and Homebrew installs the real one elsewhere."""
    found = str(BREW_JAVA) if BREW_JAVA.exists() else shutil.which("java")
    return Path(found) if found else None


def _jar() -> Path | None:
    named = os.environ.get("FIRESTORE_EMULATOR_JAR")
    if named:
        return Path(named) if Path(named).is_file() else None
    fetched = Path(os.environ.get("FIREBASE_EMULATORS_PATH") or Path.home() / ".cache" / "firebase" / "emulators")
    for folder, pattern in ((fetched, "cloud-firestore-emulator-v*.jar"), *PLACES):
        jars = sorted(folder.glob(pattern), key=lambda jar: jar.stat().st_mtime)
        if jars:
            return jars[-1]
    return None
