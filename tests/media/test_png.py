"""Our own PNG encoder keeps every pixel at any size, follows the specification, and is deterministic."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from worker.media.png import encode_png, text_chunk

SIZES = [(1, 1), (1, 700), (700, 1), (127, 3), (128, 64), (129, 65), (257, 31)]


def pictures(height: int, width: int) -> Iterator[NDArray[np.uint8]]:
    """Yield noise, a gradient, and one colour: each needs another filter."""
    yield np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    y, x = np.mgrid[0:height, 0:width]
    yield np.stack([x, y, x + y], axis=-1).astype(np.uint8)
    yield np.full((height, width, 3), 250, np.uint8)


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and data of each chunk, after checking its checksum."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at = 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, held = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length) == (zlib.crc32(kind + held),)
        yield kind, held
        at += 12 + length


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_every_pixel_comes_back_and_the_bytes_repeat(height: int, width: int) -> None:
    for pixels in pictures(height, width):
        data = encode_png(pixels)
        assert encode_png(pixels) == data
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.mode) == ("PNG", "RGB")
            assert np.array_equal(np.asarray(image), pixels)


def test_a_part_of_a_larger_picture_is_written_as_it_is_seen() -> None:
    (noise, *_) = pictures(300, 200)
    cut = noise[10:290:2, 199:0:-3]
    with Image.open(io.BytesIO(encode_png(cut))) as image:
        assert np.array_equal(np.asarray(image), cut)


def test_the_stream_is_zlibs_and_rows_begin_with_filters_of_the_specification() -> None:
    (noise, gradient, flat) = pictures(300, 50)
    used: set[int] = set()
    for pixels in (noise, gradient, flat):
        (stream,) = (held for kind, held in chunks(encode_png(pixels)) if kind == b"IDAT")
        rows = zlib.decompress(stream)
        assert len(rows) == 300 * 151
        used |= set(rows[::151])
    assert used == {1, 2, 3}


def test_what_is_said_stands_before_the_pixels() -> None:
    (noise, *_) = pictures(8, 8)
    data = encode_png(noise, [(b"sRGB", b"\0"), text_chunk("Title", "a façade")])
    assert [kind for kind, _ in chunks(data)] == [b"IHDR", b"sRGB", b"iTXt", b"IDAT", b"IEND"]
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["Title"] == "a façade"
        assert image.info["srgb"] == 0
