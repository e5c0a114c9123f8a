"""Skipped steps: fewer calls of most blocks, the same clip where none may be skipped, and nothing left behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from tests.engine.conftest import Runner, engine_of, parts_of, runner
from tests.support.engine_jobs import Recorder
from worker.api.params import Draft, StepCache
from worker.core.config import load_settings
from worker.core.errors import Cancelled
from worker.core.types import TaskType
from worker.engine.engine import Engine

JOB: dict[str, Any] = {"num_inference_steps": 8, "num_frames": 5}
EAGER = StepCache("first_block", 1.0)
KINDS = [EAGER, StepCache("sea", 1.0)]


@pytest.fixture(scope="module")
def wan(wan_t2v: Any, wan_i2v: Any) -> Engine:
    return engine_of(load_settings(wan_model=str(wan_t2v), wan_i2v_model=str(wan_i2v)))


@contextmanager
def computed(net: Any) -> Iterator[list[int]]:
    """Count calls of the last block's feed-forward network: one for each prediction that is computed in full."""
    calls: list[int] = []
    hook = net.blocks[-1].ffn.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        yield calls
    finally:
        hook.remove()


@pytest.mark.parametrize("kind", KINDS, ids=lambda one: one.kind)
def test_most_blocks_are_called_less_often_and_a_plain_job_afterwards_is_as_before(
    wan: Engine, kind: StepCache
) -> None:
    run, net = runner(wan), parts_of(wan, TaskType.TEXT2VIDEO).transformer
    names, hooks = sorted(net.state_dict()), [len(block._forward_pre_hooks) for block in net.blocks]
    with computed(net) as plain:
        (before,) = run("text2video", **JOB)
    with computed(net) as fewer:
        (skipped,) = run("text2video", **JOB, step_cache=kind)
    with computed(net) as again:
        (after,) = run("text2video", **JOB)
    assert len(plain) == len(again) == 2 * JOB["num_inference_steps"]
    assert 2 <= len(fewer) < len(plain)
    assert np.array_equal(before, after)
    assert not np.array_equal(before, skipped)
    assert sorted(net.state_dict()) == names
    assert [len(block._forward_pre_hooks) for block in net.blocks] == hooks
    assert not net.is_cache_enabled


def test_where_nothing_may_have_changed_every_step_is_computed_and_the_clip_is_the_same(wan: Engine) -> None:
    run, net = runner(wan), parts_of(wan, TaskType.TEXT2VIDEO).transformer
    (plain,) = run("text2video", **JOB)
    with computed(net) as calls:
        (cached,) = run("text2video", **JOB, step_cache=StepCache("first_block", 0.0))
    assert len(calls) == 2 * JOB["num_inference_steps"]
    assert np.array_equal(plain, cached)


def test_more_may_be_skipped_the_further_the_clip_is_from_the_plain_one(wan: Engine) -> None:
    run, net = runner(wan), parts_of(wan, TaskType.TEXT2VIDEO).transformer
    (plain,) = run("text2video", **JOB)
    found: list[tuple[int, float]] = []
    for threshold in (0.0, 0.05, 1.0):
        with computed(net) as calls:
            (clip,) = run("text2video", **JOB, step_cache=StepCache("first_block", threshold))
        found.append((len(calls), float(np.abs(clip.astype(float) - plain.astype(float)).mean())))
    assert [calls for calls, _ in found] == sorted((calls for calls, _ in found), reverse=True)
    assert [away for _, away in found] == sorted(away for _, away in found)
    assert found[0][1] == 0 < found[-1][1]


def test_a_job_that_is_cancelled_leaves_nothing_of_it(wan: Engine) -> None:
    run, net = runner(wan), parts_of(wan, TaskType.TEXT2VIDEO).transformer
    (before,) = run("text2video", **JOB)
    with pytest.raises(Cancelled):
        run("text2video", **JOB, step_cache=EAGER, control=Recorder(cancel_at=3))
    assert not net.is_cache_enabled
    (after,) = run("text2video", **JOB)
    assert np.array_equal(before, after)


def test_a_clip_of_two_passes_starts_each_with_nothing_kept(wan: Engine) -> None:
    run = runner(wan)
    job = JOB | {"width": 128, "height": 96, "draft": Draft(64, 48, 0.5)}
    (clip,) = run("text2video", **job, step_cache=EAGER)
    assert clip.shape == (5, 96, 128, 3)


def test_a_model_that_takes_a_picture_beside_the_latents_says_that_it_cannot_skip_by_them(wan: Engine) -> None:
    run, control = runner(wan), Recorder()
    (plain,) = run("img2video", **JOB)
    (cached,) = run("img2video", **JOB, step_cache=StepCache("sea", 1.0), control=control)
    assert np.array_equal(plain, cached)
    assert [said for said in control.warnings if said.startswith("acceleration: ")]
    (skipped,) = run("img2video", **JOB, step_cache=EAGER)
    assert not np.array_equal(plain, skipped)


def test_the_built_in_model_skips_steps_too(run: Runner) -> None:
    (plain,) = run("img2video", **JOB)
    (skipped,) = run("img2video", **JOB, step_cache=EAGER)
    assert plain.shape == skipped.shape
    assert not np.array_equal(plain, skipped)
