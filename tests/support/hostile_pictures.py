"""Pictures built byte by byte, and a bound on the memory that reading one takes."""

import contextlib
import io
import re
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pillow_heif
from PIL import Image

from tests.support.profiles import press, screen

RED = (255, 0, 0)


def saved(picture: Image.Image, fmt: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, fmt, **options)
    return out.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes, rows: bytes | None = None) -> bytes:
    """Return an RGB PNG with extra chunks before its pixels; `rows` are the filtered rows, black by default."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = zlib.compress(bytes(height * (3 * width + 1)) if rows is None else rows)
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def webp_of(width: int, height: int) -> bytes:
    """Return a lossless WebP that declares this size and ends right after."""
    content = b"VP8L" + struct.pack("<I", 6) + b"\x2f" + (width - 1 | height - 1 << 14).to_bytes(4, "little") + b"\0"
    return b"RIFF" + struct.pack("<I", 4 + len(content)) + b"WEBP" + content


def gif_of(width: int, height: int) -> bytes:
    data = bytearray(saved(Image.new("P", (8, 8)), "GIF"))
    frame = data.index(b"\x2c")
    data[6:10] = data[frame + 5 : frame + 9] = struct.pack("<HH", width, height)
    return bytes(data)


def bmp_of(width: int, height: int) -> bytes:
    data = bytearray(saved(Image.new("RGB", (8, 8)), "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def tiff_of(width: int, height: int) -> bytes:
    """Return a TIFF that declares one strip with all rows."""
    entries = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    entries.append((279, width * height & 0xFFFFFFFF))
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + bytes(40)


def heic_of(width: int, height: int) -> bytes:
    """Return a real HEIC whose container declares this size."""
    pillow_heif.register_heif_opener()
    return _with_extents(saved(Image.new("RGB", (64, 64)), "HEIF"), width, height)


def avif_of(width: int, height: int) -> bytes:
    return _with_extents(saved(Image.new("RGB", (64, 64)), "AVIF"), width, height)


def grid_of(width: int, height: int) -> bytes:
    """Return a tiled HEIC whose grid declares this size."""
    pillow_heif.register_heif_opener()
    data = bytearray(saved(Image.new("RGB", (256, 256)), "HEIF", tile_size=64))
    # The grid item: version, flags for 32 bits, rows and columns minus one, width, height (ISO/IEC 23008-12).
    short = struct.pack(">BBBBHH", 0, 0, 3, 3, 256, 256)
    long = struct.pack(">BBBBII", 0, 1, 3, 3, 256, 256)
    at = data.find(short)
    if at >= 0:
        data[at : at + 8] = struct.pack(">BBBBHH", 0, 0, 255, 255, width, height)
    else:
        at = data.index(long)
        data[at : at + 12] = struct.pack(">BBBBII", 0, 1, 255, 255, width, height)
    return _with_extents(bytes(data), width, height)


def boxes_of(brand: bytes, *boxes: bytes) -> bytes:
    """Return a file in ISO's base media format with this brand and these boxes."""
    return box(b"ftyp", brand + bytes(4) + b"mif1" + brand) + b"".join(boxes)


def box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4) + kind + content


def nested_boxes(kind: bytes, depth: int) -> bytes:
    heads = (8 * (depth - level) for level in range(depth))
    return b"".join(length.to_bytes(4) + kind for length in heads)


def _with_extents(data: bytes, width: int, height: int) -> bytes:
    """Rewrite the size in every `ispe` box of a container."""
    changed, at = bytearray(data), data.find(b"ispe")
    while at >= 0:
        changed[at + 8 : at + 16] = struct.pack(">II", width, height)
        at = data.find(b"ispe", at + 1)
    return bytes(changed)


def progressive_of(width: int, height: int) -> bytes:
    """Return a progressive JPEG that declares this size."""
    data = bytearray(saved(Image.new("RGB", (16, 16)), "JPEG", progressive=True))
    at = data.index(b"\xff\xc2")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@contextlib.contextmanager
def flat_memory(megabytes: int) -> Iterator[None]:
    """Check that the body adds at most `megabytes` to this process's peak memory (on Linux only)."""
    if sys.platform != "linux":
        yield
        return

    def kilobytes(name: str) -> int:
        found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found
        return int(found[1])

    Path("/proc/self/clear_refs").write_text("5")  # restart the high-water mark here
    before = kilobytes("VmRSS")
    yield
    assert kilobytes("VmHWM") - before < 1000 * megabytes


pillow_heif.register_heif_opener()
SEEDS = [
    saved(Image.effect_noise((24, 16), 60).convert("RGB"), "PNG"),
    saved(Image.effect_noise((24, 16), 60).convert("RGB"), "JPEG", progressive=True),
    saved(Image.effect_noise((24, 16), 60).convert("RGBA"), "WEBP", lossless=True),
    saved(Image.new("P", (24, 16)), "PNG", transparency=0),
    saved(
        Image.new("RGB", (24, 16)),
        "JPEG",
        exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0",
    ),
    saved(Image.new("RGB", (24, 16)), "PNG", save_all=True, append_images=[Image.new("RGB", (24, 16), RED)]),
    *(
        saved(Image.effect_noise((24, 16), 60).convert("RGB"), fmt)
        for fmt in ("HEIF", "AVIF", "GIF", "BMP", "TIFF", "MPO")
    ),
    saved(Image.effect_noise((96, 64), 60).convert("RGB"), "HEIF", tile_size=32, icc_profile=screen()),
    saved(Image.effect_noise((24, 16), 60).convert("RGB"), "TIFF", compression="tiff_lzw", icc_profile=screen()),
    saved(Image.effect_noise((24, 16), 60).convert("RGB").convert("CMYK"), "JPEG", icc_profile=press()),
]
"""At least one file of every kind that is read."""
