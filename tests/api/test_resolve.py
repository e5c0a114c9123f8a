"""Parameters: open fields are filled in from the model, the cost is computed, and what is too large is refused."""

import contextlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.api.cost import CONTROLNET_SHARE, job_cost, job_units
from worker.api.params import Draft, EndImage, ImageParams, ModelDefaults, Params, VideoParams, public_params
from worker.api.prompt_weights import weighted
from worker.api.request import parse
from worker.api.resolve import SourceShape, resolve
from worker.api.sizes import ASPECT_RATIOS
from worker.core.errors import InvalidInput
from worker.core.types import Scheduler

SDXL = ModelDefaults("sdxl", 1024, 1024, num_inference_steps=30, guidance_scale=5.0, has_refiner=True)
WAN = ModelDefaults("wan", 832, 480, num_inference_steps=50, guidance_scale=5.0, size_multiple=16)
DRAFTING = replace(SDXL, draft_strength=0.3)
WAN_22 = ModelDefaults("wan22", 1280, 704, num_inference_steps=50, guidance_scale=5.0, size_multiple=32, fps=24)
PICTURE = "data:image/png;base64,iVBORw0KGgo="
LIMITS = {"max_image_pixels": 2_359_296, "max_job_cost": 8_000_000_000}


def made(defaults: ModelDefaults = SDXL, limits: dict[str, int] | None = None, **fields: Any) -> Params:
    most = LIMITS | (limits or {})
    return resolve(
        parse({"prompt": "a fox", **fields}),
        defaults,
        max_image_pixels=most["max_image_pixels"],
        max_job_cost=most["max_job_cost"],
    )


def image(defaults: ModelDefaults = SDXL, **fields: Any) -> ImageParams:
    params = made(defaults, **fields)
    assert isinstance(params, ImageParams)
    return params


def video(defaults: ModelDefaults = WAN, limits: dict[str, int] | None = None, **fields: Any) -> VideoParams:
    params = made(defaults, limits, task_type="text2video", **fields)
    assert isinstance(params, VideoParams)
    return params


