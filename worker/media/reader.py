"""Decodes one file to one picture: upright, 8-bit, sRGB, a plain mode, within a size limit.

Checks a picture's size before it decodes a pixel. Runs in the sandbox, which bounds its memory and time, and of which
it knows nothing. Knows file formats, their libraries and what hostile files do.
"""

import bisect
import contextlib
import io
import math
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from worker.core.errors import InvalidImage
from worker.media import colour, containers, kinds, masks
from worker.media.containers import Parts

if TYPE_CHECKING:
    from PIL import Image

MAX_JPEG_SCANS = 100
"""A progressive photo has about ten scans. Each processes all pixels and may take 30 bytes: 20 MB would take hours."""

MAX_SIDE = 65_535
"""Longest side in pixels, as of JPEG and GIF. No camera or screen produces more; but a PNG of 4 KB may claim
4,000,000 x 1, and operations that pad a picture would multiply that."""

_PROGRESSIVE = "progressive JPEG"
Clear = Literal["white", "black", "contrast"]
"""What transparency becomes. `contrast`: white or black, whichever the drawing on it stands out from."""
KIND_NAMES = (*kinds.KINDS, _PROGRESSIVE)
"""Format -> its name in messages."""

_CONTAINERS: dict[str, Callable[[bytes], Parts]] = {
    kinds.JPEG: containers.jpeg,
    kinds.PNG: containers.png,
    kinds.WEBP: containers.webp,
    kinds.HEIC: containers.iso_media,
    kinds.AVIF: containers.iso_media,
    kinds.GIF: containers.gif,
}
_BYTES_PER_PIXEL = {
    # Peak memory of each reader while it decodes, measured with 8 bits per channel.
    kinds.JPEG: 4.0,
    kinds.PNG: 4.5,
    kinds.WEBP: 13.5,
    kinds.HEIC: 4.6,
    kinds.AVIF: 7.5,
    kinds.GIF: 1.5,
    kinds.BMP: 4.5,
    kinds.TIFF: 4.5,
}
_TIFF_COMPRESSIONS = frozenset({
    *("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "jpeg"),
    *("tiff_ccitt", "group3", "group4"),
})  # fmt: skip
_TIFF_SUBFILE_TYPE, _TIFF_DEPTH, _TIFF_PHOTOMETRIC, _TIFF_PLANES, _TIFF_DNG_VERSION = 254, 258, 262, 284, 50706
_TIFF_OF_A_SENSOR = frozenset({32803, 34892})
"""Photometric interpretations of RAW data (TIFF/EP, DNG 1.7): colour filter array, linear raw."""
_EXIF_ORIENTATION = 0x0112
_BAND_PIXELS = 1 << 20
_HEIF_MODES = frozenset({"L", "LA", "RGB", "RGBA", "RGBa"})
_OUT_OF_MEMORY = re.compile(r"(?!.*security limit).*(?:memory|allocat)", re.IGNORECASE | re.DOTALL)

# Raised by the libraries for broken and hostile files. A MemoryError says nothing about the file.
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


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a picture."""

    held: int
    """Pixels of the result; a larger picture is reduced."""
    declared: int
    """Pixels of the file."""
    memory: int
    """Memory in bytes for decoding."""


@dataclass(frozen=True, slots=True)
class Read:
    """A picture, its original size, and warnings about how it was read."""

    image: "Image.Image"
    size: tuple[int, int]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Rows:
    """Decoded pixels, read in bands of rows."""

    size: tuple[int, int]
    mode: str
    band: Callable[[int, int], "Image.Image"]


def get_ready() -> None:
    """Import everything that decoding may need; afterwards no file is opened."""
    import codecs

    import pillow_heif
    from PIL import (
        AvifImagePlugin,
        BmpImagePlugin,
        GifImagePlugin,
        Image,
        ImageChops,
        ImageCms,
        ImageOps,
        ImagePalette,
        JpegImagePlugin,
        JpegPresets,
        MpoImagePlugin,
        PngImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    AvifImagePlugin.DEFAULT_MAX_THREADS = 2
    del BmpImagePlugin, GifImagePlugin, ImageChops, ImageOps, ImagePalette, JpegImagePlugin
    del JpegPresets, MpoImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin
    ImageCms.createProfile("sRGB")
    for encoding in ("ascii", "latin-1", "utf-16", "utf-16-be", "utf-16-le", "cp1252"):
        codecs.lookup(encoding)
    # The primary picture of a file counts, never its thumbnail.
    options = pillow_heif.options
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    options.DECODE_THREADS = 2
    Image.MAX_IMAGE_PIXELS = None  # sizes are checked here
    Image.preinit()


def read(data: bytes, kind: str, what: str, limits: Limits, *, mask: bool, clear: Clear = "white") -> Read:
    """Decode `data` to RGB on `clear`; a mask to L on black.

    Raises:
        InvalidImage: damaged, or over the limits; the message begins with `what`.
        MemoryError: too little memory.
    """
    # Pillow's warnings name its path, and concern files that are refused here anyway.
    warnings.simplefilter("ignore")
    parts = _CONTAINERS.get(kind, Parts)(data)
    if parts.scans > MAX_JPEG_SCANS:
        raise InvalidImage("invalid_image.too_many_scans", field=what, most=MAX_JPEG_SCANS)
    try:
        return _read(parts, kind, what, limits, mask=mask, clear=clear)
    except _DECODER_ERRORS as error:
        if _OUT_OF_MEMORY.match(str(error)):
            raise MemoryError from error
        if not parts.complete:
            raise InvalidImage("invalid_image.cut_off", field=what, kind=kind) from error
        raise InvalidImage("invalid_image.unreadable", field=what, kind=kind) from error


def _read(parts: Parts, kind: str, what: str, limits: Limits, *, mask: bool, clear: Clear) -> Read:
    notes: list[str] = []
    with _decoded(parts, kind, what, limits, mask=mask) as (rows, found):
        image = _reduced(rows, limits.held, cmyk=bool(found.profile) and not mask)
        hard = mask and image.size != rows.size and masks.is_black_and_white(_levels(rows))
    del rows  # frees the decoded pixels
    if found.cut_off:
        missing = _flat_share(image)
        if missing > 0.9:
            # Apple's PNGs (CgBI, as Xcode puts them into apps) are complete, but their data are not in zlib's format.
            is_whole = parts.complete and kind in {kinds.JPEG, kinds.PNG}
            why = "invalid_image.unreadable" if is_whole else "invalid_image.cut_off"
            raise InvalidImage(why, field=what, kind=kind)
        if missing >= 0.02:
            notes.append("cut_off")
        elif parts.refines:
            notes.append("cut_off_details")
    if mask:
        if _has_hole(image):
            notes.append("hole")
        flat = _flat(image, "L", "black")
        flat = masks.halved(flat) if hard else flat
    else:
        if found.profile is not None:
            try:
                image = colour.to_srgb(image, found.profile)
            except colour.ProfileError:
                notes.append("profile")
        if found.is_hdr:
            notes.append("hdr")
        flat = _flat(image, "RGB", _behind(image) if clear == "contrast" else clear)
    del image
    return Read(_upright(flat, found.turn), found.size, tuple(notes))


@dataclass(slots=True)
class _Found:
    """Facts about a picture beside its pixels."""

    size: tuple[int, int]
    profile: bytes | None = None
    turn: object = None
    is_hdr: bool = False
    cut_off: bool = False


@contextlib.contextmanager
def _decoded(parts: Parts, kind: str, what: str, limits: Limits, *, mask: bool) -> Iterator[tuple[_Rows, _Found]]:
    """Yield the pixels and their facts; they are freed after the body."""
    if kind == kinds.HEIC:
        yield _heic(parts, what, limits)
        return
    from PIL import Image, ImageFile

    ImageFile.LOAD_TRUNCATED_IMAGES = False
    cut_off = not parts.complete
    try:
        image, size = _opened(parts, kind, what, limits, mask=mask)
    except InvalidImage:
        raise
    except _DECODER_ERRORS:
        # A truncated file is decoded as viewers do: missing rows stay black.
        ImageFile.LOAD_TRUNCATED_IMAGES = cut_off = True
        image, size = _opened(parts, kind, what, limits, mask=mask)
    profile = parts.profile if kind in {kinds.JPEG, kinds.PNG} else image.info.get("icc_profile")
    exif = parts.exif if kind in {kinds.JPEG, kinds.PNG} else image.info.get("exif")
    cicp = parts.cicp if profile is None or kind == kinds.PNG else None
    if profile is None and kind == kinds.PNG:
        profile = colour.profile_of_png(parts.gamma, parts.chromaticities)
    found = _Found(
        size,
        profile=colour.profile_of(cicp) or profile,
        # Pillow rotates a TIFF itself, and translates an AVIF's HEIF rotation to EXIF.
        turn=_orientation(exif) if kind != kinds.TIFF else None,
        is_hdr=colour.is_hdr(cicp),
        cut_off=cut_off,
    )

    def band(top: int, bottom: int) -> Image.Image:
        return image if (top, bottom) == (0, image.height) else image.crop((0, top, image.width, bottom))

    yield _Rows(image.size, _plain_mode(image), band), found


def _opened(parts: Parts, kind: str, what: str, limits: Limits, *, mask: bool) -> tuple["Image.Image", tuple[int, int]]:
    """Decode the picture; returns it and its original size. A JPEG that is too large is decoded at 1/2, 1/4 or 1/8.

    A mask only if memory requires it: reduced decoding turns its black and white edges grey.
    """
    from PIL import Image

    if kind == kinds.TIFF:
        _check_raw(containers.tiff_tags(parts.data), what)
    # Only the reader of this format is tried, so never EPS or PDF.
    image = Image.open(io.BytesIO(parts.data), formats=(kind.upper(),))
    size = image.size
    _check_size(size, kind, what, limits)
    if kind == kinds.TIFF:
        _check_tiff(image, what)
    scale = 1
    if kind == kinds.JPEG:
        most = max(limits.held, int((limits.memory - 4 * limits.held) / (4 + 2 * parts.coefficients)) if mask else 0)
        scale = next((by for by in (1, 2, 4, 8) if _pixels(size, by) <= most), 8)
        image.draft(None, (size[0] // scale, size[1] // scale))
    if image.mode == "F":  # the file does not say what its values mean
        raise ValueError(image.mode)
    name = _PROGRESSIVE if parts.coefficients else kind
    _check_memory(size, name, what, limits, _BYTES_PER_PIXEL[kind] / scale**2 + 2 * parts.coefficients)
    image.load()
    return image, size


def _heic(parts: Parts, what: str, limits: Limits) -> tuple[_Rows, _Found]:
    """Decode the primary picture of a HEIC. libheif rotates it; EXIF's orientation must be ignored."""
    import pillow_heif
    from PIL import Image

    file = pillow_heif.open_heif(parts.data, convert_hdr_to_8bit=True)
    shown = file[file.primary_index]
    _check_size(shown.size, kinds.HEIC, what, limits)
    _check_memory(shown.size, kinds.HEIC, what, limits, _BYTES_PER_PIXEL[kinds.HEIC])
    info: dict[str, Any] = shown.info
    pixels, stride = memoryview(shown.data), shown.stride
    (width, height), mode = shown.size, shown.mode
    if mode not in _HEIF_MODES:
        raise ValueError(mode)
    profile = info.get("icc_profile")
    numbers = info.get("nclx_profile") if not profile else None
    cicp = (int(numbers["color_primaries"]), int(numbers["transfer_characteristics"])) if numbers else None

    def band(top: int, bottom: int) -> Image.Image:
        part = bytes(pixels[top * stride : bottom * stride])
        return Image.frombuffer(mode, (width, bottom - top), part, "raw", mode, stride, 1)

    found = _Found(
        shown.size, profile=profile or colour.profile_of(cicp), is_hdr=colour.is_hdr(cicp), cut_off=not parts.complete
    )
    return _Rows((width, height), {"RGBa": "RGBA"}.get(mode, mode), band), found


def _pixels(size: tuple[int, int], by: int) -> int:
    return math.ceil(size[0] / by) * math.ceil(size[1] / by)


def _check_size(size: tuple[int, int], kind: str, what: str, limits: Limits) -> None:
    width, height = size
    if width <= 0 or height <= 0:
        raise InvalidImage("invalid_image.unreadable", field=what, kind=kind)
    if width * height > limits.declared:
        raise InvalidImage(
            "invalid_image.too_many_pixels", field=what, width=width, height=height, most=limits.declared
        )
    if max(size) > MAX_SIDE:
        raise InvalidImage("invalid_image.too_long_side", field=what, width=width, height=height, most=MAX_SIDE)


def _check_memory(size: tuple[int, int], kind: str, what: str, limits: Limits, bytes_per_pixel: float) -> None:
    """Refuse a picture that would run out of memory, counting the result's 4 bytes per pixel as well."""
    width, height = size
    room = limits.memory - 4 * min(width * height, limits.held)
    if width * height * bytes_per_pixel > room:
        most = int(min(limits.memory / (bytes_per_pixel + 4), limits.held))
        most = max(most, int((limits.memory - 4 * limits.held) / bytes_per_pixel))
        raise InvalidImage(
            "invalid_image.too_many_pixels_of_kind", field=what, width=width, height=height, most=most, kind=kind
        )


def _check_raw(tags: Mapping[int, Any], what: str) -> None:
    """Refuse cameras' RAW files, which are TIFFs, too: of some Pillow would decode the thumbnail."""
    is_thumbnail = int(tags.get(_TIFF_SUBFILE_TYPE, 0)) & 1
    if _TIFF_DNG_VERSION in tags or is_thumbnail or tags.get(_TIFF_PHOTOMETRIC) in _TIFF_OF_A_SENSOR:
        raise InvalidImage("invalid_image.raw", field=what)


def _check_tiff(image: "Image.Image", what: str) -> None:
    tags = image.tag_v2  # type: ignore[attr-defined]  # a TIFF's own
    _check_raw(tags, what)
    # Pillow reads 16-bit samples as 8-bit if each colour has its own plane.
    misread = tags.get(_TIFF_PLANES) == 2 and max(tags.get(_TIFF_DEPTH, (1,))) > 8
    if misread or image.info.get("compression", "raw") not in _TIFF_COMPRESSIONS:
        raise InvalidImage("invalid_image.unreadable", field=what, kind=kinds.TIFF)


def _plain_mode(image: "Image.Image") -> str:
    """Return the mode among L, LA, RGB, RGBA and CMYK that preserves the picture."""
    if image.mode.startswith("I") or image.mode in {"1", "L"}:
        return "RGBA" if "transparency" in image.info else "L"
    if image.mode in {"LA", "La"}:
        return "LA"
    if image.mode == "CMYK":
        return "CMYK"
    return "RGBA" if image.has_transparency_data else "RGB"


def _reduced(rows: _Rows, most: int, *, cmyk: bool) -> "Image.Image":
    """Return all rows in a plain mode, averaging blocks of n x n pixels if there are more than `most`.

    `cmyk`: keep CMYK for its profile.
    """
    from PIL import Image

    width, height = rows.size
    mode = rows.mode if cmyk or rows.mode != "CMYK" else "RGB"
    by = next(by for by in range(1, width + height) if _pixels(rows.size, by) <= most)
    out = Image.new(mode, (math.ceil(width / by), math.ceil(height / by)))
    for top, band in _bands(rows, mode, by):
        out.paste(band if by == 1 else band.reduce(by), (0, top // by))
    return out


def _bands(rows: _Rows, mode: str, by: int = 1) -> Iterator[tuple[int, "Image.Image"]]:
    """Yield all rows in `mode` as bands (top, pixels), each but the last a multiple of `by` high."""
    width, height = rows.size
    step = max(1, _BAND_PIXELS // width // by) * by
    for top in range(0, height, step):
        yield top, _plain(rows.band(top, min(top + step, height)), mode)


def _levels(rows: _Rows) -> list[int]:
    """Return the histogram of a mask."""
    mode = "RGB" if rows.mode == "CMYK" else rows.mode
    bands = (_flat(band, "L", "black").histogram() for _, band in _bands(rows, mode))
    return [sum(counts) for counts in zip(*bands, strict=True)]


def _plain(image: "Image.Image", mode: str) -> "Image.Image":
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion clips at 255, so that almost everything becomes white.
        clear = image.info.get("transparency")
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
        if clear is not None:
            image.info["transparency"] = clear // 257
    return image if image.mode == mode else image.convert(mode)


def _flat_share(image: "Image.Image") -> float:
    """Return the share of single-coloured rows at one end: a decoder's filling for missing data."""
    width, height = image.size

    def flat(rows: int, *, top: bool) -> bool:
        extrema = image.crop((0, 0, width, rows) if top else (0, height - rows, width, height)).getextrema()
        bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
        return all(least == most for least, most in bands)

    # A BMP stores its last row first.
    ends = (bisect.bisect(range(1, height + 1), 0, key=lambda n: not flat(n, top=top)) for top in (False, True))
    return max(ends) / height


def _has_hole(mask: "Image.Image") -> bool:
    """Whether a mask is a photo with a transparent hole, as for OpenAI's images API, rather than drawn strokes.

    Its edge is opaque and a part inside transparent; its opaque part has many tones, or is plain dark and would repaint
    nothing.
    """
    if mask.mode not in {"LA", "RGBA"} or min(mask.size) < 3:
        return False
    small = mask.resize((min(mask.width, 256), min(mask.height, 256)), 0)
    clear = [value < 128 for value in small.getchannel("A").tobytes()]
    width, height = small.size
    rim = [*range(width), *range(width * (height - 1), width * height)]
    rim += [row * width + side for row in range(1, height - 1) for side in (0, width - 1)]
    if sum(clear[at] for at in rim) > len(rim) / 2 or sum(clear) < len(clear) / 1000:
        return False
    tones = small.convert("RGB").tobytes()
    opaque = [tones[3 * at : 3 * at + 3] for at, is_clear in enumerate(clear) if not is_clear]
    dark, bright = sum(max(tone) < 32 for tone in opaque), sum(min(tone) > 223 for tone in opaque)
    if dark + bright < 0.95 * len(opaque):
        return True
    return bright == 0


def _behind(drawing: "Image.Image") -> str:
    """White behind dark lines, and black behind light ones, such as PencilKit's where the phone is in dark mode."""
    if drawing.mode not in {"LA", "RGBA"}:
        return "white"
    levels = drawing.convert("L").histogram(drawing.getchannel("A"))
    return "black" if sum(level * count for level, count in enumerate(levels)) > 127 * sum(levels) else "white"


def _flat(image: "Image.Image", mode: str, background: str) -> "Image.Image":
    """Composite on a background."""
    from PIL import Image

    if image.mode not in {"LA", "RGBA"}:
        return image if image.mode == mode else image.convert(mode)
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    flat = Image.new("RGB", image.size, background)
    flat.paste(layer, mask=layer.getchannel("A"))
    return flat if mode == "RGB" else flat.convert(mode)


def _orientation(exif: object) -> object:
    """Return EXIF's orientation; None if it is missing or the data are broken."""
    from PIL import Image

    if not isinstance(exif, bytes):
        return None
    with contextlib.suppress(*_DECODER_ERRORS):
        found = Image.Exif()
        found.load(exif)
        return found.get(_EXIF_ORIENTATION)
    return None


def _upright(image: "Image.Image", orientation: object) -> "Image.Image":
    """Rotate by EXIF's orientation, 1 ... 8; other values are ignored."""
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
