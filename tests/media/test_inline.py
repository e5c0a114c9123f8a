"""Results too large for a response are compressed step by step, never scaled down, and with a warning."""

import base64
import contextlib
import io
import json

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tools.media_probe import probe
from worker.api.field_types import LONGEST_SIDE, FormatName, VideoQuality
from worker.core.errors import ResultTooLarge
from worker.media import inline
from worker.media.artifact import Artifact
from worker.media.image import encode_image
from worker.media.video import VIDEO_CRF, VIDEO_CRFS, encode_video

Pixels = NDArray[np.uint8]


def photo(seed: int = 0, side: int = 256) -> Pixels:
    """Draw soft shapes under sensor noise."""
    random = np.random.default_rng(seed)
    soft = np.asarray(Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).resize((side, side)))
    return np.clip(soft + random.normal(0, 3, soft.shape), 0, 255).astype(np.uint8)


def clip(noise: float = 6, frames: int = 17) -> Pixels:
    random = np.random.default_rng(1)
    base = photo(2, 192)[None].repeat(frames, 0)
    return np.clip(base + random.normal(0, noise, base.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 1000])
def test_the_length_of_a_data_uri_is_known_without_making_it(size: int) -> None:
    file = Artifact.encoded(bytes(size), "image/png", 1, 1)
    uri = inline.data_uri(file)
    assert inline.uri_length(file) == len(uri) == len(json.dumps(uri)) - 2
    assert base64.b64decode(uri.removeprefix("data:image/png;base64,"), validate=True) == file.data


@pytest.mark.parametrize(
    ("content_type", "tried", "share", "expected"),
    [
        ("image/png", None, 0.95, inline.LOSSLESS),  # slightly too large: perhaps without loss
        ("image/png", None, 0.8, inline.LOSSLESS),
        ("image/png", None, 0.79, 95),  # lossless cannot do it
        ("image/png", None, 0.01, 95),
        ("image/png", inline.LOSSLESS, 0.9, 95),
        ("image/jpeg", None, 0.99, 90),
        ("image/webp", None, 0.99, 80),
        ("image/png", 95, 0.5, 90),
        ("image/webp", 80, 0.5, 65),
        ("image/jpeg", 35, 0.5, 20),
        ("image/png", 20, 0.99, None),  # no quality is left to give up
    ],
)
def test_the_next_quality(content_type: str, tried: int | None, share: float, expected: int | None) -> None:
    assert inline.next_quality(content_type, tried, share) == expected


@pytest.mark.parametrize(
    ("content_type", "asked", "expected"),
    [
        ("image/jpeg", 95, 90),
        ("image/jpeg", 60, 50),
        ("image/jpeg", 20, None),
        ("image/webp", 100, 95),  # lossless
        ("image/webp", 90, 80),
        ("image/webp", 1, None),
        ("image/png", 1, 95),  # has no effect on PNG
    ],
)
def test_the_next_quality_is_below_the_one_that_was_asked_for(
    content_type: str, asked: int, expected: int | None
) -> None:
    assert inline.next_quality(content_type, None, 0.5, asked) == expected


@pytest.mark.parametrize(
    ("crf", "share", "expected"),
    [
        (18, 0.99, 20),
        (18, 0.5, 25),  # half: six steps, and one for safety
        (18, 0.25, 31),
        (25, 0.9, 27),
        (18, 0.05, 45),
        (18, 0.03, 46),  # slightly beyond the limit: tried at the limit
        (18, 0.01, None),  # hopeless
        (18, 0.0, None),
        (18, -0.5, None),
        (46, 0.9, None),
    ],
)
def test_the_next_rate_factor(crf: int, share: float, expected: int | None) -> None:
    assert inline.next_crf(crf, share) == expected


def test_images_that_fit_stay_byte_for_byte_and_need_no_warning() -> None:
    images = [photo(0), photo(1)]
    encoded = [encode_image(pixels, "png") for pixels in images]
    exact = inline.total_length(encoded, [3, 2])
    fitted = inline.fit_images(images, encoded, exact, [3, 2])
    assert fitted.files == encoded
    assert fitted.warnings == []
    assert inline.fit_images(images, encoded, exact - 1, [3, 2]).files != encoded


@pytest.mark.parametrize("share", [0.95, 0.5, 0.1, 0.03])
def test_images_get_smaller_until_they_fit_and_keep_their_size(share: float) -> None:
    images = [photo(0), photo(1)]
    encoded = [encode_image(pixels, "png") for pixels in images]
    budget = int(share * inline.total_length(encoded, [3, 2]))
    fitted = inline.fit_images(images, encoded, budget, [3, 2])
    assert inline.total_length(fitted.files, [3, 2]) <= budget
    assert {(file.content_type, file.width, file.height) for file in fitted.files} == {("image/webp", 256, 256)}
    assert len(fitted.warnings) == 1
    assert "did not fit" in fitted.warnings[0]
    assert "WebP" in fitted.warnings[0]
    assert inline.fit_images(images, encoded, budget, [3, 2]) == fitted, "the same budget gives the same files"


def test_the_best_quality_that_fits_is_taken() -> None:
    pixels = photo()
    encoded = [encode_image(pixels, "png")]
    at_80 = encode_image(pixels, "webp", 80)
    fitted = inline.fit_images([pixels], encoded, inline.total_length([at_80], [3]), [3])
    assert fitted.files == [at_80]
    assert fitted.warnings[0].endswith("at quality 80.")


def test_lossless_webp_is_lossless() -> None:
    pixels = photo()
    smaller = encode_image(pixels, "webp", inline.LOSSLESS)
    png = encode_image(pixels, "png")
    assert len(smaller.data) < len(png.data)
    fitted = inline.fit_images([pixels], [png], inline.uri_length(png) - 1, [1])
    assert fitted.warnings[0].endswith("without loss.")
    with Image.open(io.BytesIO(fitted.files[0].data)) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), pixels)