def problem(defaults: ModelDefaults = SDXL, limits: dict[str, int] | None = None, **fields: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        made(defaults, limits, **fields)
    return str(caught.value)


def test_an_image_is_made_as_its_model_likes_it_where_the_request_says_nothing() -> None:
    params = image(seed=5)
    assert params == ImageParams(
        prompt="a fox",
        negative_prompt="",
        width=1024,
        height=1024,
        num_inference_steps=30,
        guidance_scale=5.0,
        scheduler=None,
        seeds=(5,),
    )


def test_a_clip_is_made_as_its_model_likes_it_where_the_request_says_nothing() -> None:
    assert video(seed=5) == VideoParams(
        prompt="a fox",
        negative_prompt="",
        width=832,
        height=480,
        num_frames=81,
        fps=16,
        num_inference_steps=50,
        guidance_scale=5.0,
        flow_shift=3.0,
        seed=5,
    )
    assert video(WAN_22, num_frames=5).fps == 24
    assert video(replace(WAN, most_chunks=1)).most_chunks == 1


def test_what_the_request_says_counts() -> None:
    params = image(
        width=512, height=768, num_inference_steps=7, guidance_scale=0, scheduler="DDIM", negative_prompt="fog", seed=0
    )
    assert params == ImageParams(
        prompt="a fox",
        negative_prompt="fog",
        width=512,
        height=768,
        num_inference_steps=7,
        guidance_scale=0.0,
        scheduler=Scheduler.DDIM,
        seeds=(0,),
        micro_conditioning=(836, 1254),
    )
    asked: dict[str, Any] = {
        "num_frames": 9,
        "fps": 30,
        "video_guidance_scale": 0,
        "flow_shift": 0.1,
        "num_inference_steps": 2,
    }
    assert video(video_width=64, video_height=128, seed=1, **asked) == VideoParams(
        prompt="a fox",
        negative_prompt="",
        width=64,
        height=128,
        num_frames=9,
        fps=30,
        num_inference_steps=2,
        guidance_scale=0.0,
        flow_shift=0.1,
        seed=1,
    )


def test_only_tasks_with_a_source_have_a_strength() -> None:
    assert image().strength is None
    assert image(task_type="img2img", image_url=PICTURE).strength == 0.6
    assert image(task_type="inpaint", image_url=PICTURE, mask_url=PICTURE).strength == 0.99


def test_image_k_has_seed_plus_k_and_goes_round_at_two_to_the_32() -> None:
    assert image(seed=4294967294, num_images=4).seeds == (4294967294, 4294967295, 0, 1)


def test_a_seed_that_nobody_gave_is_drawn_from_the_whole_range() -> None:
    seeds = [image().seeds[0] for _ in range(64)]
    assert len(set(seeds)) > 60
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert max(seeds) > 2**31


@pytest.mark.parametrize(
    ("width", "height", "shift"), [(832, 480, 3.0), (480, 832, 3.0), (256, 256, 3.0), (1280, 720, 5.0), (512, 512, 5.0)]
)
def test_the_flow_shift_is_3_up_to_480p_and_5_above(width: int, height: int, shift: float) -> None:
    assert video(video_width=width, video_height=height, num_frames=5).flow_shift == shift


@pytest.mark.parametrize("side", ["video_width", "video_height"])
def test_wan_22_wants_multiples_of_32_and_says_which_side_is_wrong(side: str) -> None:
    sizes: dict[str, Any] = {"video_width": 1280, "video_height": 704, side: 720}
    message = problem(WAN_22, task_type="text2video", num_frames=5, **sizes)
    assert message == f"invalid_input: {side}: must be a multiple of 32 for this model (got 720)"
    assert video(WAN, num_frames=5, **sizes).num_frames == 5


@pytest.mark.parametrize("field", [{"high_noise_frac": 0.8}, {"refiner_inference_steps": 10}, {"high_noise_frac": 0.0}])
def test_refiner_fields_need_a_refiner(field: dict[str, Any]) -> None:
    without = ModelDefaults("sdxl", 1024, 1024, num_inference_steps=30, guidance_scale=5.0)
    (name,) = field
    assert problem(without, **field).startswith(f"invalid_input: {name}: needs a refiner")


def test_references_need_an_ip_adapter_and_are_shown_without_their_pictures() -> None:
    asked: dict[str, Any] = {"ip_adapters": [{"image_url": "https://example.com/a.png"}]}
    without = ModelDefaults("sdxl", 1024, 1024, num_inference_steps=30, guidance_scale=5.0)
    assert problem(without, **asked).startswith("invalid_input: ip_adapters: needs an IP-Adapter")
    params = image(replace(without, has_ip_adapter=True), **asked)
    assert public_params(params)["ip_adapters"] == ({"type": "subject", "scale": 0.6},)
    assert "ip_adapters" not in public_params(image(without))


def test_a_refiner_works_only_where_it_is_asked_for_and_one_field_is_enough() -> None:
    def split(**fields: Any) -> tuple[float | None, int | None]:
        params = image(**fields)
        return params.high_noise_frac, params.refiner_inference_steps

    assert split() == (None, None)
    assert split(high_noise_frac=0.0) == (0.0, 30)
    assert split(refiner_inference_steps=12) == (0.8, 12)
    assert split(high_noise_frac=0.7, refiner_inference_steps=12, num_inference_steps=20) == (0.7, 12)


def test_the_cost_is_pixels_times_frames_times_steps_and_the_decode_times_images() -> None:
    assert job_cost(image(width=512, height=256, num_inference_steps=10, scheduler="HEUN")) == 512 * 256 * 21
    assert job_cost(image(width=512, height=256, num_inference_steps=10, num_images=3)) == 512 * 256 * 11 * 3
    assert job_cost(video(video_width=64, video_height=96, num_frames=9, num_inference_steps=4)) == 64 * 96 * 9 * 5


def test_what_a_long_prompt_takes_on_the_card_is_paid_for() -> None:
    """For a picture of 64 x 64 it is nearly all of the work."""
    small: dict[str, Any] = {"width": 64, "height": 64, "num_inference_steps": 100, "num_images": 4}
    prose = "a small red fox sits beside an old stone bridge in the morning light, "
    for prompt, units in ((prose, 2), (prose * 5, 2), (prose * 50, 32), ("7" * 4000, 178), ("\U00013000" * 4000, 709)):
        assert job_units(image(prompt=prompt, **small)) == units
    assert job_units(image(negative_prompt="7" * 4000, **small)) == 178
    assert job_units(image(negative_prompt="7" * 4000, guidance_scale=1.0, **small)) == 2
    at_home: dict[str, Any] = {"width": 1024, "height": 1024, "num_inference_steps": 30}
    for prompt, units in ((prose, 33), (prose * 20, 34), (prose * 50, 37)):
        assert job_units(image(prompt=prompt, **at_home)) == units
    clip: dict[str, Any] = {"video_width": 64, "video_height": 64, "num_frames": 5, "num_inference_steps": 100}
    assert job_units(video(prompt=prose, **clip)) == 3
    assert job_units(video(prompt="7" * 4000, **clip)) == 26


@pytest.mark.parametrize(("make", "more"), [(image, 30), (video, 120)])
def test_another_model_than_the_workers_first_has_its_price_however_small_the_job(make: Any, more: int) -> None:
    """Whoever makes two models evict each other with pictures of one step pays for the loading."""
    small = {"width": 64, "height": 64} if make is image else {"video_width": 64, "video_height": 64, "num_frames": 5}
    small["num_inference_steps"] = 1
    other = replace(SDXL if make is image else WAN, is_first=False)
    params = make(**small)
    assert (job_units(params), job_units(params, other)) == (1, more + 1)
    task = "text2img" if make is image else "text2video"
    assert "may be at most" in problem(other, {"max_job_cost": more * 10**6}, task_type=task, **small)


def test_with_a_refiner_the_steps_that_are_really_run_count() -> None:
    pixels: dict[str, Any] = {"width": 64, "height": 64, "num_inference_steps": 30}
    assert job_cost(image(**pixels, high_noise_frac=0.8)) == 64 * 64 * 31
    # 24 of the base's 30 and the last fifth of the refiner's 100
    assert job_cost(image(**pixels, high_noise_frac=0.8, refiner_inference_steps=100)) == 64 * 64 * 45


def test_a_size_far_beyond_the_models_own_is_drawn_small_first_where_the_model_asks_for_it() -> None:
    assert image(DRAFTING, width=1536, height=1536).draft == Draft(1024, 1024, 0.3)
    assert image(DRAFTING, width=2048, height=1152).draft == Draft(1368, 768, 0.3)
    assert image(DRAFTING, width=1448, height=1448).draft is None  # just below twice the pixels
    assert image(SDXL, width=1536, height=1536).draft is None
    wan = replace(WAN, draft_strength=0.2)
    assert video(wan, video_width=1280, video_height=720).draft == Draft(848, 480, 0.2)
    assert video(wan).draft is None


def test_an_inpainting_costs_what_is_drawn_of_it_and_says_what_that_is() -> None:
    request = parse(
        {
            "task_type": "inpaint",
            "prompt": "a fox",
            "image_url": PICTURE,
            "mask_url": PICTURE,
            "inpaint_area": "masked",
            "mask_blur": 4,
            "num_inference_steps": 10,
        }
    )
    shape = SourceShape(1600, 1200, (0.5, 0.5, 0.6, 0.6))
    params = resolve(request, SDXL, max_image_pixels=2_359_296, max_job_cost=10**10, source=shape)
    assert isinstance(params, ImageParams)
    assert (params.width, params.height) == (1600, 1200)
    assert params.drawn_size == (1064, 912)
    assert job_cost(params) == 1064 * 912 * 11
    assert params.micro_conditioning is None
    shown = public_params(params)
    assert (shown["mask_blur"], shown["inpaint_area"]) == (4, "masked")
    assert (shown["drawn"]["width"], shown["drawn"]["height"]) == (1064, 912)
    assert "outpaint" not in shown


def test_a_seed_that_was_drawn_before_is_taken() -> None:
    request = parse({"task_type": "img2img", "prompt": "a fox", "image_url": PICTURE, "num_images": 2})
    params = resolve(
        request, SDXL, max_image_pixels=2_359_296, max_job_cost=10**10, source=SourceShape(3, 4), seed=2**32 - 1
    )
    assert isinstance(params, ImageParams)
    assert params.seeds == (2**32 - 1, 0)
    assert (params.width, params.height) == (864, 1152)


@pytest.mark.parametrize("task", ["img2img", "inpaint", "img2video"])
def test_what_starts_from_a_picture_is_made_in_one_pass(task: str) -> None:
    fields: dict[str, Any] = {"image_url": PICTURE} | ({"mask_url": PICTURE} if task == "inpaint" else {})
    if task == "img2video":
        fields |= {"video_width": 1280, "video_height": 1280}
    else:
        fields |= {"width": 1536, "height": 1536}
    assert made(DRAFTING, task_type=task, **fields).draft is None


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 49])
def test_a_draft_is_finished_in_at_least_one_step(steps: int) -> None:
    one = image(replace(DRAFTING, draft_strength=0.02), width=1536, height=1536, num_inference_steps=steps).draft
    assert one is not None
    assert int(steps * one.strength) == 1
    refined = image(
        DRAFTING, width=1536, height=1536, num_inference_steps=30, high_noise_frac=0.1, refiner_inference_steps=2
    )
    assert refined.draft is not None
    assert int(2 * refined.draft.strength) == 1


