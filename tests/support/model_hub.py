"""A model hub on loopback: the listings, headers and files that huggingface_hub requests.

It can hold a file back half-way, and records which large files were requested.
"""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class ModelHub:
    """The repositories below `root` (`org/name/...`)."""

    root: Path
    endpoint: str = ""
    held: str = ""
    """A file of which only the first half is sent until `release` is set."""
    release: threading.Event = field(default_factory=threading.Event)
    sent: list[str] = field(default_factory=list)
    """Every large file that was requested."""
    busy: int = 0
    """How many of the next file requests are told to retry later."""

    def files(self, repository: str) -> Iterator[tuple[str, Path]]:
        """Yield the path inside the repository and the path on disk of each file."""
        folder = self.root / repository
        return ((path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")) if path.is_file())


LARGE = 1000
"""Bytes from which a file counts as large: it is then identified by its SHA-256, as the Hub does with weights."""


@contextmanager
def model_hub(root: Path) -> Iterator[ModelHub]:
    """Serve a hub until the body ends."""
    hub = ModelHub(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.release.set()
        server.shutdown()
        server.server_close()


def _handler(hub: ModelHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/]+)?", path):
                siblings = [{"rfilename": name} for name, _ in hub.files(found[1])]
                return self._json({"id": found[1], "sha": COMMIT, "siblings": siblings, "private": False}, body)
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
                return self._json([_entry(name, file) for name, file in hub.files(found[1])], body)
            found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
            if found and hub.busy > 0:
                hub.busy -= 1
                return self._json({"error": "busy"}, body, 503)
            if found and (file := hub.root / found[1] / found[2]).is_file():
                return self._file(found[2], file, body)
            return self._json({"error": "not found"}, body, 404)

        def _json(self, content: Any, body: bool, status: int = 200) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if status == 404:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if body:
                self.wfile.write(data)

        def _file(self, name: str, file: Path, body: bool) -> None:
            data = file.read_bytes()
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{_etag(data)}"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if not body:
                return
            if len(data) >= LARGE:
                hub.sent.append(name)
            begun = len(data) // 2 if name == hub.held else 0
            with contextlib.suppress(ConnectionError):
                self.wfile.write(data[:begun])
                if begun:
                    hub.release.wait(timeout=60)
                self.wfile.write(data[begun:])

    return Handler


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if len(data) >= LARGE else hashlib.sha1(data).hexdigest()


def _entry(name: str, file: Path) -> dict[str, Any]:
    data = file.read_bytes()
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
    if len(data) >= LARGE:
        entry["lfs"] = {"oid": _etag(data), "size": len(data), "pointerSize": 130}
    return entry
