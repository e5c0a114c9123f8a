"""A preview is a small WebP in a text of 8 KB at most."""

import numpy as np
import pytest
from PIL import Image

from tests.support.engine_jobs import picture
from tools import showing
from worker.media import mark
from worker.media.preview import MAX_CHARACTERS, preview_uri


def opened(uri: str) -> Image.Image:
    assert uri.startswith("data:image/webp;base64,")
    assert len(uri) <= MAX_CHARACTERS
    return showing.opened(uri)


def smooth(width: int, height: int) -> Image.Image:
    down, across = np.mgrid[:height, :width]
    channels = (across * 255 // width, down * 255 // height, (across + down) % 256)
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (128, 128), (192, 80), (192, 192)])
def test_a_picture_comes_as_it_is(size: tuple[int, int]) -> None:
    seen = opened(preview_uri(smooth(*size)))
    assert (seen.format, seen.size) == ("WEBP", size)
    assert np.abs(np.asarray(seen, dtype=float) - np.asarray(smooth(*size))).mean() < 12


@pytest.mark.parametrize("side", [128, 192, 640])
def test_noise_fits_too(side: int) -> None:
    assert max(opened(preview_uri(picture(side, side))).size) >= 80


def test_it_carries_the_mark_and_nothing_else() -> None:
    packet = mark.packet("generated", "a1b2c3")
    marked, plain = opened(preview_uri(picture(64, 64), packet)), opened(preview_uri(picture(64, 64)))
    assert marked.info["xmp"] == packet
    assert not {"xmp", "exif", "icc_profile"} & set(plain.info)