def test_two_passes_cost_the_draft_and_what_is_left_at_full_size() -> None:
    params = image(DRAFTING, width=1536, height=1536, num_inference_steps=10, num_images=2)
    assert job_cost(params) == (1024 * 1024 * 11 + 1536 * 1536 * 4) * 2
    assert public_params(params)["draft"] == {"width": 1024, "height": 1024, "strength": 0.3}


def test_too_many_pixels_are_refused_also_where_the_model_would_make_them_by_itself() -> None:
    assert "at most 2359296 pixels (got 4194304)" in problem(width=2048, height=2048)
    assert "at most 4096 pixels (got 1048576)" in problem(limits={"max_image_pixels": 4096})
    assert image(width=1536, height=1536).width == 1536


def test_a_job_over_the_cost_limit_is_refused_with_both_numbers() -> None:
    steps = {"task_type": "text2video", "video_width": 64, "video_height": 64, "num_frames": 5}
    exact = 64 * 64 * 5 * 4
    assert made(WAN, {"max_job_cost": exact}, num_inference_steps=3, **steps)
    message = problem(WAN, {"max_job_cost": exact - 1}, num_inference_steps=3, **steps)
    assert message.startswith("invalid_input: num_inference_steps: ")
    assert f"at most {exact - 1} (got {exact})" in message


