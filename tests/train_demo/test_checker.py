"""The checker on what it is for: right on drawn scenes however soft, None on what shows no clear scene."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from tests.train_demo.drawn import (
    Pixels,
    clip,
    drawn,
    every_shape_and_colour,
    jpeg,
    noisy,
    polygon,
    scene,
    soft,
    specked,
    through,
)
from tools.train_demo import scenes
from tools.train_demo.checker import Seen, colours, look, motion
from tools.train_demo.scenes import COLOURS, COLUMNS, MOTIONS, ROWS, SHAPES, Scene

ATTRIBUTES = ("shape", "colour", "background", "column", "row", "size")
Treatment = Callable[[Pixels], Pixels]


def wrong(one: Scene, seen: Seen) -> list[str]:
    return [
        f"{name}: {getattr(one, name)}, {getattr(seen, name)}"
        for name in ATTRIBUTES
        if getattr(one, name) != getattr(seen, name)
    ]


SMALL: dict[str, Treatment] = {"plain": lambda p: p, "soft": lambda p: soft(p, 1.2), "noisy": noisy}
NATIVE: dict[str, Treatment] = {
    "plain": lambda p: p,
    "soft": lambda p: soft(p, 2),
    "soft, noisy": lambda p: noisy(soft(p, 1.5)),
    "through 8": lambda p: through(p, 8),
    "jpeg": jpeg,
    "specked": specked,
}
LARGE: dict[str, Treatment] = {"soft, noisy": lambda p: noisy(soft(p, 3)), "through 8": lambda p: through(p, 8)}


@pytest.mark.parametrize(
    ("height", "width", "count", "treatments"),
    [
        (256, 256, 40, NATIVE),
        (112, 192, 40, SMALL),
        (128, 128, 20, SMALL),
        (480, 832, 12, LARGE),
        (1024, 1024, 6, LARGE),
        (1280, 704, 6, LARGE),
    ],
)
def test_drawn_scenes_are_seen_as_they_are(
    height: int, width: int, count: int, treatments: dict[str, Treatment]
) -> None:
    mistakes: list[str] = []
    for one in every_shape_and_colour(height, count):
        pixels = drawn(one, height, width)
        for name, treatment in treatments.items():
            if problem := wrong(one, look(treatment(pixels))):
                mistakes.append(f"{name}: {problem} of {one}")
    assert len(mistakes) <= 0.01 * count * len(treatments), mistakes


def test_every_place_and_pair_of_colours_is_told_apart() -> None:
    pairs = [(ink, ground) for ink in COLOURS for ground in COLOURS if ink != ground]
    places = [(column, row) for column in COLUMNS for row in ROWS]
    for index, (ink, ground) in enumerate(pairs):
        column, row = places[index % len(places)]
        one = scene(colour=ink, background=ground, column=column, row=row, x=COLUMNS[column], y=ROWS[row])
        assert not wrong(one, look(drawn(one, 128, 128)))


def test_centre_radius_area_and_angle_are_measured() -> None:
    for shape in SHAPES:
        one = scene(shape=shape, x=0.31, y=0.64, radius=0.15, angle=math.radians(11))
        seen = look(drawn(one))
        assert (seen.x, seen.y) == pytest.approx((0.31, 0.64), abs=0.003)
        assert seen.radius == pytest.approx(0.15, rel=0.02)
        assert seen.area == pytest.approx(math.pi * 0.15**2, rel=0.25)
        assert seen.angle == (None if shape == "circle" else pytest.approx(math.radians(11), abs=0.02))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_a_little_beyond_the_border_is_still_seen(shape: str) -> None:
    one = scene(shape=shape, column="left", x=0.2, radius=0.25)
    seen = look(drawn(one))
    assert not wrong(one, seen)
    assert (seen.x, seen.y) == pytest.approx((0.2, 0.5), abs=0.01)
    assert seen.radius == pytest.approx(0.25, rel=0.03)


# -- what it refuses


def uniform_noise(side: int = 256) -> Pixels:
    return np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)


def gradient(side: int = 256) -> Pixels:
    ramp = np.linspace(0, 255, side).astype(np.uint8)
    return np.broadcast_to(ramp[None, :, None], (side, side, 3)).copy()


@pytest.mark.parametrize(
    "pixels",
    [uniform_noise(), soft(uniform_noise(), 2), through(uniform_noise(), 8), through(uniform_noise(), 32), gradient()],
    ids=["noise", "soft noise", "patches", "large patches", "gradient"],
)
def test_a_picture_of_nothing_is_nothing(pixels: Pixels) -> None:
    assert look(pixels) == Seen()


def test_a_flat_picture_has_a_background_only() -> None:
    flat = np.full((256, 256, 3), COLOURS["blue"], dtype=np.uint8)
    assert look(flat) == Seen(background="blue")
    assert look(noisy(flat)) == Seen(background="blue")


def test_two_shapes_are_none() -> None:
    left, right = (drawn(scene(colour="green", x=x)) for x in (0.25, 0.75))
    assert look(np.minimum(left, right)) == Seen(background="white")


def test_a_colour_between_two_has_no_name() -> None:
    red, green = drawn(scene(colour="red")).astype(int), drawn(scene(colour="green")).astype(int)
    seen = look(((red + green) // 2).astype(np.uint8))
    assert seen.colour is None
    assert (seen.shape, seen.background) == ("star", "white")
    ground = (drawn(scene(background="blue")).astype(int) + drawn(scene(background="white"))) // 2
    assert look(ground.astype(np.uint8)).background is None


def test_a_shape_of_two_colours_has_none() -> None:
    pixels = drawn(scene(shape="circle", colour="red"))
    pixels[:, 128:] = drawn(scene(shape="circle", colour="green"))[:, 128:]
    assert look(pixels).colour is None


def test_a_shape_of_two_colours_has_its_share_of_each() -> None:
    pixels = drawn(scene(shape="square", colour="red", background="white")).copy()
    lower = pixels[128:]
    lower[(lower == COLOURS["red"]).all(axis=2)] = COLOURS["blue"]
    shares = colours(pixels)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["red"] == pytest.approx(0.5, abs=0.06)
    assert shares["blue"] == pytest.approx(0.5, abs=0.06)


def test_a_picture_of_nothing_has_no_colours() -> None:
    assert colours(np.full((256, 256, 3), COLOURS["green"], dtype=np.uint8)) == {}
    assert colours(uniform_noise()) == {}


def ring() -> Pixels:
    hole = drawn(scene(shape="circle", colour="white", background="red", radius=0.1))
    pixels = drawn(scene(shape="circle", radius=0.2))
    pixels[64:192, 64:192] = np.where(hole > 200, hole, pixels)[64:192, 64:192]
    return pixels


def blob(seed: int) -> Pixels:
    rng = np.random.default_rng(seed)
    waves = [(k, rng.uniform(0.1, 0.3), rng.uniform(0, 6.3)) for k in (2, 3, 4)]
    turns = np.linspace(0, 2 * math.pi, 120, endpoint=False)
    radii = [0.16 * (1 + sum(size * math.cos(k * t + phase) for k, size, phase in waves)) for t in turns]
    return polygon([(0.5 + r * math.cos(t), 0.5 + r * math.sin(t)) for r, t in zip(radii, turns, strict=True)])


def regular(corners: int, stretch: float = 1.0) -> Pixels:
    turns = [2 * math.pi * k / corners for k in range(corners)]
    return polygon([(0.5 + 0.18 * stretch * math.sin(t), 0.5 - 0.18 * math.cos(t)) for t in turns])


@pytest.mark.parametrize(
    "pixels",
    [
        *(blob(seed) for seed in range(6)),
        ring(),
        regular(5),
        regular(90, stretch=1.4),
        polygon([(0.3, 0.4), (0.7, 0.4), (0.7, 0.6), (0.3, 0.6)]),
        polygon([(0.3, 0.3), (0.3, 0.7), (0.7, 0.7)]),
    ],
    ids=[*(f"blob {seed}" for seed in range(6)), "ring", "pentagon", "ellipse", "rectangle", "right triangle"],
)
def test_another_outline_is_no_shape(pixels: Pixels) -> None:
    seen = look(pixels)
    assert seen.shape is None
    assert seen.background == "white"


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": "circle"},
        {"colour": "orange"},
        {"background": "yellow"},
        {"column": "left", "x": 0.27},
        {"row": "bottom", "y": 0.73},
        {"size": "small", "radius": 0.11},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_one_wrong_attribute_is_seen_and_no_other(changes: dict[str, object]) -> None:
    (name,) = (name for name in changes if name in ATTRIBUTES)
    assert [problem.split(":")[0] for problem in wrong(scene(), look(drawn(scene(**changes))))] == [name]


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        look(np.zeros((64, 64, 4), dtype=np.uint8))


# -- motion

STARTS: dict[str, dict[str, object]] = {
    "left": {"x": 0.73},
    "right": {"x": 0.27},
    "up": {"y": 0.73},
    "down": {"y": 0.27},
    "still": {"radius": 0.11},
    "grows": {"radius": 0.11},
    "turns": {},
}


@pytest.mark.parametrize("frames", [17, 81, 121])
@pytest.mark.parametrize("name", MOTIONS)
def test_a_motion_is_seen(name: str, frames: int) -> None:
    for shape in ("square", "triangle", "star") if name == "turns" else ("circle", "triangle"):
        one = scene(shape=shape, motion=name, **STARTS[name])
        assert motion(clip(one, frames)) == name, shape


def test_a_shape_that_turns_more_slowly_is_seen_turning(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as slow:
        slow.setattr(scenes, "TURN_FRAMES", 24)
        clips = [clip(scene(shape=shape, motion="turns"), 33) for shape in ("square", "triangle", "star")]
    assert [motion(frames) for frames in clips] == ["turns"] * 3


@pytest.mark.parametrize("name", MOTIONS)
def test_a_motion_is_seen_through_a_soft_and_noisy_decoder(name: str) -> None:
    frames = clip(scene(shape="square", motion=name, **STARTS[name]), 33)
    assert motion([noisy(soft(frame, 1.5)) for frame in frames]) == name


def test_a_clip_played_backwards_moves_the_other_way() -> None:
    frames = clip(scene(motion="left", x=0.73), 33)
    assert motion(frames[::-1]) == "right"


def test_a_circle_cannot_be_seen_turning() -> None:
    assert motion(clip(scene(shape="circle", motion="turns"), 33)) == "still"


def test_unclear_clips_have_no_motion() -> None:
    right = clip(scene(motion="right", x=0.27), 33)
    down = clip(scene(motion="down", y=0.27), 33)
    both = [clip(scene(x=0.3 + 0.008 * k, y=0.3 + 0.008 * k), 1)[0] for k in range(33)]
    jumps = [*right[:16], *down[16:]]
    shrinks = clip(scene(motion="grows", radius=0.11), 33)[::-1]
    noise = np.random.default_rng(2).integers(0, 256, (17, 112, 192, 3), dtype=np.uint8)
    creeps = [clip(scene(x=0.4 + 0.0026 * k), 1)[0] for k in range(33)]
    leaps = [clip(scene(y=0.4 if k < 4 else 0.48), 1)[0] for k in range(9)]  # as far as a moving shape comes in all
    for frames in (both, jumps, shrinks, noise, creeps, leaps):
        assert motion(np.asarray(frames)) is None


def test_a_clip_whose_colour_changes_has_no_motion() -> None:
    one = scene(motion="right", x=0.27)
    frames = clip(one, 33)
    frames[14:] = clip(dataclasses.replace(one, colour="green"), 33)[14:]
    assert motion(frames) is None
