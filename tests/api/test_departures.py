"""Warnings: everything a request asked for and did not get is reported with its field, and nothing else is."""

from dataclasses import replace
from typing import Any

import pytest

from tests.support.clock import computed
from worker.api.departures import departures
from worker.api.params import LoraParams, ModelDefaults
from worker.api.request import parse
from worker.api.resolve import resolve

SDXL = ModelDefaults("sdxl", 1024, 1024, num_inference_steps=30, guidance_scale=5.0, has_refiner=True)
TURBO = replace(SDXL, width=512, height=512, num_inference_steps=1, guidance_scale=0.0, few_steps=True)
WAN = ModelDefaults("wan", 832, 480, num_inference_steps=50, guidance_scale=5.0, size_multiple=16)


def said(defaults: ModelDefaults = SDXL, **fields: Any) -> tuple[str, ...]:
    request = parse({"prompt": "a fox", **fields})
    params = resolve(request, defaults, max_image_pixels=2**22, max_job_cost=10**11)
    return departures(request, params, defaults)


def clip(defaults: ModelDefaults = WAN, **fields: Any) -> tuple[str, ...]:
    return said(defaults, task_type="text2video", **fields)


def test_of_a_request_that_is_followed_nothing_is_said() -> None:
    assert said() == said(negative_prompt="fog", guidance_scale=7, width=512, output_format="webp") == ()
    assert clip() == clip(negative_prompt="fog", aspect_ratio="9:16", resolution="720p", duration=5, flow_shift=4) == ()


def test_a_few_step_model_says_where_a_request_leaves_it() -> None:
    lightning = replace(SDXL, num_inference_steps=4, guidance_scale=0.0, few_steps=True)
    assert said(lightning) == said(lightning, guidance_scale=1) == said(num_inference_steps=4) == ()
    assert said(lightning, num_inference_steps=30, guidance_scale=7) == (
        "num_inference_steps: this model was made for 4 (30 were asked for)",
        "guidance_scale: this model was made for 0 (7 was asked for)",
    )


@pytest.mark.parametrize("scale", [0, 0.5, 1])
def test_a_negative_prompt_that_guidance_makes_inert_is_said_to_be_so(scale: float) -> None:
    """Fooocus#957, Fooocus#2218, forge#1115: at guidance 1 the negative prompt silently has no effect."""
    image = said(negative_prompt="star", guidance_scale=scale)
    assert image[0] == f"negative_prompt: has no effect with a guidance_scale of {scale:g}; above 1 it has"
    video = clip(negative_prompt="star", video_guidance_scale=scale)
    assert video[0] == f"negative_prompt: has no effect with a video_guidance_scale of {scale:g}; above 1 it has"


def test_so_it_is_where_the_low_guidance_is_the_models_own() -> None:
    (image,) = said(TURBO, negative_prompt="star")
    assert image.startswith("negative_prompt: ")
    (video,) = clip(replace(WAN, guidance_scale=1.0), negative_prompt="star")
    assert video.startswith("negative_prompt: ")
    assert said(TURBO) == ()


def test_a_guidance_between_0_and_1_is_said_to_be_none() -> None:
    assert said(guidance_scale=0.5) == ("guidance_scale: 0.5 is the same as 1: no guidance",)
    assert clip(video_guidance_scale=0.5) == ("video_guidance_scale: 0.5 is the same as 1: no guidance",)
    assert said(guidance_scale=0) == said(guidance_scale=1) == said(guidance_scale=1.01) == ()