def test_the_default_limit_lets_a_720p_clip_of_121_frames_in_50_steps_through() -> None:
    sizes: dict[str, Any] = {"video_width": 1280, "video_height": 720, "num_frames": 121}
    assert job_cost(video(num_inference_steps=50, **sizes)) == 5_687_193_600
    assert "may be at most" in problem(WAN, task_type="text2video", num_inference_steps=100, **sizes)


def test_what_the_response_shows_has_neither_texts_nor_seeds_nor_what_was_not_used() -> None:
    shown = public_params(image(seed=1))
    assert shown == {"width": 1024, "height": 1024, "num_inference_steps": 30, "guidance_scale": 5.0}
    assert public_params(video(seed=1))["flow_shift"] == 3.0
    assert not {"prompt", "negative_prompt", "seed", "seeds"} & public_params(video(seed=1)).keys()


def test_a_scheduler_that_the_model_cannot_use_is_refused_with_those_that_it_can() -> None:
    zero_snr = replace(SDXL, schedulers=(Scheduler.DDIM, Scheduler.K_EULER))
    assert image(zero_snr, scheduler="K_EULER").scheduler is Scheduler.K_EULER
    assert problem(zero_snr, scheduler="HEUN") == (
        "invalid_input: scheduler: must be one of DDIM, K_EULER for this model (got HEUN)"
    )
    assert "must be null for this model" in problem(replace(SDXL, schedulers=()), scheduler="DDIM")


