"""Compiled blocks: compiled while the worker is idle, used by jobs of every size, and never by one with adapters.

The compiler is a stand-in here that runs the traced code unchanged, and counts: tracing is torch's own, so graphs,
breaks and calls that do not fit are real. `test_compiled_pixels.py` has the real compiler.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch._dynamo.utils import counters

from tests.engine.conftest import Runner, engine_of, runner
from tests.support.engine_jobs import Recorder, image_params, picture
from worker.api.params import StepCache
from worker.core.config import load_settings
from worker.core.errors import Cancelled
from worker.core.types import Expert, LoraFile, Sources
from worker.engine.engine import Engine
from worker.engine.speed.compile import Compiler, Mode

pytestmark = pytest.mark.timeout(900)  # tracing runs in Python, on however few cores
CLIP = {"num_inference_steps": 2, "num_frames": 5}
BOTH = {"num_inference_steps": 4, "num_frames": 5}
"""Enough steps for both experts to have some."""


class Counting:
    """A backend that runs traced code unchanged, and counts graphs and their calls."""

    def __init__(self) -> None:
        self.graphs = self.calls = 0
        self.spoil: Callable[[Any], Any] = lambda outputs: outputs

    def __call__(self, graph: Any, _inputs: Any) -> Callable[..., Any]:
        self.graphs += 1

        def run(*args: Any) -> Any:
            self.calls += 1
            return self.spoil(graph(*args))

        return run


class Studio:
    """An engine that compiles with the stand-in, and one that does not compile at all."""

    def __init__(self, mode: Mode = "regional", **models: Path) -> None:
        def engine(compiles: str) -> Engine:
            return engine_of(load_settings(compile=compiles, **{name: str(path) for name, path in models.items()}))

        self.backend: Any = Counting()
        self.engine, self.plain = engine(mode), engine("off")
        self.engine._compiler = Compiler(mode, Path("/nowhere/compiled"), card="cpu", backend=self.backend)
        self.run: Runner = runner(self.engine)
        self.run_plain: Runner = runner(self.plain)

    def states(self) -> dict[str, str]:
        return {name: one.state for entry in self.engine._cache.entries for name, one in entry.compiled.items()}

    def warm_up(self, task: str, **job: Any) -> int:
        """Run one job, and then all idle work; returns how many pieces that was."""
        self.run(task, **job)
        pieces = 0
        while self.engine.use_idle_moment():
            pieces += 1
        return pieces


@pytest.fixture(scope="module")
def images(small_sdxl: Path) -> Studio:
    studio = Studio(sdxl_model=small_sdxl)
    assert studio.warm_up("text2img") == 2  # with guidance and without, of one kind of block
    return studio


@pytest.fixture(scope="module")
def experts(wan_t2v: Path, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """Wan 2.2 A14B's layout: one network for high noise, another for low noise."""
    from tests.support.small_models import wan_experts

    studio = Studio(wan_model=wan_experts(wan_t2v, tmp_path_factory.mktemp("a14b") / "experts"))
    (first,), (plain,) = studio.run("text2video", **BOTH), studio.run_plain("text2video", **BOTH)
    assert np.array_equal(first, plain)
    assert studio.states() == {"transformer": "seen", "transformer_2": "seen"}
    assert [studio.engine.use_idle_moment() for _ in range(3)] == [True, True, False]
    return studio


@pytest.fixture(scope="module")
def clips(wan_t2v: Path) -> Studio:
    studio = Studio(wan_model=wan_t2v)
    assert studio.warm_up("text2video", **CLIP) == 1
    return studio


def same_and_compiled(studio: Studio, task: str, **job: Any) -> None:
    graphs, calls = studio.backend.graphs, studio.backend.calls
    compiled, plain = studio.run(task, **job), studio.run_plain(task, **job)
    assert studio.backend.graphs == graphs, "a job compiled"
    assert studio.backend.calls > calls, "nothing ran compiled"
    assert all(np.array_equal(one, other) for one, other in zip(compiled, plain, strict=True))


@pytest.mark.parametrize(
    "job",
    [
        {},
        {"width": 96, "height": 64},
        {"width": 128, "height": 160, "num_inference_steps": 2},
        {"guidance_scale": 1.0},
        {"guidance_scale": 1.0, "width": 80, "height": 128},
        {"guidance_scale": 9.0, "seeds": (3, 4)},
        {"prompt": "a red circle, " * 40},
    ],
    ids=str,
)
def test_images_of_every_size_guidance_and_length_of_prompt_run_on_two_graphs(images: Studio, job: Any) -> None:
    same_and_compiled(images, "text2img", **job)


@pytest.mark.parametrize("task", ["img2img", "inpaint"])
def test_other_tasks_of_the_model_run_on_the_same_graphs(images: Studio, task: str) -> None:
    same_and_compiled(images, task)


