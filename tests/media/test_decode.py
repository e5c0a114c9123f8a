"""For any bytes, the outcome is an upright picture without metadata, or an error that names the field."""

import contextlib
import functools
import io
import math
import os
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pillow_heif
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFilter, PngImagePlugin, TiffImagePlugin

from tests.support.clock import SOON_SECONDS
from tests.support.examples import examples
from tests.support.hostile_pictures import (
    RED,
    SEEDS,
    avif_of,
    bmp_of,
    chunk,
    flat_memory,
    gif_of,
    heic_of,
    png,
    progressive_of,
    saved,
    tiff_of,
    webp_of,
)
from tests.support.phone_files import SRGB, difference, scene, shown_fields
from tests.support.profiles import SRGB as SRGB_ROWS
from tests.support.profiles import screen
from worker.core.errors import InvalidImage
from worker.media import decode

MAX_PIXELS = 16_777_216
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


@functools.cache
def nothing(size: int) -> bytes:
    """Return so many zero bytes, deflated."""
    return zlib.compress(bytes(size))


def image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    return decode.decode_image(data, "image_url", max_pixels).image


def mask(data: bytes) -> Image.Image:
    return decode.decode_image(data, "mask_url", MAX_PIXELS, mask=True).image


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP", "HEIF", "AVIF", "GIF", "BMP", "TIFF", "MPO"])
def test_every_kind_is_read_as_rgb(fmt: str) -> None:
    pillow_heif.register_heif_opener()
    got = image(saved(Image.new("RGB", (40, 24), RED), fmt))
    assert (got.mode, got.size) == ("RGB", (40, 24))
    assert np.abs(np.asarray(got).astype(int) - RED).max() <= 3


@pytest.mark.parametrize("fmt", ["PPM", "ICO", "TGA", "PCX", "JPEG2000", "EPS", "PDF"])
def test_no_other_format_is_read(fmt: str) -> None:
    with pytest.raises(InvalidImage, match=r"^invalid_image: image_url: is "):
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


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.85])
def test_a_picture_that_is_cut_off_is_read_as_far_as_it_goes_with_a_warning(fmt: str, share: float) -> None:
    """Pillow refuses what every viewer shows: an interrupted upload, a panorama without its end."""
    noise = Image.effect_noise((128, 256), 80).convert("RGB")
    data = saved(noise, fmt)
    got = decode.decode_image(data[: int(share * len(data))], "image_url", MAX_PIXELS)
    (warning,) = got.warnings
    assert warning == "image_url: the file is cut off; what is missing was filled with one colour"
    there = slice(-24, None) if fmt == "BMP" else slice(24)  # a BMP begins with its last row
    assert np.abs(np.asarray(got.image, int)[there] - np.asarray(noise)[there]).mean() < 12


