"""What goes without saying in a caption, and where the shapes of clips are."""

import random
import re
from dataclasses import replace

import pytest
import torch

from tools.train_demo.captions import Caption, describe, say
from tools.train_demo.scenes import (
    CLIP_COLUMNS,
    CLIP_ROWS,
    COLUMNS,
    PICTURE_SIZES,
    PLAY,
    ROWS,
    TURN_FRAMES,
    Scene,
    cover,
    draw_lots,
    exact,
    paint,
)

WAYS = ("left", "right", "up", "down")


def scenes(count: int = 400, *, moving: bool = True) -> list[Scene]:
    rng = random.Random(0)
    return [draw_lots(rng, moving=moving) for _ in range(count)]


def told(caption: Caption) -> dict[str, str]:
    """What a reader of the caption takes for granted who knows what goes without saying."""
    silent = {"size": "large", "column": "centre", "row": "centre", "motion": "still"}
    return {name: value or silent.get(name, "any") for name, value in caption.said.items()}


def test_a_certain_caption_tells_all_of_a_scene_though_it_does_not_name_all() -> None:
    rng, silent = random.Random(1), set()
    for scene in scenes(1000):
        caption = describe(scene, rng, certain=True)
        assert told(caption) == {name: getattr(scene, name) for name in caption.said}
        silent |= {name for name, value in caption.said.items() if value is None}
    assert silent == {"size", "column", "row", "motion"}


def test_no_description_is_silent_about_a_place_a_size_or_a_motion_that_does_not_go_without_saying() -> None:
    rng = random.Random(2)
    for scene in scenes(1000):
        caption = describe(scene, rng)
        for name in ("size", "column", "row", "motion"):
            assert told(caption)[name] == getattr(scene, name)


def test_what_a_caption_says_of_colour_and_size_is_in_its_words_beside_the_shape_or_apart_from_it() -> None:
    rng, apart = random.Random(5), 0
    words = {"purple": {"purple", "violet"}, "cyan": {"cyan", "turquoise"}}
    words |= {"small": {"small", "little", "tiny"}, "large": {"large", "big", "huge"}}
    for scene in scenes(1000, moving=False):
        caption = describe(scene, rng)
        text = re.findall(r"[a-z]+", caption.text.lower())
        for name in ("colour", "background", "size"):
            value = caption.said[name]
            assert value is None or words.get(value, {value}) & set(text), caption
        apart += bool(re.search(r"(circle|square|triangle|star), (small|big|large|red|green|blue)\b", caption.text))
    assert apart, "some adjectives come after their shape"


def test_a_complete_caption_is_silent_about_rest_alone() -> None:
    rng = random.Random(3)
    for scene in scenes():
        left_out = {name for name, value in describe(scene, rng, complete=True).said.items() if value is None}
        assert left_out == ({"motion"} if scene.motion == "still" else set())


def test_fragments_and_other_words_are_trained_on_too() -> None:
    rng = random.Random(4)
    said = [say(scene, rng).said for scene in scenes(1000)]
    few = [one for one in said if sum(value is not None for value in one.values()) <= 1]
    assert 0.05 < len(few) / len(said) < 0.2


def test_clips_begin_in_the_middle_of_their_places() -> None:
    assert all(exact(scene) for scene in scenes())


def test_a_pictures_shape_is_upright_and_near_the_place_that_is_named_but_never_twice_the_same() -> None:
    still = scenes(1000, moving=False)
    assert {scene.angle for scene in still} == {0.0}
    assert {(scene.size, scene.radius) for scene in still} == set(PICTURE_SIZES.items())
    for scene in still:
        assert abs(scene.x - COLUMNS[scene.column]) <= PLAY
        assert abs(scene.y - ROWS[scene.row]) <= PLAY
    assert len({(scene.x, scene.y) for scene in still}) == len(still), "another seed is another picture"


def test_no_shape_of_a_picture_touches_its_border() -> None:
    pixels = paint(scenes(moving=False), 256, 256)[:, 0]
    border = torch.cat([pixels[..., 0, :], pixels[..., -1, :], pixels[..., 0], pixels[..., -1]], dim=-1)
    torch.testing.assert_close(border, border[..., :1].expand_as(border))


def test_the_cover_is_what_a_white_shape_on_black_looks_like() -> None:
    some = scenes(40, moving=False)
    white = paint([replace(scene, colour="white", background="black") for scene in some], 64, 64)[:, 0, :1]
    most, least = white.max(), white.min()
    torch.testing.assert_close(cover(paint(some, 64, 64)[:, 0] * 2 - 1), (white - least) / (most - least))


@pytest.mark.parametrize("shape", ["square", "triangle", "star"])
def test_a_turning_shape_looks_as_it_did_after_two_latents_and_not_before(shape: str) -> None:
    turning = next(scene for scene in scenes() if scene.motion == "turns" and scene.shape == shape)
    assert TURN_FRAMES == 2 * 4
    pixels = paint([turning], 112, 192, TURN_FRAMES + 2)[0]
    apart = (pixels - pixels[0]).abs().amax((1, 2, 3))
    assert apart[TURN_FRAMES] < 1e-3
    assert apart[1:TURN_FRAMES].min() > 0.1


@pytest.mark.parametrize("way", WAYS)
def test_at_the_end_of_every_latent_a_moving_shape_is_on_a_corner_of_its_blocks_until_it_rests(way: str) -> None:
    of_it = [scene for scene in scenes() if scene.motion == way and scene.shape == "square"][:4]
    assert of_it
    pixels = paint(of_it, 112, 192, 81)[:, ::4]
    cover = (pixels - pixels[..., :1, :1]).abs().sum(2)
    down = torch.arange(112)[:, None] + 0.5
    across = torch.arange(192)[None, :] + 0.5
    total = cover.sum((-2, -1))
    for at in (((cover * side).sum((-2, -1)) / total) for side in (across, down)):
        torch.testing.assert_close(at, (at / 8).round() * 8, rtol=0, atol=0.01)
    axis, side, places = (across, 192, CLIP_COLUMNS) if way in ("left", "right") else (down, 112, CLIP_ROWS)
    end = {"left": "left", "right": "right", "up": "top", "down": "bottom"}[way]
    last = (cover[:, -1] * axis).sum((-2, -1)) / total[:, -1] / side
    assert last.tolist() == pytest.approx([places[end]] * len(of_it), abs=1e-3)
