"""Weights from folders, half-precision files and single files, in the right dtype, without a network."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine.conftest import Runner, prepare, runner
from tests.support.engine_jobs import Recorder, single_file
from tests.support.model_folders import registry
from worker.core.config import load_settings
from worker.core.errors import Cancelled, ModelUnavailable
from worker.core.types import TaskType
from worker.engine.engine import Engine
from worker.engine.models.hub import Place
from worker.engine.models.loader import Loader, Parts, SdxlParts
from worker.engine.models.registry import SDXL_BASE

Loading = Callable[..., Parts]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may ask a network for anything."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a model that is on this machine was asked for over the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def load() -> Loading:
    def start(task: str = "text2img", *, cuda: bool = False, control: Recorder | None = None, **values: Any) -> Parts:
        models = registry(cuda=False, **values)
        return Loader(models.spec(TaskType(task)), cuda=cuda, control=control or Recorder()).load()

    return start


def engine_of(**values: Any) -> Engine:
    return Engine(load_settings(), registry=registry(cuda=False, **values))


@pytest.fixture
def as_sdxl_base(small_sdxl: Path, tmp_path: Path) -> tuple[Place, ...]:
    """A small model's files in the place where SDXL base would be baked in."""
    shutil.copytree(small_sdxl, tmp_path / "models" / SDXL_BASE.replace("/", "--"))
    return (Place(tmp_path / "models", "plain"),)


@pytest.mark.parametrize("task", ["text2img", "text2video"])
def test_on_the_cpu_everything_is_float32(load: Loading, task: str) -> None:
    """The demo models' files hold float16: they are widened as they are read."""
    modules = load(task).modules().values()
    assert {tensor.dtype for module in modules for tensor in module.state_dict().values()} == {torch.float32}


def test_on_the_card_sdxl_runs_in_half_precision(load: Loading) -> None:
    dtypes = {name: module.dtype for name, module in load(cuda=True).modules().items()}
    assert set(dtypes.values()) == {torch.float16}
    assert set(dtypes) == {"text_encoder", "text_encoder_2", "unet", "refiner_unet", "vae"}


def test_a_vae_that_overflows_in_float16_runs_in_bfloat16_and_is_never_cast_back_and_forth(
    load: Loading, demo_models: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "sdxl"
    shutil.copytree(demo_models / "sdxl", folder)
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"force_upcast": True}))
    parts = load(cuda=True, sdxl_model=str(folder))
    assert parts.vae.dtype == torch.bfloat16
    assert parts.vae.config.force_upcast is False


def test_on_the_card_wan_runs_in_bfloat16_beside_a_float32_vae(load: Loading, wan_i2v: Path) -> None:
    parts = load("img2video", cuda=True, wan_i2v_model=str(wan_i2v))
    assert {name: module.dtype for name, module in parts.modules().items()} == {
        "text_encoder": torch.bfloat16,
        "image_encoder": torch.float32,
        "transformer": torch.bfloat16,
        "vae": torch.float32,
    }