@pytest.mark.parametrize("fmt", ["WEBP", "HEIF", "AVIF"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_kind_that_no_viewer_shows_in_part_is_refused_as_cut_off(fmt: str, share: float) -> None:
    pillow_heif.register_heif_opener()
    data = saved(Image.effect_noise((128, 128), 80).convert("RGB"), fmt)
    with pytest.raises(InvalidImage, match="is cut off: the file ends before its pixels do; send the whole file"):
        image(data[: int(share * len(data))])


@pytest.mark.parametrize("of_its_own", [True, False], ids=["own palette", "global palette"])
def test_what_stands_before_a_gifs_picture_changes_none_of_its_pixels(of_its_own: bool) -> None:
    """Comments, XMP, a second control block: they are skipped, and the transparent colour is kept."""
    noise = Image.effect_noise((40, 30), 90).convert("P")
    clear = saved(
        noise, "GIF", transparency=noise.getpixel((3, 3)), interlace=1, comment=b"x" * 3000, loop=0, duration=9
    )
    head = 13 + (6 << (clear[10] & 7))
    xmp = b"!\xff\x0bXMP DataXMP<x:xmpmeta>" + b"text" * 500 + b"\1\xff" + bytes(range(254, -1, -1)) + b"\0\0"
    noisy = clear[:head] + b"!\xfe\3abc\0" + xmp + b"!\xf9\4\0\0\0\0\0" + b"junk" + clear[head:]
    if of_its_own:  # the colours follow the picture's own header
        at = clear.index(b",", head)
        palette, size = clear[13:head], clear[10] & 7
        own = clear[at : at + 9] + bytes([clear[at + 9] | 0x80 | size]) + palette + clear[at + 10 :]
        noisy = clear[:10] + bytes([clear[10] & 0x7F]) + clear[11:13] + clear[head:at] + own
    with Image.open(io.BytesIO(clear)) as opened:
        expected = Image.new("RGB", opened.size, "white")
        expected.paste(opened.convert("RGBA"), mask=opened.convert("RGBA").getchannel("A"))
    for data in (clear, noisy):
        assert np.array_equal(
            np.asarray(decode.decode_image(data, "image_url", MAX_PIXELS).image), np.asarray(expected)
        )


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_a_picture_of_which_next_to_nothing_is_there_is_refused(fmt: str) -> None:
    data = saved(Image.effect_noise((400, 400), 80).convert("RGB"), fmt)
    with pytest.raises(InvalidImage, match=r"cut off|damaged"):
        image(data[: int(0.06 * len(data))])


@pytest.mark.parametrize(("fmt", "options"), [("JPEG", {"progressive": True}), ("GIF", {"interlace": 1})])
def test_a_picture_that_comes_in_finer_and_finer_layers_lacks_details_only(fmt: str, options: dict[str, Any]) -> None:
    data = saved(Image.effect_noise((128, 128), 80).convert("RGB"), fmt, **options)
    got = decode.decode_image(data[: int(0.7 * len(data))], "image_url", MAX_PIXELS)
    assert got.warnings == (
        "image_url: the file is cut off; it was read as far as it goes, and fine details are missing",
    )


@pytest.mark.parametrize("tail", [b"\0", b"\r\n", b"<!-- served by -->", os.urandom(5000), b"\xff\xd8\xff\xe0" * 9])
@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF"])
def test_what_stands_behind_a_pictures_end_changes_nothing(fmt: str, tail: bytes) -> None:
    pillow_heif.register_heif_opener()
    data = saved(Image.linear_gradient("L").resize((64, 48)).convert("RGB"), fmt)
    got = decode.decode_image(data + tail, "image_url", MAX_PIXELS)
    assert got.warnings == ()
    assert got.image.tobytes() == image(data).tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_phones_photo_comes_out_upright(orientation: int) -> None:
    """The model sees what a viewer shows for each EXIF orientation."""
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
    pillow_heif.register_heif_opener()
    for fmt in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "HEIF"):
        got = image(saved(stored, fmt, exif=exif.tobytes()))
        assert got.size == (48, 32), fmt
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


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_one_shade_of_grey_is_transparent_at_any_depth(depth: int) -> None:
    """PNG specification (W3C), 11.3.2.1: the shade is given in the picture's own depth."""
    most = (1 << depth) - 1
    rows = b"".join(b"\0" + (shade << (-depth % 8)).to_bytes((depth + 7) // 8) for shade in (0, most, most))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 3, depth, 0, 0, 0, 0))
    clear = chunk(b"tRNS", struct.pack(">H", most))
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    data = b"\x89PNG\r\n\x1a\n" + header + clear + end
    assert mask(data).tobytes() == b"\0\0\0"
    assert np.asarray(image(data))[:, 0, 0].tolist() == [0, 255, 255]
    nothing = data.replace(clear, chunk(b"tRNS", struct.pack(">H", 0)))
    assert np.asarray(mask(nothing))[:, 0].tolist() == [0, 255, 255]
    assert np.asarray(image(nothing))[:, 0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("depth", [8, 16])
def test_one_colour_is_transparent_at_any_depth(depth: int) -> None:
    form = ">3B" if depth == 8 else ">3H"
    red, clear = ((255, 18, 0), (18, 86, 154)) if depth == 8 else ((0xFFFF, 0x1234, 0), (0x1234, 0x5678, 0x9ABC))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, depth, 2, 0, 0, 0))
    rows = b"\0" + struct.pack(form, *red) + struct.pack(form, *clear)
    pixels = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"tRNS", struct.pack(">3H", *clear)) + pixels
    assert [image(data).getpixel((x, 0)) for x in (0, 1)] == [(255, 18, 0), WHITE]
    assert mask(data).getpixel((1, 0)) == 0


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode: str) -> None:
    fmt = "JPEG" if mode in {"CMYK", "YCbCr"} else "PNG"
    got = image(saved(Image.new("RGB", (16, 16), WHITE).convert(mode), fmt))
    assert got.mode == "RGB"
    assert np.asarray(got).min() >= 253


