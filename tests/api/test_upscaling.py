"""Upscaling requests: their fields, numbers, cost, refusals and warnings."""

from dataclasses import replace
from typing import Any

import pytest

from worker.api.cost import STEPS_BESIDE, job_cost
from worker.api.departures import departures
from worker.api.field_types import LONGEST_SIDE, FormatName
from worker.api.params import ImageParams, ModelDefaults, public_params
from worker.api.prompt_weights import has_weights
from worker.api.request import Request, UpscaleRequest, parse
from worker.api.resolve import SourceShape, resolve
from worker.core.errors import InvalidInput

PLAIN = ModelDefaults("sdxl", 1024, 1024, num_inference_steps=30, guidance_scale=5.0)
SDXL = replace(PLAIN, upscaler="RealESRGAN_x4plus")
ALONE = ModelDefaults("small", 1024, 1024, 1, 1.0, size_multiple=1, upscaler="small", draws=False)
PICTURE = "data:image/png;base64,iVBORw0KGgo="
PHONE: dict[str, Any] = {"task_type": "upscale", "image_url": PICTURE, "upscale_factor": 2}


def resolved(
    request: Request, defaults: ModelDefaults, size: tuple[int, int] | None, most: int, cost: int = 8_000_000_000
) -> ImageParams:
    limits = {"max_image_pixels": 2_359_296, "max_job_cost": cost, "max_upscaled_pixels": most}
    params = resolve(request, defaults, **limits, source=None if size is None else SourceShape(*size), seed=1)
    assert isinstance(params, ImageParams)
    return params


def made(
    defaults: ModelDefaults = SDXL, size: tuple[int, int] | None = None, most: int = 16_777_216, **fields: Any
) -> ImageParams:
    return resolved(parse(fields), defaults, size, most)


def said(defaults: ModelDefaults = SDXL, **fields: Any) -> tuple[str, ...]:
    request = parse(fields)
    return departures(request, resolved(request, defaults, (64, 64), 16_777_216), defaults)


