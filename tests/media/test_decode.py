"""Whatever the bytes are, the outcome is an upright picture without metadata, or an error that names the field."""

import contextlib
import os
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from tests.support.examples import examples
from tests.support.hostile_pictures import RED, SEEDS, chunk, flat_memory, png, saved
from worker.core.errors import InvalidImage
from worker.media import decode

MAX_PIXELS = 16_777_216
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    return decode.decode_image(data, "image_url", max_pixels)


def mask(data: bytes) -> Image.Image:
    return decode.decode_mask(data, "mask_url", MAX_PIXELS)


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats_are_read_as_rgb(fmt: str) -> None:
    got = image(saved(Image.new("RGB", (40, 24), RED), fmt))
    assert (got.mode, got.size) == ("RGB", (40, 24))
    assert np.abs(np.asarray(got).astype(int) - RED).max() <= 2


@pytest.mark.parametrize("fmt", ["GIF", "BMP", "TIFF", "PPM", "ICO", "TGA", "PCX", "JPEG2000", "AVIF", "EPS", "PDF"])
def test_no_other_format_is_read(fmt: str) -> None:
    with pytest.raises(InvalidImage, match=r"^invalid_image: image_url: is not a PNG, JPEG or WebP"):
        image(saved(Image.new("RGB", (16, 16)), fmt))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        b"<!doctype html><title>404</title>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"8BPS\x00\x01" + bytes(60),
        b"SIMPLE  =                    T",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xd9",
        b"RIFF\x04\x00\x00\x00WEBP",
        os.urandom(4096),
    ],
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidImage):
        image(data)


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_picture_is_refused(fmt: str, share: float) -> None:
    data = saved(Image.effect_noise((128, 128), 80).convert("RGB"), fmt)
    with pytest.raises(InvalidImage):
        image(data[: int(share * len(data))])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_phones_photo_comes_out_upright(orientation: int) -> None:
    """What a viewer shows for each EXIF orientation is what the model sees."""
    upright = Image.new("RGB", (48, 32), WHITE)
    upright.paste(RED, (0, 0, 16, 16))  # red in the upper left
    turns = Image.Transpose
    stored = {
        1: lambda p: p,
        2: lambda p: p.transpose(turns.FLIP_LEFT_RIGHT),
        3: lambda p: p.transpose(turns.ROTATE_180),
        4: lambda p: p.transpose(turns.FLIP_TOP_BOTTOM),
        5: lambda p: p.transpose(turns.TRANSPOSE),
        6: lambda p: p.transpose(turns.ROTATE_90),
        7: lambda p: p.transpose(turns.TRANSVERSE),
        8: lambda p: p.transpose(turns.ROTATE_270),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for fmt in ("PNG", "JPEG", "WEBP"):
        got = image(saved(stored, fmt, exif=exif))
        assert got.size == (48, 32)
        assert np.abs(np.asarray(got).astype(int) - np.asarray(upright)).mean() < 4
        assert not got.getexif()


def test_all_metadata_is_dropped() -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 0.0)  # GPS latitude
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a private prompt")
    picture = Image.new("RGB", (16, 16), RED)
    for data in (
        saved(picture, "JPEG", exif=exif, icc_profile=profile, comment=b"private"),
        saved(picture, "WEBP", exif=exif, icc_profile=profile),
        saved(picture, "PNG", exif=exif, icc_profile=profile, pnginfo=text),
    ):
        got = image(data)
        assert got.info == {}
        again = saved(got)
        assert not any(name in again for name in (b"eXIf", b"iCCP", b"tEXt", b"private"))


def test_transparency_is_laid_on_white() -> None:
    half = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    half.paste((0, 0, 255, 255), (4, 0, 8, 8))
    for data in (saved(half), saved(half, "WEBP", lossless=True), saved(half.convert("P"))):
        got = image(data)
        shown = np.asarray(got).astype(int)
        assert tuple(shown[0, 0]) == WHITE
        assert np.abs(shown[7, 7] - (0, 0, 255)).max() <= 2


def test_a_transparent_palette_entry_and_a_transparent_colour_are_laid_on_white() -> None:
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    assert image(saved(palette, transparency=0)).getpixel((0, 0)) == WHITE
    assert image(saved(Image.new("RGB", (4, 4), RED), transparency=RED)).getpixel((0, 0)) == WHITE
    assert image(saved(Image.new("LA", (4, 4), (0, 0)))).getpixel((0, 0)) == WHITE