@pytest.mark.parametrize("turned", [False, True])
def test_a_strip_longer_than_any_picture_is_refused_with_its_size(turned: bool) -> None:
    longest, longer = ((1, side) if turned else (side, 1) for side in (65_535, 65_536))
    assert image(saved(Image.new("L", longest))).size == longest
    with pytest.raises(InvalidImage) as caught:
        image(saved(Image.new("L", longer)))
    said = f"has {longer[0]} x {longer[1]} pixels; a side may have 65535 at most"
    assert caught.value.message.endswith(said)


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


def photo_mask(*, rim: int = 255, hole: int = 0, size: tuple[int, int] = (128, 128)) -> Image.Image:
    """Return a photo whose middle is transparent, which OpenAI's images API takes as a mask."""
    picture = Image.merge("RGB", [Image.effect_noise(size, 60) for _ in range(3)])
    alpha = Image.new("L", size, rim)
    alpha.paste(hole, (size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4))
    picture.putalpha(alpha)
    return picture


def drawn(ground: Any, stroke: Any) -> Image.Image:
    """Draw strokes of one colour on a ground of another."""
    picture = Image.new("RGBA", (128, 128), ground)
    picture.paste(stroke, (32, 32, 96, 96))
    return picture


CLEAR = (0, 0, 0, 0)


@pytest.mark.parametrize(
    "sent",
    [
        lambda: saved(photo_mask()),
        lambda: saved(photo_mask(), "WEBP"),
        lambda: saved(photo_mask(), "AVIF"),
        lambda: saved(photo_mask(size=(900, 400))),
        lambda: saved(photo_mask().convert("LA")),
        lambda: saved(photo_mask(hole=60)),
        lambda: saved(drawn((0, 0, 0, 255), CLEAR)),
        lambda: saved(drawn((90, 90, 90, 255), CLEAR)),
    ],
    ids=["photo", "WebP", "AVIF", "wide", "grey", "soft hole", "black cover", "grey cover"],
)
def test_a_mask_with_a_transparent_hole_is_told_the_convention(sent: Callable[[], bytes]) -> None:
    """A1111#1188, bifrost PR#1459, A1111#16854: in OpenAI's convention transparent means change; here it means keep."""
    (warning,) = decode.decode_image(sent(), "mask_url", MAX_PIXELS, mask=True).warnings
    assert warning == (
        "mask_url: is a picture with a transparent hole; here white is repainted and transparent is kept: "
        "send white where it shall be drawn"
    )


@pytest.mark.parametrize(
    "sent",
    [
        lambda: drawn(CLEAR, (255, 255, 255, 255)),
        lambda: drawn(CLEAR, (255, 0, 0, 255)),
        lambda: drawn(CLEAR, (255, 255, 255, 100)),
        lambda: drawn((0, 0, 0, 255), (255, 255, 255, 255)),
        lambda: drawn((255, 255, 255, 255), CLEAR),
        lambda: drawn((0, 0, 0, 255), (255, 255, 255, 255)).convert("LA"),
        lambda: photo_mask(rim=255, hole=255),
        lambda: photo_mask().convert("RGB"),
        lambda: Image.new("RGBA", (64, 64), CLEAR),
        lambda: Image.new("RGBA", (1, 1), CLEAR),
    ],
    ids=["white", "red", "faint", "opaque", "white with a hole", "LA", "opaque photo", "no alpha", "empty", "a pixel"],
)
def test_a_mask_of_strokes_is_told_nothing(sent: Callable[[], Image.Image]) -> None:
    assert decode.decode_image(saved(sent()), "mask_url", MAX_PIXELS, mask=True).warnings == ()


def test_a_photo_with_a_hole_is_no_mask() -> None:
    assert decode.decode_image(saved(photo_mask()), "image_url", MAX_PIXELS).warnings == ()


def test_a_soft_mask_keeps_its_values() -> None:
    ramp = Image.linear_gradient("L")
    assert mask(saved(ramp)).tobytes() == ramp.tobytes()
    soft = Image.new("RGBA", (256, 256), (255, 255, 255, 0))
    soft.putalpha(ramp)
    assert np.abs(np.asarray(mask(saved(soft)), int) - np.asarray(ramp)).max() <= 1