def problem(defaults: ModelDefaults = SDXL, **fields: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        made(defaults, **fields)
    return caught.value.message


def test_a_phones_wallpaper_is_made_of_half_of_it() -> None:
    params = made(size=(645, 1398), **PHONE)
    assert (params.final_size, params.enlarges, params.draws_nothing) == ((1290, 2796), True, True)
    assert public_params(params).keys() == {"width", "height", "upscale"}


def test_what_is_drawn_is_made_larger_after_it() -> None:
    params = made(prompt="a fox", width=648, height=1400, upscale_factor=2)
    assert params.upscale is not None
    assert (params.drawn_size, params.final_size) == ((648, 1400), (1296, 2800))
    assert (params.upscale.upscaler, params.upscale.creativity, params.upscale.tile) == ("RealESRGAN_x4plus", 0.0, None)


def test_details_are_drawn_anew_in_one_piece_or_in_tiles_of_the_models_size() -> None:
    small, large = (made(size=size, **PHONE, upscale_creativity=0.3).upscale for size in ((500, 700), (1000, 1500)))
    assert small is not None
    assert large is not None
    assert (small.tile, small.tiles) == ((1000, 1400), (1, 1))
    assert (large.tile, large.tiles, large.overlap) == ((1024, 1024), (3, 4), 128)
    assert (small.steps(30), small.steps(2)) == (9, 1)


def test_without_an_upscaler_the_model_draws_details_unless_the_request_says_not() -> None:
    for creativity, drawn in ((None, 0.3), (0, 0.0), (0.5, 0.5)):
        upscale = made(PLAIN, (64, 64), **PHONE, upscale_creativity=creativity).upscale
        assert upscale is not None
        assert (upscale.upscaler, upscale.creativity) == ("lanczos", drawn)


def test_the_cost_counts_the_final_size() -> None:
    plain = job_cost(made(prompt="a fox"))
    larger = made(prompt="a fox", upscale_factor=4, num_images=2)
    assert plain == 1024 * 1024 * (30 + STEPS_BESIDE)
    assert job_cost(larger) == 2 * (plain + 4096 * 4096)
    alone, anew = (made(size=(512, 512), **PHONE, upscale_creativity=level) for level in (0, 0.5))
    assert job_cost(alone) == 1024 * 1024
    assert job_cost(anew) == 1024 * 1024 * (1 + 15 + STEPS_BESIDE)
    tiled = made(size=(1024, 1024), **PHONE, upscale_creativity=0.5)
    assert job_cost(tiled) == 2048 * 2048 + (2048 + 2 * 128) ** 2 * (15 + STEPS_BESIDE)


@pytest.mark.parametrize("factor", [2, 4])
def test_the_final_size_has_a_limit_of_its_own(factor: int) -> None:
    fields = PHONE | {"upscale_factor": factor}
    refusal = problem(size=(4000, 3000), **fields)
    pixels = 12_000_000 * factor**2
    assert refusal == (
        f"upscale_factor: makes {4000 * factor} x {3000 * factor} = {pixels} pixels of this picture, "
        f"and at most 16777216 are made here (got {factor})"
    )
    made(size=(4096 // factor, 4096 // factor), **fields)
    assert "at most 1048576" in problem(most=1024**2, prompt="a fox", upscale_factor=factor)


@pytest.mark.parametrize("fmt", ["jpeg", "webp"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_side_that_a_format_has_no_room_for_is_refused_before_anything_is_drawn(
    fmt: FormatName, turned: bool
) -> None:
    """A long screenshot or a panorama can reach it."""
    fields = PHONE | {"upscale_factor": 4, "output_format": fmt}
    most, side = LONGEST_SIDE[fmt], LONGEST_SIDE[fmt] // 4
    made(size=(60, side) if turned else (side, 60), **fields)
    size = (60, side + 1) if turned else (side + 1, 60)
    assert problem(size=size, **fields) == (
        f"output_format: has at most {most} pixels a side, and the picture becomes {4 * size[0]} x {4 * size[1]}; "
        f"ask for png (got {fmt})"
    )
    made(size=size, **{**fields, "output_format": "png"})


def test_before_the_picture_is_here_its_size_is_no_reason_to_refuse() -> None:
    params = made(most=65536, **PHONE)
    assert params.final_size == (256, 256)


def test_so_it_is_with_the_cost_which_then_names_the_factor() -> None:
    def at_most(cost: int, size: tuple[int, int] | None, **fields: Any) -> str | None:
        try:
            resolved(parse(fields), SDXL, size, 16_777_216, cost)
        except InvalidInput as error:
            return error.message
        return None

    assert at_most(1024**2, None, **PHONE) is at_most(1024**2, (512, 512), **PHONE) is None
    refusal = "upscale_factor: width x height x (steps + 1) x images, with all that is enlarged, may be at most 1048576"
    assert at_most(1024**2, (520, 512), **PHONE) == f"{refusal} (got {1040 * 1024})"
    drawn = 1024**2 * (30 + STEPS_BESIDE)
    assert at_most(drawn, None, prompt="a fox") is None
    assert str(at_most(drawn, None, prompt="a fox", upscale_factor=2)).startswith("upscale_factor: ")
    assert str(at_most(drawn - 1, None, prompt="a fox", upscale_factor=2)).startswith("num_inference_steps: ")


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"upscale_factor": 3}, "upscale_factor: must be 2 or 4 (got 3)"),
        ({"upscale_factor": "2"}, "upscale_factor: "),
        ({"upscale_factor": True}, "upscale_factor: "),
        ({"upscale_factor": 2.5}, "upscale_factor: "),
        ({"upscale_factor": None}, "upscale_factor: is required for upscale"),
        ({"image_url": None}, "image_url: is required for upscale"),
        ({"upscale_creativity": 0.6}, "upscale_creativity: "),
        ({"upscale_creativity": -0.1}, "upscale_creativity: "),
        ({"strength": 0.4}, "strength: is not a field of upscale (it belongs to img2img, inpaint)"),
        ({"width": 512}, "width: is not a field of upscale"),
        ({"creativity": 0.3}, "upscale_creativity"),
        ({"scale_factor": 2}, "upscale_factor"),
    ],
)
def test_what_is_wrong_is_refused_in_words(fields: dict[str, Any], refusal: str) -> None:
    assert refusal in problem(**(PHONE | fields))


def test_of_a_creativity_below_one_step_one_is_run_and_params_have_what_was_asked() -> None:
    upscale = made(size=(64, 64), **PHONE, upscale_creativity=0.1, num_inference_steps=7).upscale
    assert upscale is not None
    assert upscale.creativity == 0.1
    assert [(int(7 * upscale.strength(7)), upscale.steps(7)), upscale.strength(100)] == [(1, 1), 0.1]


def test_where_nothing_draws_details_cannot_be_drawn() -> None:
    assert problem(ALONE, **PHONE, upscale_creativity=0.2).startswith("upscale_creativity: needs an image model")
    assert made(ALONE, (64, 64), **PHONE).draws_nothing


def test_a_prompt_is_not_needed_but_read() -> None:
    request = parse(PHONE | {"prompt": "  a cat "})
    assert isinstance(request, UpscaleRequest)
    assert (request.prompt, parse(PHONE).prompt) == ("a cat", "")
    assert list(request.pictures()) == ["image_url"]


def test_weights_and_a_style_count_where_details_are_drawn() -> None:
    anew = made(
        size=(64, 64), **PHONE, prompt="(a cat:1.3)", prompt_weighting=True, style="ink", upscale_creativity=0.3
    )
    assert (anew.prompt_weighting, anew.style) == (True, "ink")
    assert has_weights(anew.wanted)
    assert said(**PHONE, prompt="(a cat:1.3)", prompt_weighting=True, upscale_creativity=0.3) == ()
    alone = made(size=(64, 64), **PHONE, prompt="(a cat:1.3)", prompt_weighting=True, style="ink")
    assert public_params(alone).keys() == {"width", "height", "upscale"}


def test_what_has_no_effect_or_was_done_another_way_is_said() -> None:
    assert said(**PHONE) == said(**PHONE, upscale_creativity=0.3, prompt="a cat") == ()
    assert said(prompt="a fox", upscale_factor=2) == ()
    assert said(prompt="a fox", upscale_creativity=0.2) == (
        "upscale_creativity: has no effect without an upscale_factor",
    )
    (undrawn,) = said(**PHONE, prompt="(a cat:1.3)", seed=0, num_inference_steps=20, preview=True)
    assert undrawn == "prompt, seed, num_inference_steps, preview: have no effect without an upscale_creativity above 0"
    (drawn,) = said(PLAIN, **PHONE)
    assert drawn.startswith("upscale_factor: this worker has no upscaler; the picture was enlarged by Lanczos, and the")
    (short,) = said(**PHONE, upscale_creativity=0.1, num_inference_steps=4)
    assert short == "upscale_creativity: 0.1 of 4 steps is less than one step; one draws the details anew"
    assert said(**PHONE, upscale_creativity=0.25, num_inference_steps=4) == ()
    (enlarged, prompt) = said(PLAIN, **PHONE, upscale_creativity=0, prompt="a cat")
    assert "which adds no details" in enlarged
    assert prompt.startswith("prompt: has no effect")
