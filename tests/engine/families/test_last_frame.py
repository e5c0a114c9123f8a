"""A clip ends with the requested last frame, if its model takes one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.engine.conftest import Runner, engine_of, runner
from tests.support import last_frames
from tests.support.engine_jobs import Recorder, picture
from tests.support.memory_world import World
from tools import showing
from worker.core.config import OwnDefaults, Settings
from worker.core.errors import Cancelled
from worker.core.types import Sources, TaskType
from worker.engine.models.registry import ModelRegistry

FIRST, LAST = picture(seed=0), picture(seed=1)
BOTH = Sources(image=FIRST, end=LAST)


@pytest.fixture(scope="module")
def folders(wan_i2v: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = tmp_path_factory.mktemp("ends")
    return {
        "experts": last_frames.with_experts(wan_i2v, made / "experts"),
        "first-to-last": last_frames.first_to_last(wan_i2v, made / "first-to-last"),
    }


@pytest.fixture(scope="module")
def experts(demo_settings: Settings, folders: dict[str, Path]) -> Runner:
    return runner(engine_of(demo_settings, wan_i2v_model=str(folders["experts"])))


def _clip(start: Runner, sources: Sources, **changes: Any) -> NDArray[np.uint8]:
    (clip,) = start("img2video", sources=sources, **changes)
    return clip


def test_each_layout_says_whether_it_takes_one(
    demo_settings: Settings, folders: dict[str, Path], wan_i2v: Path
) -> None:
    asked = {**folders, "2.1": wan_i2v}
    engines = {name: engine_of(demo_settings, wan_i2v_model=str(folder)) for name, folder in asked.items()}
    said = {name: engine.describe(TaskType.IMG2VIDEO).end_image for name, engine in engines.items()}
    assert said == {"experts": "optional", "first-to-last": "required", "2.1": "no"}
    read = {name: engine.describe(TaskType.IMG2VIDEO).most_chunks for name, engine in engines.items()}
    assert read == {"experts": None, "first-to-last": 1, "2.1": 1}
    settings = demo_settings.model_copy(update={"wan_i2v_model": None})
    for held, says in ((None, "optional"), (True, "optional"), (False, "no")):
        own = {} if held is None else {"demo": OwnDefaults(hold_end_image=held)}
        asking = ModelRegistry(settings.model_copy(update={"model_defaults": own}), cuda=False, where=())
        assert asking.describe(TaskType.IMG2VIDEO).end_image == says


def test_a_model_that_holds_its_first_picture_holds_the_last_in_the_same_way(demo_settings: Settings) -> None:
    """With TI2V's layout the clip ends at the last frame, or where it began; the next clip is unaffected."""
    start = runner(engine_of(demo_settings))
    size = {"width": 64, "height": 64, "num_frames": 13}
    first, last = (Image.new("RGB", (64, 64), colour) for colour in ((40, 90, 200), (240, 210, 60)))
    control = Recorder()
    plain = _clip(start, Sources(image=first), **size)
    there = _clip(start, Sources(image=first, end=last), control=control, **size)
    loop = _clip(start, Sources(image=first, end=first), **size)
    assert control.warnings == []
    for clip, begin, end in ((there, first, last), (loop, first, first)):
        assert _distance(clip[0], begin) < 20
        assert _distance(clip[-1], end) < 20
    assert _distance(plain[-1], last) > 80
    assert np.array_equal(_clip(start, Sources(image=first), **size), plain)


def _distance(frame: NDArray[np.uint8], image: Image.Image) -> float:
    return float(np.abs(frame.astype(float) - np.asarray(image, dtype=float)).mean())


def test_the_last_picture_counts_and_the_next_job_knows_nothing_of_it(experts: Runner) -> None:
    plain, with_end, other, again = (
        _clip(experts, sources)
        for sources in (
            Sources(image=FIRST),
            BOTH,
            Sources(image=FIRST, end=picture(seed=2)),
            Sources(image=FIRST),
        )
    )
    assert not np.array_equal(plain, with_end)
    assert not np.array_equal(with_end, other)
    assert np.array_equal(plain, again)