@pytest.mark.parametrize(
    ("fmt", "mode"), [("PNG", "L"), ("PNG", "RGBA"), ("JPEG", "L"), ("JPEG", "RGB"), ("TIFF", "1")]
)
def test_a_mask_of_black_and_white_stays_one_where_it_is_made_smaller(fmt: str, mode: str) -> None:
    """uppy#4792: a mask drawn over a photo of 24 megapixels has as many; with grey edges it would be a soft one."""
    drawn = Image.new("L", (301, 301))
    drawn.paste(255, (101, 83, 200, 222))
    options = {"quality": 80} if fmt == "JPEG" else {}
    small = decode.decode_image(saved(drawn.convert(mode), fmt, **options), "mask_url", 10_000, mask=True).image
    assert small.size == (76, 76)
    assert set(small.tobytes()) == {0, 255}
    soft = decode.decode_image(saved(drawn.filter(ImageFilter.GaussianBlur(9))), "mask_url", 10_000, mask=True).image
    assert len(set(soft.tobytes())) > 50


def test_the_size_counts_before_any_pixel_is_decoded() -> None:
    """A 2.5-gigapixel PNG of a few kilobytes is refused by its header, at once and without memory."""
    lying = png(50_000, 50_000, rows=bytes(100_000))
    cases = [lying, png(17_000, 17_000, rows=b""), webp_of(16_383, 16_383), gif_of(65_535, 65_535)]
    cases += [bmp_of(60_000, 60_000), tiff_of(60_000, 60_000), heic_of(65_535, 65_535), avif_of(65_535, 65_535)]
    for data in cases:
        start = time.perf_counter()
        with flat_memory(10), pytest.raises(InvalidImage):
            image(data)
        assert time.perf_counter() - start < SOON_SECONDS


def test_the_message_says_how_many_pixels_are_allowed() -> None:
    data = saved(Image.new("RGB", (200, 100)))
    with pytest.raises(InvalidImage, match=r"image_url: has 200 x 100 pixels; at most 19999 in all are allowed"):
        decode.decode_image(data, "image_url", MAX_PIXELS, 19_999)
    assert decode.decode_image(data, "image_url", MAX_PIXELS, 20_000).image.size == (200, 100)


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP", "HEIF", "AVIF", "GIF", "BMP", "TIFF"])
def test_a_picture_of_more_pixels_than_are_held_is_made_smaller_without_a_word(fmt: str) -> None:
    """uppy#4792, slopus/happy#1749: phones now take 24, 48 and 200 megapixels."""
    pillow_heif.register_heif_opener()
    data = saved(scene((301, 200)), fmt)
    for held, factor in ((60_200, 1), (60_000, 2), (7_000, 3), (5_000, 4), (500, 12)):
        got = decode.decode_image(data, "image_url", held)
        assert got.warnings == ()
        assert got.image.width * got.image.height <= held
        if fmt != "JPEG" or factor in {1, 2, 4}:
            assert got.image.size == (math.ceil(301 / factor), math.ceil(200 / factor))
        if factor < 5:
            assert max(map(difference, shown_fields(got.image), SRGB)) <= 4


def test_a_picture_that_would_take_too_much_memory_is_refused_with_what_would_fit() -> None:
    """A progressive photo keeps coefficients for all of its pixels; a WebP is decoded in four copies."""
    cases = ((progressive_of(16_320, 12_240), "progressive JPEG"), (webp_of(6000, 6000), "WebP"))
    for data, kind in cases:
        words = rf"{kind} may have \d+ in all; make it smaller, or send a baseline JPEG"
        with flat_memory(10), pytest.raises(InvalidImage, match=words):
            image(data)


@pytest.mark.parametrize(
    "bomb",
    [
        lambda: chunk(b"zTXt", b"k\0\0" + nothing(100_000_000)),
        lambda: chunk(b"iTXt", b"k\0\1\0\0\0" + nothing(100_000_000)),
        lambda: chunk(b"iCCP", b"k\0\0" + nothing(100_000_000)),
        lambda: chunk(b"zTXt", b"k\0\0" + nothing(1_000_000)) * 200,
    ],
    ids=["zTXt", "iTXt", "iCCP", "many"],
)
def test_text_and_profile_bombs_are_stepped_over_with_flat_memory(bomb: Callable[[], bytes]) -> None:
    data = png(8, 8, bomb())
    with flat_memory(10):
        got = decode.decode_image(data, "image_url", MAX_PIXELS)
    assert got.image.getcolors() == [(64, BLACK)]
    assert bool(got.warnings) == (b"iCCP" in data)


