"""An accelerated job on small weights calls its network as often as configured, at the configured steps."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from tests.engine.conftest import Runner
from worker.core.types import Scheduler, TaskType
from worker.engine.engine import Engine


@contextmanager
def calls(engine: Engine, task: TaskType) -> Iterator[list[tuple[float, int]]]:
    """Record (time step, batch) of each call of the task's network."""
    from tests.engine.conftest import parts_of

    parts = parts_of(engine, task)
    network = parts.transformer if task.is_video else parts.unet
    found: list[tuple[float, int]] = []

    def note(_network: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sample = kwargs["hidden_states"] if task.is_video else args[0]
        at = kwargs["timestep"] if task.is_video else args[1]
        found.append((float(at.flatten()[-1]), sample.shape[0]))

    hook = network.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield found
    finally:
        hook.remove()


@pytest.mark.parametrize(
    ("said", "steps"),
    [
        # https://huggingface.co/ByteDance/SDXL-Lightning
        ({"num_inference_steps": 4, "scheduler": Scheduler.K_EULER_TRAILING}, [999, 749, 499, 249]),
        # https://huggingface.co/ByteDance/Hyper-SD
        (
            {"num_inference_steps": 2, "scheduler": Scheduler.DDIM, "timestep_spacing": "trailing"},
            [999, 499],
        ),
        ({"num_inference_steps": 1, "scheduler": Scheduler.TCD, "original_inference_steps": 50}, [999]),
        # https://huggingface.co/tianweiy/DMD2
        (
            {"num_inference_steps": 4, "scheduler": Scheduler.LCM, "original_inference_steps": 100},
            [999, 749, 499, 249],
        ),
    ],
    ids=["lightning", "hyper", "hyper-1", "dmd2"],
)
def test_the_unet_is_called_exactly_that_often_at_those_steps(
    engine: Engine, run: Runner, said: dict[str, Any], steps: list[int]
) -> None:
    with calls(engine, TaskType.TEXT2IMG) as found:
        (picture,) = run("text2img", guidance_scale=0.0, **said)
    assert [step for step, _ in found] == steps
    assert {batch for _, batch in found} == {1}, "no guidance, no second prediction"
    assert picture.std() > 0


def test_a_job_after_an_accelerated_one_is_as_before(run: Runner) -> None:
    (before,) = run("text2img")
    run("text2img", num_inference_steps=4, scheduler=Scheduler.LCM, original_inference_steps=100, guidance_scale=0.0)
    (after,) = run("text2img")
    assert np.array_equal(before, after)


def test_a_clip_without_guidance_calls_its_network_once_a_step(engine: Engine, run: Runner) -> None:
    with calls(engine, TaskType.TEXT2VIDEO) as found:
        run("text2video", guidance_scale=1.0, num_inference_steps=4)
    assert len(found) == 4