def test_sixteen_bit_grey_keeps_its_tones() -> None:
    values = np.array([[0, 257 * 10, 32896, 65535]], np.uint16)
    got = image(saved(Image.fromarray(values)))
    assert [pixel[0] for pixel in np.asarray(got)[0].tolist()] == [0, 10, 128, 255]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode: str) -> None:
    fmt = "JPEG" if mode in {"CMYK", "YCbCr"} else "PNG"
    got = image(saved(Image.new("RGB", (16, 16), WHITE).convert(mode), fmt))
    assert got.mode == "RGB"
    assert np.asarray(got).min() >= 253


def test_only_the_first_frame_counts() -> None:
    first, second = Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 16), (0, 0, 255))
    for fmt, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        data = saved(first, fmt, save_all=True, append_images=[second] * 200, **options)
        assert image(data).getcolors() == [(256, RED)]


def test_a_mask_is_grey_and_clear_means_keep() -> None:
    strokes = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    strokes.paste((255, 255, 255, 255), (4, 0, 8, 8))
    got = mask(saved(strokes))
    assert got.mode == "L"
    assert (got.getpixel((0, 0)), got.getpixel((7, 0))) == (0, 255)
    assert mask(saved(Image.new("1", (8, 8), 1))).getextrema() == (255, 255)


def test_the_size_counts_before_any_pixel_is_decoded() -> None:
    """A 2.5-gigapixel PNG of a few kilobytes is refused by its header, in no time and no memory."""
    lying = png(50_000, 50_000, rows=bytes(100_000))
    webp = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16_382).to_bytes(3, "little") + (16_382).to_bytes(3, "little")
    webp += b"VP8L" + struct.pack("<I", 6) + b"\x2f" + (16_382 | 16_382 << 14).to_bytes(4, "little") + b"\x00"
    cases = (lying, png(13_000, 13_000, rows=b""), b"RIFF" + struct.pack("<I", 4 + len(webp)) + b"WEBP" + webp)
    for data in cases:
        start = time.perf_counter()
        with flat_memory(10), pytest.raises(InvalidImage):
            image(data)
        assert time.perf_counter() - start < 1


def test_the_message_says_how_many_pixels_are_allowed() -> None:
    with pytest.raises(InvalidImage, match=r"image_url: has 200 x 100 pixels; at most 19999 in all are allowed"):
        image(saved(Image.new("RGB", (200, 100))), 19_999)
    assert image(saved(Image.new("RGB", (200, 100))), 20_000).size == (200, 100)


@pytest.mark.parametrize(
    "bomb",
    [
        lambda: chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(100_000_000))),
        lambda: chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(100_000_000))),
        lambda: chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(100_000_000))),
        lambda: chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000))) * 200,
    ],
    ids=["zTXt", "iTXt", "iCCP", "many"],
)
def test_text_and_profile_bombs_are_refused_with_flat_memory(bomb: Callable[[], bytes]) -> None:
    data = png(8, 8, bomb())
    with flat_memory(80), pytest.raises(InvalidImage):
        image(data)


def test_a_jpeg_of_thousands_of_scans_is_refused_at_once() -> None:
    """Each scan of some thirty bytes goes over all pixels: a small file would take the decoder hours."""
    data = saved(Image.new("RGB", (512, 512), (128, 128, 128)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    for filler in (b"", b"\xff\xff\xff", b"\xff\x01"):
        start = time.perf_counter()
        with pytest.raises(InvalidImage, match="scans"):
            image(data[:-2] + (filler + last) * 5000 + data[-2:])
        assert time.perf_counter() - start < 1


def test_a_progressive_photo_and_a_motion_photo_are_fine() -> None:
    noise = Image.effect_noise((256, 256), 60).convert("RGB")
    data = saved(noise, "JPEG", progressive=True, restart_marker_blocks=3)
    assert image(data).size == (256, 256)
    assert image(data + b"\xff\xda" * 1000).size == (256, 256)


@examples(400)
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=0, max_size=6)), min_size=1, max_size=6),
    cut=st.integers(0, 10_000),
)
def test_broken_files_end_as_a_picture_or_as_invalid_image(
    seed: bytes, changes: list[tuple[int, bytes]], cut: int
) -> None:
    data = bytearray(seed)
    for at, content in changes:
        start = at % len(data)
        data[start : start + len(content)] = content
    hurt = bytes(data[: len(data) - cut % 40] if cut % 3 == 0 else data)
    for read in (image, mask):
        with contextlib.suppress(InvalidImage):
            got = read(hurt)
            assert got.width * got.height <= MAX_PIXELS
            assert got.info == {}
