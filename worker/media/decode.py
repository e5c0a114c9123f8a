"""A stranger's bytes -> one picture: upright, 8-bit, a plain mode, without metadata.

Knows file formats and what hostile ones do. Does not know where the bytes are from, or what becomes of the picture.
Whatever the bytes are, the outcome is a picture or `InvalidImage`, with memory and time bounded by the pixels allowed.
"""

import io
import re
import struct
import warnings
import zlib
from typing import TYPE_CHECKING

from worker.core.errors import InvalidImage

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_JPEG_SCANS = 100
"""A progressive photo has about ten. Each goes over all pixels, and thirty bytes make one: 20 MB would take hours."""
_MAX_JPEG_SEGMENTS = 10_000
_NEXT_MARKER = re.compile(rb"\xff(?![\x00\xd0-\xd7\xff])")
_EXIF_ORIENTATION = 0x0112

# Pillow warns, with its own path, of files that are refused here a moment later, and of damaged EXIF data.
warnings.filterwarnings("ignore", module=r"PIL\..*")

# What Pillow's readers raise over broken and hostile files. MemoryError is no word on the file.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RuntimeError,
    EOFError,
    Warning,
    struct.error,
    zlib.error,
)


def decode_image(data: bytes, what: str, max_pixels: int) -> "Image.Image":
    """A picture as RGB: first frame, upright, transparency on white, no metadata.

    A colour profile is dropped and not applied: its reader would be one more door for hostile bytes.

    Raises:
        InvalidImage: not a PNG, JPEG or WebP, damaged, or more than `max_pixels`; the message starts with `what`.
    """
    return _decode(data, what, max_pixels, mode="RGB", background="white")


def decode_mask(data: bytes, what: str, max_pixels: int) -> "Image.Image":
    """A mask as L, 255 = repaint. Transparent counts as black: apps paint white strokes on a clear canvas.

    Raises:
        InvalidImage: as `decode_image`.
    """
    return _decode(data, what, max_pixels, mode="L", background="black")


def _decode(data: bytes, what: str, max_pixels: int, *, mode: str, background: str) -> "Image.Image":
    from PIL import Image

    try:
        # Only the named readers are tried, by content: no EPS and no PDF, whatever the file calls itself.
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise InvalidImage(
                    "invalid_image.too_many_pixels", field=what, width=width, height=height, most=max_pixels
                )
            if data.startswith(b"\xff\xd8") and _jpeg_scans(data) > MAX_JPEG_SCANS:
                raise InvalidImage("invalid_image.too_many_scans", field=what, most=MAX_JPEG_SCANS)
            image.load()
            turn = image.getexif().get(_EXIF_ORIENTATION)
            picture = _upright(_flatten(image, mode, background), turn)
    except (Image.DecompressionBombError, *_DECODER_ERRORS) as error:
        raise InvalidImage("invalid_image.unreadable", field=what) from error
    picture.info.clear()
    return picture


def _flatten(image: "Image.Image", mode: str, background: str) -> "Image.Image":
    """8 bits a channel, no palette, no transparency."""
    from PIL import Image

    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion cuts off at 255, which makes almost everything white.
        return image.convert("I").point(lambda value: value * (1 / 257)).convert("L").convert(mode)
    if not image.has_transparency_data:
        return image.convert(mode)
    layer = image.convert("RGBA")
    flat = Image.new("RGB", image.size, background)
    flat.paste(layer, mask=layer.getchannel("A"))
    return flat.convert(mode)


def _upright(image: "Image.Image", orientation: object) -> "Image.Image":
    """Turned as EXIF's orientation, 1 ... 8, says; another value says nothing."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = turns.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _jpeg_scans(data: bytes) -> int:
    """Scans of a JPEG up to its end marker; what is appended there (a phone's motion photo) does not count."""
    at, scans = 2, 0
    for _ in range(_MAX_JPEG_SEGMENTS):
        found = _NEXT_MARKER.search(data, at)
        kind, at = data[found.end() : found.end() + 1] if found else b"", found.end() + 1 if found else 0
        if kind in {b"", b"\xd9"}:
            return scans
        scans += kind == b"\xda"
        # A segment says its length (but for two kinds). A scan's data holds no marker: the search steps over it.
        at += 0 if kind in {b"\x01", b"\xd8"} else int.from_bytes(data[at : at + 2])
    return _MAX_JPEG_SEGMENTS
