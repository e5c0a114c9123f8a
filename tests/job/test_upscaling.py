"""Upscaling through the handler, with the built-in models: each way to request it, and its result."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

import handler
from tools import showing
from worker.core.config import load_settings
from worker.job.services import Services

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]


@pytest.fixture(scope="module")
def worker() -> Services:
    return handler.build(load_settings(max_upscaled_pixels=4_000_000))


def inline(width: int, height: int) -> str:
    down, across = np.mgrid[0:height, 0:width]
    colours = np.stack([255 * across / width, 255 * down / height, np.full_like(down, 90)], 2)
    return showing.data_uri(Image.fromarray(colours.astype(np.uint8)))


async def serve(worker: Services, **fields: Any) -> dict[str, Any]:
    return await handler.serve({"id": "job", "input": {"seed": 7, **fields}}, worker)


async def test_a_wallpaper_of_a_phone_is_made_of_any_picture(worker: Services) -> None:
    asked = {"task_type": "upscale", "image_url": inline(645, 1398), "upscale_factor": 2}
    answer = await serve(worker, **asked)
    (file,) = answer["files"]
    assert (file["width"], file["height"], answer["model"]) == (1290, 2796, "demo")
    assert showing.pixels(showing.content(answer["images"][0])).shape == (2796, 1290, 3)
    assert answer["params"]["upscale"]["upscaler"] == "demo"
    assert answer["warnings"] == ["seed: has no effect without an upscale_creativity above 0"]
    assert answer["usage"]["units"] == 4


@pytest.mark.parametrize(
    "fields",
    [
        {"task_type": "text2img", "width": 128, "height": 96},
        {"task_type": "img2img", "image_url": inline(100, 60), "width": 128, "height": 96},
        {"task_type": "inpaint", "image_url": inline(128, 96), "outpaint": {"right": 32}, "strength": 1.0},
    ],
    ids=lambda fields: str(fields["task_type"]),
)
async def test_every_image_task_enlarges_what_it_has_drawn(worker: Services, fields: dict[str, Any]) -> None:
    asked = {"prompt": "a red circle", "num_inference_steps": 3, "num_images": 2, **fields}
    plain, larger = await serve(worker, **asked), await serve(worker, **asked, upscale_factor=2)
    for before, after in zip(plain["files"], larger["files"], strict=True):
        assert (after["width"], after["height"]) == (2 * before["width"], 2 * before["height"])
    assert larger["params"]["width"] == plain["params"]["width"]
    assert (await serve(worker, **asked))["images"] == plain["images"]


async def test_details_drawn_anew_follow_the_prompt_and_the_seed(worker: Services) -> None:
    asked = {"task_type": "upscale", "image_url": inline(90, 70), "upscale_factor": 2, "upscale_creativity": 0.5}
    pictures = [
        (await serve(worker, **asked, prompt="a red circle")),
        (await serve(worker, **asked, prompt="a red circle")),
        (await serve(worker, **asked, prompt="a blue star")),
        (await serve(worker, **asked | {"seed": 8}, prompt="a red circle")),
    ]
    images = [one["images"][0] for one in pictures]
    assert images[0] == images[1]
    assert len(set(images)) == 3
    assert pictures[0]["params"]["upscale"]["creativity"] == 0.5


async def test_a_picture_that_would_become_too_large_is_refused(worker: Services) -> None:
    answer = await serve(worker, task_type="upscale", image_url=inline(900, 700), upscale_factor=4)
    assert (answer["error_code"], answer["retryable"]) == ("invalid_input", False)
    assert "3600 x 2800 = 10080000 pixels" in answer["error"]
    assert "usage" not in answer


async def test_a_quote_prices_the_larger_picture(worker: Services) -> None:
    asked = {"action": "quote", "prompt": "a fox"}
    plain, larger = await serve(worker, **asked), await serve(worker, **asked, upscale_factor=4)
    assert larger["units"] > plain["units"]
    assert larger["params"]["upscale"]["width"] == 4 * plain["params"]["width"]


async def test_a_small_picture_is_enlarged_where_one_of_the_models_size_would_cost_too_much() -> None:
    worker = handler.build(load_settings(max_job_cost=400_000))
    asked = {"task_type": "upscale", "upscale_factor": 4}
    answer = await serve(worker, **asked, image_url=inline(32, 40))
    assert [(one["width"], one["height"]) for one in answer["files"]] == [(128, 160)]
    refused = await serve(worker, **asked, image_url=inline(320, 400))
    assert refused["error"].startswith("invalid_input: upscale_factor: width x height x (steps + 1) x images")
