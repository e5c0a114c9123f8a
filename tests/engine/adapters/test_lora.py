"""LoRA on loaded networks: the layers compute what diffusers, PEFT and the papers compute."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers.loaders import lora_conversion_utils
from safetensors.torch import load_file, save_file
from torch.nn import functional

from tests.engine.conftest import engine_of, parts_of
from tests.support import published
from tests.support.engine_jobs import Recorder
from tests.support.loras import Style, attentions, layers_of, lora, networks_of
from tests.support.published_loras import PUBLISHED, Published, header_only
from worker.core.config import Settings
from worker.core.types import LoraFile, TaskType
from worker.engine.adapters.lora import LoraStore, applied_loras
from worker.engine.adapters.lora_file import _size, identify
from worker.engine.adapters.lora_names import aliases, flat, layers_by_name, of_sgm
from worker.engine.engine import Engine
from worker.engine.memory.offload import Offloader

KIT: Any = diffusers
CONVERT: Any = lora_conversion_utils
MODELS: Any = transformers


@pytest.fixture(scope="module")
def fresh(demo_settings: Settings) -> Engine:
    return engine_of(demo_settings)


@pytest.fixture(scope="module")
def sdxl(fresh: Engine) -> Any:
    return parts_of(fresh, TaskType.TEXT2IMG)


@pytest.fixture(scope="module")
def wan(fresh: Engine) -> Any:
    return parts_of(fresh, TaskType.TEXT2VIDEO)


@contextmanager
def applied(parts: Any, *loras: LoraFile, control: Recorder | None = None) -> Iterator[None]:
    offloader = Offloader(parts.modules(), torch.device("cpu"))
    with applied_loras(parts, offloader, loras, LoraStore(), control or Recorder()):
        yield


@torch.no_grad()
def seen(parts: Any) -> dict[str, torch.Tensor]:
    """Return each network's output for a fixed input, for the networks that a LoRA may change."""
    made = torch.Generator().manual_seed(5)
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    found: dict[str, torch.Tensor] = {}
    if hasattr(parts, "unet"):
        for name in ("text_encoder", "text_encoder_2"):
            found[name] = getattr(parts, name)(ids).last_hidden_state
        width, pooled = parts.unet.config.cross_attention_dim, parts.text_encoder_2.config.projection_dim
        given = {
            "text_embeds": torch.randn(2, pooled, generator=made),
            "time_ids": torch.randn(2, 6, generator=made),
        }
        latents, text = torch.randn(2, 4, 16, 16, generator=made), torch.randn(2, 9, width, generator=made)
        found["unet"] = parts.unet(latents, 500, text, added_cond_kwargs=given).sample
        return found
    config = parts.transformer.config
    latents = torch.randn(1, config.in_channels, 2, 8, 8, generator=made)
    text = torch.randn(1, 7, config.text_dim, generator=made)
    for name in ("transformer", "transformer_2"):
        if getattr(parts, name) is not None:
            found[name] = getattr(parts, name)(latents, torch.tensor([500]), text).sample
    return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    """Return the networks whose results are equal to the last bit."""
    return {name for name in one if torch.equal(one[name], other[name])}


# -- the same file has the same effect as elsewhere


@pytest.mark.parametrize("only", [attentions, lambda _name: True], ids=["attention", "every layer"])
@pytest.mark.parametrize("style", ["kohya", "diffusers"])
def test_an_image_model_with_a_lora_computes_what_diffusers_and_peft_do(
    sdxl: Any, tmp_path: Path, style: Style, only: Any
) -> None:
    chosen = (lambda name: only(name) and "embed" not in name) if style == "kohya" else only
    path = lora(tmp_path / "a.safetensors", networks_of(sdxl), style, only=chosen, size=0.15)
    before = seen(sdxl)
    with applied(sdxl, LoraFile("a", path, 0.7)):
        ours = seen(sdxl)
    theirs = copy.deepcopy(sdxl)
    names = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "unet", "vae", "scheduler")
    pipeline = KIT.StableDiffusionXLPipeline(**{name: getattr(theirs, name) for name in names})
    pipeline.load_lora_weights(str(path), adapter_name="a")
    pipeline.set_adapters(["a"], [0.7])
    expected = seen(theirs)
    assert same(ours, before) == set()
    for name, value in ours.items():
        assert torch.allclose(value, expected[name], rtol=1e-3, atol=1e-4), name
    assert same(seen(sdxl), before) == set(before)


@pytest.mark.parametrize("style", ["wan", "diffusers", "peft"])
def test_a_video_model_with_a_lora_computes_what_diffusers_and_peft_do(wan: Any, tmp_path: Path, style: Style) -> None:
    networks = {"transformer": wan.transformer}
    path = lora(tmp_path / "a.safetensors", networks, style, only=lambda name: name.startswith("blocks."), size=0.15)
    before = seen(wan)
    with applied(wan, LoraFile("a", path, -0.5)):
        ours = seen(wan)
    theirs = copy.deepcopy(wan)
    tensors = load_file(path)
    if style == "peft":
        tensors = {name.replace("base_model.model.", "transformer."): one for name, one in tensors.items()}
    names = ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")
    pipeline = KIT.WanPipeline(**{name: getattr(theirs, name) for name in names})
    pipeline.load_lora_weights(tensors, adapter_name="a")
    pipeline.set_adapters(["a"], [-0.5])
    assert same(ours, before) == set()
    assert torch.allclose(ours["transformer"], seen(theirs)["transformer"], rtol=1e-3, atol=1e-4)


