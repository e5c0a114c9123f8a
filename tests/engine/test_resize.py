"""Source pictures resized to the size of the job."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from tests.support.engine_jobs import Recorder, picture, stripe_mask
from worker.engine.resize import cropped_share, fit_image, fit_mask, masked_box, middle


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    control, source = Recorder(), picture(64, 48)
    assert np.array_equal(np.asarray(fit_image(source, 64, 48, control)), np.asarray(source))
    assert control.warnings == []


def test_a_wide_picture_is_scaled_to_cover_and_loses_its_sides() -> None:
    """A square in the middle stays a square in the middle."""
    source = Image.new("RGB", (400, 200), "black")
    source.paste("white", (150, 50, 250, 150))
    fitted = np.asarray(fit_image(source, 100, 100, control := Recorder()))
    assert fitted.shape == (100, 100, 3)
    rows, columns = np.nonzero(fitted[..., 0] > 127)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (25, 74, 25, 74)
    assert len(control.warnings) == 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    assert fit_image(picture(32, 32).convert(mode), 64, 64, Recorder()).mode == "RGB"


def test_the_mask_is_cropped_like_its_image() -> None:
    """A mask drawn over a part of the picture still covers that part."""
    source = Image.new("RGB", (300, 100), "black")
    source.paste("white", (140, 40, 160, 60))
    mask = source.convert("L")
    image = np.asarray(fit_image(source, 200, 200, Recorder()))[..., 0] >= 128
    weights = np.asarray(fit_mask(mask, source.size, 200, 200, Recorder()))
    assert np.mean(image != (weights == 255)) < 0.005


def test_a_mask_of_another_size_is_laid_over_the_image() -> None:
    mask = Image.new("L", (10, 10))
    mask.paste(255, (5, 0, 10, 10))
    weights = np.asarray(fit_mask(mask, (100, 100), 100, 100, control := Recorder()))
    assert (weights[:, 60:] == 255).all()
    assert not weights[:, :40].any()
    assert control.warnings == []
    fit_mask(mask, (200, 100), 100, 100, control)
    assert any("other proportions" in warning for warning in control.warnings)


@pytest.mark.parametrize("size", [(64, 64), (50, 37), (90, 91), (640, 480)])
def test_a_mask_of_black_and_white_stays_one_at_any_size(size: tuple[int, int]) -> None:
    mask = stripe_mask(*size)
    assert set(np.unique(np.asarray(fit_mask(mask, (200, 150), 72, 104, Recorder())))) == {0, 255}


@pytest.mark.parametrize("quality", [60, 75, 85, 95])
@pytest.mark.parametrize("shape", ["rectangle", "ellipse"])
def test_what_jpeg_leaves_of_black_and_white_is_black_and_white(shape: str, quality: int) -> None:
    mask = Image.new("L", (256, 256))
    getattr(ImageDraw.Draw(mask), shape)((61, 43, 150, 199), fill=255)
    mask.convert("RGB").save(packed := io.BytesIO(), "JPEG", quality=quality)
    for one in (Image.open(packed), mask.point(lambda value: abs(value - 7))):
        assert np.array_equal(np.asarray(fit_mask(one, (256, 256), 256, 256, Recorder())), np.asarray(mask))


@pytest.mark.parametrize("quality", [75, 95])
def test_what_is_soft_stays_so_in_a_jpeg(quality: int) -> None:
    mask = Image.new("L", (256, 256))
    mask.paste(255, (61, 43, 150, 199))
    soft = mask.filter(ImageFilter.GaussianBlur(1))
    soft.save(packed := io.BytesIO(), "JPEG", quality=quality)
    weights = np.asarray(fit_mask(Image.open(packed), (256, 256), 256, 256, Recorder())).astype(int)
    assert np.abs(weights - np.asarray(soft)).mean() < 1
    assert len(np.unique(weights)) > 30
    faint = Image.new("L", (256, 256))
    faint.paste(40, (61, 43, 150, 199))
    assert np.asarray(fit_mask(faint, (256, 256), 256, 256, Recorder())).max() == 40


def test_the_grey_of_a_mask_is_kept() -> None:
    """diffusers#10690, diffusers#5808: people blur the mask, and it had no effect."""
    ramp = Image.linear_gradient("L")
    weights = np.asarray(fit_mask(ramp, ramp.size, 256, 256, Recorder()))
    assert np.array_equal(weights[8:248], np.asarray(ramp)[8:248])


@pytest.mark.parametrize(
    ("box", "shares"), [((0, 0, 64, 32), (0, 0, 1, 1)), ((16, 8, 48, 16), (0.25, 0.25, 0.75, 0.5)), (None, None)]
)
def test_where_a_mask_repaints_is_told_in_shares(
    box: tuple[int, int, int, int] | None, shares: tuple[float, ...] | None
) -> None:
    mask = Image.new("L", (64, 32), 7)  # black after a lossy format
    if box is not None:
        mask.paste(40, box)
    assert masked_box(mask) == shares


@pytest.mark.parametrize(
    ("size", "target", "share"), [((1, 1), (5, 5), 0), ((2, 1), (1, 1), 0.5), ((1, 4), (1, 1), 0.75)]
)
def test_the_cropped_share(size: tuple[int, int], target: tuple[int, int], share: float) -> None:
    assert cropped_share(size, target) == pytest.approx(share)


@pytest.mark.parametrize("size", [(64, 64), (256, 64), (64, 256), (1, 4)])
def test_for_who_sees_its_middle_a_picture_is_not_cut_as_a_rule(size: tuple[int, int]) -> None:
    assert middle(given := Image.new("RGB", size)) is given


@pytest.mark.parametrize(
    ("size", "left"), [((1, 1_000_000), (1, 4)), ((1_000_000, 3), (12, 3)), ((301, 30), (120, 30))]
)
def test_of_a_strip_its_middle_is_left(size: tuple[int, int], left: tuple[int, int]) -> None:
    strip = Image.new("RGB", size)
    strip.putpixel((size[0] // 2, size[1] // 2), (255, 0, 0))
    cut = middle(strip)
    assert cut.size == left
    assert cut.getpixel((left[0] // 2, left[1] // 2)) == (255, 0, 0)
