"""A request is planned outside the event loop, which runs other jobs' heartbeats and uploads."""

import threading
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from tests.support.fakes import PaintingGenerator
from tests.support.memory_world import CLOUD, World
from worker.api.params import ModelDefaults, Params
from worker.api.request import Request, parse
from worker.core.types import Sources, TaskType
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
