"""The actions beside a job: what a request would cost, and what this worker serves."""

import asyncio
import contextlib
import json
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.clock import SOON_SECONDS
from tests.support.fakes import Hangs, HasNoModel, PaintingGenerator, Slow
from tests.support.memory_world import CLOUD, World, data_uri
from worker.api.cost import job_units
from worker.api.params import ModelDefaults, Params
from worker.api.request import REQUESTS, Request, parse
from worker.api.resolve import SourceShape, resolve
from worker.core.config import REPOSITORY, load_settings
from worker.core.errors import InvalidInput, ModelUnavailable
from worker.core.types import Control, Sources, TaskType
from worker.engine.engine import Engine
from worker.engine.estimate import Estimate, Unit
from worker.engine.protocol import Generated, Placement
from worker.job.plan import Plan, dearest

QUOTE = {"action": "quote", "prompt": "a fox", "seed": 7}


class Untouchable(PaintingGenerator):
    """Describes its models; everything that would touch one fails the test."""

    def prepare(self, request: Request, params: Params, control: Control) -> Placement:
        raise AssertionError("a question must touch no model")

    def generate(self, request: Request, params: Params, sources: Sources, control: Control) -> Iterator[Generated]:
        raise AssertionError("a question must touch no model")

    def estimate(self, request: Request, params: Params) -> Estimate | None:
        return Estimate((Unit("step", 3.21), Unit("load", 50)), "card")


async def test_a_quote_says_units_seconds_and_params_and_runs_nothing() -> None:
    world = World(Untouchable())
    answer = await world.run({**QUOTE, "width": 512, "height": 512, "num_images": 2})
    params = {"width": 512, "height": 512, "num_inference_steps": 4, "guidance_scale": 5.0}
    assert answer == {"units": 3, "estimated_seconds": 3.2, "params": params}
    assert (world.documents.history, world.bucket.objects, world.progress) == ({}, {}, [])


async def test_seconds_that_nobody_knows_are_null() -> None:
    assert (await World().run(QUOTE))["estimated_seconds"] is None


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ""},
        {"width": 63},
        {"task_type": "nonsense"},
        {"model": "other"},
        {"num_images": 9, "widht": 5},
        {"width": 2048, "height": 2048},
        {"high_noise_frac": 0.5},
        {"use_cloud_storage": True},
        {"task_type": "img2img"},
    ],
)
async def test_a_quote_is_refused_as_the_request_itself_is(fields: dict[str, Any]) -> None:
    world = World()
    job = {"prompt": "a fox", **fields}
    assert await world.run({"action": "quote", **job}) == await world.run(job)
    assert not world.documents.history


async def test_a_quote_of_a_cloud_job_leaves_no_document_when_it_is_refused() -> None:
    world = World()
    answer = await world.run({**CLOUD, "action": "quote", "width": 63})
    assert answer["error_code"] == "invalid_input"
    assert not world.documents.history


async def test_a_quote_looks_at_no_picture_and_asks_for_no_proof() -> None:
    world = World(require_id_token=True)
    nowhere = {"task_type": "img2img", "image_url": "https://nowhere.invalid/x.png"}
    theirs = {**nowhere, "image_url": "gs://demo-bucket/uploads/somebody/x.png"}
    for picture in (nowhere, theirs):
        assert (await world.run({**CLOUD, **QUOTE, **picture}))["units"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"task_type": "img2img", "width": 512},
        {"task_type": "img2img", "height": 512},
        {"task_type": "inpaint", "mask_url": data_uri((8, 8)), "width": 256},
        {"task_type": "img2video", "video_width": 256, "num_frames": 5},
        {"task_type": "img2video", "video_height": 256, "num_frames": 5},
    ],
)
async def test_no_job_is_worth_more_than_its_quote_where_its_picture_decides_a_side(fields: dict[str, Any]) -> None:
    job = {"prompt": "a fox", "num_inference_steps": 4, **fields}
    quoted = (await World(Untouchable()).run({**job, "action": "quote", "image_url": data_uri()}))["units"]
    worth = []
    for long in (64, 90, 128, 160, 256, 320, 512):
        for shape in ((64, long), (long, 64)):
            answer = await World().run({**job, "image_url": data_uri(shape)})
            worth.append(answer["usage"]["units"])
    assert max(worth) == quoted


SDXL = ModelDefaults("sdxl", 1024, 1024, 30, 5.0)
TI2V = ModelDefaults("ti2v", 1280, 704, 50, 5.0, size_multiple=32, fps=24)
PICTURE, MASK = "https://example.com/a.png", "https://example.com/m.png"


