"""Pictures made byte by byte, and a bound on the memory that reading one takes."""

import contextlib
import io
import re
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

RED = (255, 0, 0)


def saved(picture: Image.Image, fmt: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, fmt, **options)
    return out.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes, rows: bytes | None = None) -> bytes:
    """An RGB PNG with extra chunks before its pixels; `rows` are the filtered rows, by default black."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = zlib.compress(bytes(height * (3 * width + 1)) if rows is None else rows)
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@contextlib.contextmanager
def flat_memory(megabytes: int) -> Iterator[None]:
    """What happens inside adds at most so much to the memory this process holds at any moment (told on Linux only)."""
    if sys.platform != "linux":
        yield
        return

    def kilobytes(name: str) -> int:
        found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found
        return int(found[1])

    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    before = kilobytes("VmRSS")
    yield
    assert kilobytes("VmHWM") - before < 1000 * megabytes


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
]
