"""A list's thumbnail of a file is small, looks like it, and costs next to nothing."""

import io

import blurhash  # type: ignore[import-untyped]  # it has no types
import numpy as np
import pytest
from PIL import Image

from worker.media.thumbnail import poster, thumbnail


def scene(width: int, height: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """Draw red on the left, blue on the right."""
    share = np.linspace(0, 255, width, dtype=np.uint8)[None, :].repeat(height, 0)
    return np.stack([255 - share, np.zeros_like(share), share], axis=-1)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1024, 1024), (512, 512)), ((832, 1216), (350, 512)), ((64, 48), (64, 48)), ((2048, 64), (512, 16))],
)
def test_its_longest_side_has_512_pixels_and_it_is_never_enlarged(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    made = thumbnail(scene(*size))
    with Image.open(io.BytesIO(made.data)) as image:
        assert image.size == expected == (made.width, made.height)
        red = np.asarray(image.convert("RGB"))[0, :, 0]
    assert red[0] > 200 > 60 > red[-1]


@pytest.mark.parametrize("size", [(1024, 512), (512, 1024)])
def test_its_blurhash_has_its_colours(size: tuple[int, int]) -> None:
    made = thumbnail(scene(*size))
    assert made.blurhash is not None
    shown = np.array(blurhash.decode(made.blurhash, 16, 16))
    assert shown[:, 0, 0].mean() > 150 > shown[:, -1, 0].mean()
    assert shown[:, 0, 2].mean() < 100 < shown[:, -1, 2].mean()


def test_a_photos_thumbnail_is_a_hundredth_of_its_png() -> None:
    noise = np.random.default_rng(0).normal(0, 4, (1024, 1024, 3))
    assert thumbnail((scene(1024, 1024) + noise).clip(0, 255).astype(np.uint8)).size < 20_000


def test_the_same_picture_gives_the_same_bytes() -> None:
    assert thumbnail(scene(800, 600)) == thumbnail(scene(800, 600))


@pytest.mark.parametrize(("frames", "fps", "chosen"), [(81, 16, 5), (121, 24, 7), (5, 60, 4), (9, 1, 0)])
def test_a_poster_is_a_third_of_a_second_into_the_clip_or_its_last_frame(frames: int, fps: int, chosen: int) -> None:
    clip = np.arange(frames, dtype=np.uint8)[:, None, None, None].repeat(3, -1)
    assert poster(clip, fps).max() == chosen