@pytest.mark.parametrize(
    ("prompt", "form"),
    [
        ("a (red:1.4) fox", "(word:1.3)"),
        ("a (red, soft fox: 0.8 ) in snow", "(word:1.3)"),
        ("a ((red)) fox", "((word))"),
        ("a [[red]] fox", "((word))"),
        ("a red++ fox", "word++"),
        ("cinematic++", "word++"),
        ("a (red fox)+++ in snow", "word++"),
        ("a (fox :-1) in snow", "(word:1.3)"),
        ("a (mark 2:1.3) robot", "(word:1.3)"),
        ("a (red fox)1.3 in snow", "word++"),
        ("a (red fox)-- in snow", "word++"),
        ("a {red|grey} fox", "{a|b}"),
        ("a fox in __season__", "{a|b}"),
        (r"vulpix \(pokemon\)", r"\("),
        ("a fox --ar 16:9 --v 6", "--ar"),
        ("a fox BREAK, snow", "BREAK"),
        ("a fox <LoRA:detail:0.8>", "<lora:\u2026>"),
        ("a fox BREAK snow", "BREAK"),
        ("BREAK", "BREAK"),
        ("a fox <lora:detail:0.8>", "<lora:\u2026>"),
        ("a fox <lyco:x:1>", "<lora:\u2026>"),
        ("a fox <hypernet:x:1>", "<lora:\u2026>"),
        ("a <cat-toy>", "<embedding>"),
        ("embedding:easynegative", "<embedding>"),
        ("a [fox:wolf:0.5]", "[a:b:0.5]"),
        ("a [fox|wolf]", "[a:b:0.5]"),
        ("<lora:x:1> (red:1.4)", "<lora:\u2026>"),
        ("(red:1.4) <lora:x:1>", "(word:1.3)"),
    ],
)
def test_the_syntax_of_prompt_sites_is_said_to_be_letters_by_its_first_form(prompt: str, form: str) -> None:
    """diffusers#2431, diffusers#4559, InvokeAI#4155: such prompts come from every prompt site."""
    (sentence,) = said(prompt=prompt)
    assert sentence.startswith(f"prompt: {form} is read as letters; ")
    assert said(negative_prompt=prompt) == (f"negative_{sentence}",)
    assert said(negative_prompt=prompt, guidance_scale=1)[1:] == ()


@pytest.mark.parametrize(
    "prompt",
    [
        "a fox (red), at 10:30",
        "a break in the clouds, BREAKFAST, BREAK-IN",
        "5 > 3 and 2 < 4, a <- b",
        "a fox [detail]",
        "a fox (at 10:30) in a frame (16:9), [12:30], (Luke 2:7)",
        "a book on C++, a fox -- red, a well-known {fox}",
        "note: (see page 3)",
        "2+2, a + b, C+ grade",
        "a fox :) and ((",
        "ratio 16:9, f/1.8",
    ],
)
def test_plain_words_and_signs_are_no_syntax(prompt: str) -> None:
    assert said(prompt=prompt) == ()


@pytest.mark.parametrize(
    "prompt",
    ["(" * 4000, "<lora:" * 600, "[a|" * 1300, "(a:" * 1300, "a+" * 2000, "(:" * 2000, "{a|" * 1300, "__a" * 1300],
)
def test_looking_for_syntax_takes_no_time_whatever_the_prompt(prompt: str) -> None:
    assert computed(lambda: said(prompt=prompt)) < 0.2


def test_a_quality_of_png_is_said_to_have_no_effect() -> None:
    (sentence,) = said(output_quality=80)
    assert sentence.startswith("output_quality: has no effect on png")
    assert said(output_quality=80, output_format="jpg") == said(output_quality=80, output_format="webp") == ()


def test_a_reference_of_no_weight_is_said_to_have_no_effect() -> None:
    seen = replace(SDXL, has_ip_adapter=True)
    entry = {"image_url": "https://example.com/a.png"}
    assert said(seen, ip_adapters=[entry, {**entry, "scale": 0}]) == ("ip_adapters.1: has no effect with a scale of 0",)


def test_a_control_picture_of_no_weight_is_said_to_have_no_effect() -> None:
    entry = {"type": "canny", "image_url": "https://example.com/a.png"}
    sentence = "controlnets.1: has no effect with a conditioning_scale of 0"
    assert said(controlnets=[entry, {**entry, "conditioning_scale": 0}]) == (sentence,)