def test_half_precision_files_are_read_where_they_are(load: Loading, small_sdxl: Path, tmp_path: Path) -> None:
    """The folder's fp16 file, and not the float32 one beside it, is what the card gets."""
    folder = tmp_path / "sdxl"
    shutil.copytree(small_sdxl, folder)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    marked = {name: torch.full_like(value, 0.25).half() for name, value in load_file(path).items()}
    save_file(marked, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors", {"format": "pt"})
    on_card, on_cpu = (load(cuda=cuda, sdxl_model=str(folder)) for cuda in (True, False))
    assert isinstance(on_card, SdxlParts)
    assert isinstance(on_cpu, SdxlParts)
    assert float(on_card.unet.conv_in.weight.detach().max()) == 0.25
    assert float(on_cpu.unet.conv_in.weight.detach().max()) != 0.25


def test_a_vae_of_its_own_takes_the_place_of_the_models(load: Loading, demo_models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "vae"
    shutil.copytree(demo_models / "sdxl" / "vae", folder)
    path = folder / "diffusion_pytorch_model.safetensors"
    save_file({name: value * 2 for name, value in load_file(path).items()}, path, {"format": "pt"})
    plain, other = load(), load(sdxl_vae=str(folder))
    assert torch.equal(plain.vae.decoder.conv_in.weight * 2, other.vae.decoder.conv_in.weight)


def test_loading_tells_each_component_and_can_be_cancelled(load: Loading) -> None:
    control = Recorder()
    load(control=control)
    told = [(progress.step, progress.total_steps) for progress in control.progress]
    assert told == [(step, 9) for step in range(1, 10)]

    class Stops(Recorder):
        def raise_if_stopped(self) -> None:
            if len(self.progress) == 3:
                raise Cancelled

    stopping = Stops()
    with pytest.raises(Cancelled):
        load(control=stopping)
    assert len(stopping.progress) == 3


@pytest.fixture
def run_small(small_sdxl: Path) -> Runner:
    return runner(engine_of(sdxl_model=str(small_sdxl)))


def test_a_hub_id_that_is_here_loads_without_a_network(as_sdxl_base: tuple[Place, ...], run_small: Runner) -> None:
    start = runner(engine_of(sdxl_model=SDXL_BASE, where=as_sdxl_base))
    assert np.array_equal(start("text2img")[0], run_small("text2img")[0])


def test_a_single_file_draws_what_its_folder_draws(
    small_sdxl: Path, as_sdxl_base: tuple[Place, ...], tmp_path: Path, run_small: Runner
) -> None:
    """One checkpoint in the original implementation's names, read with the config files that are on this machine."""
    path = single_file(small_sdxl, tmp_path / "my-model.safetensors")
    engine = engine_of(sdxl_model=str(path), where=as_sdxl_base)
    assert engine.describe(TaskType.TEXT2IMG).name == "my-model.safetensors"
    start = runner(engine)
    for task in ("text2img", "inpaint"):
        # Weights that lie elsewhere in memory may be summed in another order: a value now and then rounds otherwise.
        apart = np.abs(start(task)[0].astype(int) - run_small(task)[0])
        assert apart.max() <= 1
        assert np.count_nonzero(apart) <= apart.size // 1000


def test_a_single_file_without_the_config_files_says_what_is_missing(small_sdxl: Path, tmp_path: Path) -> None:
    path = single_file(small_sdxl, tmp_path / "my-model.safetensors")
    models = registry(cuda=False, sdxl_model=str(path))
    with pytest.raises(ModelUnavailable, match="configuration and tokenizer files"):
        Loader(models.spec(TaskType.TEXT2IMG), cuda=False, control=Recorder()).load()


def test_a_tokenizer_without_its_fast_file_reads_alike(load: Loading, demo_models: Path, tmp_path: Path) -> None:
    """Older SDXL repositories have vocab.json and merges.txt only."""
    folder = tmp_path / "sdxl"
    shutil.copytree(demo_models / "sdxl", folder)
    (folder / "tokenizer" / "tokenizer.json").unlink()
    text = "A red circle, éè 42 zebras!"
    old, new = load(sdxl_model=str(folder)).tokenizer(text), load().tokenizer(text)
    assert old.input_ids == new.input_ids


@pytest.mark.parametrize(
    ("part", "prefix"), [("text_encoder", "text_model."), ("image_encoder", "vision_model.")], ids=["text", "image"]
)
def test_files_of_an_older_transformers_load_alike(
    load: Loading, demo_models: Path, wan_i2v: Path, tmp_path: Path, part: str, prefix: str
) -> None:
    """The published checkpoints name every tensor of a CLIP encoder with a prefix that newer ones leave out."""
    original, variable, task = (
        (demo_models / "sdxl", "sdxl_model", "text2img")
        if part == "text_encoder"
        else (wan_i2v, "wan_i2v_model", "img2video")
    )
    folder = tmp_path / "older"
    shutil.copytree(original, folder)
    path = folder / part / "model.safetensors"
    tensors = {prefix + name.removeprefix(prefix): value for name, value in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})
    old, new = (getattr(load(task, **{variable: str(where)}), part).state_dict() for where in (folder, original))
    assert set(old) == set(new)
    assert all(torch.equal(old[name], new[name]) for name in new)


def test_a_folder_cannot_bring_a_class_of_its_own(load: Loading, demo_models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sdxl"
    shutil.copytree(demo_models / "sdxl", folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"unet": ["diffusers", "DiffusionPipeline"]}))
    with pytest.raises(ModelUnavailable, match="does not run"):
        load(sdxl_model=str(folder))


def test_weights_that_are_cut_off_are_model_unavailable(demo_models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sdxl"
    shutil.copytree(demo_models / "sdxl", folder)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    engine = engine_of(sdxl_model=str(folder))
    with pytest.raises(ModelUnavailable) as caught:
        prepare(engine, TaskType.TEXT2IMG, Recorder())
    assert str(tmp_path) not in str(caught.value)
    assert engine.loaded == {}
