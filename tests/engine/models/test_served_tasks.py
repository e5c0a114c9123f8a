"""The tasks that an endpoint serves, and the downloads that it makes. No weights are loaded, and no hub is asked."""

from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import request_of
from tests.support.clock import until
from tests.support.engine_jobs import Recorder, image_params
from tests.support.model_folders import fake_sdxl, fake_wan, registry
from tests.support.single_file import single_file
from worker.core.config import ConfigError, load_settings
from worker.core.errors import ModelUnavailable
from worker.core.types import TaskType
from worker.engine.engine import Engine
from worker.engine.models import fetch, hub
from worker.engine.models.registry import PINNED

IMAGES = (TaskType.TEXT2IMG, TaskType.IMG2IMG, TaskType.INPAINT, TaskType.UPSCALE)
VIDEOS = (TaskType.TEXT2VIDEO, TaskType.IMG2VIDEO)
SDXL, TI2V = "stabilityai/stable-diffusion-xl-base-1.0", "Wan-AI/Wan2.2-TI2V-5B-Diffusers"


@pytest.mark.parametrize(
    ("named", "served"),
    [
        ({}, (*IMAGES, *VIDEOS)),
        ({"sdxl_model": SDXL}, IMAGES),
        ({"wan_model": TI2V}, VIDEOS),
        ({"wan_i2v_model": "org/i2v"}, (TaskType.IMG2VIDEO,)),
        ({"sdxl_model": SDXL, "wan_model": TI2V}, (*IMAGES, *VIDEOS)),
        ({"sdxl_model": SDXL, "wan_model": TI2V, "tasks": "inpaint, text2video,"}, ("inpaint", "text2video")),
        ({"tasks": "text2img"}, ("text2img",)),
        ({"upscaler_model": "org/upscaler"}, (TaskType.UPSCALE,)),
    ],
)
def test_an_endpoint_serves_what_it_names(named: dict[str, Any], served: tuple[str, ...]) -> None:
    assert load_settings(**named).served_tasks == served


def test_an_endpoint_of_no_task_does_not_start() -> None:
    with pytest.raises(ConfigError, match="TASKS: must list at least one task"):
        load_settings(tasks=",")


@pytest.mark.parametrize("model", [None, TI2V, "anything"])
def test_a_task_that_is_not_served_is_refused_before_any_model_is_looked_at(model: str | None) -> None:
    """One request for a clip used to make an endpoint for images download 29 GB, with the card billed meanwhile."""
    engine = Engine(load_settings(sdxl_model=SDXL), registry=registry(cuda=True, sdxl_model=SDXL))
    with pytest.raises(ModelUnavailable, match=r"does not serve text2video; it serves text2img, img2img, inpaint"):
        engine.describe(TaskType.TEXT2VIDEO, model)
    assert engine.registry.models(TaskType.TEXT2VIDEO) == ()


def nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []

    def download(hub_id: str, *_: object, **__: object) -> Path:
        asked.append(hub_id)
        raise OSError

    monkeypatch.setattr(hub, "download", download)
    return asked


def test_nothing_is_downloaded_for_a_job_once_a_model_that_is_named_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = nothing_is_fetched(monkeypatch)
    here = fake_sdxl(tmp_path / "sdxl")
    engine = Engine(load_settings(), registry=registry(cuda=False, sdxl_model=str(here), wan_model=TI2V))
    engine.describe(TaskType.TEXT2IMG)
    for task in VIDEOS:
        with pytest.raises(ModelUnavailable, match="WAN_MODEL names are not on this worker, and none are downloaded"):
            engine.describe(task)
    with pytest.raises(ModelUnavailable, match="none are downloaded"):
        engine.prepare(request_of(TaskType.TEXT2VIDEO), image_params(), Recorder())
    assert asked == []


@pytest.mark.parametrize("allowed", [None, True])
def test_a_fresh_worker_downloads_its_models_with_the_first_job(
    monkeypatch: pytest.MonkeyPatch, allowed: bool | None
) -> None:
    asked = nothing_is_fetched(monkeypatch)
    engine = Engine(
        load_settings(), registry=registry(cuda=False, where=(), sdxl_model="org/model", allow_downloads=allowed)
    )
    assert engine.describe(TaskType.TEXT2IMG).name == "org/model"
    with pytest.raises(ModelUnavailable, match="could not be read"):
        engine.prepare(request_of(TaskType.TEXT2IMG), image_params(), Recorder())
    until(lambda: not fetch._under_way, 10, "end of the download")
    assert asked == ["org/model"]


@pytest.mark.parametrize("allowed", [None, False])
def test_the_configs_of_a_single_file_are_fetched_for_a_job_unless_the_operator_says_no(
    small_sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: bool | None
) -> None:
    asked = nothing_is_fetched(monkeypatch)
    file = single_file(small_sdxl, tmp_path / "model.safetensors")
    models = registry(cuda=False, sdxl_model=str(file), allow_downloads=allowed)
    engine, request = Engine(load_settings(), registry=models), request_of(TaskType.TEXT2IMG)
    if allowed is None:
        assert engine.describe(TaskType.TEXT2IMG).name == "model.safetensors"
    else:
        with pytest.raises(ModelUnavailable, match=r"configuration of stabilityai.* is not on this worker"):
            engine.describe(TaskType.TEXT2IMG)
    with pytest.raises(ModelUnavailable, match="could not be read" if allowed is None else "ALLOW_DOWNLOADS=false"):
        engine.prepare(request, image_params(), Recorder())
    assert asked == ([PINNED[SDXL]] if allowed is None else [])
    assert engine.preload((TaskType.TEXT2IMG,), Recorder()) == ()
    assert asked[-1:] == [PINNED[SDXL]], "at the start they are fetched in any case"


def test_an_operator_may_say_so_either_way(tmp_path: Path) -> None:
    here = str(fake_wan(tmp_path / "wan"))
    assert registry(cuda=True, wan_model=here, allow_downloads=True).may_download
    assert not registry(cuda=True, allow_downloads=False).may_download
    assert registry(cuda=True, where=()).may_download
    assert not registry(cuda=True, where=(), wan_model=here).may_download


@pytest.mark.parametrize(
    ("named", "asked", "first"),
    [
        ({"sdxl_model": "photo=org/a, anime=org/b"}, ("text2img", None), True),
        ({"sdxl_model": "photo=org/a, anime=org/b"}, ("inpaint", "photo"), True),
        ({"sdxl_model": "photo=org/a, anime=org/b"}, ("img2img", "anime"), False),
        ({"sdxl_model": "org/a", "wan_model": TI2V}, ("text2video", None), False),
        ({"sdxl_model": "org/a", "wan_model": TI2V}, ("text2img", "org/a"), True),
        ({"wan_model": TI2V}, ("img2video", None), True),
        ({"wan_model": "org/t2v", "wan_i2v_model": "org/i2v"}, ("img2video", None), False),
        ({"sdxl_model": "/gone", "wan_model": TI2V}, ("text2video", None), True),
    ],
)
def test_the_first_model_is_what_the_first_task_that_can_be_served_runs_on(
    named: dict[str, Any], asked: tuple[str, str | None], first: bool
) -> None:
    task, model = asked
    assert registry(cuda=True, **named).describe(TaskType(task), model).is_first is first
