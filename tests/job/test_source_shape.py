"""The size of a job's source becomes the size of its result, unless the request sets another one."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image, ImageDraw

from tests.support.fakes import PATIENCE, PaintingGenerator
from tests.support.memory_world import CLOUD, World, data_uri
from tools import showing
from worker.api.params import ImageParams, Params, VideoParams
from worker.api.request import Request
from worker.core import timing
from worker.core.types import Control, Progress, Sources
from worker.engine.estimate import Estimate, Unit
from worker.engine.protocol import Generated, Placement


class Attentive(PaintingGenerator):
    """Records what it was asked to prepare for, and to generate."""

    def __init__(self) -> None:
        super().__init__(side=256)
        self.prepared: list[Params] = []
        self.made: list[Params] = []

    def prepare(self, request: Request, params: Params, control: Control) -> Placement:
        self.prepared.append(params)
        return super().prepare(request, params, control)

    def generate(self, request: Request, params: Params, sources: Sources, control: Control) -> Iterator[Generated]:
        self.made.append(params)
        return super().generate(request, params, sources, control)


TASKS: dict[str, dict[str, Any]] = {
    "img2img": {},
    "inpaint": {"mask_url": data_uri((1080, 1920))},
    "img2video": {"num_frames": 5},
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", [(1080, 1920), (1920, 1080), (64, 64), (3000, 500)], ids=str)
async def test_without_sizes_the_output_has_the_sources_shape_at_the_models_pixels(
    task: str, size: tuple[int, int]
) -> None:
    """cog-sdxl#10, Fooocus#843, MultiTalk#104, Wan2.2#128."""
    world = World(generator := Attentive())
    job = {**CLOUD, "task_type": task, "image_url": data_uri(size), **TASKS[task]}
    response = await world.run(job)
    (made,) = generator.made
    width, height = response["params"]["width"], response["params"]["height"]
    assert (made.width, made.height) == (width, height)
    assert (response["files"][0]["width"], response["files"][0]["height"]) == (width, height)
    assert world.document["generation_data"]["params"]["width"] == width
    assert abs(width / height / (size[0] / size[1]) - 1) < 0.03
    assert 0.85 * 256**2 < width * height <= 256**2
    # Prepared as for the model's own size, which is the largest possible.
    assert [(params.width, params.height) for params in generator.prepared] == [(256, 256)]
    if task == "img2video":
        assert response["video_info"]["height"] == height


async def test_one_side_that_is_given_is_kept_and_the_other_follows() -> None:
    world = World()
    response = await world.run(
        {"prompt": "a fox", "task_type": "img2img", "image_url": data_uri((300, 600)), "height": 128}
    )
    assert (response["params"]["width"], response["params"]["height"]) == (64, 128)
    assert response["warnings"] == []


async def test_a_random_seed_is_drawn_once() -> None:
    world = World(generator := Attentive())
    await world.run({"prompt": "a fox", "task_type": "img2img", "image_url": data_uri((300, 600)), "num_images": 2})
    (prepared,), (made,) = generator.prepared, generator.made
    assert isinstance(prepared, ImageParams)
    assert isinstance(made, ImageParams)
    assert prepared.seeds == made.seeds


async def test_what_depends_on_the_size_follows_it() -> None:
    """A clip of 480 pixels at most is shifted less than a larger one."""

    class Large(Attentive):
        def __init__(self) -> None:
            super().__init__()
            self.side = 512

    world = World(generator := Large())
    await world.run({"prompt": "a", "task_type": "img2video", "image_url": data_uri((900, 300)), "num_frames": 5})
    (prepared,), (made,) = generator.prepared, generator.made
    assert isinstance(prepared, VideoParams)
    assert isinstance(made, VideoParams)
    assert (prepared.flow_shift, made.flow_shift) == (5.0, 3.0)


async def test_a_side_that_makes_the_job_too_large_is_told() -> None:
    world = World(generator := Attentive(), max_job_cost=100_000 * 5)
    job = {**CLOUD, "task_type": "img2img", "image_url": data_uri((64, 512)), "width": 128}
    response = await world.run(job)
    assert response["error_code"] == "invalid_input"
    assert "width x height x (steps + 1)" in response["error"]
    assert world.document["status"] == "failed"
    assert generator.generated == 0


async def test_a_side_that_makes_the_job_too_slow_is_told() -> None:
    class Estimating(Attentive):
        def estimate(self, request: Request, params: Params) -> Estimate | None:
            return Estimate((Unit("step", params.width * params.height / 100),), "card", "a slow card")

    world = World(generator := Estimating(), job_timeout_seconds=500)
    job = {**CLOUD, "task_type": "img2img", "image_url": data_uri((64, 512)), "width": 128}
    response = await world.run(job)
    assert response["error_code"] == "invalid_input"
    assert "a slow card" in response["error"]
    assert generator.generated == 0


