"""Source pictures brought to the size of the job."""

import numpy as np
import pytest
from PIL import Image

from tests.support.engine_jobs import Recorder, picture
from worker.engine.resize import cropped_share, fit_image, fit_mask


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
    assert np.mean(image != fit_mask(mask, source.size, 200, 200, Recorder())) < 0.005


def test_a_mask_of_another_size_is_laid_over_the_image() -> None:
    mask = Image.new("L", (10, 10))
    mask.paste(255, (5, 0, 10, 10))
    repaint = fit_mask(mask, (100, 100), 100, 100, control := Recorder())
    assert repaint[:, 60:].all()
    assert not repaint[:, :40].any()
    assert control.warnings == []
    fit_mask(mask, (200, 100), 100, 100, control)
    assert any("other proportions" in warning for warning in control.warnings)


def test_a_black_mask_is_told() -> None:
    assert not fit_mask(Image.new("L", (8, 8)), (8, 8), 64, 64, control := Recorder()).any()
    assert any("no white pixel" in warning for warning in control.warnings)


@pytest.mark.parametrize(
    ("size", "target", "share"), [((1, 1), (5, 5), 0), ((2, 1), (1, 1), 0.5), ((1, 4), (1, 1), 0.75)]
)
def test_the_cropped_share(size: tuple[int, int], target: tuple[int, int], share: float) -> None:
    assert cropped_share(size, target) == pytest.approx(share)
