"""A bucket with one object that is not as large as it claims, served over HTTP to Google's own client."""

import functools
import gzip
import http.server
import json
import socketserver
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import brotli  # type: ignore[import-untyped]  # it has no types

from tools.emulators.firebase import environment
from worker.core.config import load_settings
from worker.firebase.app import Firebase

ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "br": functools.partial(brotli.compress, quality=9, lgwin=24),  # as small as with 11, in a tenth of its time
    "deflate": zlib.compress,
}


@functools.cache
def bomb(encoding: str) -> bytes:
    """Return 300 MiB of zeros, compressed to a few hundred bytes or kilobytes."""
    if encoding != encoding.lower():
        return bomb(encoding.lower())
    inner, _, last = encoding.rpartition(", ")
    data = bomb(inner) if inner else bytes(300 << 20)
    encode = ENCODERS.get(last)
    return encode(data) if encode else b"x"


class Google(http.server.BaseHTTPRequestHandler):
    """Cloud Storage's two responses to a read: an object's metadata, and its bytes, encoded as they are stored.

    https://cloud.google.com/storage/docs/transcoding: the stored bytes are sent with their `Content-Encoding` to a
    client that accepts gzip, and for every other encoding.
    """

    data: bytes
    encoding: str | None
    told_encoding: str | None
    told_size: int

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if parse_qs(url.query).get("alt") == ["media"] or "/download/" in url.path:
            self._answer(self.data, "image/png", self.encoding)
            return
        about = {"name": "a.png", "generation": "1", "metageneration": "1", "size": str(self.told_size)}
        if self.told_encoding:
            about["contentEncoding"] = self.told_encoding
        self._answer(json.dumps(about).encode(), "application/json", None)

    def _answer(self, body: bytes, kind: str, encoding: str | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if encoding:
            self.send_header("Content-Encoding", encoding)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def serving(data: bytes, encoding: str | None = None, **told: Any) -> Iterator[Any]:
    """Yield a bucket of Google's own client with this one object; `told_…` overrides its true metadata."""
    truth = {"data": data, "encoding": encoding, "told_encoding": encoding, "told_size": len(data)}
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), type("Handler", (Google,), truth | told)) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        with environment({"STORAGE_EMULATOR_HOST": url, "FIREBASE_STORAGE_BUCKET": "demo.firebasestorage.app"}):
            yield Firebase(load_settings()).bucket
        server.shutdown()
