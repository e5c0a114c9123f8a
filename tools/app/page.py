"""Builds the page of examples/web in a temporary folder, and serves it on loopback.

Knows Vite and files; the caller supplies the page's Firebase settings.
"""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

from tools.emulators.install import find_node, install, node_environment

ROOT = Path(__file__).parents[2]
WEB = ROOT / "examples" / "web"
CLIENT = ROOT / "client" / "src"
BUILD_SECONDS = 180.0


class BuildError(RuntimeError):
    """Vite or TypeScript failed; the message carries the end of their output."""


class Page:
    """Context manager: a copy of examples/web at `folder`, with the pinned packages installed."""

    def __enter__(self) -> Self:
        packages = install(WEB, development=True)
        self._folder = tempfile.TemporaryDirectory(prefix="page-")
        root = Path(self._folder.name)
        self.folder = root / "examples" / "web"
        shutil.copytree(WEB, self.folder, ignore=shutil.ignore_patterns("node_modules", "dist", ".env*"))
        (self.folder / "node_modules").symlink_to(packages)
        shutil.copytree(CLIENT, root / "client" / "src")
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def check(self) -> None:
        """Type-check the page and the client.

        Raises:
            BuildError: there is a type error.
        """
        self._run("tsc", "--noEmit")

    def build(self, variables: Mapping[str, Any]) -> Path:
        """Build with these VITE_ variables, each written as JSON, and return the folder of files.

        Raises:
            BuildError: the build failed.
        """
        told = {name: json.dumps(value) for name, value in variables.items()}
        self._run("vite", "build", "--logLevel", "warn", variables=told)
        return self.folder / "dist"

    def _run(self, program: str, *arguments: str, variables: Mapping[str, str] | None = None) -> None:
        try:
            ran = subprocess.run(
                [find_node(), self.folder / "node_modules" / ".bin" / program, *arguments],
                cwd=self.folder,
                env={**node_environment(), **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=BUILD_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BuildError(f"{program} was not done with the page in {BUILD_SECONDS:.0f} s") from None
        if ran.returncode != 0:
            raise BuildError(f"{program} refuses the page:\n{ran.stdout[-4000:]}")


class FileServer:
    """Context manager: serves a folder on loopback, on `port` if it is free, else on any port."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        handler = partial(_Quiet, directory=str(folder))
        try:
            self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
        except OSError:
            self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True, name="page").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        """The port in use."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """The page's address."""
        return f"http://127.0.0.1:{self.port}/"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, makes the browser revalidate them, and writes no log."""

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parameter's name in the base class
        """Log nothing."""