@pytest.mark.parametrize(
    ("fields", "defaults"),
    [
        ({"task_type": "img2video", "resolution": "720p"}, TI2V),
        ({"task_type": "img2img", "upscale_factor": 4}, SDXL),
        ({"task_type": "inpaint", "mask_url": MASK, "inpaint_area": "masked", "upscale_factor": 2}, SDXL),
        ({"task_type": "inpaint", "outpaint": {"left": 64}, "upscale_factor": 2}, SDXL),
        ({"task_type": "inpaint", "outpaint": {"up": 8}, "inpaint_area": "masked", "aspect_ratio": "9:21"}, SDXL),
        ({"task_type": "inpaint", "outpaint": {"left": 2048}, "width": 512}, SDXL),
    ],
)
def test_no_job_is_worth_more_than_its_quote_whichever_picture_comes(
    fields: dict[str, Any], defaults: ModelDefaults
) -> None:
    services, most = World(max_job_cost=10**10).services(), 10**10
    request = parse({"prompt": "a fox", "image_url": PICTURE, **fields})
    limits: dict[str, Any] = {"max_image_pixels": services.settings.max_image_pixels, "max_job_cost": most}
    planned = Plan(request, defaults, resolve(request, defaults, **limits, seed=1), None, ())
    quoted = job_units(dearest(planned, services), defaults)
    worth = []
    for shape in ((1000, 1000), (540, 1000), (1472, 1536), (1080, 300), (100, 4000), (8, 40_000), (64, 64)):
        for masked in (None, (0.1, 0.1, 0.2, 0.2), (0.0, 0.0, 1.0, 1.0)):
            with contextlib.suppress(InvalidInput):
                params = resolve(request, defaults, **limits, source=SourceShape(*shape, masked), seed=1)
                worth.append(job_units(params, defaults))
    assert job_units(planned.params, defaults) < max(worth) <= quoted


async def test_a_quote_for_what_nothing_serves_says_so() -> None:
    answer = await World(HasNoModel()).run(QUOTE)
    assert (answer["error_code"], answer["retryable"]) == ("model_unavailable", False)


async def test_questions_are_answered_while_the_gpu_is_busy() -> None:
    busy = Hangs()
    world = World(busy)
    services = world.services()
    job = asyncio.create_task(world.run({"prompt": "a fox"}))
    while not busy.running:
        await asyncio.sleep(0.01)
    try:
        for question in (QUOTE, {"action": "capabilities"}):
            assert "error" not in await asyncio.wait_for(world.run(question), SOON_SECONDS)
        assert not job.done()
    finally:
        busy.release.set()
        await job
    assert services.gpu is world.gpu


async def test_the_job_of_a_quote_has_its_units_and_its_params() -> None:
    world = World(Slow())
    fields = {"prompt": "a fox", "image_size": "landscape_16_9", "seed": 3}
    quote, job = await world.run({"action": "quote", **fields}), await world.run(fields)
    assert (quote["units"], quote["params"]) == (job["usage"]["units"], job["params"])


async def test_capabilities_name_what_is_served_and_no_place() -> None:
    world = World(Untouchable())
    answer = await world.run({"action": "capabilities"})
    assert answer["tasks"] == list(TaskType)
    (model,) = answer["models"]["text2img"]
    assert (model["name"], model["width"], model["num_inference_steps"]) == ("fake", 64, 4)
    assert model["image_sizes"]["square_hd"] == [64, 64]
    assert (answer["styles"], answer["loras"], answer["controlnet_types"]) == ([], [], ["canny", "tile"])
    assert answer["output_formats"] == ["png", "jpeg", "webp"]
    assert answer["limits"]["image_pixels"] == world.settings.max_image_pixels
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert answer["versions"] == {"contract": 2, "worker": project["version"], "fingerprint": "v1"}
    assert (await world.run({"action": "capabilities", "prompt": None, "user_id": "u"})) == answer


async def test_what_cannot_be_served_is_not_among_the_capabilities() -> None:
    class ImagesOnly(PaintingGenerator):
        def describe(self, task_type: TaskType, model: str | None = None) -> ModelDefaults:
            if task_type.is_video:
                raise ModelUnavailable
            return super().describe(task_type, model)

    answer = await World(ImagesOnly()).run({"action": "capabilities"})
    assert answer["tasks"] == list(answer["models"]) == ["text2img", "img2img", "inpaint", "upscale"]
    assert (await World(HasNoModel()).run({"action": "capabilities"}))["tasks"] == []


async def test_the_real_models_are_described_without_a_path() -> None:
    world = World()
    world.generator = Engine(load_settings())  # type: ignore[assignment]  # the real one in the painter's place
    answer = await world.run({"action": "capabilities"})
    assert answer["tasks"] == list(TaskType)
    assert {model["name"] for models in answer["models"].values() for model in models} == {"demo"}
    assert answer["models"]["text2video"][0]["fps"] == 15
    assert "/" not in json.dumps(answer)
    for task, models in answer["models"].items():
        fields = REQUESTS[TaskType(task)].model_fields
        picture: dict[str, Any] = {
            name: "https://x.example/a.png" for name in ("image_url", "mask_url") if name in fields
        }
        picture |= {"upscale_factor": 2} if task == "upscale" else {}
        asked = {"prompt": "x", "task_type": task, "model": models[0]["name"], **picture}
        assert (await world.run({"action": "quote", **asked}))["params"]["width"] == models[0]["width"]


@pytest.mark.parametrize("action", ["qoute", "generate", "", 5, True, ["quote"], {}, "QUOTE"])
async def test_another_action_is_a_refused_job_whose_error_names_the_two(action: object) -> None:
    """An app that listens to its document must not wait for ever."""
    world = World()
    answer = await world.run({**CLOUD, "action": action})
    assert answer["error"].startswith("invalid_input: action: must be one of quote, capabilities")
    assert (world.document["status"], world.document["error"]["code"]) == ("failed", "invalid_input")


async def test_an_action_of_null_is_none() -> None:
    assert (await World().run({"prompt": "a fox", "action": None}))["storage"] == "base64"
