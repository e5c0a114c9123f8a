"""Weights from folders, half-precision files and single files, in the right dtype, without a network."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file, save_file

from tests.engine.conftest import Runner, prepare, runner
from tests.support.engine_jobs import Recorder
from tests.support.model_folders import registry
from tests.support.single_file import single_file
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
    """Fail any request to a network."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a model that is on this machine was asked for over the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def load() -> Loading:
    def start(
        task: str = "text2img",
        *,
        cuda: bool = False,
        control: Recorder | None = None,
        configs: Path | None = None,
        card: torch.device | None = None,
        on_card: Callable[[str], bool] = lambda name: True,
        **values: Any,
    ) -> Parts:
        spec = registry(cuda=False, **values).spec(TaskType(task))
        loader = Loader(
            spec, cuda=cuda, control=control or Recorder(), sdxl_configs=configs, card=card, on_card=on_card
        )
        return loader.load()

    return start


def engine_of(**values: Any) -> Engine:
    return Engine(load_settings(), registry=registry(cuda=False, **values))


@pytest.fixture
def as_sdxl_base(small_sdxl: Path, tmp_path: Path) -> tuple[Place, ...]:
    """Copy a small model to the place where an image has SDXL base baked in."""
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
    """The card gets the folder's fp16 file, and not the float32 one beside it."""
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
    """One checkpoint in the original implementation's names, read with the config files on this machine."""
    path = single_file(small_sdxl, tmp_path / "my-model.safetensors")
    engine = engine_of(sdxl_model=str(path), where=as_sdxl_base)
    assert engine.describe(TaskType.TEXT2IMG).name == "my-model.safetensors"
    start = runner(engine)
    for task in ("text2img", "inpaint"):
        # Weights elsewhere in memory may be summed in another order: a value now and then rounds differently.
        apart = np.abs(start(task)[0].astype(int) - run_small(task)[0])
        assert apart.max() <= 1
        assert np.count_nonzero(apart) <= apart.size // 1000


def test_a_single_file_without_the_config_files_says_what_is_missing(small_sdxl: Path, tmp_path: Path) -> None:
    path = single_file(small_sdxl, tmp_path / "my-model.safetensors")
    models = registry(cuda=False, sdxl_model=str(path))
    with pytest.raises(ModelUnavailable, match="configuration and tokenizer files"):
        Loader(models.spec(TaskType.TEXT2IMG), cuda=False, control=Recorder()).load()


def test_a_tokenizer_without_its_fast_file_reads_alike(load: Loading, demo_models: Path, tmp_path: Path) -> None:
    """Older SDXL repositories have only vocab.json and merges.txt."""
    folder = tmp_path / "sdxl"
    shutil.copytree(demo_models / "sdxl", folder)
    (folder / "tokenizer" / "tokenizer.json").unlink()
    text = "A red circle, éè 42 zebras!"
    old, new = load(sdxl_model=str(folder)).tokenizer(text), load().tokenizer(text)  # type: ignore[union-attr]  # an SDXL model has one
    assert old.input_ids == new.input_ids


@pytest.mark.parametrize(
    ("part", "prefix"), [("text_encoder", "text_model."), ("image_encoder", "vision_model.")], ids=["text", "image"]
)
def test_files_of_an_older_transformers_load_alike(
    load: Loading, demo_models: Path, wan_i2v: Path, tmp_path: Path, part: str, prefix: str
) -> None:
    """The published checkpoints name every tensor of a CLIP encoder with a prefix that newer ones omit."""
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


def changed(original: Path, folder: Path, part: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """Copy a model, changing one network's tensors."""
    shutil.copytree(original, folder)
    (path,) = (folder / part).glob("*.safetensors")
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})
    return folder


def without(ending: str) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors.pop(next(name for name in tensors if name.endswith(ending)))


def reshaped(ending: str) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors.update({next(name for name in tensors if name.endswith(ending)): torch.zeros(2, 3)})


