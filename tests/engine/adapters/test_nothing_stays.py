"""Jobs of every kind in a random order, with every kind of end, leave the networks and a plain job unchanged.

`NOTHING_STAYS_JOBS=1000` makes it a soak test.
"""

import atexit
import copy
import gc
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import diffusers
import numpy as np
import pytest
import torch

from tests.engine.conftest import engine_of
from tests.support.engine_jobs import Recorder, picture
from tests.support.loras import lora, lycoris
from tests.support.network_state import NetworkState
from tests.support.requested_jobs import URL, Job, resolved, run, small_job, started
from worker.api.resolve import PREPROCESSED
from worker.core.config import Settings
from worker.core.errors import Cancelled, OutOfMemory
from worker.core.types import Expert, LoraFile, Scheduler, TaskType
from worker.engine.engine import Engine
from worker.engine.models.hub import DEMO_MODELS
from worker.engine.protocol import GeneratedClip

JOBS = int(os.environ.get("NOTHING_STAYS_JOBS", "40"))
WARM = 20
"""Jobs after which everything shared between jobs (an adapter's weights) has been loaded."""
CONTROLS = ("canny", "depth", "openpose", "scribble", "tile")
PICTURES = tuple(picture(48, 40, seed=seed) for seed in range(3))

Ending = Literal["done", "left", "cancelled", "short of memory", "out of memory", "broken"]
ENDINGS: tuple[Ending, ...] = ("done", "done", "left", "cancelled", "short of memory", "out of memory", "broken")


def _ip_adapter(job: Job, rng: random.Random) -> None:
    pictures = tuple(rng.choice(PICTURES) for _ in range(rng.randint(1, 2)))
    job.fields["ip_adapters"] = [
        {"image_url": URL, "scale": rng.choice([0, 0.3, 0.6, 1.5]), "type": rng.choice(["subject", "style"])}
        for _ in pictures
    ]
    job.sources = replace(job.sources, references=pictures)


def _lora(job: Job, rng: random.Random) -> None:
    scales = [rng.choice([0.0, -0.5, 0.4, 1.0]) for _ in range(rng.randint(1, 3))]
    files = tuple(LoraFile("a", lora_file(number), scale) for number, scale in enumerate(scales))
    job.sources = replace(job.sources, loras=files)


@cache
def lora_file(number: int) -> Path:
    """Write one of three files: kohya's for every attention, diffusers' for every UNet layer, LyCORIS in all forms."""
    kit: Any = diffusers
    loader = kit.StableDiffusionXLPipeline.from_pretrained(DEMO_MODELS / "sdxl")
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    networks = {name: getattr(loader, name) for name in ("text_encoder", "text_encoder_2", "unet")}
    if number == 0:
        return lora(folder / "a.safetensors", networks)
    if number == 1:
        return lycoris(folder / "c.safetensors", networks["unet"], only=lambda _name: True)
    return lora(folder / "b.safetensors", {"unet": networks["unet"]}, "diffusers", size=0.1, only=lambda _name: True)


def _controlnet(job: Job, rng: random.Random) -> None:
    pictures = tuple(rng.choice(PICTURES) for _ in range(rng.randint(1, 3)))
    job.fields["controlnets"] = [
        {
            "image_url": URL,
            "type": kind,
            "preprocess": kind in PREPROCESSED,
            "conditioning_scale": rng.choice([0, 0.5, 1.0, 2.0]),
            "start_percentage": rng.choice([0.0, 0.4]),
            "end_percentage": rng.choice([0.7, 1.0]),
        }
        for kind in rng.sample(CONTROLS, len(pictures))
    ]
    job.sources = replace(job.sources, controls=pictures)


ADAPTERS: dict[str, Callable[[Job, random.Random], None]] = {
    "ControlNet": _controlnet,
    "IP-Adapter": _ip_adapter,
    "LoRA": _lora,
}


@pytest.fixture(scope="module")
def engine(demo_settings: Settings) -> Engine:
    return engine_of(demo_settings)


def random_job(rng: random.Random) -> Job:
    job = small_job(rng.choice([TaskType.TEXT2IMG, TaskType.IMG2IMG, TaskType.INPAINT]))
    job.fields |= {
        "seed": rng.randrange(9),
        "num_images": rng.randint(1, 2),
        "scheduler": rng.choice([None, *Scheduler]),
        "guidance_scale": rng.choice([5.0, 1.0]),
    }
    if rng.random() < 0.3:
        job.fields |= {"high_noise_frac": 0.5, "refiner_inference_steps": 4}
    if rng.random() < 0.3:
        job.fields |= {"upscale_factor": 2, "upscale_creativity": rng.choice([0.0, 0.5])}
        job.adapters.add("upscaler")
    for name, add in ADAPTERS.items():
        if rng.random() < 0.6:
            add(job, rng)
            job.adapters.add(name)
    return job


class Broken(Exception):
    """An error that nobody anticipated."""


@contextmanager
def failing(at: int, error: Exception, *, times: int) -> Iterator[None]:
    """Make the module call of this number, counted from 0, raise, and those after it until `times` have."""
    calls = 0

    def count(_module: torch.nn.Module, _args: Any) -> None:
        nonlocal calls
        calls += 1
        if at < calls <= at + times:
            raise error

    handle = torch.nn.modules.module.register_module_forward_pre_hook(count)
    try:
        yield
    finally:
        handle.remove()


def calls_of(engine: Engine, job: Job) -> int:
    """Return the number of module calls in a job."""
    calls = 0

    def count(_module: torch.nn.Module, _args: Any) -> None:
        nonlocal calls
        calls += 1

    handle = torch.nn.modules.module.register_module_forward_pre_hook(count)
    try:
        run(engine, job)
    finally:
        handle.remove()
    return calls