@pytest.mark.parametrize("budget", [1000, 0, -5])
def test_images_that_cannot_fit_are_an_error_with_sizes(budget: int) -> None:
    pixels = photo()
    with pytest.raises(ResultTooLarge, match=r"take \d+\.\d\d MB .* 0\.00 MB are left"):
        inline.fit_images([pixels], [encode_image(pixels, "png")], budget, [3])


def test_a_side_that_webp_has_no_room_for_is_an_error_with_sizes_and_the_longest_that_it_has_is_not() -> None:
    rng = np.random.default_rng(0)
    for longest, fits in ((LONGEST_SIDE["webp"], True), (LONGEST_SIDE["webp"] + 1, False)):
        pixels = rng.integers(0, 256, (8, longest, 3), np.uint8)
        png = encode_image(pixels, "png")
        with contextlib.nullcontext() if fits else pytest.raises(ResultTooLarge, match=r"0\.25 MB are left"):
            inline.fit_images([pixels], [png], 250_000, [1])


@pytest.mark.parametrize("fmt", ["jpeg", "webp"])
def test_the_longest_side_of_a_format_is_the_longest_that_is_encoded(fmt: FormatName) -> None:
    assert encode_image(np.zeros((1, LONGEST_SIDE[fmt], 3), np.uint8), fmt).width == LONGEST_SIDE[fmt]
    with pytest.raises((ValueError, OSError)):
        encode_image(np.zeros((1, LONGEST_SIDE[fmt] + 1, 3), np.uint8), fmt)


def test_a_clip_that_fits_stays_byte_for_byte() -> None:
    frames = clip()
    encoded = encode_video(frames, 15)
    fitted = inline.fit_video(frames, 15, encoded, budget=inline.total_length([encoded], [3]), copies=3)
    assert fitted.files == [encoded]
    assert fitted.warnings == []


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2])
def test_a_clip_that_does_not_fit_is_encoded_once_more(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = clip()
    encoded = encode_video(frames, 15)
    rates: list[int] = []

    def counted(*args: Pixels, crf: int, **options: object) -> Artifact:
        rates.append(crf)
        return encode_video(frames, 15, crf=crf)

    monkeypatch.setattr(inline, "encode_video", counted)
    budget = int(share * inline.total_length([encoded], [3]))
    fitted = inline.fit_video(frames, 15, encoded, budget=budget, copies=3)
    assert inline.total_length(fitted.files, [3]) <= budget
    assert len(rates) == 1
    assert rates[0] > VIDEO_CRF
    found = probe(fitted.files[0].data)
    assert (found.frames, found.width, found.height, found.moov_before_mdat) == (17, 192, 192, True)
    assert "lower rate" in fitted.warnings[0]


@pytest.mark.parametrize("quality", VIDEO_CRFS)
def test_a_clip_of_any_quality_that_does_not_fit_goes_on_from_its_own_rate(
    quality: VideoQuality, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (9, 192, 192, 3), dtype=np.uint8)
    rates: list[int] = []

    def counted(*args: Pixels, crf: int, **options: object) -> Artifact:
        rates.append(crf)
        return encode_video(frames, 15, crf=crf)

    encoded = encode_video(frames, 15, crf=VIDEO_CRFS[quality])
    monkeypatch.setattr(inline, "encode_video", counted)
    budget = int(0.5 * inline.total_length([encoded], [3]))
    fitted = inline.fit_video(frames, 15, encoded, budget=budget, copies=3, quality=quality)
    assert inline.total_length(fitted.files, [3]) <= budget
    assert rates[0] == VIDEO_CRFS[quality] + 7


def test_a_clip_that_breaks_the_rule_gets_one_more_try(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([80_000, 60_000])
    rates: list[int] = []

    def stubborn(frames: Pixels, fps: int, *, crf: int, **_: object) -> Artifact:
        rates.append(crf)
        return Artifact.encoded(bytes(next(sizes)), "video/mp4", 16, 16)

    monkeypatch.setattr(inline, "encode_video", stubborn)
    first = Artifact.encoded(bytes(100_000), "video/mp4", 16, 16)
    frames = np.zeros((5, 16, 16, 3), np.uint8)
    fitted = inline.fit_video(frames, 15, first, budget=90_000, copies=1)
    assert len(fitted.files[0].data) == 60_000
    assert rates == sorted(set(rates))
    assert len(rates) == 2


def test_a_clip_that_never_fits_is_an_error_with_sizes_after_two_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def incompressible(frames: Pixels, fps: int, *, crf: int, **_: object) -> Artifact:
        tries.append(crf)
        return Artifact.encoded(bytes(3_000_000), "video/mp4", 16, 16)

    monkeypatch.setattr(inline, "encode_video", incompressible)
    first = Artifact.encoded(bytes(3_000_000), "video/mp4", 16, 16)
    frames = np.zeros((5, 16, 16, 3), np.uint8)
    with pytest.raises(ResultTooLarge, match=r"the video takes 12\.0 MB .* 9\.00 MB are left"):
        inline.fit_video(frames, 15, first, budget=9_000_000, copies=3)
    assert len(tries) == inline.MAX_REENCODES


def test_a_hopeless_clip_is_refused_without_encoding_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(inline, "encode_video")
    first = Artifact.encoded(bytes(3_000_000), "video/mp4", 16, 16)
    for budget in (10_000, 0, -1):
        with pytest.raises(ResultTooLarge):
            inline.fit_video(np.zeros((5, 16, 16, 3), np.uint8), 15, first, budget=budget, copies=3)
