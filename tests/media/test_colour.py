"""A picture's colours are converted to sRGB; an unusable profile is ignored with a warning."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

from tests.support.hostile_pictures import chunk, png, saved
from tests.support.phone_files import GREY, P3, SRGB, Colour, deep_avif, difference, scene, shown_fields
from tests.support.profiles import ADOBE_RGB, PROPHOTO, grey, press, screen
from tests.support.profiles import SRGB as SRGB_ROWS
from worker.media.decode import Picture, decode_image

IGNORED = ("image_url: its colour profile cannot be read; its colours were taken as sRGB",)
LOSSLESS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 100, "subsampling": 0},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    "HEIF": {"quality": -1, "chroma": 444, "matrix_coefficients": 0},
}


def image(data: bytes) -> Picture:
    return decode_image(data, "image_url", 1 << 20)


def far(got: Image.Image, right: tuple[Colour, ...]) -> float:
    return max(map(difference, shown_fields(got), right))


def right_by(profile: bytes, picture: Image.Image) -> Image.Image:
    """Return littleCMS's own result, computed in the tests' process."""
    converted = ImageCms.profileToProfile(
        picture, ImageCms.getOpenProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert converted is not None
    return converted


@pytest.mark.parametrize("fmt", LOSSLESS)
def test_a_display_p3_photo_keeps_its_look(fmt: str) -> None:
    """HeicConverter PR#37, imgproxy#539, Pillow#2594: without conversion, skin and reds come out dull."""
    pillow_heif.register_heif_opener()
    got = image(saved(scene((64, 64), P3), fmt, icc_profile=screen(), **LOSSLESS[fmt]))
    assert got.warnings == ()
    assert far(got.image, SRGB) <= 2


@pytest.mark.parametrize(("rows", "gamma"), [(ADOBE_RGB, 2.2), (PROPHOTO, 1.8), (SRGB_ROWS, 1.0), (SRGB_ROWS, 2.2)])
def test_other_screens_profiles_are_converted_as_littlecms_does(rows: Any, gamma: float) -> None:
    picture = scene((64, 64), P3)
    got = image(saved(picture, icc_profile=screen(rows, gamma)))
    assert got.warnings == ()
    assert far(got.image, tuple(shown_fields(right_by(screen(rows, gamma), picture)))) <= 1


def test_grey_and_transparent_pictures_are_converted_too() -> None:
    flat = scene((64, 64), GREY, "L")
    right = shown_fields(right_by(grey(1.0), flat))
    assert far(image(saved(flat, icc_profile=grey(1.0))).image, tuple(right)) <= 1
    veil = Image.new("L", (64, 64), 255)
    clear = Image.merge("LA", (flat, veil))
    assert far(image(saved(clear, icc_profile=grey(1.0))).image, tuple(right)) <= 1
    rgba = scene((64, 64), P3)
    rgba.putalpha(veil)
    assert far(image(saved(rgba, icc_profile=screen())).image, SRGB) <= 2
    palette = scene((64, 64), P3).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    assert far(image(saved(palette, icc_profile=screen())).image, SRGB) <= 2
    # A grey photo with a screen's profile: greys stay grey.
    assert image(saved(flat, icc_profile=screen())).warnings == ()


@pytest.mark.parametrize("fmt", ["JPEG", "TIFF"])
def test_a_presss_inks_are_converted_by_their_profile(fmt: str) -> None:
    inks = Image.merge("CMYK", [Image.new("L", (64, 64), ink) for ink in (200, 40, 90, 20)])
    data = saved(inks, fmt, icc_profile=press(), **({"quality": 100, "subsampling": 0} if fmt == "JPEG" else {}))
    got, right = image(data), right_by(press(), inks)
    assert got.warnings == ()
    assert far(got.image, tuple(shown_fields(right))) <= 2
    assert far(right, tuple(shown_fields(inks.convert("RGB")))) > 5


def test_an_srgb_picture_is_left_as_it_is() -> None:
    noise = Image.merge("RGB", [Image.effect_noise((64, 64), 90) for _ in range(3)])
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert image(saved(noise, icc_profile=srgb)).image.tobytes() == noise.tobytes()
    assert image(saved(noise)).image.tobytes() == noise.tobytes()


@pytest.mark.parametrize(
    "profile",
    [
        b"no profile",
        bytes(200),
        screen()[:150],
        screen()[:300],
        grey(1.8),
        press(),
        screen().replace(b"RGB ", b"LAB ", 1),
        screen().replace(b"rTRC", b"xxxx", 1),
        b"\xff" * 40_000,
    ],
    ids=["words", "zeros", "head", "cut off", "grey", "press", "of Lab", "no curve", "noise"],
)
@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_broken_or_mismatched_profile_is_ignored_with_a_warning(fmt: str, profile: bytes) -> None:
    got = image(saved(scene((64, 64), P3), fmt, icc_profile=profile, **LOSSLESS[fmt]))
    assert got.warnings == IGNORED
    assert far(got.image, P3) <= 2