def ended(engine: Engine, job: Job, ending: Ending, rng: random.Random) -> None:
    """Run the job until it ends in this way."""
    match ending:
        case "done":
            assert len(run(engine, job)) == job.fields["num_images"]
        case "left":
            pictures = started(engine, job)
            next(pictures)
            pictures.close()  # type: ignore[attr-defined]  # a generator
        case "cancelled":
            with pytest.raises(Cancelled):
                list(started(engine, job, Recorder(cancel_at=1)))
        case _:
            at = rng.randrange(calls_of(engine, job))
            error: Exception = Broken() if ending == "broken" else torch.OutOfMemoryError("CUDA out of memory")
            with failing(at, error, times=1 if ending == "short of memory" else 10**9):
                if ending == "short of memory":
                    assert len(run(engine, job)) == job.fields["num_images"]
                else:
                    with pytest.raises(Broken if ending == "broken" else OutOfMemory):
                        run(engine, job)


@pytest.fixture
def experts(engine: Engine, tmp_path: Path) -> Iterator[Any]:
    """Yield the demo's Wan with a second expert, as Wan 2.2 has, which is not a copy of the first one."""
    job = small_job(TaskType.TEXT2VIDEO, num_frames=5)
    clip(engine, job)
    parts: Any = engine._cache[engine.registry.spec(TaskType.TEXT2VIDEO)].parts
    plain = parts.transformer_2, parts.boundary_ratio, parts.expand_timesteps
    parts.transformer_2 = copy.deepcopy(parts.transformer)
    with torch.no_grad():
        parts.transformer_2.proj_out.bias.add_(0.05)
    parts.boundary_ratio, parts.expand_timesteps = 0.9, False
    yield parts
    parts.transformer_2, parts.boundary_ratio, parts.expand_timesteps = plain


def clip(engine: Engine, job: Job, control: Recorder | None = None) -> Any:
    """Return the frames of a job's clip."""
    request, params = resolved(engine, job)
    (made,) = engine.generate(request, params, job.sources, control or Recorder())
    assert isinstance(made, GeneratedClip)
    return made.frames


@pytest.mark.parametrize("ending", ["cancelled", "short of memory", "out of memory", "broken"])
def test_a_clip_is_what_it_was_after_loras_on_both_experts_however_they_end(
    engine: Engine, experts: Any, tmp_path: Path, ending: Ending
) -> None:
    networks = {"transformer": experts.transformer}
    files = [lora(tmp_path / f"{seed}.safetensors", networks, "wan", seed=seed) for seed in range(3)]
    job = small_job(TaskType.TEXT2VIDEO, num_frames=5)
    before = clip(engine, job)
    state = NetworkState(experts.modules())
    who: tuple[Expert, ...] = ("both", "high", "low")
    loras = tuple(LoraFile(one, file, 0.8, one) for one, file in zip(who, files, strict=True))
    changed = replace(job, sources=replace(job.sources, loras=loras))
    first = clip(engine, changed)
    assert not np.array_equal(first, before)
    assert state.differences() == []
    if ending == "cancelled":
        with pytest.raises(Cancelled):
            clip(engine, changed, Recorder(cancel_at=1))
    else:
        error: Exception = Broken() if ending == "broken" else torch.OutOfMemoryError("CUDA out of memory")
        with failing(400, error, times=1 if ending == "short of memory" else 10**9):
            if ending == "short of memory":
                assert np.array_equal(clip(engine, changed), first)
            else:
                with pytest.raises(Broken if ending == "broken" else OutOfMemory):
                    clip(engine, changed)
    assert state.differences() == []
    assert np.array_equal(clip(engine, job), before)
    assert np.array_equal(clip(engine, changed), first)


def living() -> tuple[int, int]:
    """Return the number of tensors in this process, and the bytes that they hold."""
    gc.collect()
    # `isinstance` would touch proxies that pretend to be of another class and may raise.
    tensors = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors if not one.is_meta}
    return len(tensors), sum(storages.values())


@pytest.mark.timeout(300 + 10 * JOBS)
@pytest.mark.parametrize("seed", [0])
def test_a_plain_job_is_what_it_was_after_jobs_of_every_kind(engine: Engine, seed: int) -> None:
    rng = random.Random(seed)
    tasks = (TaskType.TEXT2IMG, TaskType.INPAINT)
    first = {task: run(engine, small_job(task)) for task in tasks}
    every = small_job()
    for add in ADAPTERS.values():
        add(every, random.Random(3))
    changed = run(engine, every)
    assert not np.array_equal(changed[0], first[TaskType.TEXT2IMG][0])
    state = NetworkState(engine._cache[engine.registry.spec(TaskType.TEXT2IMG)].parts.modules())
    seen: Counter[str] = Counter()
    warm: tuple[int, int] | None = None
    for number in range(JOBS):
        job, ending = random_job(rng), rng.choice(ENDINGS)
        ended(engine, job, ending, rng)
        seen.update([ending, *job.adapters])
        assert state.differences() == [], (number, ending, job.fields)
        task = tasks[number % len(tasks)]
        assert np.array_equal(run(engine, small_job(task))[0], first[task][0]), (number, ending, job.fields)
        if number == WARM:
            warm = living()
    assert np.array_equal(run(engine, every)[0], changed[0])
    assert set(seen) == {*ENDINGS, *ADAPTERS, "upscaler"}
    if warm is not None:
        assert living() <= warm
