"""The engine as a whole: state, memory, failures and leftovers."""

import logging
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tests.engine.conftest import Runner, engine_of, parts_of, prepare, request_of, runner, runs_out
from tests.support.engine_jobs import Recorder, image_params, picture, sources_of, video_params
from worker.api.params import Upscale
from worker.core.config import Settings, load_settings
from worker.core.errors import GpuFault, ModelUnavailable, OutOfMemory
from worker.core.types import Scheduler, Sources, TaskType
from worker.engine.engine import Engine
from worker.engine.memory import cache, device
from worker.engine.memory.placement import GIB, SLACK
from worker.engine.models.registry import ModelRegistry, WeightSource
from worker.engine.protocol import Generator, Placement


@pytest.fixture
def fresh(demo_settings: Settings) -> Engine:
    """Return an engine that no other test uses."""
    return engine_of(demo_settings)


def test_the_engine_is_a_generator(engine: Engine) -> None:
    generator: Generator = engine
    assert generator.describe(TaskType.TEXT2IMG).name == "demo"


def test_every_task_is_estimated_in_the_pieces_that_it_then_reports(engine: Engine) -> None:
    for task in TaskType:
        changes: dict[str, Any] = {"strength": 0.7} if task in {"img2img", "inpaint"} else {}
        if task is TaskType.UPSCALE:
            changes = {"enlarges": True, "upscale": Upscale(2, 128, 128, "demo", 0.7, (128, 128)), "seeds": (1,)}
        params = video_params() if task.is_video else image_params(**({"seeds": (1, 2)} | changes))
        estimate = engine.estimate(request_of(task), params)
        assert estimate is not None
        control = Recorder()
        list(engine.generate(request_of(task), params, sources_of(task), control))
        parts = [unit.part for unit in estimate.units]
        assert parts.count("step") == control.progress[-1].total_steps
        told = [progress for progress in control.progress if progress.part is not None and progress.share == 1.0]
        for part in ("encode", "decode", "upscale"):
            assert parts.count(part) == sum(progress.part == part for progress in told), (task, part)


def test_a_model_that_is_not_loaded_takes_longer_and_one_that_is_not_here_is_not_estimated(
    fresh: Engine, demo_settings: Settings
) -> None:
    request, params = request_of(TaskType.TEXT2VIDEO), video_params()
    cold = fresh.estimate(request, params)
    fresh.prepare(request, params, Recorder())
    warm = fresh.estimate(request, params)
    assert cold is not None
    assert warm is not None
    assert cold.units[0].seconds > warm.units[0].seconds == 0
    missing = demo_settings.model_copy(update={"wan_model": "nobody/nothing"})
    assert engine_of(missing).estimate(request, params) is None


def test_without_a_card_a_worker_learns_from_its_jobs_how_long_they_take(fresh: Engine) -> None:
    request, params = request_of(TaskType.TEXT2IMG), image_params(width=1024, height=1024)
    before = fresh.estimate(request, params)
    started = time.monotonic()
    list(fresh.generate(request, params, Sources(), Recorder()))
    took = time.monotonic() - started
    after = fresh.estimate(request, params)
    assert before is not None
    assert after is not None
    assert (before.basis, before.seconds, after.basis) == ("guess", None, "measured")
    assert after.seconds is not None
    assert after.seconds < 3 * took


def test_a_job_gives_the_same_bytes_before_and_after_all_others(run: Runner) -> None:
    """Twenty jobs in a row, with tasks, schedulers and shifts mixed: none affects another."""
    refined = {"high_noise_frac": 0.5, "refiner_inference_steps": 3}
    image_tasks = [task for task in TaskType if not task.is_video]
    jobs: list[tuple[str, dict[str, Any]]] = [
        *((task, {"scheduler": scheduler}) for task, scheduler in zip(image_tasks * 4, Scheduler, strict=False)),
        ("text2img", refined),
        ("inpaint", refined),
        ("text2video", {"flow_shift": 9.0}),
        ("img2video", {"flow_shift": 1.0}),
        ("img2img", {"width": 128, "guidance_scale": 0.0}),
        ("text2video", {"num_frames": 9}),
        ("inpaint", {"strength": 1.0, "seeds": (1, 2)}),
        ("img2video", {"width": 96}),
    ]
    before = {task: run(task)[0] for task in tuple(TaskType)}
    for task, changes in jobs:
        run(task, **changes)
    for task in tuple(TaskType):
        assert np.array_equal(before[task], run(task)[0]), task


def test_each_picture_is_handed_out_before_the_next_is_begun(engine: Engine) -> None:
    control = Recorder()
    pictures = engine.generate(request_of(TaskType.TEXT2IMG), image_params(seeds=(1, 2)), Sources(), control)
    next(pictures)
    assert control.steps == [1, 2, 3]
    assert [next(pictures).seed, next(pictures, None)] == [2, None]


def test_a_receiver_that_goes_away_or_fails_leaves_the_engine_well(engine: Engine, run: Runner) -> None:
    (before,) = run("text2img")

    def receive(pictures: Iterator[object]) -> None:
        for _ in pictures:
            raise ValueError("the receiver's own error")

    with pytest.raises(ValueError, match="receiver's own"):
        receive(engine.generate(request_of(TaskType.TEXT2IMG), image_params(seeds=(1, 2)), Sources(), Recorder()))
    assert np.array_equal(before, run("text2img")[0])