def test_a_short_scheduler_has_at_most_fifty_steps() -> None:
    assert image(scheduler="LCM", num_inference_steps=50).num_inference_steps == 50
    assert "num_inference_steps: must be at most 50 with the scheduler TCD (got 51)" in problem(
        scheduler="TCD", num_inference_steps=51
    )
    assert "refiner_inference_steps: must" in problem(
        scheduler="LCM", num_inference_steps=4, refiner_inference_steps=60
    )


def test_a_refiner_that_takes_the_steps_of_the_base_has_at_most_fifty_too() -> None:
    """Its schedule has fifty steps, however long the base model's may be."""
    dmd2 = replace(SDXL, scheduler=Scheduler.LCM, original_inference_steps=100, has_refiner=True)
    assert image(dmd2, num_inference_steps=60).num_inference_steps == 60
    assert "refiner_inference_steps: must be at most 50 with the scheduler LCM (got 60)" in problem(
        dmd2, num_inference_steps=60, high_noise_frac=0.5
    )
    assert image(dmd2, num_inference_steps=60, refiner_inference_steps=50).refiner_inference_steps == 50


def test_details_are_drawn_anew_in_as_many_steps_as_a_short_scheduler_has() -> None:
    """It used to be an unexpected error in the model's schedule, once the job ran."""
    lcm = replace(SDXL, scheduler=Scheduler.LCM, num_inference_steps=4, upscaler="esrgan")
    asked: dict[str, Any] = {"task_type": "upscale", "image_url": PICTURE, "upscale_factor": 2}
    asked["num_inference_steps"] = 51
    assert "num_inference_steps: must be at most 50 with the scheduler LCM (got 51)" in problem(
        lcm, **asked, upscale_creativity=0.3
    )
    assert image(lcm, **asked).draws_nothing
    dmd2 = replace(lcm, original_inference_steps=100)
    assert image(dmd2, **asked, upscale_creativity=0.3).original_inference_steps == 100
    assert "original_inference_steps" not in public_params(image(dmd2, **asked))


def test_all_that_the_model_cannot_do_is_told_at_once() -> None:
    """After correcting one field, a user should not learn of the next one only then."""
    asked: dict[str, Any] = {"high_noise_frac": 0.5, "refiner_inference_steps": 60, "scheduler": "LCM"}
    asked |= {"ip_adapters": [{"image_url": PICTURE}], "num_inference_steps": 60, "width": 2048, "height": 2048}
    controls = [{"type": name, "image_url": PICTURE} for name in ("depth", "normal")]
    bare = replace(SDXL, has_refiner=False, has_ip_adapter=False, schedulers=(Scheduler.DDIM,), size_multiple=128)
    told = problem(bare, **asked, controlnets=controls)
    fields = [one.partition(": ")[0] for one in told.removeprefix("invalid_input: ").split("; ") if ": " in one]
    wanted = ["high_noise_frac", "refiner_inference_steps", "ip_adapters", "width", "scheduler", "num_inference_steps"]
    assert fields == [*wanted, "refiner_inference_steps", "controlnets.0.preprocess", "controlnets.1.preprocess"]