@pytest.mark.parametrize("change", [without, reshaped], ids=["missing", "of another shape"])
@pytest.mark.parametrize(
    ("variable", "part", "ending"),
    [
        ("sdxl_model", "text_encoder", "fc1.weight"),
        ("sdxl_model", "text_encoder_2", "text_projection.weight"),
        ("sdxl_model", "unet", "conv_in.weight"),
        ("sdxl_model", "vae", "quant_conv.bias"),
        ("sdxl_refiner", "unet", "conv_in.weight"),
        ("sdxl_vae", "vae", "quant_conv.bias"),
        ("wan_model", "text_encoder", "shared.weight"),
        ("wan_model", "transformer", "proj_out.weight"),
        ("wan_model", "vae", "quant_conv.weight"),
        ("wan_i2v_model", "image_encoder", "fc1.weight"),
    ],
)
def test_a_tensor_that_is_not_there_is_an_error_and_never_a_random_number(
    load: Loading,
    demo_models: Path,
    wan_i2v: Path,
    tmp_path: Path,
    variable: str,
    part: str,
    ending: str,
    change: Callable[[str], Callable[[dict[str, torch.Tensor]], object]],
) -> None:
    original = {
        "sdxl_refiner": demo_models / "sdxl-refiner",
        "wan_model": demo_models / "wan",
        "wan_i2v_model": wan_i2v,
    }.get(variable, demo_models / "sdxl")
    folder = changed(original, tmp_path / "torn", part, change(ending))
    values = {variable: str(folder / "vae" if variable == "sdxl_vae" else folder)}
    if variable == "sdxl_refiner":
        values["sdxl_model"] = str(shutil.copytree(demo_models / "sdxl", tmp_path / "base"))
    task = {"wan_model": "text2video", "wan_i2v_model": "img2video"}.get(variable, "text2img")
    with pytest.raises(ModelUnavailable, match=f"{variable.upper()} names a model whose (refiner_)?{part} ") as caught:
        load(task, **values)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("begins", "part"),
    [
        ("model.diffusion_model.input_blocks.0.0.weight", "unet"),
        ("first_stage_model.quant_conv.weight", "vae"),
        ("conditioner.embedders.0.transformer.text_model.final_layer_norm.bias", "text_encoder"),
        ("conditioner.embedders.1.model.ln_final.bias", "text_encoder_2"),
    ],
)
def test_a_tensor_that_a_single_file_lacks_is_an_error(
    load: Loading, small_sdxl: Path, tmp_path: Path, begins: str, part: str
) -> None:
    path = single_file(small_sdxl, tmp_path / "torn.safetensors")
    tensors = {name: value for name, value in load_file(path).items() if not name.startswith(begins)}
    save_file(tensors, path)
    with pytest.raises(ModelUnavailable, match=f"SDXL_MODEL names a model whose {part} "):
        load(sdxl_model=str(path), configs=small_sdxl)


class Opened:
    """Records which networks were read, where to, and how often a whole file was."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.places: dict[str, Any] = {}
        self.whole = 0
        for kind in (diffusers.ModelMixin, transformers.PreTrainedModel):
            self._watch(monkeypatch, kind)
        read: Any = single_file_utils.load_single_file_checkpoint

        def counted(*args: Any, **options: Any) -> Any:
            self.whole += 1
            return read(*args, **options)

        for user in ("single_file", "single_file_model"):
            monkeypatch.setattr(f"diffusers.loaders.{user}.load_single_file_checkpoint", counted)

    def _watch(self, monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
        read = kind.from_pretrained.__func__

        def watched(cls: Any, folder: str, *args: Any, **options: Any) -> Any:
            self.places[Path(folder).name] = options.get("device_map")
            return read(cls, folder, *args, **options)

        monkeypatch.setattr(kind, "from_pretrained", classmethod(watched))


@pytest.mark.parametrize("task", ["text2img", "text2video"])
def test_a_network_is_read_straight_to_the_card_unless_it_stays_in_the_machines_memory(
    load: Loading, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU stands in for the card: the arguments passed to the vendors are what counts."""
    opened = Opened(monkeypatch)
    card = torch.device("cpu")
    load(task, cuda=True, card=card, on_card=lambda name: not name.startswith("text_encoder"))
    assert {name for name, place in opened.places.items() if place is None} == {
        name for name in opened.places if name.startswith("text_encoder")
    }
    assert all(place in (None, {"": card}) for place in opened.places.values())
    opened.places.clear()
    load(task)
    assert set(opened.places.values()) == {None}


def test_a_single_file_is_read_once_though_its_vae_has_a_dtype_of_its_own(
    load: Loading, small_sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = tmp_path / "configs"
    shutil.copytree(small_sdxl, configs)
    config = configs / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"force_upcast": True}))
    path = single_file(small_sdxl, tmp_path / "my-model.safetensors")
    opened = Opened(monkeypatch)
    parts = load(cuda=True, sdxl_model=str(path), configs=configs)
    assert opened.whole == 1
    assert {name: module.dtype for name, module in parts.modules().items()} == {
        "text_encoder": torch.float16,
        "text_encoder_2": torch.float16,
        "unet": torch.float16,
        "vae": torch.bfloat16,
    }
    # Cast from the file, not from values that float16 had rounded.
    saved = load_file(path)["first_stage_model.quant_conv.weight"]
    assert torch.equal(parts.vae.quant_conv.weight, saved.to(torch.bfloat16))


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