@pytest.mark.parametrize(
    "job",
    [
        {},
        {"width": 96, "height": 64},
        {"width": 64, "height": 128, "num_frames": 9, "num_inference_steps": 3},
        {"guidance_scale": 1.0},
    ],
    ids=str,
)
def test_clips_of_every_size_and_length_run_on_one_graph(clips: Studio, job: Any) -> None:
    same_and_compiled(clips, "text2video", **(CLIP | job))


def test_no_graph_breaks_and_there_is_one_for_each_kind_and_batch(images: Studio, clips: Studio) -> None:
    assert (images.backend.graphs, clips.backend.graphs) == (2, 1)
    assert not counters["graph_break"]


def test_a_job_with_loras_runs_as_if_nothing_were_compiled(images: Studio, tmp_path: Path) -> None:
    from tests.support import loras

    parts: Any = images.engine._cache.entries[0].parts
    path = loras.lora(tmp_path / "one.safetensors", {"unet": parts.unet})
    given = Sources(loras=(LoraFile("loras.0", path, 1.0),))
    calls = images.backend.calls
    hung, plain = images.run("text2img", sources=given), images.run_plain("text2img", sources=given)
    assert images.backend.calls == calls
    assert np.array_equal(hung[0], plain[0])
    assert not np.array_equal(hung[0], images.run_plain("text2img")[0])
    same_and_compiled(images, "text2img")


def test_a_job_that_skips_steps_runs_as_if_nothing_were_compiled(clips: Studio) -> None:
    job, calls = {**CLIP, "step_cache": StepCache("first_block", 0.2)}, clips.backend.calls
    (cached,), (plain,) = clips.run("text2video", **job), clips.run_plain("text2video", **job)
    assert clips.backend.calls == calls
    assert np.array_equal(cached, plain)
    same_and_compiled(clips, "text2video", **CLIP)


@pytest.mark.parametrize("hung", ["references", "controls", ""])
def test_pictures_that_steer_a_network_keep_it_as_it_is(images: Studio, hung: str) -> None:
    entry = images.engine._cache.entries[0]
    unet: Any = entry.parts.modules()["unet"]
    blocks = [block for block in unet.modules() if type(block).__name__ == "BasicTransformerBlock"]
    given: dict[str, Any] = {hung: (picture(),)} if hung else {}
    with images.engine._compiled(entry, image_params(), Sources(**given)):
        assert {block._compiled_call_impl is not None for block in blocks} == {not hung}
    assert {block._compiled_call_impl for block in blocks} == {None}


def test_a_job_that_is_cancelled_leaves_the_network_as_it_is_outside_of_a_job(clips: Studio) -> None:
    with pytest.raises(Cancelled):
        clips.run("text2video", **CLIP, control=Recorder(cancel_at=1))
    parts: Any = clips.engine._cache.entries[0].parts
    assert all(block._compiled_call_impl is None for block in parts.transformer.blocks)
    same_and_compiled(clips, "text2video", **CLIP)


def test_where_it_is_off_there_is_no_compiler_and_nothing_to_do(images: Studio) -> None:
    images.run_plain("text2img")
    assert images.plain._compiler is None
    assert not images.plain.use_idle_moment()
    assert all(not entry.compiled for entry in images.plain._cache.entries)


def test_the_first_jobs_run_as_if_nothing_were_to_be_compiled(wan_t2v: Path) -> None:
    studio = Studio(wan_model=wan_t2v)
    assert not studio.engine.use_idle_moment()
    with pytest.raises(Cancelled):
        studio.run("text2video", **CLIP, control=Recorder(cancel_at=1))
    assert not studio.engine.use_idle_moment()
    (first,), (second,), (plain,) = (run("text2video", **CLIP) for run in (studio.run, studio.run, studio.run_plain))
    assert np.array_equal(first, plain)
    assert np.array_equal(second, plain)
    assert studio.states() == {"transformer": "seen"}
    assert studio.backend.graphs == 0
    parts: Any = studio.engine._cache.entries[0].parts
    assert not any(block._forward_pre_hooks for block in parts.transformer.blocks)


def fails(_graph: Any, _inputs: Any) -> Any:
    raise RuntimeError("no compiler")


def half(outputs: Any) -> Any:
    return tuple(one / 2 for one in outputs)


@pytest.mark.parametrize("illness", ["no compiler", "wrong numbers"])
def test_what_cannot_be_compiled_is_said_once_and_costs_no_job_anything(
    wan_t2v: Path, illness: str, caplog: pytest.LogCaptureFixture
) -> None:
    studio = Studio(wan_model=wan_t2v)
    studio.backend.spoil = half
    if illness == "no compiler":
        compiler: Any = studio.engine._compiler
        compiler._backend = fails
    with caplog.at_level(logging.INFO, "worker"):
        assert studio.warm_up("text2video", **CLIP) == 1
        (after,), (plain,) = studio.run("text2video", **CLIP), studio.run_plain("text2video", **CLIP)
        assert not studio.engine.use_idle_moment()
    assert [record.getMessage() for record in caplog.records if getattr(record, "action", "") == "compile_failed"]
    assert sum(getattr(record, "action", "") in {"compile_failed", "compiled"} for record in caplog.records) == 1
    assert studio.states() == {"transformer": "off"}
    assert np.array_equal(after, plain)