def test_control_pictures_and_an_upscale_that_cannot_be_are_told_with_the_rest() -> None:
    asked: dict[str, Any] = {"high_noise_frac": 0.5, "width": 1280, "height": 1024, "upscale_factor": 4}
    controls = [{"type": name, "image_url": PICTURE} for name in ("tile", "openpose", "canny")]
    found = replace(SDXL, has_refiner=False, control_types=("canny", "openpose"))
    told = problem(found, **asked, controlnets=controls)
    fields = [one.partition(": ")[0] for one in told.removeprefix("invalid_input: ").split("; ") if ": " in one]
    assert fields == ["high_noise_frac", "controlnets.0.type", "controlnets.1.preprocess", "upscale_factor"]
    assert "controlnets.0.type: must be one of canny, openpose" in told
    assert problem(replace(SDXL, control_types=()), controlnets=controls) == (
        "invalid_input: controlnets: needs a ControlNet, and this worker has none (CONTROLNET_MODEL)"
    )


def test_loras_for_experts_are_refused_before_anything_where_there_is_one_network() -> None:
    asked: dict[str, Any] = {"task_type": "text2video", "high_noise_loras": [{"path": "a"}]}
    one = replace(WAN, has_experts=False)
    told = problem(one, **asked, low_noise_loras=[{"path": "b"}], video_width=64, video_height=64)
    assert told.count("must be empty: this model has one network") == 2
    assert made(one, task_type="text2video", high_noise_loras=[{"path": "a", "scale": 0}])
    assert made(WAN, **asked)
    assert made(replace(WAN, has_experts=True), **asked)


def test_the_models_own_scheduler_counts_where_the_request_names_none() -> None:
    lcm = replace(SDXL, scheduler=Scheduler.LCM, num_inference_steps=4)
    assert image(lcm).scheduler is Scheduler.LCM
    assert image(lcm, scheduler="DDIM").scheduler is Scheduler.DDIM


def test_params_say_how_the_model_was_trained_where_that_is_not_the_plain_way() -> None:
    found = replace(SDXL, prediction_type="v_prediction", timestep_spacing="trailing", guidance_rescale=0.7)
    said = public_params(image(found))
    assert (said["prediction_type"], said["timestep_spacing"]) == ("v_prediction", "trailing")
    assert said["guidance_rescale"] == 0.7
    assert not {"prediction_type", "timestep_spacing", "guidance_rescale"} & set(public_params(image()))


def test_params_say_at_which_quality_the_file_is_encoded_where_its_format_has_one() -> None:
    assert public_params(image(output_format="jpg"))["output_quality"] == 95
    assert public_params(image(output_format="webp"))["output_quality"] == 90
    assert public_params(image(output_format="webp", output_quality=40))["output_quality"] == 40
    assert "output_quality" not in public_params(image(output_quality=40))
    asked: dict[str, Any] = {"task_type": "upscale", "image_url": PICTURE, "upscale_factor": 2}
    assert public_params(image(**asked, output_format="jpeg"))["output_quality"] == 95


def test_params_say_in_which_numbers_the_model_was_kept_where_it_draws() -> None:
    assert public_params(image(replace(SDXL, quantize="int8")))["quantize"] == "int8"
    assert public_params(video(replace(WAN, quantize="fp8")))["quantize"] == "fp8"
    assert "quantize" not in public_params(image())


def test_a_models_own_negative_prompt_stands_in_for_an_empty_one_that_counts() -> None:
    wan = replace(WAN, negative_prompt="blurry")
    own = video(wan)
    assert (own.negative_prompt, public_params(own)["negative_prompt_of"]) == ("blurry", "model")
    for fields in ({"negative_prompt": "fog"}, {"video_guidance_scale": 1}):
        asked = video(wan, **fields)
        assert asked.negative_prompt == fields.get("negative_prompt", "")
        assert "negative_prompt_of" not in public_params(asked)