@pytest.mark.parametrize("place", ["before the pixels", "behind them"])
@pytest.mark.parametrize(
    "text",
    [
        lambda: chunk(b"zTXt", b"workflow\0\0" + zlib.compress(os.urandom(700_000).hex().encode())),
        lambda: chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(os.urandom(700_000).hex().encode())),
        lambda: chunk(b"tEXt", b"workflow\0" + os.urandom(700_000).hex().encode()),
        lambda: chunk(b"iCCP", b"printer\0\0" + zlib.compress(screen(SRGB_ROWS, extra=os.urandom(1_400_000)))),
        lambda: chunk(b"tEXt", b"workflow\0broken")[:-4] + b"\0\0\0\0",
        lambda: chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
        lambda: chunk(b"tIME", b"") + chunk(b"pHYs", b"1") + chunk(b"gAMA", b"") + chunk(b"sRGB", b""),
    ],
    ids=["zTXt", "iTXt", "tEXt", "iCCP", "wrong checksum", "broken EXIF", "short chunks"],
)
def test_a_png_with_long_or_broken_chunks_beside_its_pixels_is_read(text: Callable[[], bytes], place: str) -> None:
    """Pillow#8363, Pillow#2445, STAMP PR#76: a ComfyUI workflow, Photoshop's XMP, a printer's profile."""
    data = png(4, 4, text())
    if place == "behind them":
        body, end = png(4, 4)[:-12], png(4, 4)[-12:]
        data = body + text() + end
    got = decode.decode_image(data, "image_url", MAX_PIXELS)
    assert got.warnings == ()
    assert got.image.getcolors() == [(16, BLACK)]


@pytest.mark.parametrize(
    "segment",
    [
        b"\xff\xed\x00\x16Photoshop 3.0\x008BIM\x04x",
        b"\xff\xed\x00\x02",
        b"\xff\xe1\x00\x12Exif\0\0II*\0\xff\xff\xff\xff",
        b"\xff\xe1\x00\x08Exif\0\0",
        b"\xff\xe2\x00\x0eMPF\0II*\0\xff\xff\xff\xff",
        b"\xff\xe0\x00\x07JFIF\0",
        b"\xff\xee\x00\x07Adobe",
        b"\xff\xfe\x00\x02",
    ],
    ids=["8BIM", "APP13", "EXIF", "empty EXIF", "MPF", "JFIF", "Adobe", "comment"],
)
def test_a_jpeg_with_a_broken_segment_beside_its_pixels_is_read(segment: bytes) -> None:
    """Pillow PR#5086, Pillow#4236: a stray 8BIM tag at the end of APP13 must not stop a photo."""
    data = saved(scene((64, 48)), "JPEG", quality=100, subsampling=0)
    got = decode.decode_image(data[:2] + segment + data[2:], "image_url", MAX_PIXELS)
    assert got.warnings == ()
    assert max(map(difference, shown_fields(got.image), SRGB)) <= 2


def test_a_png_whose_checksums_are_wrong_is_read() -> None:
    """Viewers ignore them: a proxy or an editor changed a byte and not the checksum."""
    data = bytearray(saved(scene((64, 48))))
    for kind in (b"IHDR", b"IDAT"):
        at = data.index(kind)
        end = at + 4 + int.from_bytes(data[at - 4 : at])
        data[end : end + 4] = b"\0\0\0\0"
    start = data.index(b"IDAT")
    stop = start + 4 + int.from_bytes(data[start - 4 : start])
    data[stop - 4 : stop] = b"\0\0\0\0"  # and zlib's own
    assert max(map(difference, shown_fields(image(bytes(data))), SRGB)) <= 1


def test_many_small_pieces_of_pixels_are_put_together() -> None:
    whole = saved(scene((64, 48)))
    at = whole.index(b"IDAT") - 4
    length = int.from_bytes(whole[at : at + 4])
    pixels = whole[at + 8 : at + 8 + length]
    pieces = b"".join(chunk(b"IDAT", pixels[place : place + 1]) for place in range(length))
    assert image(whole[:at] + pieces + whole[at + 12 + length :]).tobytes() == image(whole).tobytes()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_a_channel_become_eight(channels: int) -> None:
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, kind, 0, 0, 0))
    values = [0x8080] * (channels - (channels in {2, 4})) + [0xFFFF] * (channels in {2, 4})
    row = b"\0" + struct.pack(f">{2 * channels}H", *values, *values)
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    assert image(data).getcolors() == [(2, (128, 128, 128))]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_a_scans_tiff_is_read_in_every_mode(mode: str, compression: str | None) -> None:
    white = Image.new("RGB", (40, 30), WHITE)
    picture = Image.new(mode, (40, 30), 65535) if mode == "I;16" else white.convert(mode)
    assert np.asarray(image(saved(picture, "TIFF", compression=compression))).min() >= 253