def test_what_fails_in_a_job_is_computed_as_it_is_from_there_on(
    wan_t2v: Path, caplog: pytest.LogCaptureFixture
) -> None:
    studio = Studio(wan_model=wan_t2v)
    studio.warm_up("text2video", **CLIP)

    def break_down(_outputs: Any) -> Any:
        raise RuntimeError("a kernel was not found")

    studio.backend.spoil = break_down
    with caplog.at_level(logging.INFO, "worker"):
        (broken,), (plain,) = studio.run("text2video", **CLIP), studio.run_plain("text2video", **CLIP)
        (after,) = studio.run("text2video", **CLIP)
    assert sum(getattr(record, "action", "") == "compile_failed" for record in caplog.records) == 1
    assert np.array_equal(broken, plain)
    assert np.array_equal(after, plain)


def test_a_unet_that_stays_on_the_card_can_be_one_graph_and_what_does_not_fit_it_runs_as_it_is(
    small_sdxl: Path,
) -> None:
    studio = Studio("full", sdxl_model=small_sdxl)
    studio.run("text2img", guidance_scale=1.0)
    (entry,) = studio.engine._cache.entries
    one, unet = entry.compiled["unet"], entry.parts.modules()["unet"]
    one.pieces.pop()  # of the two batches, keep only that of this job
    assert studio.engine.use_idle_moment()
    assert (studio.backend.graphs, studio.states()) == (1, {"unet": "ready"})
    same_and_compiled(studio, "img2img", width=64, height=128, guidance_scale=1.0)
    calls = studio.backend.calls
    (guided,), (plain,) = studio.run("text2img"), studio.run_plain("text2img")
    assert (studio.backend.graphs, studio.backend.calls) == (1, calls)
    assert np.array_equal(guided, plain)
    entry.offloader.mode = "offloaded"  # as if it had been moved off the card
    with studio.engine._compiled(entry, image_params(), Sources()):
        assert unet._compiled_call_impl is None


def test_a_model_that_leaves_takes_what_was_compiled_of_it_along(wan_t2v: Path) -> None:
    import gc
    import weakref

    studio = Studio(wan_model=wan_t2v)
    studio.warm_up("text2video", **CLIP)
    parts: Any = studio.engine._cache.entries[0].parts
    weights = weakref.ref(next(parts.transformer.parameters()))
    del parts
    studio.engine.unload()
    gc.collect()
    assert weights() is None


# Last, since these blocks are of the kind of `clips`: torch does not run code that another backend has compiled, and
# each studio has its own. A worker has one.


@pytest.mark.parametrize(
    "job",
    [{}, {"width": 96, "height": 64}, {"num_frames": 9, "guidance_scale_2": 1.0}],
    ids=str,
)
def test_clips_of_two_experts_run_compiled_on_both(experts: Studio, job: Any) -> None:
    same_and_compiled(experts, "text2video", **(BOTH | job))
    assert experts.backend.graphs == 1, "of one kind of block, whichever expert has it"
    assert not counters["graph_break"]


def test_the_experts_change_over_once_in_a_job_and_both_run_compiled(
    experts: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    (entry,), ran = experts.engine._cache.entries, []
    for name, one in entry.compiled.items():
        for module, call in one.calls.items():

            def noted(*args: Any, _name: str = name, _call: Any = call, **options: Any) -> Any:
                ran.append(_name)
                return _call(*args, **options)

            monkeypatch.setitem(one.calls, module, noted)
    same_and_compiled(experts, "text2video", **BOTH)
    blocks, guided = 2, 2
    assert len(ran) == BOTH["num_inference_steps"] * guided * blocks
    assert ran == sorted(ran), "that for much noise first, and not again"
    assert set(ran) == {"transformer", "transformer_2"}


@pytest.mark.parametrize("expert", ["high", "low"])
def test_a_lora_on_one_expert_keeps_both_as_they_are(experts: Studio, tmp_path: Path, expert: Expert) -> None:
    from tests.support import loras

    parts: Any = experts.engine._cache.entries[0].parts
    path = loras.lora(tmp_path / "one.safetensors", {"transformer": parts.transformer}, "wan")
    given = Sources(loras=(LoraFile("loras.0", path, 1.0, expert),))
    calls = experts.backend.calls
    (hung,), (plain,) = (run("text2video", sources=given, **BOTH) for run in (experts.run, experts.run_plain))
    assert experts.backend.calls == calls
    assert np.array_equal(hung, plain)
    assert not np.array_equal(hung, experts.run_plain("text2video", **BOTH)[0])
    same_and_compiled(experts, "text2video", **BOTH)
