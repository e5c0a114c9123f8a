"""Encodes a PNG in half the time of Pillow's fastest level, and no larger for a photo.

Follows PNG (Third Edition), https://www.w3.org/TR/png-3/: each row with the filter that leaves the smallest differences
(section 12.7), of those that numpy computes in no time; Paeth's would be chosen for few rows and cost more than all
else. Filtered rows of a photo hold few repeats but for runs of one byte, so run lengths and Huffman codes are all of
deflate that is used. Rows are packed in bands beside each other, always the same: the same pixels give the same bytes.
Knows no colour space and no text: chunks are the caller's.
"""

import struct
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

_BAND_ROWS = 128
_THREADS = 2
"""Encoder threads; more would take cores from the GPU thread."""
_SUB, _UP, _AVERAGE = 1, 2, 3


def encode_png(pixels: "Bytes", chunks: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """Encode 8-bit RGB, not interlaced.

    Args:
        pixels: (height, width, 3).
        chunks: type and data of what stands before the pixels.
    """
    height, width, _ = pixels.shape
    rows = np.ascontiguousarray(pixels).reshape(height, 3 * width)

    def pack(start: int) -> tuple[bytes, bytes]:
        band = rows[start : start + _BAND_ROWS]
        above = rows[start - 1 : start] if start else np.zeros_like(rows[:1])
        filtered = _filtered(band, np.concatenate([above, band[:-1]])).tobytes()
        packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_RLE)
        is_last = start + _BAND_ROWS >= height
        return filtered, packer.compress(filtered) + packer.flush(zlib.Z_FINISH if is_last else zlib.Z_FULL_FLUSH)

    checksum, stream = 1, [b"\x78\x01"]  # 32 KiB window, fastest level: RFC 1950, section 2.2
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="png") as beside:
        for filtered, packed in beside.map(pack, range(0, height, _BAND_ROWS)):
            checksum = zlib.adler32(filtered, checksum)
            stream.append(packed)
    stream.append(struct.pack(">I", checksum))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", b"".join(stream)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)


def text_chunk(keyword: str, text: str) -> tuple[bytes, bytes]:
    """Return an uncompressed `iTXt` chunk without a language."""
    return b"iTXt", keyword.encode() + b"\0\0\0\0\0" + text.encode()


def _filtered(rows: "Bytes", before: "Bytes") -> "Bytes":
    """Return the filtered rows (3 bytes per pixel), each after its filter type; `before` are the rows above them."""
    left = np.zeros_like(rows)
    left[:, 3:] = rows[:, :-3]
    average = (left & before) + ((left ^ before) >> 1)
    filters = {_SUB: rows - left, _UP: rows - before, _AVERAGE: rows - average}
    sizes = [np.abs(rest.view(np.int8)).view(np.uint8).sum(1, dtype=np.uint32) for rest in filters.values()]
    best = np.argmin(sizes, 0)
    out = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
    for index, (number, rest) in enumerate(filters.items()):
        chosen = best == index
        out[chosen, 0] = number
        out[chosen, 1:] = rest[chosen]
    return out


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
