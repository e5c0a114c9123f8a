"""Identifies the format of a stranger's bytes by their beginning, never by a name or a declared type.

Knows signatures. Opens nothing: a file of another kind than a picture is refused here, in words that say what it is.
"""

import re
from collections.abc import Callable

from worker.core.errors import InvalidImage

JPEG, PNG, WEBP, HEIC, AVIF, GIF, BMP, TIFF = "JPEG", "PNG", "WebP", "HEIC", "AVIF", "GIF", "BMP", "TIFF"
KINDS = (JPEG, PNG, WEBP, HEIC, AVIF, GIF, BMP, TIFF)

_SIGNATURES = (
    (re.compile(rb"\xff\xd8\xff"), JPEG),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PNG),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WEBP),
    (re.compile(rb"GIF8[79]a"), GIF),
    # Includes the size of its second header; "BM" alone could be the start of a text.
    (re.compile(rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL), BMP),
    (re.compile(rb"II[*+]\0(?!.{4}CR)|MM\0[*+]", re.DOTALL), TIFF),
)
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_HEIF_BRANDS = frozenset({b"mif1", b"mif2", b"msf1", b"miaf"})
_RAW = re.compile(rb"II[*]\0.{4}CR|II[RU]\0|IIRO|IIRS|MMOR|FUJIFILMCCD-RAW|FOVb|.{4}ftypcrx ", re.DOTALL)
_JPEG_XL = re.compile(rb"\xff\x0a|\0\0\0\x0cJXL ")
_JPEG_2000 = re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51")
_VIDEO = re.compile(
    rb".{4}(?:ftyp|moov|mdat|free|wide|skip|pnot)|\x1a\x45\xdf\xa3|RIFF....AVI |FLV\x01|OggS"
    rb"|\0\0\x01[\xb3\xba]|\x30\x26\xb2\x75|G.{187}G",
    re.DOTALL,
)
_SOUND = re.compile(rb"ID3|RIFF....WAVE|fLaC|\xff[\xf1\xf3\xf9\xfb]|#!AMR", re.DOTALL)
_ARCHIVE = re.compile(rb"PK(?:\x03\x04|\x05\x06)|Rar!|7z\xbc\xaf|.{257}ustar", re.DOTALL)
_COMPRESSED = re.compile(rb"\x1f\x8b|\x28\xb5\x2f\xfd|BZh[1-9]|\xfd7zXZ\0")
_HTML = re.compile(rb"<(?:!doctype html|html|head|body|script|title|meta|!--(?:(?!<svg).)*<html)", re.DOTALL)
_BASE64 = re.compile(rb"data:|/9j/|ivborw0kgg|uklgr|r0lgod|aaaa[a-z]gz0e", re.IGNORECASE)
_TEXT = re.compile(r"[^\x00-\x08\x0e-\x1f\x7f\ufffd]+")
_START = 4096


def kind_of(data: bytes, what: str) -> str:
    """Return the one of `KINDS` that the bytes begin as.

    Raises:
        InvalidImage: another kind of file; the message starts with `what`, and says what it is and what to do.
    """
    start = data[:_START]
    for signature, kind in _SIGNATURES:
        if signature.match(start):
            return kind
    if branded := _of_brands(start):
        return branded
    raise next((refusal(what) for is_so, refusal in _OTHERS if is_so(start)), None) or InvalidImage(
        "invalid_image.another", field=what
    )


def _of_brands(start: bytes) -> str | None:
    """Identify HEIC or AVIF by the brands of a file in the ISO base media format (ISO/IEC 14496-12)."""
    if start[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(start[:4]), len(start))
    major, brands = start[8:12], {start[at : at + 4] for at in range(8, end - 3, 4)}
    for group, kind in ((_AVIF_BRANDS, AVIF), (_HEIC_BRANDS, HEIC)):
        if major in group:
            return kind
    if brands & _AVIF_BRANDS:
        return AVIF
    return HEIC if brands & (_HEIC_BRANDS | _HEIF_BRANDS) else None


def _words(start: bytes) -> bytes:
    """Return a text's first words in lower case, without byte order mark and leading blanks; empty if it is no text."""
    encoding = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}.get(start[:2], "utf-8")
    # The cut may split the last character, which means nothing.
    text = start.decode(encoding, "replace").rstrip("\ufffd").lstrip("\ufeff \t\r\n")
    return text.lower().encode() if _TEXT.fullmatch(text) else b""


_OTHERS: tuple[tuple[Callable[[bytes], object], Callable[[str], InvalidImage]], ...] = (
    (lambda start: not start, lambda what: InvalidImage("invalid_image.empty", field=what)),
    (_RAW.match, lambda what: InvalidImage("invalid_image.raw", field=what)),
    (_JPEG_XL.match, lambda what: InvalidImage("invalid_image.jpeg_xl", field=what)),
    (_JPEG_2000.match, lambda what: InvalidImage("invalid_image.jpeg_2000", field=what)),
    (_VIDEO.match, lambda what: InvalidImage("invalid_image.video", field=what)),
    (_SOUND.match, lambda what: InvalidImage("invalid_image.sound", field=what)),
    (lambda start: start.startswith(b"8BPS"), lambda what: InvalidImage("invalid_image.photoshop", field=what)),
    (lambda start: start.startswith(b"\0\0\x01\0"), lambda what: InvalidImage("invalid_image.icon", field=what)),
    (lambda start: b"%PDF-" in start[:1024], lambda what: InvalidImage("invalid_image.pdf", field=what)),
    (
        lambda start: start.startswith((b"%!PS", b"\xc5\xd0\xd3\xc6")),
        lambda what: InvalidImage("invalid_image.postscript", field=what),
    ),
    (_ARCHIVE.match, lambda what: InvalidImage("invalid_image.archive", field=what)),
    (_COMPRESSED.match, lambda what: InvalidImage("invalid_image.compressed", field=what)),
    (lambda start: _HTML.match(_words(start)), lambda what: InvalidImage("invalid_image.html", field=what)),
    (
        lambda start: (words := _words(start)).startswith(b"<") and b"<svg" in words,
        lambda what: InvalidImage("invalid_image.svg", field=what),
    ),
    (lambda start: _words(start).startswith(b"<"), lambda what: InvalidImage("invalid_image.xml", field=what)),
    (lambda start: _words(start).startswith((b"{", b"[")), lambda what: InvalidImage("invalid_image.json", field=what)),
    (lambda start: _BASE64.match(_words(start)), lambda what: InvalidImage("invalid_image.base64", field=what)),
    (_words, lambda what: InvalidImage("invalid_image.text", field=what)),
)
"""Tests for other formats that people send -> the error; the first match counts."""
