"""Control pictures through the real handler: they steer the result, and impossible ones are refused with a message."""

from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image, ImageDraw

from tests.support.engine_jobs import stripe_mask
from tests.support.memory_world import World
from tools.showing import data_uri
from worker.core.config import load_settings
from worker.engine.engine import Engine

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]

SMALL = {"prompt": "a red circle", "seed": 7, "width": 64, "height": 64, "num_inference_steps": 4}


def drawing(size: tuple[int, int] = (64, 64)) -> str:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).ellipse((size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4), outline="black")
    return data_uri(image)


def one(kind: str = "scribble", **changes: Any) -> dict[str, Any]:
    return {"type": kind, "image_url": drawing(), **changes}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World()
    made.generator = Engine(load_settings())  # type: ignore[assignment]  # the built-in models in the painter's place
    yield made
    made.generator.unload()  # type: ignore[attr-defined]  # an Engine's


async def drawn(world: World, **fields: Any) -> dict[str, Any]:
    response = await world.run({**SMALL, **fields})
    assert "error" not in response, response
    return response


@pytest.mark.parametrize("kind", ["scribble", "canny", "tile"])
async def test_each_type_that_is_made_here_steers_a_picture(world: World, kind: str) -> None:
    plain, steered = await drawn(world), await drawn(world, controlnets=[one(kind)])
    assert steered["image_url"] != plain["image_url"]
    (said,) = steered["params"]["controlnets"]
    assert said == {
        "type": kind,
        "preprocess": True,
        "conditioning_scale": 1.0,
        "start_percentage": 0.0,
        "end_percentage": 1.0,
    }
    assert (await drawn(world))["image_url"] == plain["image_url"], "nothing of it stays"


async def test_all_image_tasks_take_it(world: World) -> None:
    source, mask = drawing(), data_uri(stripe_mask())
    for task in (
        {"task_type": "img2img", "image_url": source},
        {"task_type": "inpaint", "image_url": source, "mask_url": mask},
        {"task_type": "inpaint", "image_url": source, "outpaint": {"right": 32}, "width": None, "height": None},
        {"task_type": "inpaint", "image_url": source, "mask_url": mask, "inpaint_area": "masked"},
    ):
        plain, steered = await drawn(world, **task), await drawn(world, **task, controlnets=[one(), one("tile")])
        assert steered["image_url"] != plain["image_url"], task


async def test_a_scale_of_zero_is_no_control(world: World) -> None:
    plain = await drawn(world)
    assert (await drawn(world, controlnets=[one(conditioning_scale=0)]))["image_url"] == plain["image_url"]


async def test_a_picture_of_another_shape_is_cropped_and_that_is_said(world: World) -> None:
    response = await drawn(world, controlnets=[one(image_url=drawing((128, 64)))])
    assert any(warning.startswith("controlnets.0.image_url: ") for warning in response["warnings"])


async def test_what_nobody_serves_is_refused_before_anything(world: World) -> None:
    made = await world.run({**SMALL, "controlnets": [one("openpose")]})
    assert made["error"].startswith("invalid_input: controlnets.0.preprocess: must be false for openpose")
    alone = World()
    engine = Engine(load_settings(controlnet_model="canny=demo"))
    alone.generator = engine  # type: ignore[assignment]  # as above
    other = await alone.run({**SMALL, "controlnets": [one("tile")]})
    assert other["error"].startswith("invalid_input: controlnets.0.type: must be one of canny")
    both = await alone.run({**SMALL, "style": "fog", "upscale_factor": 4, "width": 2048, "controlnets": [one("tile")]})
    assert both["error"].startswith("invalid_input: style: is no style of this worker")
    assert "; controlnets.0.type: must be one of canny" in both["error"]
    assert engine.loaded == {}


async def test_it_has_its_price_and_is_told_of(world: World) -> None:
    quoted = await world.run({"action": "quote", **SMALL, "width": 1024, "height": 1024})
    steered = await world.run(
        {"action": "quote", **SMALL, "width": 1024, "height": 1024, "controlnets": [one("depth", preprocess=False)]}
    )
    assert steered["units"] > quoted["units"]
    answer = await world.run({"action": "capabilities"})
    assert {"canny", "depth", "tile"} <= set(answer["controlnet_types"])
