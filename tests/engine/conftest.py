"""Fixtures of the engine's tests: built-in models loaded once for all, small ones made once, and one call per run."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.api.params import Upscale
from worker.api.request import REQUESTS, Request
from worker.core.config import Settings, load_settings
from worker.core.types import Control, Sources, TaskType
from worker.engine.engine import Engine
from worker.engine.models.hub import DEMO_MODELS
from worker.engine.models.registry import ModelRegistry
from worker.engine.protocol import GeneratedImage, Placement

if TYPE_CHECKING:  # torch takes seconds to import, and the quick tests here do without it
    from tests.support.engine_jobs import Recorder

Runner = Callable[..., list[NDArray[np.uint8]]]

WITHOUT_TORCH = {
    "test_device.py",
    "test_estimate.py",
    "test_few_steps.py",
    "test_hub.py",
    "test_identity.py",
    "test_ip_adapter_files.py",
    "test_lora_file.py",
    "test_length.py",
    "test_placement.py",
    "test_read_ahead.py",
    "test_registry.py",
    "test_upscaler_file.py",
    "test_weight_files.py",
    "test_work.py",
}
"""All other modules here are `slow`, and not even imported where no slow test is selected."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    slow = collection_path.suffix == ".py" and collection_path.name not in WITHOUT_TORCH
    return True if slow and "not slow" in config.option.markexpr else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # diffusers' schedulers pass tensors to NumPy in a way that NumPy 2 deprecates; that cannot be changed here.
    quiet = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
    for item in items:
        if "tests/engine/" in item.nodeid:
            item.add_marker(quiet)
            if item.path.name not in WITHOUT_TORCH:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def demo_models() -> Path:
    """Return the folder that ships with the worker; tests read it and copy from it."""
    return DEMO_MODELS


@pytest.fixture(scope="session")
def demo_settings(demo_models: Path) -> Settings:
    return load_settings(
        models_dir=demo_models / "none",
        sdxl_model="demo",
        sdxl_refiner="demo",
        wan_model="demo",
        wan_i2v_model="demo",
    )


def engine_of(settings: Settings, **changes: Any) -> Engine:
    """Return an engine on the CPU with these settings, some of them changed."""
    settings = settings.model_copy(update=changes)
    return Engine(settings, registry=ModelRegistry(settings, cuda=False, where=()))


def runs_out(patch: pytest.MonkeyPatch, module: Any, method: str, *, at: int = 1) -> list[int]:
    """Make the `at`-th call of a method run out of memory; every call adds an entry to the returned list."""
    import torch

    calls: list[int] = []
    whole = getattr(module, method)

    def scarce(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return whole(*args, **kwargs)

    patch.setattr(module, method, scarce)
    return calls


@pytest.fixture(scope="session")
def engine(demo_settings: Settings) -> Engine:
    return engine_of(demo_settings)


@pytest.fixture(scope="session")
def small_sdxl(demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support import small_models

    return small_models.sdxl(demo_models / "sdxl", tmp_path_factory.mktemp("small") / "sdxl")


@pytest.fixture(scope="session")
def wan_t2v(demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support import small_models

    return small_models.wan_21(demo_models / "wan", tmp_path_factory.mktemp("t2v") / "wan-t2v", image_to_video=False)


@pytest.fixture(scope="session")
def wan_i2v(demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support import small_models

    return small_models.wan_21(demo_models / "wan", tmp_path_factory.mktemp("i2v") / "wan-i2v", image_to_video=True)


@pytest.fixture(scope="session")
def run(engine: Engine) -> Runner:
    """Return a function that runs a small job with these parameters, giving each picture's pixels or [the frames]."""
    return runner(engine)


def runner(engine: Engine) -> Runner:
    from tests.support.engine_jobs import Recorder, image_params, sources_of, video_params

    def start(
        task_type: str, *, control: "Recorder | None" = None, sources: Sources | None = None, **changes: Any
    ) -> list[NDArray[np.uint8]]:
        request = request_of(TaskType(task_type))
        is_video = task_type.endswith("video")
        if task_type in {"img2img", "inpaint"}:
            changes = {"strength": 0.7} | changes
        if task_type == "upscale":
            changes = {"enlarges": True, "upscale": Upscale(2, 128, 128, "demo", 0.7, (128, 128))} | changes
        params = video_params(**changes) if is_video else image_params(**changes)
        given = sources_of(task_type) if sources is None else sources
        pictures = engine.generate(request, params, given, control or Recorder())
        return [picture.pixels if isinstance(picture, GeneratedImage) else picture.frames for picture in pictures]

    return start


def request_of(task_type: TaskType) -> Request:
    """Return a request of this task with only its required fields; the engine reads only its task."""
    urls = dict.fromkeys(("image_url", "mask_url"), "https://example.com/a.png")
    model = REQUESTS[task_type]
    fields: dict[str, Any] = {name: url for name, url in urls.items() if name in model.model_fields}
    if task_type is TaskType.UPSCALE:
        fields |= {"upscale_factor": 2}
    return model.model_validate({"task_type": task_type, "prompt": "a red circle", **fields})


def prepare(engine: Engine, task_type: TaskType, control: Control) -> Placement:
    """Load the weights of a task to where they run a small job of it."""
    from tests.support.engine_jobs import image_params, video_params

    return engine.prepare(request_of(task_type), video_params() if task_type.is_video else image_params(), control)


def parts_of(engine: Engine, task: TaskType) -> Any:
    """Return the networks of a task, loaded for a small job of it if they are not yet."""
    from tests.support.engine_jobs import Recorder

    prepare(engine, task, Recorder())
    return engine._cache[engine.registry.spec(task)].parts