def test_two_experts_have_a_guidance_each_until_the_request_names_one() -> None:
    experts = replace(WAN, guidance_scale=4.0, guidance_scale_2=3.0, flow_shift=12.0)
    assert (video(experts).guidance_scale, video(experts).guidance_scale_2) == (4.0, 3.0)
    assert video(experts).flow_shift == 12.0
    assert video(experts, flow_shift=5).flow_shift == 5.0
    asked = video(experts, video_guidance_scale=6)
    assert (asked.guidance_scale, asked.guidance_scale_2) == (6.0, None)


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({"image_size": "square_hd"}, (1024, 1024)),
        ({"image_size": "square"}, (1024, 1024)),
        ({"image_size": "portrait_4_3"}, (896, 1152)),
        ({"image_size": "portrait_16_9"}, (768, 1344)),
        ({"image_size": "landscape_4_3"}, (1152, 896)),
        ({"image_size": "landscape_16_9"}, (1344, 768)),
        ({"aspect_ratio": "21:9"}, (1536, 640)),
        ({"aspect_ratio": "3:2"}, (1216, 832)),
        ({"aspect_ratio": "4:5"}, (896, 1152)),
        ({"aspect_ratio": "9:21"}, (640, 1536)),
        ({"width": 512}, (512, 1024)),
    ],
)
def test_a_name_or_a_shape_is_a_size_that_sdxl_was_trained_on(asked: dict[str, Any], size: tuple[int, int]) -> None:
    params = image(**asked)
    assert (params.width, params.height) == size
    assert params.micro_conditioning == (None if "width" not in asked else (724, 1448))


def test_of_another_native_size_a_shape_has_as_many_pixels_and_no_more() -> None:
    small = replace(SDXL, width=512, height=512)
    for ratio, wanted in ASPECT_RATIOS.items():
        params = image(small, aspect_ratio=ratio)
        assert 0.85 * 512 * 512 < params.width * params.height <= 512 * 512
        assert params.width / params.height == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize(
    ("defaults", "asked", "size"),
    [
        (WAN, {"resolution": "480p"}, (832, 480)),
        (WAN, {"resolution": "720p"}, (1280, 720)),
        (WAN, {"aspect_ratio": "16:9"}, (832, 480)),
        (WAN, {"aspect_ratio": "9:16"}, (480, 832)),
        (WAN, {"aspect_ratio": "9:16", "resolution": "720p"}, (720, 1280)),
        (WAN, {"aspect_ratio": "1:1"}, (624, 624)),
        (WAN, {"aspect_ratio": "1:1", "resolution": "720p"}, (960, 960)),
        (WAN_22, {"resolution": "720p"}, (1280, 704)),
        (WAN_22, {"resolution": "480p"}, (832, 480)),
        (WAN_22, {"aspect_ratio": "9:16"}, (704, 1280)),
        (replace(WAN, width=480, height=832), {"resolution": "720p"}, (720, 1280)),
    ],
)
def test_a_resolution_and_a_shape_are_a_size_that_the_model_takes(
    defaults: ModelDefaults, asked: dict[str, Any], size: tuple[int, int]
) -> None:
    params = video(defaults, num_frames=5, **asked)
    assert (params.width, params.height) == size


@pytest.mark.parametrize(
    ("asked", "frames"),
    [
        ({"duration": 5}, 81),
        ({"duration": 5, "fps": 24}, 121),
        ({"duration": 3, "fps": 24}, 73),
        ({"duration": 1}, 17),
        ({"duration": 0.01}, 5),
        ({"duration": 120}, 121),
        ({"duration": 2.5}, 41),
        ({"duration": 5, "fps": 15}, 77),
        ({"duration": 4.99, "fps": 15}, 73),
    ],
)
def test_a_duration_is_the_nearest_number_of_frames_that_a_clip_may_have(asked: dict[str, Any], frames: int) -> None:
    assert video(**asked).num_frames == frames


