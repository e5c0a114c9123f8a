"""A stranger's objects that are not as large as they claim: stored with a content encoding, or growing while read."""

import time
import tracemalloc
from typing import Any

import pytest

from tests.support.encoded_objects import bomb, serving
from worker.core.errors import DownloadFailed
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


def held_at_most(bucket: Any, error: type[Exception]) -> int:
    """Return the peak bytes that the read held before it failed with `error`."""
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
    """Its metadata may change at any time, without a new generation."""
    with serving(bomb("br"), "br", told_encoding=None) as bucket:
        found = bucket.read("uploads/user/a.png", max_bytes=LIMIT, deadline=time.monotonic() + 10)
    assert found is not None
    assert found[1] == bomb("br")


@pytest.mark.slow
def test_an_object_that_is_larger_than_it_said_is_held_up_to_the_limit_and_no_further() -> None:
    with serving(bytes(100 << 20), told_size=100) as bucket:
        assert held_at_most(bucket, ObjectTooLarge) < 3 * LIMIT


@pytest.mark.parametrize("encoding", [None, "identity"])
def test_an_object_as_apps_upload_it_is_read(encoding: str | None) -> None:
    with serving(b"a picture", encoding) as bucket:
        assert Storage(bucket).read_object("uploads/user/a.png", LIMIT) == (b"a picture", None)
