"""Jobs with pictures beside their prompt, through the engine and its demo models."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.engine.conftest import engine_of, runs_out
from tests.support.engine_jobs import Recorder, picture
from tests.support.network_state import NetworkState
from tests.support.requested_jobs import URL, Job, resolved, run, small_job
from worker.core.config import Settings
from worker.core.types import TaskType
from worker.engine.engine import Engine
from worker.engine.protocol import GeneratedImage, Placement

TASKS = (TaskType.TEXT2IMG, TaskType.IMG2IMG, TaskType.INPAINT)
REFINED = {"high_noise_frac": 0.5, "refiner_inference_steps": 4, "num_inference_steps": 4}
KINDS: dict[str, tuple[TaskType, dict[str, Any]]] = {
    "text2img": (TaskType.TEXT2IMG, {}),
    "img2img": (TaskType.IMG2IMG, {}),
    "inpaint": (TaskType.INPAINT, {}),
    "outpaint": (TaskType.INPAINT, {"outpaint": {"left": 32}, "width": 96, "mask_url": None}),
    "masked area": (TaskType.INPAINT, {"inpaint_area": "masked", "mask_blur": 2}),
    "refined": (TaskType.TEXT2IMG, REFINED),
    "refined inpaint": (TaskType.INPAINT, REFINED | {"strength": 1.0}),
    "drafted": (TaskType.TEXT2IMG, {"width": 512, "height": 512, "num_inference_steps": 2}),
    "without guidance": (TaskType.TEXT2IMG, {"guidance_scale": 1.0}),
}


@pytest.fixture(scope="module")
def engine(demo_settings: Settings) -> Engine:
    return engine_of(demo_settings)


def seeing(job: Job, *pictures: Image.Image, scale: float = 0.8, kind: str = "subject") -> Job:
    """Return the job with these pictures beside its prompt."""
    entries = [{"image_url": URL, "scale": scale, "type": kind} for _ in pictures]
    return Job(job.fields | {"ip_adapters": entries}, replace(job.sources, references=pictures))


def distance(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(float) - other).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_job_takes_after_a_picture_and_at_a_scale_of_0_it_does_not(engine: Engine, kind: str) -> None:
    task, fields = KINDS[kind]
    job = small_job(task, **fields)
    if kind == "outpaint":
        job.sources = replace(job.sources, mask=None)
    (plain,) = run(engine, job)
    (seen,) = run(engine, seeing(job, picture()))
    (none,) = run(engine, seeing(job, picture(), scale=0))
    assert not np.array_equal(seen, plain)
    assert np.array_equal(none, plain)
    if kind == "drafted":
        assert resolved(engine, job)[1].draft is not None


@pytest.mark.parametrize("kind", ["subject", "style"])
def test_the_more_scale_the_more_the_result_moves(engine: Engine, kind: str) -> None:
    job = small_job()
    (plain,) = run(engine, job)
    jobs = [seeing(job, picture(), scale=scale, kind=kind) for scale in (0, 0.25, 0.5, 1)]
    moved = [distance(run(engine, each)[0], plain) for each in jobs]
    assert moved[0] == 0
    assert moved == sorted(set(moved)), moved


def test_a_second_picture_adds_to_the_first(engine: Engine) -> None:
    first, second = picture(seed=1), Image.new("RGB", (40, 40), "teal")
    job = small_job()
    results = [run(engine, seeing(job, *pictures))[0] for pictures in ((first,), (second,), (first, second))]
    assert len({image.tobytes() for image in results}) == 3


def test_image_k_equals_the_single_image_of_its_seed(engine: Engine) -> None:
    several = run(engine, seeing(small_job(num_images=3, seed=11), picture()))
    for index, image in enumerate(several):
        assert np.array_equal(image, run(engine, seeing(small_job(seed=11 + index), picture()))[0])


def test_a_picture_that_is_no_square_is_said_to_be_seen_in_part(engine: Engine) -> None:
    control = Recorder()
    run(engine, seeing(small_job(), picture(48, 48), picture(96, 64)), control)
    assert control.warnings == [
        "ip_adapters.1.image_url: only the square in the middle of the picture is seen; 33 % of it is not"
    ]


def test_a_job_of_the_refiner_alone_sees_no_picture_and_says_so(engine: Engine) -> None:
    job = small_job(TaskType.IMG2IMG, strength=0.4, high_noise_frac=0.5, num_inference_steps=5)
    (plain,) = run(engine, job)
    control = Recorder()
    assert np.array_equal(run(engine, seeing(job, picture()), control)[0], plain)
    assert any("no step was left for the base model" in warning for warning in control.warnings)
    assert "ip_adapters: has no effect; the refiner alone draws" in control.warnings


def test_an_upscales_second_pass_sees_no_picture_and_says_so_where_the_refiner_drew_the_first(engine: Engine) -> None:
    alone = {"strength": 0.4, "high_noise_frac": 0.5, "num_inference_steps": 5}
    job = small_job(TaskType.IMG2IMG, **alone, upscale_factor=2, upscale_creativity=0.5)
    (plain,) = run(engine, job)
    assert np.array_equal(run(engine, seeing(job, picture()), control := Recorder())[0], plain)
    assert "ip_adapters: has no effect; the refiner alone draws" in control.warnings


def test_networks_brought_one_at_a_time_draw_the_same(engine: Engine) -> None:
    """Offloading, with the CPU standing in for the card: the hooks are the same."""
    job = seeing(small_job(TaskType.INPAINT, **REFINED), picture())
    (resident,) = run(engine, job)
    entry = engine._cache[engine.registry.spec(TaskType.INPAINT)]
    entry.offloader.settle(Placement("offloaded", "for the test"))
    state = NetworkState(entry.parts.modules())
    _, params = resolved(engine, job)
    made = engine._job(entry, params, job.sources, Recorder())
    (offloaded,) = engine._run(entry, made, first=0, tiles=False)
    assert isinstance(offloaded, GeneratedImage)
    assert np.array_equal(offloaded.pixels, resident)
    assert state.differences() == []


def test_an_encoder_that_runs_out_of_memory_is_tried_once_more(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    job = seeing(small_job(), picture())
    (before,) = run(engine, job)
    adapter = engine._cache[engine.registry.spec(TaskType.TEXT2IMG)].parts.ip_adapter  # type: ignore[union-attr]
    with monkeypatch.context() as patch:
        calls = runs_out(patch, adapter.encoder, "forward")
        control = Recorder()
        assert np.array_equal(run(engine, job, control)[0], before)
    assert len(calls) == 2
    assert any("short of memory" in warning for warning in control.warnings)