def test_a_lora_of_no_weight_is_said_to_have_no_effect() -> None:
    """Whether the request or the operator's list makes it 0."""
    request = parse({"prompt": "a fox", "loras": [{"path": "ink"}, {"path": "mist"}]})
    params = resolve(request, SDXL, max_image_pixels=2**22, max_job_cost=10**11)
    used = replace(params, loras=(LoraParams("ink", 1.0), LoraParams("mist", 0.0)))
    assert departures(request, used, SDXL) == ("loras.1: mist has no effect with a scale of 0",)


def test_a_duration_that_becomes_visibly_another_is_said_with_the_frames() -> None:
    assert clip(duration=20) == (
        "duration: 20 s became 7.56 s, 121 frames at 16 a second; num_frames is 4k + 1, 5 to 121",
    )
    assert clip(duration=0.1)[0].startswith("duration: 0.1 s became 0.31 s, 5 frames")
    assert clip(duration=3, fps=24) == clip(duration=7.5) == ()


def test_a_flow_shift_that_the_scheduler_ignores_is_said_to_have_no_effect() -> None:
    (sentence,) = clip(replace(WAN, takes_flow_shift=False), flow_shift=4)
    assert sentence.startswith("flow_shift: has no effect")
    assert clip(replace(WAN, takes_flow_shift=False)) == ()


def test_a_shape_that_no_size_of_the_model_has_is_said_with_the_nearest() -> None:
    tiny = replace(SDXL, width=64, height=64)
    (sentence,) = said(tiny, aspect_ratio="21:9")
    assert sentence == "aspect_ratio: the nearest size that this model draws is 64 x 64"
    assert said(tiny, image_size="landscape_16_9")[0].startswith("image_size: ")
    assert not any(said(aspect_ratio=ratio) for ratio in ("21:9", "16:9", "3:2", "4:3", "5:4", "1:1", "9:21"))


def test_weights_that_are_read_are_not_said_to_be_letters() -> None:
    for prompt in ("a (red:1.4) fox", "((red)) fox", r"a \(red\) (fox)", "a BREAK b"):
        assert said(prompt=prompt), prompt
        assert not said(prompt=prompt, prompt_weighting=True), prompt
    (sentence,) = said(prompt="a fox", prompt_weighting=True)
    assert sentence.startswith("prompt_weighting: has no effect")
    (sentence,) = said(prompt="(a) <lora:x:1>", prompt_weighting=True)
    assert "<lora:" in sentence


def test_a_clip_has_no_chunks_to_begin() -> None:
    (sentence,) = clip(prompt="a BREAK b", prompt_weighting=True)
    assert sentence.startswith("BREAK: ")


def test_a_style_that_says_how_a_file_is_made_has_an_effect_on_an_upscale_that_draws_nothing() -> None:
    asked = {"task_type": "upscale", "image_url": "https://pictures.example/a.png", "upscale_factor": 2, "style": "web"}
    request, defaults = parse(asked), replace(SDXL, upscaler="sharp")
    params = resolve(request, defaults, max_image_pixels=2**22, max_job_cost=10**11)
    (sentence,) = departures(request, params, defaults, {"prompt"})
    assert sentence.startswith("style: has no effect")
    assert departures(request, params, defaults, {"prompt", "output_format"}) == ()


def test_an_upscale_by_a_model_whose_own_guidance_is_below_1_is_said_nothing_of_it() -> None:
    asked: dict[str, Any] = {"task_type": "upscale", "image_url": "https://pictures.example/a.png", "upscale_factor": 2}
    sentences = said(replace(SDXL, guidance_scale=0.5), **asked, upscale_creativity=0.3)
    assert all(sentence.startswith("upscale_factor: ") for sentence in sentences)
