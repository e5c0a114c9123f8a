"""Wan's two tasks in the three layouts: TI2V (the demo model), Wan 2.1 T2V and Wan 2.1 I2V."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from numpy.typing import NDArray

from tests.engine.conftest import Runner, engine_of, runner
from tests.support.engine_jobs import Recorder, picture
from tests.support.small_models import wan_experts
from worker.api.params import Draft
from worker.core.config import Settings
from worker.core.errors import Cancelled
from worker.core.types import Sources, TaskType
from worker.engine.engine import Engine

VIDEO_TASKS = ("text2video", "img2video")


@pytest.fixture(scope="module")
def run_21(demo_settings: Settings, wan_t2v: Path, wan_i2v: Path) -> Runner:
    return runner(engine_of(demo_settings, wan_model=str(wan_t2v), wan_i2v_model=str(wan_i2v)))


@pytest.mark.parametrize("task", VIDEO_TASKS)
@pytest.mark.parametrize(("width", "height", "frames"), [(64, 64, 5), (80, 96, 9)])
def test_a_clip_has_the_shape_asked_for(run: Runner, task: str, width: int, height: int, frames: int) -> None:
    (clip,) = run(task, width=width, height=height, num_frames=frames)
    assert clip.shape == (frames, height, width, 3)
    assert clip.dtype == np.uint8
    assert clip.flags.c_contiguous
    assert clip.std() > 1


@pytest.mark.parametrize("task", VIDEO_TASKS)
def test_wan_21_checkpoints_run_in_their_own_layouts(run_21: Runner, task: str) -> None:
    first, again, other = (run_21(task, seed=seed)[0] for seed in (1, 1, 2))
    assert first.shape == (5, 64, 64, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_large_clip_is_drawn_small_and_finished_at_its_size(run: Runner, run_21: Runner) -> None:
    asked: dict[str, Any] = {"width": 128, "height": 96, "num_inference_steps": 4}
    for start in (run, run_21):
        control = Recorder()
        (clip,) = start("text2video", draft=Draft(64, 48, 0.5), control=control, **asked)
        assert clip.shape == (5, 96, 128, 3)
        assert control.steps == [1, 2, 3, 4, 5, 6]
        assert control.progress[-1].total_steps == 6
        (again,) = start("text2video", draft=Draft(64, 48, 0.5), **asked)
        assert np.array_equal(clip, again)


def test_a_clip_is_finished_from_what_was_drawn_small(run: Runner) -> None:
    asked: dict[str, Any] = {"width": 128, "height": 96, "num_inference_steps": 5}
    (small,) = run("text2video", **asked | {"width": 64, "height": 48})
    (drafted,) = run("text2video", draft=Draft(64, 48, 0.2), **asked)
    (in_one,) = run("text2video", **asked)
    away = [np.abs(_halved(clip) - small.astype(np.float32)).mean() for clip in (drafted, in_one)]
    assert away[0] < away[1]


def test_the_flows_own_euler_finishes_a_draft_too(demo_settings: Settings, wan_t2v: Path, tmp_path: Path) -> None:
    folder = tmp_path / "euler"
    shutil.copytree(wan_t2v, folder)
    shutil.rmtree(folder / "scheduler")
    euler: Any = FlowMatchEulerDiscreteScheduler
    euler(shift=5.0).save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    start = runner(engine_of(demo_settings, wan_model=str(folder)))
    control = Recorder()
    (clip,) = start(
        "text2video", width=128, height=96, num_inference_steps=4, draft=Draft(64, 48, 0.5), control=control
    )
    assert clip.shape == (5, 96, 128, 3)
    assert control.steps == [1, 2, 3, 4, 5, 6]


def _halved(clip: NDArray[np.uint8]) -> NDArray[np.float32]:
    frames, height, width, _ = clip.shape
    halved: NDArray[np.float32] = clip.reshape(frames, height // 2, 2, width // 2, 2, 3).astype(np.float32).mean((2, 4))
    return halved


@pytest.mark.parametrize("change", [{"seed": 8}, {"num_inference_steps": 3}, {"prompt": "a cat"}, {"flow_shift": 7.0}])
@pytest.mark.parametrize("task", VIDEO_TASKS)
def test_seed_steps_prompt_and_shift_reach_the_model(run: Runner, task: str, change: dict[str, float]) -> None:
    (before,) = run(task)
    (changed,) = run(task, **change)
    assert not np.array_equal(before, changed)


@pytest.mark.parametrize("task", VIDEO_TASKS)
def test_the_shift_of_one_job_does_not_reach_the_next(run: Runner, task: str) -> None:
    (before,) = run(task, flow_shift=3.0)
    run(task, flow_shift=9.0)
    (after,) = run(task, flow_shift=3.0)
    assert np.array_equal(before, after)


def test_the_source_picture_reaches_the_clip(run: Runner, run_21: Runner) -> None:
    for start in (run, run_21):
        one, other = (start("img2video", sources=Sources(picture(seed=seed)))[0] for seed in (1, 2))
        assert not np.array_equal(one, other)


def test_a_source_of_other_proportions_is_cropped_and_told(run: Runner) -> None:
    control = Recorder()
    run("img2video", sources=Sources(picture(128, 64)), control=control)
    assert any("cropped" in warning for warning in control.warnings)


@pytest.mark.parametrize("task", VIDEO_TASKS)
def test_a_cancel_at_step_3_stops_within_the_step_and_leaves_nothing(run: Runner, task: str) -> None:
    (before,) = run(task, num_inference_steps=6)
    control = Recorder(cancel_at=3)
    with pytest.raises(Cancelled):
        run(task, control=control, num_inference_steps=6)
    assert control.steps == [1, 2, 3]
    (after,) = run(task, num_inference_steps=6)
    assert np.array_equal(before, after)


class Told(Recorder):
    """Stops the job at a given point within a part of it."""

    def __init__(self, part: str = "", share: float = 2.0) -> None:
        super().__init__()
        self.part, self.share = part, share

    def raise_if_stopped(self) -> None:
        if self.shares(self.part)[-1:] >= [self.share]:
            raise Cancelled

    def shares(self, part: str) -> list[float]:
        return [round(progress.share, 3) for progress in self.progress if progress.part == part]


def test_a_decode_is_told_from_one_latent_frame_to_the_next(run: Runner, run_21: Runner) -> None:
    for start in (run, run_21):
        control = Told()
        start("text2video", num_frames=13, control=control)
        assert control.shares("decode") == [0.0, 0.25, 0.5, 0.75, 1.0]
        assert {(progress.step, progress.total_steps) for progress in control.progress if progress.part} == {(2, 2)}


def test_a_decode_in_tiles_is_told_from_tile_to_tile(engine: Engine, run: Runner) -> None:
    run("text2video")
    vae = engine._cache[engine.registry.spec(TaskType.TEXT2VIDEO)].parts.vae
    vae.enable_tiling()
    try:
        control = Told()
        run("text2video", width=320, height=288, num_frames=5, num_inference_steps=1, control=control)
    finally:
        vae.disable_tiling()
    shares = control.shares("decode")
    assert (shares[0], shares[-1], len(shares)) == (0.0, 1.0, 1 + 2 * 2 * 2)
    assert shares == sorted(set(shares))


def test_the_encodes_of_a_source_and_of_a_draft_are_told(run: Runner, run_21: Runner) -> None:
    for start, frames in ((run, [0.0, 1.0]), (run_21, [0.0, 0.5, 1.0])):
        control = Told()
        start("img2video", num_frames=5, control=control)
        assert control.shares("encode") == frames
    control = Told()
    run("text2video", width=128, height=96, num_inference_steps=4, draft=Draft(64, 48, 0.5), control=control)
    assert control.shares("encode") == [0.0, 0.5, 1.0]
    assert control.shares("decode") == [0.0, 0.5, 1.0] * 2


@pytest.mark.parametrize("part", ["decode", "encode"])
def test_a_cancel_between_latent_frames_stops_there_and_leaves_nothing(run: Runner, part: str) -> None:
    asked: dict[str, Any] = {"num_frames": 13, "width": 128, "height": 96, "draft": Draft(64, 48, 0.5)}
    (before,) = run("text2video", **asked)
    control = Told(part, share=0.5)
    with pytest.raises(Cancelled):
        run("text2video", control=control, **asked)
    assert control.shares(part) == [0.0, 0.25, 0.5]
    (after,) = run("text2video", **asked)
    assert np.array_equal(before, after)


def test_the_bytes_are_those_of_the_pipeline_itself(demo_models: Path, run: Runner) -> None:
    """Our own decode rounds as diffusers' PIL output does."""
    from diffusers import WanPipeline

    kind: type = WanPipeline
    pipeline = kind.from_pretrained(  # type: ignore[attr-defined]  # diffusers is partly typed
        demo_models / "wan", dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    config = pipeline.scheduler.config
    pipeline.scheduler = type(pipeline.scheduler).from_config(config, flow_shift=5.0)
    frames = pipeline(
        prompt="a red circle",
        negative_prompt="",
        width=64,
        height=64,
        num_frames=5,
        num_inference_steps=2,
        generator=torch.Generator("cpu").manual_seed(7),
        output_type="pil",
    ).frames[0]
    (ours,) = run("text2video", flow_shift=5.0)
    assert np.array_equal(ours, np.stack([np.asarray(frame) for frame in frames]))


def test_each_of_two_experts_has_its_own_guidance(demo_settings: Settings, wan_t2v: Path, tmp_path: Path) -> None:
    """Wan 2.2 A14B's layout: one network for high noise, one for low noise."""
    folder = wan_experts(wan_t2v, tmp_path / "experts")
    start = runner(engine_of(demo_settings, wan_model=str(folder)))
    (plain,), (same,), (other,) = (
        start("text2video", num_inference_steps=4, guidance_scale=4.0, guidance_scale_2=low) for low in (None, 4.0, 1.5)
    )
    assert np.array_equal(plain, same)
    assert not np.array_equal(plain, other)