def test_several_loras_add_up(sdxl: Any, tmp_path: Path) -> None:
    """Two files of other ranks and layers equal one file that has both."""
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    unet = {"unet": sdxl.unet}
    first = lora(tmp_path / "a.safetensors", unet, rank=2, alpha=1, seed=1)
    second = lora(tmp_path / "b.safetensors", unet, rank=6, alpha=6, seed=2, only=lambda name: name == layer)
    with applied(sdxl, LoraFile("a", first, 0.5), LoraFile("b", second, -2.0)):
        both = seen(sdxl)["unet"]
    stem = f"lora_unet_{layer.replace('.', '_')}"
    one, other = load_file(first), load_file(second)
    one[f"{stem}.lora_up.weight"] = torch.cat(
        [one[f"{stem}.lora_up.weight"] * 0.5 * 0.5, other[f"{stem}.lora_up.weight"] * -2.0], 1
    )
    one[f"{stem}.lora_down.weight"] = torch.cat([one[f"{stem}.lora_down.weight"], other[f"{stem}.lora_down.weight"]])
    one[f"{stem}.alpha"] = torch.tensor(8.0 / 0.5)
    save_file(one, tmp_path / "c.safetensors")
    with applied(sdxl, LoraFile("c", tmp_path / "c.safetensors", 0.5)):
        assert torch.allclose(seen(sdxl)["unet"], both, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 0.6])
@pytest.mark.parametrize(
    "layer",
    [
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",
        "mid_block.resnets.0.conv1",
        "down_blocks.0.downsamplers.0.conv",
    ],
)
def test_dora_is_the_weight_in_another_length(sdxl: Any, tmp_path: Path, layer: str, scale: float) -> None:
    """m (W + BA) / ||W + BA||, as far as the scale says: section 4 of the paper."""
    path = lora(tmp_path / "a.safetensors", {"unet": sdxl.unet}, only=lambda name: name == layer)
    stem, tensors = f"lora_unet_{layer.replace('.', '_')}", load_file(path)
    target = copy.deepcopy(sdxl)
    module = target.unet.get_submodule(layer)
    weight = module.weight.detach()
    magnitude = torch.rand(weight.shape[0], 1, generator=torch.Generator().manual_seed(1)) + 0.5
    save_file(tensors | {f"{stem}.dora_scale": magnitude}, path)
    up, down = tensors[f"{stem}.lora_up.weight"].flatten(1), tensors[f"{stem}.lora_down.weight"].flatten(1)
    whole = weight.flatten(1) + 2.0 / 4 * up @ down
    whole = magnitude * whole / whole.norm(dim=1, keepdim=True)
    module.weight.data = weight + scale * (whole.reshape(weight.shape) - weight)
    with applied(sdxl, LoraFile("a", path, scale)):
        ours = seen(sdxl)["unet"]
    assert torch.allclose(ours, seen(target)["unet"], rtol=1e-3, atol=1e-4)


def test_a_convolution_in_three_is_one_in_two(sdxl: Any, tmp_path: Path) -> None:
    """LyCORIS's Tucker form of a k x k convolution: 1 x 1, k x k between the ranks, 1 x 1."""
    layer = "mid_block.resnets.0.conv1"
    module = sdxl.unet.get_submodule(layer)
    outputs, inputs = module.weight.shape[:2]
    made = torch.Generator().manual_seed(2)
    down, mid = torch.randn(3, inputs, 1, 1, generator=made), torch.randn(3, 3, 3, 3, generator=made)
    up, stem = torch.randn(outputs, 3, 1, 1, generator=made), f"lora_unet_{layer.replace('.', '_')}"
    parts = {"lora_down.weight": down, "lora_mid.weight": mid, "lora_up.weight": up}
    save_file({f"{stem}.{name}": one for name, one in parts.items()}, tmp_path / "a.safetensors")
    inside = torch.randn(1, inputs, 8, 8, generator=made)
    with torch.no_grad(), applied(sdxl, LoraFile("a", tmp_path / "a.safetensors", 1.0)):
        for hook in sdxl.unet._forward_pre_hooks.values():
            hook(sdxl.unet, ())
        ours = module(inside)
        expected = module._conv_forward(inside, module.weight, module.bias) + functional.conv2d(
            functional.conv2d(functional.conv2d(inside, down), mid, padding=1), up
        )
    assert torch.allclose(ours, expected, rtol=1e-3, atol=1e-3)