@given(
    ratio=st.sampled_from(sorted(ASPECT_RATIOS)),
    resolution=st.sampled_from([None, "480p", "720p"]),
    duration=st.floats(0.001, 120),
    fps=st.integers(1, 60),
    defaults=st.sampled_from([WAN, WAN_22, replace(WAN, width=192, height=112)]),
)
def test_sugar_is_always_what_a_request_could_have_said_in_numbers(
    ratio: str, resolution: str | None, duration: float, fps: int, defaults: ModelDefaults
) -> None:
    sugar = {"aspect_ratio": ratio, "resolution": resolution, "duration": duration}
    params = video(defaults, limits={"max_job_cost": 10**12}, fps=fps, seed=1, **sugar)
    numbers = {"video_width": params.width, "video_height": params.height, "num_frames": params.num_frames}
    assert video(defaults, limits={"max_job_cost": 10**12}, fps=fps, seed=1, **numbers) == params


def test_a_unit_is_a_million_pixel_steps_on_any_card_and_a_job_is_at_least_one() -> None:
    assert job_units(image()) == 33  # 1024 x 1024 x 31 = 32.5 million
    assert job_units(image(num_images=4)) == 131
    assert job_units(image(width=64, height=64, num_inference_steps=1)) == 1
    assert job_units(video(num_frames=81)) == 1650


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ((1024, 1024), None),
        ((640, 1536), None),  # the smallest that SDXL was trained on
        ((1536, 1536), None),
        ((512, 512), (1024, 1024)),
        ((512, 768), (836, 1254)),
    ],
)
def test_far_below_its_native_size_a_model_is_told_that_one(
    size: tuple[int, int], told: tuple[int, int] | None
) -> None:
    width, height = size
    assert image(width=width, height=height).micro_conditioning == told
    requested = replace(SDXL, micro_conditioning="requested")
    assert image(requested, width=width, height=height).micro_conditioning is None


@pytest.mark.parametrize(
    ("takes", "end", "problem"),
    [
        ("no", None, None),
        ("no", PICTURE, "end_image_url: must be null: this model goes on from a picture"),
        ("optional", None, None),
        ("optional", PICTURE, None),
        ("required", None, "end_image_url: is required by this model"),
        ("required", PICTURE, None),
    ],
)
def test_a_last_picture_is_refused_where_the_model_takes_none_and_missed_where_it_needs_one(
    takes: EndImage, end: str | None, problem: str | None
) -> None:
    request = parse({"task_type": "img2video", "prompt": "x", "image_url": PICTURE, "end_image_url": end})
    defaults = replace(WAN, end_image=takes)
    refused = pytest.raises(InvalidInput, match=problem) if problem else contextlib.nullcontext()
    with refused:
        resolve(request, defaults, max_image_pixels=2**22, max_job_cost=10**11)


def test_control_pictures_are_shown_in_params_and_cost_what_they_add() -> None:
    asked = {"type": "canny", "image_url": PICTURE, "end_percentage": 0.5}
    params, plain = image(controlnets=[asked, {"type": "depth", "image_url": PICTURE, "preprocess": False}]), image()
    assert [entry["type"] for entry in public_params(params)["controlnets"]] == ["canny", "depth"]
    assert "image_url" not in public_params(params)["controlnets"][0]
    assert "controlnets" not in public_params(plain)
    steps = plain.num_inference_steps
    assert job_cost(params) / job_cost(plain) == pytest.approx((steps * (1 + CONTROLNET_SHARE * 1.5) + 1) / (steps + 1))


def test_what_is_not_made_of_a_photo_here_has_to_be_sent_made() -> None:
    found = problem(controlnets=[{"type": "canny", "image_url": PICTURE}, {"type": "openpose", "image_url": PICTURE}])
    assert found.count("controlnets.") == 1
    assert "controlnets.1.preprocess: must be false for openpose" in found


def test_a_prompt_is_read_once() -> None:
    weighted.cache_clear()
    asked = parse({"prompt": "a (red:1.2) fox", "prompt_weighting": True})
    params = resolve(asked, SDXL, max_image_pixels=2**21, max_job_cost=2**40)
    assert params.wanted is params.wanted
    assert weighted.cache_info().misses <= 2
