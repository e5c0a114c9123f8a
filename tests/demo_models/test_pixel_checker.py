"""The checker of the acceptance tests: right on drawn scenes however soft, None on pictures without a clear scene."""

import functools
import itertools
import math
import zlib

import numpy as np
import pytest
from scipy import ndimage

from tests.support.demo_prompts import CLIPS, IMAGES
from tests.support.drawn_scenes import (
    COLOURS,
    COLUMNS,
    CORNERS,
    ROWS,
    SPEED_ACROSS,
    SPEED_DOWN,
    Array,
    Pixels,
    Scene,
    drawn,
)
from tests.support.pixel_checker import Seen, colours, look, motion

pytestmark = pytest.mark.slow

RING = drawn(Scene("circle", radius=0.2))
RING[drawn(Scene("circle", radius=0.1, colour="white", background="red"))[..., 1] > 200] = COLOURS["white"]
NOISE = np.random.default_rng(1).integers(0, 256, (256, 256, 3), dtype=np.uint8)
FLAT = np.full((256, 256, 3), COLOURS["blue"], dtype=np.uint8)


def soft(pixels: Pixels) -> Pixels:
    """Return the pixels as a small decoder leaves them: blurred, with noise."""
    blurred = ndimage.gaussian_filter(pixels.astype(np.float64), (1.2, 1.2, 0))
    noisy: Pixels = (blurred + noise(pixels.shape)).round().clip(0, 255).astype(np.uint8)
    return noisy


@functools.cache
def noise(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(0).normal(0, 4, shape)


@pytest.mark.parametrize(("height", "width"), [(256, 256), (112, 192), (480, 832)])
def test_drawn_scenes_are_seen_as_they_are(height: int, width: int) -> None:
    places = itertools.cycle(itertools.product(COLUMNS, ROWS))
    shapes = itertools.cycle(itertools.product(CORNERS, (0.13, 0.18)))
    for (ink, ground), (column, row) in zip(itertools.permutations(COLOURS, 2), places, strict=False):
        shape, radius = next(shapes)
        pixels = drawn(Scene(shape, ink, ground, COLUMNS[column], ROWS[row], radius, 0.07), height, width)
        for seen in (look(pixels), look(soft(pixels))):
            told = seen.shape, seen.colour, seen.background, seen.column, seen.row
            assert told == (shape, ink, ground, column, row)


@pytest.mark.parametrize(
    ("pixels", "seen"),
    [
        (NOISE, Seen()),
        (FLAT, Seen(background="blue")),
        (soft(FLAT), Seen(background="blue")),
        (np.minimum(drawn(Scene(x=0.25)), drawn(Scene(x=0.75))), Seen(background="white")),
    ],
    ids=["noise", "flat", "noisy", "two shapes"],
)
def test_what_shows_no_single_shape_shows_none(pixels: Pixels, seen: Seen) -> None:
    assert look(pixels) == seen
    assert colours(NOISE) == colours(FLAT) == {}


@pytest.mark.parametrize(
    "pixels",
    [RING, drawn(Scene("circle"), 256, 352)[:, ::2], drawn(Scene("star", x=0.05)), drawn(Scene("square"))[:, :160]],
    ids=["ring", "ellipse", "beyond the border", "cut off"],
)
def test_another_outline_is_no_shape(pixels: Pixels) -> None:
    assert look(np.ascontiguousarray(pixels)).shape is None


def test_a_colour_between_two_has_no_name_and_of_two_colours_each_has_its_share() -> None:
    red, green = (drawn(Scene("square", colour)) for colour in ("red", "green"))
    assert look((red // 2 + green // 2).astype(np.uint8)).colour is None
    halves = np.concatenate([red[:128], green[128:]])
    assert look(halves).colour is None
    shares = {name: share for name, share in colours(halves).items() if share > 0.01}
    assert shares == pytest.approx({"red": 0.5, "green": 0.5}, abs=0.06)


def clip(shape: str, right: float = 0.0, down: float = 0.0, turn: float = 0.0, growth: float = 1.0) -> list[Pixels]:
    """Return 17 frames of a shape that changes by so much in each."""
    return [
        drawn(Scene(shape, x=0.5 + right * k, y=0.5 + down * k, radius=0.12 * growth**k, angle=turn * k), 112, 192)
        for k in range(17)
    ]


def test_a_motion_is_seen_and_an_unclear_one_is_not() -> None:
    across, down, turn = SPEED_ACROSS, SPEED_DOWN, math.pi / 20
    assert motion(clip("circle")) == motion(clip("circle", turn=turn)) == "still"
    assert [motion(clip("triangle", way)) for way in (across, -across)] == ["right", "left"]
    assert [motion(clip("circle", 0, way)) for way in (down, -down)] == ["down", "up"]
    assert [motion([soft(frame) for frame in clip(shape, turn=turn)]) for shape in ("square", "star")] == ["turns"] * 2
    for unclear in (clip("star", across, down), clip("star", across / 3), clip("star", growth=1.015)):
        assert motion(unclear) is None
    assert motion(clip("star", across)[:8] + clip("star", 0, down)[8:]) is None, "it jumps"


def test_every_prompt_is_of_a_combination_that_the_training_left_out() -> None:
    for case in (*IMAGES, *CLIPS):
        names = "|".join((case.shape, case.colour, case.background, case.column, case.row))
        assert zlib.crc32(names.encode()) % 10 == 0, case
    assert len({case.prompt for case in (*IMAGES, *CLIPS)}) == 28
