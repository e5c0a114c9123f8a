"""A request is planned outside the event loop, which runs other jobs' heartbeats and uploads."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from tests.support.fakes import PaintingGenerator
from tests.support.memory_world import CLOUD, World
from worker.api.params import ModelDefaults, Params
from worker.api.request import Request, parse
from worker.core.types import Scheduler, Sources, TaskType
from worker.engine.estimate import Estimate, Unit
from worker.job.plan import follow, plan


class Noting(PaintingGenerator):
    """Notes the thread in which it is asked for something that reads its files."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[tuple[str, int]] = []

    def describe(self, task_type: TaskType, model: str | None = None) -> ModelDefaults:
        self.threads.append(("describe", threading.get_ident()))
        return super().describe(task_type, model)

    def estimate(self, request: Request, params: Params) -> Any:
        self.threads.append(("estimate", threading.get_ident()))
        return super().estimate(request, params)


async def test_no_file_of_a_model_is_looked_at_in_the_event_loop() -> None:
    generator = Noting()
    response = await World(generator).run(CLOUD)
    assert "error" not in response
    assert {what for what, _ in generator.threads} == {"describe", "estimate"}
    assert threading.get_ident() not in {where for _, where in generator.threads}


@pytest.mark.parametrize(("source", "height"), [((64, 512), 1024), ((512, 256), 64)])
async def test_the_seconds_are_those_of_the_size_that_follows_the_source(source: tuple[int, int], height: int) -> None:
    class Estimating(PaintingGenerator):
        def describe(self, task_type: TaskType, model: str | None = None) -> ModelDefaults:
            return replace(super().describe(task_type, model), width=256, height=256)

        def estimate(self, request: Request, params: Params) -> Any:
            return Estimate((Unit("step", params.width * params.height / 8192),), "card")

    services = World(Estimating()).services()
    asked = {**CLOUD, "task_type": "img2img", "image_url": "https://pictures.example/a.png", "width": 128}
    planned = await plan(parse(asked), services)
    followed = await follow(planned, Sources(image=Image.new("RGB", source)), services)
    seconds = [one.estimate.seconds for one in (planned, followed) if one.estimate is not None]
    assert (planned.params.height, followed.params.height) == (256, height)
    assert seconds == [4, height / 64]


async def test_every_name_that_is_not_to_be_had_is_told_at_once() -> None:
    asked = {**CLOUD, "style": "fog", "loras": [{"path": "fog"}], "high_noise_frac": 0.5, "num_inference_steps": 3}
    world = World()
    told = (await world.run(asked))["error"]
    assert told.startswith("invalid_input: style: is no style of this worker")
    assert "; loras.0.path: is no LoRA of this worker" in told
    assert "; high_noise_frac: needs a refiner" in told
    assert world.document["error"]["message"] == told.removeprefix("invalid_input: ")


async def test_a_name_that_is_not_to_be_had_is_told_with_the_fields_that_are_wrong() -> None:
    """After correcting one field, a user should not learn of the next one only then."""

    class Bare(PaintingGenerator):
        def describe(self, task_type: TaskType, model: str | None = None) -> ModelDefaults:
            return replace(super().describe(task_type, model), control_types=("canny",))

    picture = "https://pictures.example/a.png"
    asked: dict[str, Any] = {**CLOUD, "num_inference_steps": 500, "style": "fog", "high_noise_frac": 0.5}
    asked["loras"] = [{"path": "fog", "scale": 9}, {"path": 7}, {"path": "mist"}]
    asked["controlnets"] = [
        {"type": "pose", "image_url": picture},
        {"type": "tile", "image_url": "photo.png"},
        {"type": "canny", "image_url": picture},
    ]
    world = World(Bare())
    told = (await world.run(asked))["error"]
    fields = [one.partition(": ")[0] for one in told.removeprefix("invalid_input: ").split("; ") if ": " in one]
    wrong = ["num_inference_steps", "loras.0.scale", "loras.1.path", "controlnets.0.type", "controlnets.1.image_url"]
    assert fields == [*wrong, "style", "loras.0.path", "loras.2.path", "high_noise_frac", "controlnets.1.type"]
    assert (await world.run({"action": "quote", **asked}))["error"] == told


async def test_a_lora_that_is_not_used_is_no_further_problem_of_an_invalid_request() -> None:
    """A `scale` of 0 switches a LoRA off, for a model without an expert for it, too."""

    class OneNetwork(PaintingGenerator):
        def describe(self, task_type: TaskType, model: str | None = None) -> ModelDefaults:
            return replace(super().describe(task_type, model), has_experts=False)

    def asked(scale: float) -> dict[str, Any]:
        loras = [{"path": "known", "scale": scale}]
        return {**CLOUD, "task_type": "text2video", "fps": 0, "high_noise_loras": loras}

    world = World(OneNetwork(), loras='{"known": "org/name"}')
    assert "high_noise_loras" not in (await world.run(asked(0)))["error"]
    assert "; high_noise_loras: must be empty" in (await world.run(asked(1)))["error"]


async def test_of_an_invalid_request_nothing_is_said_that_its_correction_could_undo() -> None:
    """What depends on several fields is told of a valid request alone."""
    world = World()
    asked = {
        **CLOUD,
        "width": 1000_000,
        "height": 2048,
        "num_images": 9,
        "scheduler": "LCM",
        "upscale_factor": 4,
    }
    told = (await world.run(asked))["error"]
    assert told.startswith("invalid_input: width: must be at most 2048")
    assert told.count("; ") == 1
    assert "; num_images: must be at most 4" in told
    unserved = await world.run({**CLOUD, "task_type": "upscale", "upscale_factor": 3, "image_url": "a.png"})
    assert unserved["error"].count(": must be ") == 2


async def test_what_only_another_style_would_decide_is_not_told() -> None:
    """The style that was meant chooses a model with which the rest of the request is right."""

    class Two(PaintingGenerator):
        def models(self, task_type: TaskType) -> Sequence[str]:
            return "photo", "anime"

        def describe(self, task_type: TaskType, model: str | None = None) -> ModelDefaults:
            schedulers = None if model == "anime" else (Scheduler.DDIM,)
            return replace(super().describe(task_type), name=model or "photo", schedulers=schedulers)

    world = World(Two(), styles={"ink": {"model": "anime"}})
    asked = {**CLOUD, "scheduler": "PNDM"}
    told = (await world.run({**asked, "style": "inc", "loras": [{"path": "fog"}]}))["error"]
    assert told.startswith(
        'invalid_input: style: is no style of this worker; there are ink (got "inc"); loras.0.path: '
    )
    assert "scheduler" not in told
    assert "error" not in await world.run({**asked, "style": "ink"})