def test_a_profile_that_lacks_a_part_is_ignored_and_one_in_parts_is_put_together() -> None:
    """A JPEG holds a profile of more than 64 KB in several segments, in any order."""
    long = screen(extra=bytes(150_000))
    whole = saved(scene((64, 64), P3), "JPEG", icc_profile=long, **LOSSLESS["JPEG"])
    assert whole.count(b"ICC_PROFILE\0") == 3
    assert far(image(whole).image, SRGB) <= 2
    first, second = whole.index(b"ICC_PROFILE\0\1") - 4, whole.index(b"ICC_PROFILE\0\2") - 4
    third = whole.index(b"ICC_PROFILE\0\3") - 4
    end = third + 2 + int.from_bytes(whole[third + 2 : third + 4])
    parts = [whole[first:second], whole[second:third], whole[third:end]]
    assert far(image(whole[:first] + parts[2] + parts[0] + parts[1] + whole[end:]).image, SRGB) <= 2
    assert image(whole[:first] + parts[1] + parts[2] + whole[end:]).warnings == IGNORED


def test_a_phones_numbers_for_its_colours_count_where_there_is_no_profile() -> None:
    """CICP 12: Display P3, named by number (ITU-T H.273) in PNG, HEIC and AVIF."""
    pixels = saved(scene((64, 64), P3))
    at = pixels.index(b"IDAT") - 4
    named = pixels[:at] + chunk(b"cICP", bytes((12, 13, 0, 1))) + pixels[at:]
    assert far(image(named).image, SRGB) <= 3
    pillow_heif.register_heif_opener()
    numbers = {"color_primaries": 12, "transfer_characteristics": 13, "matrix_coefficients": 0}
    heic = saved(scene((64, 64), P3), "HEIF", quality=-1, chroma=444, full_range_flag=1, **numbers)
    assert far(image(heic).image, SRGB) <= 3
    assert far(image(deep_avif((64, 64), P3, "smpte432")).image, SRGB) <= 3
    assert far(image(deep_avif((64, 64), P3)).image, P3) <= 2


P3_CORNERS = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
"""x and y of white, red, green and blue, times 100,000."""
SRGB_CORNERS = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


def old_png(picture: Image.Image, gamma: int | None, corners: tuple[int, ...] = (), **options: Any) -> bytes:
    data = saved(picture, **options)
    told = chunk(b"gAMA", struct.pack(">I", gamma)) if gamma is not None else b""
    told += chunk(b"cHRM", struct.pack(">8I", *corners)) if corners else b""
    return data[:33] + told + data[33:]


def test_an_old_pngs_numbers_count_where_there_is_nothing_better() -> None:
    """PNG specification (W3C), 4.3: cICP, iCCP and sRGB take precedence over gAMA and cHRM, also in browsers."""
    wide, plain = scene((64, 64), P3), scene((64, 64))
    for gamma in (45455, None):
        assert far(image(old_png(wide, gamma, P3_CORNERS)).image, SRGB) <= 2
        assert image(old_png(plain, gamma, SRGB_CORNERS)).image.tobytes() == plain.tobytes()
    for gamma in (100_000, 55_556):
        right = right_by(screen(SRGB_ROWS, 100_000 / gamma), wide)
        assert far(image(old_png(wide, gamma)).image, tuple(shown_fields(right))) <= 1
    assert far(image(old_png(wide, 100_000, SRGB_CORNERS, icc_profile=screen())).image, SRGB) <= 2
    srgb = old_png(plain, 100_000)
    assert image(srgb[:33] + chunk(b"sRGB", b"\0") + srgb[33:]).image.tobytes() == plain.tobytes()


@pytest.mark.parametrize("gamma", [0, 1, 45455, 2**32 - 1])
@pytest.mark.parametrize("corners", [(0,) * 8, (31270, 32900) * 4, (2**32 - 1,) * 8, (2**32 - 1, 1) * 4])
def test_an_old_pngs_numbers_without_sense_change_nothing(gamma: int, corners: tuple[int, ...]) -> None:
    plain = scene((64, 64))
    assert image(old_png(plain, gamma, corners)).image.tobytes() == plain.tobytes()


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_an_hdr_picture_is_mapped_to_an_ordinary_one_and_says_so(transfer: str) -> None:
    greys = tuple((value, value, value) for value in (0, 90, 150, 255))
    got = image(deep_avif((64, 64), greys, "bt2020", transfer))  # type: ignore[arg-type]  # four of them
    assert got.warnings == ("image_url: is an HDR picture; its brightness was mapped to that of an ordinary one",)
    black, dark, bright, white = (sum(colour) / 3 for colour in shown_fields(got.image))
    assert black <= 2
    assert black < dark < bright < white
    assert white >= 250
    assert np.ptp(shown_fields(got.image), axis=1).max() <= 3


def test_a_mask_is_taken_by_its_numbers() -> None:
    """A half-repainted area stays half repainted, whatever a screen makes of the grey."""
    flat = Image.new("L", (16, 16), 128)
    for data in (saved(flat, icc_profile=grey(1.0)), saved(flat.convert("RGB"), icc_profile=screen(gamma=1.0))):
        assert decode_image(data, "mask_url", 1 << 20, mask=True).image.getextrema() == (128, 128)
        assert decode_image(data, "mask_url", 1 << 20, mask=True).warnings == ()


def test_a_huge_profile_is_not_looked_at() -> None:
    data = png(4, 4, chunk(b"iCCP", b"p\0\0" + zlib.compress(screen(extra=bytes(17 << 20)))))
    assert image(data).warnings == IGNORED