def test_a_bias_is_added_by_the_scale(wan: Any, tmp_path: Path) -> None:
    path = lora(
        tmp_path / "a.safetensors", {"transformer": wan.transformer}, "wan", only=lambda n: n == "blocks.0.ffn.net.2"
    )
    bias = torch.randn(wan.transformer.blocks[0].ffn.net[2].weight.shape[0])
    save_file(load_file(path) | {"diffusion_model.blocks.1.self_attn.q.diff_b": bias[: 4 * 32]}, path)
    target = copy.deepcopy(wan)
    target.transformer.blocks[1].attn1.to_q.bias.data += 0.5 * bias[: 4 * 32]
    with applied(wan, LoraFile("a", path, 0.5)):
        ours = seen(wan)["transformer"]
    tensors = load_file(path)
    tensors.pop("diffusion_model.blocks.1.self_attn.q.diff_b")
    save_file(tensors, tmp_path / "b.safetensors")
    with applied(target, LoraFile("a", tmp_path / "b.safetensors", 0.5)):
        assert torch.allclose(ours, seen(target)["transformer"], rtol=1e-3, atol=1e-4)


# -- names


def published_networks() -> dict[str, Any]:
    """Return the published models' networks, without memory."""
    with torch.device("meta"):
        clip = {"vocab_size": 8, "max_position_embeddings": 77}
        return {
            "unet": KIT.UNet2DConditionModel(**published.CONFIGS[published.SDXL_BASE]["unet"]),
            "text_encoder": MODELS.CLIPTextModel(
                MODELS.CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, **clip)
            ),
            "text_encoder_2": MODELS.CLIPTextModelWithProjection(
                MODELS.CLIPTextConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, **clip)
            ),
            "14B": KIT.WanTransformer3DModel(**published.CONFIGS[published.I2V_480P]["transformer"]),
            "1.3B": KIT.WanTransformer3DModel(**published.CONFIGS[published.T2V_1B]["transformer"]),
        }


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    return {name: layers_by_name(network) for name, network in published_networks().items()}


USABLE = [one for one in PUBLISHED if not one.refused]


@pytest.mark.parametrize("one", USABLE, ids=lambda one: one.trainer)
def test_every_layer_of_published_layouts_is_found_in_the_published_models(
    tables: dict[str, Any], tmp_path: Path, one: Published
) -> None:
    found = identify(header_only(tmp_path / "a.safetensors", one.shapes))
    denoiser = "unet" if found.family == "sdxl" else "1.3B" if "1.3B" in one.trainer else "14B"
    for layer in found.layers:
        table = tables[denoiser if layer.network == "denoiser" else layer.network]
        if layer.kind in {"LoKr", "LoHa"}:
            _, module = table[flat(layer.name)]
            shapes = {key: {"shape": [*one.shapes[key]]} for key in layer.keys.values()}
            assert _size(layer, shapes).inputs == module.weight[0].numel(), layer.name
            continue
        if "down" not in layer.keys:
            assert flat(layer.name) in table or "norm" in layer.name
            continue
        _, module = table[flat(layer.name)]
        assert one.shapes[layer.keys["up"]][0] == module.weight.shape[0], layer.name
        assert one.shapes[layer.keys["down"]][1] == module.weight.shape[1], layer.name


def test_every_name_of_the_original_unet_is_what_diffusers_takes_it_for() -> None:
    unet = published_networks()["unet"]
    names = {name: of_sgm(name, unet) for name in layers_of(unet)}
    assert None not in names.values()
    flat = {f"lora_unet_{alias.replace('.', '_')}": name for name, alias in names.items() if alias is not None}
    assert len(flat) == len(names)
    tensors: dict[str, torch.Tensor] = {}
    for number, stem in enumerate(flat):
        tensors |= {
            f"{stem}.lora_down.weight": torch.tensor([number]),
            f"{stem}.lora_up.weight": torch.tensor([number]),
        }
    converted, _ = CONVERT._convert_non_diffusers_lora_to_diffusers(
        CONVERT._maybe_map_sgm_blocks_to_diffusers(tensors, unet.config)
    )
    numbered = list(flat.values())
    for key, number in converted.items():
        theirs = key.removeprefix("unet.").replace(".processor.", ".").replace("to_out_lora", "to_out.0_lora")
        for end in ("_lora.down.weight", "_lora.up.weight", ".lora.down.weight", ".lora.up.weight"):
            theirs = theirs.removesuffix(end)
        assert theirs == numbered[int(number)]
    assert len(converted) == 2 * len(names)


def test_every_name_of_wans_own_code_is_what_diffusers_takes_it_for() -> None:
    network = published_networks()["14B"]
    wanted = {}
    for name in layers_of(network):
        ours = [alias for alias in aliases(name, network) if alias != name and not alias.endswith("to_out")]
        if ours:
            wanted[f"diffusion_model.{ours[-1]}"] = name
    assert len(wanted) == len(layers_of(network))
    tensors: dict[str, torch.Tensor] = {}
    for number, stem in enumerate(wanted):
        tensors |= {f"{stem}.lora_A.weight": torch.tensor([number]), f"{stem}.lora_B.weight": torch.tensor([number])}
    numbered = list(wanted.values())
    for key, number in CONVERT._convert_non_diffusers_wan_lora_to_diffusers(tensors).items():
        theirs = key.removeprefix("transformer.").partition(".lora_")[0]
        assert theirs == numbered[int(number)]
