"""A file's kind is recognised by its first bytes, and a refusal names it and says what to do."""

import gzip
import io
import zipfile

import pillow_heif
import pytest
from PIL import Image

from tests.support.hostile_pictures import saved
from worker.core.errors import InvalidImage
from worker.media.kinds import kind_of


def box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4) + kind + content


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("a.png", b"x")
    return out.getvalue()


def small(fmt: str) -> bytes:
    return saved(Image.new("RGB", (16, 16)), fmt)


@pytest.mark.parametrize(
    ("fmt", "kind"),
    [
        *(("JPEG", "JPEG"), ("MPO", "JPEG"), ("PNG", "PNG"), ("WEBP", "WebP"), ("AVIF", "AVIF"), ("HEIF", "HEIC")),
        *(("GIF", "GIF"), ("BMP", "BMP"), ("TIFF", "TIFF")),
    ],
)
def test_a_picture_is_what_its_bytes_say(fmt: str, kind: str) -> None:
    pillow_heif.register_heif_opener()
    assert kind_of(small(fmt), "image_url") == kind


@pytest.mark.parametrize(
    ("major", "compatible", "kind"),
    [
        (b"heic", b"mif1heic", "HEIC"),
        (b"heix", b"mif1heix", "HEIC"),
        (b"mif1", b"heicmif1", "HEIC"),
        (b"mif1", b"avifmif1miaf", "AVIF"),
        (b"mif1", b"mif1", "HEIC"),
        (b"msf1", b"hevcmsf1", "HEIC"),
        (b"hevc", b"msf1hevc", "HEIC"),
        (b"avis", b"avifavismsf1", "AVIF"),
        (b"isom", b"isomheic", "HEIC"),
    ],
)
def test_heic_and_avif_are_told_apart_by_their_brands(major: bytes, compatible: bytes, kind: str) -> None:
    assert kind_of(box(b"ftyp", major + bytes(4) + compatible) + box(b"meta", b""), "image_url") == kind


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"<!doctype html><title>404</title>", "is an HTML page, not a picture; send the URL of the file itself"),
        (b"\xef\xbb\xbf\r\n <!DOCTYPE html PUBLIC '-//W3C//DTD XHTML 1.0'>", "is an HTML page"),
        ("\ufeff<html lang=de>ä".encode("utf-16"), "is an HTML page"),
        (b"<!-- saved -->\n<html>", "is an HTML page"),
        (b"<HTML>" + "ü".encode() * 5000, "is an HTML page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is SVG"),
        (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg/>", "is SVG"),
        (b"<!-- drawn --><svg/>", "is SVG"),
        (
            b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
            "is an XML document, often a server's error",
        ),
        (b'{"error": {"code": 404}}', "is JSON, often a server's error"),
        (b"[1, 2]", "is JSON"),
        (b"/9j/4AAQSkZJRgABAQ==", "is base64 text, not a picture"),
        (b"data:image/png;base64,iVBORw0KGgo=", "is base64 text"),
        (b"AAAAGGZ0eXBoZWljAAAA", "is base64 text"),
        (b"Not found", "is text, not a picture"),
        ("Datei nicht gefunden: ü".encode(), "is text"),
        (box(b"ftyp", b"isom\0\0\2\0isomiso2avc1mp41") + box(b"moov", b""), "is a video, not a picture; send a frame"),
        (box(b"ftyp", b"qt  \0\0\0\0qt  "), "is a video"),
        (box(b"wide", b"") + box(b"mdat", b"x"), "is a video"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01webm", "is a video"),
        (b"RIFF\x24\0\0\0AVI LIST", "is a video"),
        (b"OggS\0\2" + bytes(40), "is a video"),
        (b"ID3\4\0\0\0\0\0\0", "is a sound"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "is a sound"),
        (b"%PDF-1.7\n%\xe2\xe3", "is a PDF, not a picture; export the page as PNG"),
        (b"\r\n%PDF-1.4", "is a PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "is PostScript or EPS"),
        (b"\xc5\xd0\xd3\xc6" + bytes(30), "is PostScript or EPS"),
        (b"II*\0\x10\0\0\0CR\2\0", "is a camera's RAW file"),
        (b"IIU\0\x18\0\0\0", "is a camera's RAW file"),
        (b"FUJIFILMCCD-RAW 0201", "is a camera's RAW file"),
        (box(b"ftyp", b"crx \0\0\0\1crx isom"), "is a camera's RAW file"),
        (b"\xff\x0a\xfa\x1f\x41\x91", "is JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "is JPEG XL"),
        (small("JPEG2000"), "is JPEG 2000"),
        (b"\xff\x4f\xff\x51\0\x2f", "is JPEG 2000"),
        (b"8BPS\0\1" + bytes(30), "is a Photoshop document"),
        (small("ICO"), "is an icon file"),
        (archive(), "is an archive (ZIP or the like); send the picture in it"),
        (gzip.compress(b"x" * 99, mtime=0), "is a compressed file (gzip or the like)"),
        (b"\x7fELF\2\1\1" + bytes(60), "is not a picture that can be read; send a JPEG, PNG, WebP, HEIC"),
        (b"\x80\x04cos\nsystem\n(S'id'\ntR.", "is not a picture that can be read"),
        (small("PPM"), "is not a picture that can be read"),
        (bytes(5000), "is not a picture that can be read"),
        (b"BM, and a sentence that begins so", "is text"),
    ],
)
def test_a_refusal_names_what_the_bytes_are_and_what_to_do(data: bytes, words: str) -> None:
    with pytest.raises(InvalidImage) as caught:
        kind_of(data, "mask_url")
    assert caught.value.message.startswith(f"mask_url: {words}")