@pytest.mark.parametrize("size", [(256, 256), (256, 248)], ids=["of the model's size", "of another"])
async def test_an_upscale_that_cannot_end_in_time_is_refused_whatever_the_size_of_its_source(
    size: tuple[int, int],
) -> None:
    """Until the source is read, the model's size is assumed, and nothing is refused."""

    class Estimating(Attentive):
        def estimate(self, request: Request, params: Params) -> Estimate | None:
            units = Unit("load", 0), Unit("upscale", 1000), Unit("pack", 0), Unit("upload", 0)
            return Estimate(units, "card", "a slow card")

    world = World(generator := Estimating(), job_timeout_seconds=500)
    job = {**CLOUD, "task_type": "upscale", "image_url": data_uri(size), "upscale_factor": 2}
    response = await world.run(job)
    assert "error" in response, response["params"]
    assert "a slow card" in response["error"]
    assert generator.generated == 0


async def test_a_side_that_makes_the_job_longer_is_in_the_seconds_that_are_left() -> None:
    """A phone shows them from the first step on, and a step that has become long begins only for a wanted job."""

    class Estimating(PaintingGenerator):
        def estimate(self, request: Request, params: Params) -> Estimate | None:
            step = Unit("step", params.width * params.height / 10_000)
            return Estimate((Unit("load", 0), *[step] * 30, Unit("pack", 0), Unit("upload", 0)), "card")

    world = World(Estimating(side=64, steps=30))
    job = {**CLOUD, "task_type": "img2img", "image_url": data_uri((64, 512)), "width": 128, "strength": 1}
    waited = []

    def slow_claim(call: str, _path: str) -> None:
        if call == "create":
            time.sleep(0.3)
            waited.append(world.generator.steps_done)

    world.documents.before = slow_claim
    response = await world.run(job)
    assert (response["params"]["width"], response["params"]["height"]) == (128, 1024)
    first = next(said for said in world.progress if said.stage == "generating")
    assert first.eta_seconds == round(29 * 128 * 1024 / 10_000)
    assert waited == [0]


async def test_progress_moves_on_while_weights_load_though_the_estimate_has_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The source arrives while the first network is still being read, which is reported only once it is there."""
    monkeypatch.setattr(timing, "PROGRESS_SECONDS", 0.02)
    moved = threading.Event()

    class Loading(Attentive):
        def estimate(self, request: Request, params: Params) -> Estimate | None:
            load = 1 if params.width == params.height else 99
            steps = [Unit("step", (100 - load) / 4)] * 4
            return Estimate((Unit("load", load), *steps, Unit("pack", 0), Unit("upload", 0)), "card")

        def prepare(self, request: Request, params: Params, control: Control) -> Placement:
            control.report(Progress("loading", 0, 2))
            assert moved.wait(PATIENCE), "no progress"
            return super().prepare(request, params, control)

    class Watched(list[Progress]):
        def append(self, one: Progress) -> None:
            if one.stage == "loading" and one.percent > 1:
                moved.set()

    world = World(Loading())
    world.progress = Watched()
    response = await world.run({**CLOUD, "task_type": "img2img", "image_url": data_uri((256, 128))})
    assert "error" not in response


def mask(size: tuple[int, int], box: tuple[int, int, int, int]) -> str:
    image = Image.new("L", size)
    ImageDraw.Draw(image).rectangle(box, fill=255)
    return showing.data_uri(image)


async def test_the_masked_area_keeps_the_photos_size_and_says_what_was_drawn() -> None:
    world = World()
    response = await world.run(
        {
            **CLOUD,
            "task_type": "inpaint",
            "image_url": data_uri((601, 401)),
            "mask_url": mask((601, 401), (300, 100, 350, 150)),
            "inpaint_area": "masked",
            "mask_blur": 4,
        }
    )
    params = response["params"]
    assert (params["width"], params["height"]) == (601, 401)
    assert (params["inpaint_area"], params["mask_blur"]) == ("masked", 4)
    left, top, right, bottom = params["drawn"]["box"]
    assert left < 290 and top < 90 and right > 360 and bottom > 160  # noqa: PT018 - one box
    assert params["drawn"]["width"] * params["drawn"]["height"] <= 64 * 64
    assert world.document["generation_data"]["params"]["drawn"]["box"] == params["drawn"]["box"]


async def test_an_outpainted_photo_needs_no_mask_and_has_its_borders() -> None:
    world = World()
    response = await world.run(
        {**CLOUD, "task_type": "inpaint", "image_url": data_uri((48, 40)), "outpaint": {"right": 16, "down": 8}}
    )
    params = response["params"]
    assert (params["width"], params["height"]) == (64, 48)
    assert params["outpaint"] == {"left": 0, "right": 16, "up": 0, "down": 8}
    assert world.document["request_data"]["outpaint"] == {"left": 0, "right": 16, "up": 0, "down": 8}
    assert world.document["request_data"]["mask_url"] is None