@pytest.mark.parametrize("layout", ["experts", "first-to-last"])
def test_a_loop_is_the_same_picture_twice(demo_settings: Settings, folders: dict[str, Path], layout: str) -> None:
    start = runner(engine_of(demo_settings, wan_i2v_model=str(folders[layout])))
    loop, changing = _clip(start, Sources(image=FIRST, end=FIRST)), _clip(start, BOTH)
    assert loop.shape == (5, 64, 64, 3)
    assert not np.array_equal(loop, changing)


@pytest.mark.parametrize("layout", ["experts", "first-to-last"])
def test_the_frames_are_those_of_the_pipeline_itself(
    demo_settings: Settings, folders: dict[str, Path], layout: str
) -> None:
    import torch
    from diffusers import WanImageToVideoPipeline

    kind: Any = WanImageToVideoPipeline
    pipeline = kind.from_pretrained(folders[layout], dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    scheduler = pipeline.scheduler
    pipeline.scheduler = type(scheduler).from_config(scheduler.config, flow_shift=5.0)
    frames = pipeline(
        image=FIRST,
        last_image=LAST,
        prompt="a red circle",
        negative_prompt="",
        width=64,
        height=64,
        num_frames=5,
        num_inference_steps=2,
        generator=torch.Generator("cpu").manual_seed(7),
        output_type="pil",
    ).frames[0]
    ours = _clip(runner(engine_of(demo_settings, wan_i2v_model=str(folders[layout]))), BOTH, flow_shift=5.0)
    assert np.array_equal(ours, np.stack([np.asarray(frame) for frame in frames]))


def test_it_is_cut_to_size_as_the_first_is(experts: Runner) -> None:
    control = Recorder()
    wide = picture(128, 64, seed=1)
    cropped = _clip(experts, Sources(image=FIRST, end=wide), control=control)
    assert [warning.partition(": ")[0] for warning in control.warnings] == ["end_image_url"]
    inner = wide.crop((32, 0, 96, 64))
    assert np.array_equal(cropped, _clip(experts, Sources(image=FIRST, end=inner)))


async def test_a_request_goes_through_the_whole_worker(
    demo_settings: Settings, folders: dict[str, Path], wan_i2v: Path
) -> None:
    first, last = map(showing.data_uri, (FIRST, LAST))
    job = {"task_type": "img2video", "prompt": "a red circle", "image_url": first, "end_image_url": last, "seed": 7}
    job |= {"video_width": 64, "video_height": 64, "num_frames": 5, "num_inference_steps": 2}
    world = World()
    world.generator = engine_of(demo_settings, wan_i2v_model=str(folders["experts"]))  # type: ignore[assignment]
    answer = await world.run(job)
    assert answer["warnings"] == []
    assert answer["video_info"]["frames"] == 5
    assert answer["videos"] != (await world.run({**job, "end_image_url": first}))["videos"]
    assert answer["videos"] == (await world.run(job))["videos"]
    capable = await world.run({"action": "capabilities"})
    assert [model["end_image"] for model in capable["models"]["img2video"]] == ["optional", "optional"]
    without = engine_of(demo_settings, wan_i2v_model=str(wan_i2v))
    world.generator = without  # type: ignore[assignment]
    refused = await world.run(job)
    assert refused["error"].startswith("invalid_input: end_image_url: must be null: this model")
    assert without.loaded == {}


def test_a_cancelled_clip_leaves_nothing_behind(experts: Runner) -> None:
    before = _clip(experts, BOTH, num_inference_steps=4)
    with pytest.raises(Cancelled):
        _clip(experts, Sources(image=LAST, end=FIRST), num_inference_steps=4, control=Recorder(cancel_at=2))
    assert np.array_equal(_clip(experts, BOTH, num_inference_steps=4), before)