def test_loading_is_told_and_done_once(fresh: Engine) -> None:
    control = Recorder()
    placement = prepare(fresh, TaskType.INPAINT, control)
    assert placement.mode == "resident"
    assert {progress.stage for progress in control.progress} == {"loading"}
    again = Recorder()
    for task in ("text2img", "img2img", "inpaint"):
        assert prepare(fresh, TaskType(task), again).mode == "resident"
    assert again.progress == []
    assert fresh.loaded == {"sdxl:demo": "resident"}


def test_both_video_tasks_of_one_checkpoint_are_loaded_once(demo_settings: Settings) -> None:
    engine = engine_of(demo_settings, wan_i2v_model=None)
    prepare(engine, TaskType.TEXT2VIDEO, Recorder())
    prepare(engine, TaskType.IMG2VIDEO, Recorder())
    assert engine.loaded == {"wan:demo": "resident"}


def test_the_least_recently_used_model_makes_room(fresh: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [64 * GIB]
    monkeypatch.setattr(device, "memory", lambda *, cuda: (free[0], 64 * GIB))
    prepare(fresh, TaskType.TEXT2VIDEO, Recorder())
    prepare(fresh, TaskType.TEXT2IMG, Recorder())
    assert set(fresh.loaded) == {"wan:demo", "sdxl:demo"}
    fresh._cache.evict(["sdxl:demo"])
    weights = fresh._cache[fresh.registry.spec(TaskType.TEXT2VIDEO)].offloader.bytes
    free[0] = SLACK + weights // 2  # enough for SDXL only once Wan has left
    monkeypatch.setattr(cache, "spec_bytes", lambda spec, *, cuda: {"unet": weights})
    placement = prepare(fresh, TaskType.TEXT2IMG, Recorder())
    assert placement.evicted == ("wan:demo",)
    assert set(fresh.loaded) == {"sdxl:demo"}


def test_preloading_takes_what_fits_side_by_side(fresh: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fresh.preload(None, Recorder()) == tuple(TaskType)
    fresh.unload()
    monkeypatch.setattr(device, "memory", lambda *, cuda: (SLACK if fresh.loaded else 8 * GIB, 8 * GIB))
    assert fresh.preload(None, Recorder()) == tuple(TaskType)[:4]
    assert set(fresh.loaded) == {"sdxl:demo"}


def test_preloading_leaves_a_task_that_cannot_be_had_to_its_first_job(demo_settings: Settings) -> None:
    engine = engine_of(demo_settings, sdxl_model="/gone", sdxl_refiner=None)
    assert engine.preload((TaskType.TEXT2IMG, TaskType.TEXT2VIDEO), Recorder()) == ("text2video",)
    assert engine.health() == ("text2video", "img2video")
    with pytest.raises(ModelUnavailable, match="SDXL_MODEL"):
        prepare(engine, TaskType.TEXT2IMG, Recorder())


def test_preloading_downloads_nothing_that_nobody_named() -> None:
    settings = load_settings(
        sdxl_model="org/model", wan_model="org/other", wan_i2v_model="org/third", sdxl_refiner=None
    )
    engine = engine_of(settings)
    assert engine.preload(None, Recorder()) == ()


def test_a_worker_without_any_model_is_not_healthy(demo_settings: Settings) -> None:
    values = {"sdxl_model": "/gone", "sdxl_refiner": None, "wan_model": "/gone", "wan_i2v_model": "/gone"}
    with pytest.raises(ModelUnavailable, match="SDXL_MODEL"):
        engine_of(demo_settings, **values).health()


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a card")
def test_a_card_that_is_expected_and_does_not_work_is_a_fault(demo_settings: Settings) -> None:
    with pytest.raises(GpuFault):
        Engine(demo_settings, registry=ModelRegistry(demo_settings, cuda=True, where=())).health()


class _Scarce:
    """Makes a VAE's decode run out of memory, the first `times` times or as long as it does not work in tiles."""

    def __init__(self, vae: Any, monkeypatch: pytest.MonkeyPatch, *, unless_tiled: bool) -> None:
        self.calls = 0
        decode = vae.decode

        def scarce(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if not (unless_tiled and vae.use_tiling):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return decode(*args, **kwargs)

        monkeypatch.setattr(vae, "decode", scarce)


def test_out_of_memory_is_tried_once_more_in_less(fresh: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    start = runner(fresh)
    (before,) = start("text2img")
    vae = parts_of(fresh, TaskType.TEXT2IMG).vae
    prepare(fresh, TaskType.TEXT2VIDEO, Recorder())
    with monkeypatch.context() as patch:
        scarce = _Scarce(vae, patch, unless_tiled=True)
        control = Recorder()
        (image,) = start("text2img", control=control)
        assert scarce.calls == 2
    assert np.array_equal(image, before)  # 64 x 64 is one tile
    assert any("short of memory" in warning for warning in control.warnings)
    assert set(fresh.loaded) == {"sdxl:demo"}
    assert not vae.use_tiling
    assert np.array_equal(start("text2img")[0], before)


def test_the_second_try_goes_on_from_the_picture_it_had_come_to(fresh: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    start = runner(fresh)
    before = start("text2img", seeds=(1, 2, 3))
    calls = runs_out(monkeypatch, parts_of(fresh, TaskType.TEXT2IMG).vae, "decode", at=2)
    after = start("text2img", seeds=(1, 2, 3))
    assert len(calls) == 4
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_out_of_memory_twice_fails_with_a_hint_and_the_next_job_succeeds(
    fresh: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = runner(fresh)
    (before,) = start("text2img")
    vae = parts_of(fresh, TaskType.TEXT2IMG).vae
    with monkeypatch.context() as patch:
        scarce = _Scarce(vae, patch, unless_tiled=False)
        with pytest.raises(OutOfMemory, match="smaller size"):
            start("text2img")
        assert scarce.calls == 2
    assert not vae.use_tiling
    assert np.array_equal(start("text2img")[0], before)


def test_a_start_logs_the_card_and_what_drives_it_before_anything_is_loaded(
    demo_settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """cuDNN's version decides what a convolution takes, the driver's which faults are known: one line has both."""
    card = device.Gpu("NVIDIA L40S", 45 * 2**30, "580.95.05", "2.13.0+cu130", "13.0", "91501")
    monkeypatch.setattr(device, "describe_gpu", lambda: card)
    monkeypatch.setattr(device, "name", lambda: card.name)
    with caplog.at_level(logging.INFO):
        Engine(demo_settings, registry=ModelRegistry(demo_settings, cuda=True, where=())).preload((), Recorder())
    assert [record.message for record in caplog.records if getattr(record, "action", "") == "gpu"] == [str(card)]


def test_a_card_that_does_not_answer_is_a_fault_before_anything_is_loaded(demo_settings: Settings) -> None:
    """The first access to the card is the one that the log line needs; its caller gets one of our errors."""
    engine = Engine(demo_settings, registry=ModelRegistry(demo_settings, cuda=True, where=()))
    with pytest.raises(GpuFault):
        engine.preload(None, Recorder())
    assert engine.loaded == {}


def test_a_poisoned_card_is_a_fault_and_is_not_tried_again(fresh: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    unet = parts_of(fresh, TaskType.TEXT2IMG).unet
    calls: list[int] = []

    def poisoned(*_: Any, **__: Any) -> Any:
        calls.append(1)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(unet, "forward", poisoned)
    with pytest.raises(GpuFault):
        runner(fresh)("text2img")
    assert len(calls) == 1


def test_loading_that_fails_leaves_nothing_half_loaded(fresh: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.engine.models.loader import Loader

    load = Loader._network
    calls: list[str] = []

    def fails_at_the_unet(self: Loader, source: WeightSource, name: str, dtype: torch.dtype, **options: Any) -> Any:
        calls.append(name)
        if name == "unet":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return load(self, source, name, dtype, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Loader, "_network", fails_at_the_unet)
        with pytest.raises(OutOfMemory):
            prepare(fresh, TaskType.TEXT2IMG, Recorder())
    assert fresh.loaded == {}
    assert prepare(fresh, TaskType.TEXT2IMG, Recorder()).mode == "resident"


def test_networks_brought_one_at_a_time_draw_the_same(fresh: Engine, run: Runner) -> None:
    """Offloading, with the CPU standing in for the card: the hooks are the same."""
    refined = {"high_noise_frac": 0.5, "refiner_inference_steps": 3, "num_inference_steps": 3}
    for task in ("text2img", "inpaint", "text2video", "img2video"):
        prepare(fresh, TaskType(task), Recorder())
        fresh._cache[fresh.registry.spec(TaskType(task))].offloader.settle(Placement("offloaded", "for the test"))
        changes = {} if task.endswith("video") else refined
        request = request_of(TaskType(task))
        params = (
            video_params()
            if task.endswith("video")
            else image_params(**changes, strength=0.7 if task == "inpaint" else None)
        )
        entry = fresh._cache[fresh.registry.spec(TaskType(task))]
        job = fresh._job(entry, params, sources_of(task), Recorder())
        (picture_of_it,) = fresh._run(entry, job, first=0, tiles=False)
        pixels = getattr(picture_of_it, "pixels", None)
        frames = picture_of_it.frames if pixels is None else pixels  # type: ignore[union-attr]  # a clip has frames
        assert np.array_equal(frames, run(task, **changes)[0])
        assert request.task_type == task
    assert set(fresh.loaded.values()) == {"offloaded"}
    prepare(fresh, TaskType.TEXT2IMG, Recorder())
    assert fresh.loaded["sdxl:demo"] == "resident"


def test_a_source_of_any_mode_and_size_is_taken(run: Runner) -> None:
    for source in (picture(7, 5), picture(500, 33).convert("L")):
        assert run("img2img", sources=Sources(source))[0].shape == (64, 64, 3)
        assert run("img2video", sources=Sources(source))[0].shape == (5, 64, 64, 3)
