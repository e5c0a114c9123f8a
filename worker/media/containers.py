"""Takes a picture's file apart before a decoder sees it: keeps the pixel data, and drops the rest.

Content that viewers skip but libraries choke on (long texts, broken metadata, trailing data) never reaches a library.
Knows the containers of JPEG (ITU-T T.81), PNG (W3C), GIF (GIF89a), WebP, TIFF and ISO media files; knows no pixels.
"""

import contextlib
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

MAX_PROFILE_BYTES = 16 << 20
"""Limit of a colour profile; the largest, of printing presses, have a few MB."""

_MAX_PARTS = 100_000
"""Limit of JPEG segments, PNG chunks or GIF blocks. A photo has up to a hundred, a carelessly encoded PNG thousands."""
_NEXT_MARKER = re.compile(rb"\xff(?![\x00\xd0-\xd7\xff])")
_JPEG_KEPT = {0xE0: 12, 0xEE: 12, 0xFE: _MAX_PARTS}
"""Marker -> minimum length of a complete segment."""
_EXIF, _ICC = b"Exif\0\0", b"ICC_PROFILE\0"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GIF_PART = re.compile(rb"[!,;]")
_TIFF_VERSION, _TIFF_SHORT = 42, 3
_NCLX = re.compile(rb"colrnclx(.{2})(.{2})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Parts:
    """The pixel data of a file, and the facts about them."""

    data: bytes
    """A complete file of the same format with the pixels only."""
    profile: bytes | None = None
    """The ICC profile; empty: there is one that cannot be read."""
    exif: bytes | None = None
    cicp: tuple[int, int] | None = None
    """Colour primaries and transfer characteristics (ITU-T H.273), if the file gives them by code point."""
    gamma: int | None = None
    chromaticities: tuple[int, ...] = ()
    """An old PNG's gamma and chromaticities (W3C, 11.3.2): x and y of white, red, green and blue, all times
    100,000."""
    complete: bool = True
    """Whether the file is complete."""
    scans: int = 1
    """Of a progressive JPEG: its number of scans."""
    coefficients: float = 0.0
    """Of a progressive JPEG: coefficients that a decoder keeps per pixel."""
    refines: bool = False
    """Whether the data refine the whole picture progressively, so that missing data leave no hole."""


def jpeg(data: bytes) -> Parts:
    """Return a JPEG without metadata and appended data (a phone's motion photo, a second picture)."""
    kept, exif, profile = [b"\xff\xd8"], None, dict[int, bytes]()
    scans, coefficients, start = 0, 0.0, 2
    complete, end = False, len(data)
    for kind, begin, stop in _segments(data):
        body = data[begin + 2 : stop] if kind != 0xD9 else b""
        if kind == 0xD9:
            complete, end = True, begin
            break
        if stop > len(data):  # truncated within this segment
            end = begin - 2
            break
        if kind in {0xC2, 0xC6, 0xCA, 0xCE}:
            coefficients = _coefficients(body)
        if kind == 0xDA:
            if not scans:
                start = begin - 2
            scans += 1
        elif not scans:
            if kind == 0xE1 and body.startswith(_EXIF):
                exif = exif or body
            elif kind == 0xE2 and body.startswith(_ICC) and len(body) > 14:
                profile[body[12]] = body[14:]
            # Of the application segments a decoder needs JFIF and Adobe, which determine the colour space.
            if len(body) >= _JPEG_KEPT.get(kind, _MAX_PARTS if kind >= 0xE0 else 0):
                kept.append(data[begin - 2 : stop])
    return Parts(
        # With an end marker a decoder fills in missing data; without one it waits for more.
        b"".join((*kept, data[start:end] if scans else b"", b"" if complete else b"\xff\xd9")),
        profile=b"".join(profile[number] for number in sorted(profile)) if profile else None,
        exif=exif,
        complete=complete,
        scans=scans,
        coefficients=coefficients,
        refines=coefficients > 0,
    )


def gif(data: bytes) -> Parts:
    """Return a GIF from its first picture on, with its transparent colour; anything else before it is dropped."""
    at = 13 + ((6 << (data[10] & 7)) if len(data) > 10 and data[10] & 0x80 else 0)
    head, clear, inside = data[:at], b"", False
    for _ in range(_MAX_PARTS):
        if inside:  # an extension; its blocks end with an empty one
            length = data[at] if at < len(data) else 0
            at, inside = at + 1 + length, length > 0
            continue
        found = _GIF_PART.search(data, at)
        if not found or found[0] == b";":
            break
        begin = found.start()
        if found[0] == b",":
            return Parts(head + clear + data[begin:], refines=True)  # interlaced rows
        control = data[begin : begin + 7]
        if control[:3] == b"!\xf9\4" and control[3:4] and control[3] & 1:
            clear = control + b"\0"
        at, inside = begin + 2, True
    return Parts(head + b";")


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start of body, end) up to the end marker, skipping the data of scans."""
    at = 2
    for _ in range(_MAX_PARTS):
        found = _NEXT_MARKER.search(data, at)
        if not found or found.end() >= len(data):
            return
        kind, at = data[found.end()], found.end() + 1
        if kind == 0xD9:
            yield kind, at, at
            return
        if kind in {0x01, 0xD8}:  # without a body
            continue
        stop = at + max(2, int.from_bytes(data[at : at + 2]))
        yield kind, at, stop
        at = stop


def _coefficients(frame: bytes) -> float:
    """Return the coefficients per pixel over all components of a frame, considering subsampling."""
    factors = [(byte >> 4, byte & 15) for byte in frame[7 : 6 + 3 * frame[5] : 3]] if len(frame) > 8 else []
    if not factors or not all(h and v for h, v in factors):
        return 4.0
    most_h, most_v = max(h for h, _ in factors), max(v for _, v in factors)
    return sum(h * v for h, v in factors) / (most_h * most_v)


def png(data: bytes) -> Parts:
    """Return a PNG with header, palette, transparent colour and pixels only, and correct checksums."""
    found: dict[bytes, bytes] = {}
    pixels, complete = list[bytes](), False
    at = len(_PNG_SIGNATURE)
    for _ in range(_MAX_PARTS):
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length] if kind in _PNG_KEPT else b""
        if kind == b"IEND":
            complete = True
        if len(kind) < 4 or kind == b"IEND":
            break
        if kind == b"IDAT":
            pixels.append(body)
        elif kind in _PNG_KEPT:
            found.setdefault(kind, body)
        at += 12 + length
    profile, cicp = None, found.get(b"cICP", b"")
    if b"iCCP" in found and b"sRGB" not in found:
        profile = _inflated(found[b"iCCP"].partition(b"\0")[2][1:])
    is_untold = not {b"iCCP", b"sRGB", b"cICP"} & found.keys()
    gamma, corners = found.get(b"gAMA", b""), found.get(b"cHRM", b"")
    header = found.get(b"IHDR", b"")
    # Pillow scales values to 0 ... 255 and compares them with the transparent value's last byte.
    depth, colours, clear = header[8:9], header[9:10], found.get(b"tRNS", b"")
    if colours == b"\0" and depth in {b"\2", b"\4"} and len(clear) == 2:
        found[b"tRNS"] = bytes((0, clear[1] * 255 // ((1 << depth[0]) - 1) & 255))
    elif colours == b"\2" and depth == b"\x10" and len(clear) == 6:
        found[b"tRNS"] = bytes((0, clear[0], 0, clear[2], 0, clear[4]))
    head = [_chunk(kind, found[kind]) for kind in (b"IHDR", b"PLTE", b"tRNS") if kind in found]
    return Parts(
        b"".join((_PNG_SIGNATURE, *head, _chunk(b"IDAT", b"".join(pixels)), _chunk(b"IEND", b""))),
        profile=profile,
        exif=found.get(b"eXIf"),
        cicp=(cicp[0], cicp[1]) if len(cicp) == 4 else None,
        gamma=int.from_bytes(gamma) if len(gamma) == 4 and is_untold else None,
        chromaticities=struct.unpack(">8I", corners) if len(corners) == 32 and is_untold else (),
        complete=complete,
        refines=len(header) == 13 and header[12] == 1,
    )


_PNG_KEPT = frozenset({
    *(b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf"),
    *(b"iCCP", b"cICP", b"sRGB", b"gAMA", b"cHRM"),
})  # fmt: skip


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _inflated(packed: bytes) -> bytes:
    """Decompress a profile; empty if it is broken, or a decompression bomb."""
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(packed, MAX_PROFILE_BYTES)
    except zlib.error:
        return b""
    return profile if unpacker.eof else b""


def webp(data: bytes) -> Parts:
    """Return a WebP up to its declared end; a missing final padding byte is added."""
    end = 8 + int.from_bytes(data[4:8], "little")
    missing = end - len(data)
    return Parts(data[:end] + bytes(missing == 1), complete=missing <= 1)


def tiff_tags(data: bytes) -> dict[int, int]:
    """Return the first directory of a TIFF, as far as it exists: tag -> its value, or the offset of it."""
    order, tags = "<" if data.startswith(b"I") else ">", dict[int, int]()
    with contextlib.suppress(struct.error):
        version, at = struct.unpack_from(order + "HI", data, 2)
        (count,) = struct.unpack_from(order + "H", data, at)
        for place in range(at + 2, at + 2 + 12 * count * (version == _TIFF_VERSION), 12):
            tag, kind = struct.unpack_from(order + "HH", data, place)
            (tags[tag],) = struct.unpack_from(order + ("H" if kind == _TIFF_SHORT else "I"), data, place + 8)
    return tags


def iso_media(data: bytes) -> Parts:
    """Return HEIC or AVIF unchanged, with the code points of its first colour box."""
    at, complete = 0, True
    for _ in range(_MAX_PARTS):
        length, kind, header = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8], 8
        if length == 1:
            length, header = int.from_bytes(data[at + 8 : at + 16]), 16
        # Length 0 means up to the end of the file.
        if length < header:
            break
        if kind in {b"meta", b"mdat"}:
            complete = complete and at + length <= len(data)
        at += length
    numbers = _NCLX.search(data, 0, 1 << 20)
    cicp = (int.from_bytes(numbers[1]), int.from_bytes(numbers[2])) if numbers else None
    return Parts(data, cicp=cicp, complete=complete)
