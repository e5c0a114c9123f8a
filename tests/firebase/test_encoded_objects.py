"""Objects of a stranger that are not what their size says: stored with a content encoding, or growing while read."""

import functools
import gzip
import http.server
import json
import socketserver
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import brotli  # type: ignore[import-untyped]  # it has no types
import pytest

from tools.emulators.firebase import environment
from worker.core.config import load_settings
from worker.core.errors import DownloadFailed
from worker.firebase.app import Firebase
from worker.storage.results import Storage
from worker.storage.store import ObjectEncoded, ObjectTooLarge

LIMIT = 20 << 20
ENCODINGS: dict[str, str] = {
    "gzip": "gzip",
    "Brotli": "br",
    "deflate": "deflate",
    "two encodings": "gzip, gzip",
    "in capitals": "GZIP",
    "one that nobody knows": "x-fold",
}


@functools.cache
def bomb(encoding: str) -> bytes:
    """300 MiB of nothing, in a few hundred bytes or kilobytes."""
    data = bytes(300 << 20)
    for name in encoding.lower().split(", "):
        data = {"gzip": gzip.compress, "br": brotli.compress, "deflate": zlib.compress}.get(name, lambda _: b"x")(data)
    return data


class Google(http.server.BaseHTTPRequestHandler):
    """Cloud Storage's two answers to a read: what an object is, and its bytes, encoded as they are stored.

    https://cloud.google.com/storage/docs/transcoding: to a client that says it takes gzip, and of every other encoding,
    the stored bytes are sent with their `Content-Encoding`.
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
        """Says nothing."""


@contextmanager
def serving(data: bytes, encoding: str | None = None, **told: Any) -> Iterator[Any]:
    """A bucket through Google's own client, whose one object is this; `told_…` is said of it instead of the truth."""
    truth = {"data": data, "encoding": encoding, "told_encoding": encoding, "told_size": len(data)}
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), type("Handler", (Google,), truth | told)) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        with environment({"STORAGE_EMULATOR_HOST": url, "FIREBASE_STORAGE_BUCKET": "demo.firebasestorage.app"}):
            yield Firebase(load_settings()).bucket
        server.shutdown()


def held_at_most(bucket: Any, error: type[Exception]) -> int:
    """Bytes that the read held at its peak, before it ended as `error`."""
    tracemalloc.start()
    try:
        with pytest.raises(error):
            bucket.read("uploads/user/a.png", max_bytes=LIMIT, deadline=time.monotonic() + 10)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODINGS)
def test_an_object_with_a_content_encoding_is_refused_before_a_byte_of_it_is_read(name: str) -> None:
    encoding = ENCODINGS[name]
    with serving(bomb(encoding), encoding) as bucket:
        assert held_at_most(bucket, ObjectEncoded) < 5 << 20
        with pytest.raises(DownloadFailed, match="content encoding") as caught:
            Storage(bucket).read_object("uploads/user/a.png", LIMIT)
        assert not caught.value.retryable


@pytest.mark.slow
def test_an_object_that_is_encoded_after_it_was_looked_at_is_read_as_it_is_stored() -> None:
    """Its metadata may be changed at any time, without a new generation."""
    with serving(bomb("br"), "br", told_encoding=None) as bucket:
        found = bucket.read("uploads/user/a.png", max_bytes=LIMIT, deadline=time.monotonic() + 10)
    assert found == bomb("br")


@pytest.mark.slow
def test_an_object_that_is_larger_than_it_said_is_held_up_to_the_limit_and_no_further() -> None:
    with serving(bytes(100 << 20), told_size=100) as bucket:
        assert held_at_most(bucket, ObjectTooLarge) < 3 * LIMIT


@pytest.mark.parametrize("encoding", [None, "identity"])
def test_an_object_as_apps_upload_it_is_read(encoding: str | None) -> None:
    with serving(b"a picture", encoding) as bucket:
        assert bucket.read("uploads/user/a.png", max_bytes=LIMIT, deadline=time.monotonic() + 10) == b"a picture"
