"""The built-in models draw what a prompt asks for: every part of a request shows in the pixels.

Runs the worker's engine on the shipped weights, at their defaults, and looks with `tests.support.pixel_checker`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.demo_prompts import CLIPS, IMAGES, Case, Tally, right
from tests.support.drawn_scenes import Pixels, Scene, drawn
from tests.support.pixel_checker import Seen, colours, look, motion
from tests.support.studio import Studio
from worker.core.types import Scheduler

pytestmark = pytest.mark.slow

FRAMES = 17
MEASURED = ("colour", "background", "position", "shape")
STAR = "a large red star on the left, blue background"
REFINED: tuple[dict[str, Any], ...] = (
    {"high_noise_frac": 0.8},
    {"high_noise_frac": 0.5, "refiner_inference_steps": 10},
)


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio()


@pytest.fixture(scope="module")
def without_words() -> Studio:
    return Studio(without_words=True)


def draw(studio: Studio, prompt: str, seed: int = 1, **fields: Any) -> Pixels:
    (pixels,) = studio.run("text2img", prompt, seed=seed, **fields)
    return pixels


def told(seen: Seen) -> tuple[str | None, ...]:
    return seen.shape, seen.colour, seen.background, seen.column, seen.row


# -- the score, small


@pytest.fixture(scope="module")
def seen_images(studio: Studio) -> list[Seen]:
    return [look(draw(studio, case.prompt, seed)) for seed, case in enumerate(IMAGES)]


def tally(cases: Sequence[Case], seen: list[Seen]) -> Tally:
    counted = Tally()
    for case, one in zip(cases, seen, strict=True):
        counted.add(right(case, one))
    return counted


@pytest.mark.parametrize("name", MEASURED)
def test_prompts_that_the_training_never_saw_are_drawn(seen_images: list[Seen], name: str) -> None:
    share = tally(IMAGES, seen_images).share(name)
    assert share is not None
    assert share >= 90


def near_chance(counted: Tally) -> None:
    # One in ten colours, one in nine places, one in four shapes: of ten and more pictures hardly ever half.
    assert [name for name in MEASURED if (counted.share(name) or 0) >= 50] == []
    assert (counted.share("all") or 0) <= 10


def test_another_prompt_scores_near_chance(seen_images: list[Seen]) -> None:
    assert sum(one.colour is not None for one in seen_images) > 12, "there is something to see"
    near_chance(tally(IMAGES[1:] + IMAGES[:1], seen_images))


def test_an_empty_prompt_scores_near_chance(studio: Studio) -> None:
    near_chance(tally(IMAGES[:10], [look(draw(studio, "", seed)) for seed in range(10)]))


def test_the_unconditional_prediction_scores_near_chance(without_words: Studio) -> None:
    seen = [look(draw(without_words, case.prompt, seed)) for seed, case in enumerate(IMAGES[:10])]
    near_chance(tally(IMAGES[:10], seen))


def test_clips_begin_with_the_scene_and_move_as_told(studio: Studio) -> None:
    counted = Tally()
    for seed, case in enumerate(CLIPS):
        (frames,) = studio.run("text2video", case.prompt, seed=seed, num_frames=FRAMES)
        assert len(frames) == FRAMES
        counted.add(right(case, look(frames[0])) | {"motion": motion(frames) == case.motion})
    assert all((counted.share(name) or 0) >= 75 for name in (*MEASURED, "motion")), counted


# -- the parts of a request


@pytest.mark.parametrize("prompt", ["a star on a white background", "a large circle in the centre"])
def test_a_negative_prompt_removes_its_colour(studio: Studio, prompt: str) -> None:
    # Such a prompt leaves the colour open, and shapes come out in two or three.
    kept = []
    for seed in range(6):
        before = colours(draw(studio, prompt, seed))
        most = max(before, key=lambda name: before[name])
        after = colours(draw(studio, prompt, seed, negative_prompt=most))
        assert after, "there is still something to see"
        kept.append(after.get(most, 0.0) / before[most])
    assert sum(share < 0.2 for share in kept) >= 5, kept


def repainted(
    studio: Studio, strength: float, prompt: str = "a large yellow square on the right, black background"
) -> Seen:
    given = Scene(shape="circle", colour="red", background="white", x=0.27)
    image = Image.fromarray(drawn(given))
    (pixels,) = studio.run("img2img", prompt, image=image, strength=strength, seed=3)
    return look(pixels)


def test_img2img_at_a_low_strength_keeps_the_layout(studio: Studio) -> None:
    seen = repainted(studio, 0.25)
    assert (seen.column, seen.row, seen.background) == ("left", "centre", "white")
    assert seen.x == pytest.approx(0.27, abs=0.03)


def test_img2img_at_a_high_strength_follows_the_prompt(studio: Studio) -> None:
    assert told(repainted(studio, 0.95)) == ("square", "yellow", "black", "right", "centre")


def test_inpaint_draws_inside_the_mask_and_changes_no_pixel_outside(studio: Studio) -> None:
    source = drawn(Scene(shape="circle", colour="red", background="white"))
    mask = np.zeros((256, 256), dtype=np.uint8)
    mask[49:211, 45:205] = 255  # not aligned with any latent
    prompt = "a large blue triangle in the centre, white background"
    (pixels,) = studio.run(
        "inpaint", prompt, image=Image.fromarray(source), mask=Image.fromarray(mask), strength=1.0, seed=4
    )
    assert np.array_equal(pixels[mask == 0], source[mask == 0])
    assert told(look(pixels)) == ("triangle", "blue", "white", "centre", "centre")


@pytest.fixture(scope="module")
def star() -> tuple[str, ...]:
    return "star", "red", "blue", "left", "centre"


@pytest.mark.parametrize("side", [512, 1024])
def test_a_large_image_shows_the_scene(studio: Studio, star: tuple[str, ...], side: int) -> None:
    assert told(look(draw(studio, STAR, width=side, height=side))) == star


def test_a_large_clip_shows_the_scene(studio: Studio) -> None:
    prompt = "a large green square in the centre, white background, moving right"
    (clip,) = studio.run("text2video", prompt, seed=1, video_width=832, video_height=480, num_frames=5)
    assert told(look(clip[0])) == ("square", "green", "white", "centre", "centre")


@pytest.mark.parametrize("scheduler", [None, *Scheduler])
def test_every_scheduler_draws_the_scene(studio: Studio, star: tuple[str, ...], scheduler: Scheduler | None) -> None:
    assert told(look(draw(studio, STAR, scheduler=scheduler))) == star


@pytest.mark.parametrize("refined", REFINED, ids=["late", "early"])
def test_the_refiner_draws_the_same_scene(studio: Studio, star: tuple[str, ...], refined: dict[str, Any]) -> None:
    base, pixels = draw(studio, STAR), draw(studio, STAR, **refined)
    assert not np.array_equal(base, pixels)
    assert told(look(pixels)) == told(look(base)) == star


def test_image_k_is_the_single_image_of_its_seed(studio: Studio) -> None:
    several = studio.run("text2img", STAR, seed=50, num_images=3)
    assert len(several) == 3
    for index, pixels in enumerate(several):
        assert np.array_equal(pixels, draw(studio, STAR, 50 + index))
    assert not np.array_equal(several[0], several[1])


def test_a_clip_begins_with_the_picture_that_was_given(studio: Studio) -> None:
    given = Scene(shape="square", colour="green", background="yellow", x=0.27)
    source = drawn(given, 112, 192)
    prompt = "a large green square on the left moving right, yellow background"
    (frames,) = studio.run("img2video", prompt, image=Image.fromarray(source), num_frames=FRAMES, seed=6)
    assert told(look(frames[0])) == told(look(source)) == ("square", "green", "yellow", "left", "centre")
    assert np.abs(frames[0].astype(int) - source).mean() < 8
    assert motion(frames) == "right"


def test_a_job_is_not_influenced_by_the_ones_before_it(studio: Studio) -> None:
    first = draw(studio, STAR, 60)
    image = Image.fromarray(drawn(Scene(colour="black", background="pink")))
    draw(studio, "a small green circle", scheduler=Scheduler.K_EULER_ANCESTRAL, guidance_scale=9.0, **REFINED[1])
    studio.run("img2img", "a cyan square on orange", image=image, strength=0.6, negative_prompt="black", seed=1)
    (clip,) = studio.run("text2video", "a red star moving up", num_frames=5, num_inference_steps=2, seed=60)
    assert len(clip) == 5
    assert np.array_equal(draw(studio, STAR, 60), first)