def test_a_raw_photo_is_no_tiff() -> None:
    """Pillow would show a DNG's thumbnail."""
    for tag, value in ((50706, b"\1\4\0\0"), (254, 1)):
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[tag] = value
        with pytest.raises(InvalidImage, match="is a camera's RAW file"):
            image(saved(Image.new("RGB", (16, 16)), "TIFF", tiffinfo=tags))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("found", [{262: 32803}, {262: 34892}, {262: 2, 259: 52546, 50706: 0x01070000}, {254: 1}])
def test_a_raw_photo_is_named_though_pillow_does_not_know_what_it_is(order: str, found: dict[int, int]) -> None:
    """Android's DngCreator, given no thumbnail, begins with the sensor's own pixels; DNG 1.7 has JPEG XL."""
    tags = {254: 0, 256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: 8, 279: 64} | found
    entries = (struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    head = struct.pack(order + "2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(tags))
    with pytest.raises(InvalidImage, match=r"is a camera's RAW file \(DNG"):
        image(head + b"".join(entries) + bytes(300))


def test_a_tiff_whose_colours_have_planes_of_sixteen_bits_is_refused_and_not_shown_wrong() -> None:
    """Pillow reads it as eight bits, and shows red where there is green."""
    tags = {256: 8, 257: 8, 258: 134, 259: 1, 262: 2, 273: 146, 277: 3, 278: 8, 279: 158, 284: 2}
    entries = (struct.pack("<HHII", tag, 4, 3 if tag in {258, 273, 279} else 1, value) for tag, value in tags.items())
    planes = struct.pack("<9I", 16, 16, 16, 170, 298, 426, 128, 128, 128) + bytes(3 * 128)
    with pytest.raises(InvalidImage, match="of a form that is not read"):
        image(struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + b"".join(entries) + bytes(4) + planes)


def test_apples_own_form_of_png_is_damaged_and_not_cut_off() -> None:
    """Xcode makes it from an app's pictures: deflate without zlib's header, blue before red (CgBI)."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    rows = packer.compress(bytes(range(1, 34)) * 8) + packer.flush()
    header = chunk(b"CgBI", b"P\0 \6") + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 6, 0, 0, 0))
    with pytest.raises(InvalidImage, match="the PNG is damaged, or of a form that is not read"):
        image(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def test_a_tiff_of_floats_is_refused_and_not_shown_black() -> None:
    with pytest.raises(InvalidImage, match="of a form that is not read"):
        image(saved(Image.new("F", (16, 16), 0.5), "TIFF"))


def test_adobes_inverted_inks_are_the_right_way_round() -> None:
    """CMYK and YCCK JPEGs of Photoshop hold 255 minus the ink."""
    for mode in ("CMYK", "YCCK"):
        data = bytearray(saved(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG", quality=95))
        at = data.index(b"Adobe")
        assert data[at + 11] == 0
        if mode == "YCCK":
            data[at + 11] = 2
            continue  # this file's pixels are not in YCCK: it only has to be readable
        red, green, blue = image(bytes(data)).getpixel((9, 9))  # type: ignore[misc]  # RGB
        assert (red, green, blue) == pytest.approx((255, 0, 0), abs=3)


def test_a_jpeg_of_thousands_of_scans_is_refused_at_once() -> None:
    """Each scan of some thirty bytes covers all pixels: a small file would take the decoder hours."""
    data = saved(Image.new("RGB", (512, 512), (128, 128, 128)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    for filler in (b"", b"\xff\xff\xff", b"\xff\x01"):
        start = time.perf_counter()
        with pytest.raises(InvalidImage, match="scans"):
            image(data[:-2] + (filler + last) * 5000 + data[-2:])
        assert time.perf_counter() - start < SOON_SECONDS


def test_a_progressive_photo_and_a_motion_photo_are_fine() -> None:
    noise = Image.effect_noise((256, 256), 60).convert("RGB")
    data = saved(noise, "JPEG", progressive=True, restart_marker_blocks=3)
    assert image(data).size == (256, 256)
    assert image(data + b"\xff\xda" * 1000).size == (256, 256)


@examples(150)
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
