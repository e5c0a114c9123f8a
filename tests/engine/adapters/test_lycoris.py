"""LoKr and LoHa on loaded layers: a layer computes what the dense change of its weight gives."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.engine.conftest import engine_of, parts_of
from tests.support.engine_jobs import Recorder
from tests.support.loras import loha, lokr
from tests.support.published_loras import header_only
from worker.core.config import Settings
from worker.core.errors import InvalidInput
from worker.core.types import LoraFile, TaskType
from worker.engine.adapters.lora import LoraStore, applied_loras
from worker.engine.adapters.lora_file import MAX_RANK, Layer, Part, _size, check_loras, identify, is_smaller_as_lora
from worker.engine.memory.offload import Offloader

Tensors = dict[str, torch.Tensor]
MAKE = torch.Generator()


@pytest.fixture(scope="module")
def parts(demo_settings: Settings) -> Any:
    """Return a small SDXL, loaded once."""
    return parts_of(engine_of(demo_settings), TaskType.TEXT2IMG)


LINEAR = "mid_block.attentions.0.transformer_blocks.0.ff.net.2"
CONV = "mid_block.resnets.0.conv1"
STRIDED = "down_blocks.0.downsamplers.0.conv"
LAYERS = [LINEAR, CONV, STRIDED]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=MAKE) * 0.5


def dense_lokr(parts: Mapping[str, torch.Tensor], weight: torch.Tensor) -> torch.Tensor:
    """The full product, as in https://github.com/KohakuBlueleaf/LyCORIS, lycoris/modules/lokr.py."""
    rank = None
    first, second = parts.get("lokr_w1"), parts.get("lokr_w2")
    if first is None:
        first, rank = parts["lokr_w1_a"] @ parts["lokr_w1_b"], len(parts["lokr_w1_b"])
    if second is None:
        a, b, rank = parts["lokr_w2_a"], parts["lokr_w2_b"], len(parts["lokr_w2_b"])
        core = parts.get("lokr_t2")
        second = a @ b if core is None else torch.einsum("ijkl,jr,ip->prkl", core, b, a)
    scale = 1.0 if rank is None or "alpha" not in parts else float(parts["alpha"]) / rank
    first = first.reshape(*first.shape, *(1,) * (second.ndim - 2))
    return scale * torch.kron(first, second.contiguous()).reshape(weight.shape)


def dense_loha(parts: Mapping[str, torch.Tensor], weight: torch.Tensor) -> torch.Tensor:
    """The full product, as in https://github.com/KohakuBlueleaf/LyCORIS, lycoris/modules/loha.py."""
    made = []
    for n in "12":
        a, b, core = parts[f"hada_w{n}_a"], parts[f"hada_w{n}_b"], parts.get(f"hada_t{n}")
        made.append(a @ b if core is None else torch.einsum("ijkl,jr,ip->prkl", core, b, a))
    scale = float(parts["alpha"]) / len(parts["hada_w1_b"]) if "alpha" in parts else 1.0
    return scale * (made[0] * made[1]).reshape(weight.shape)


DENSE = {"lokr": dense_lokr, "loha": dense_loha}
MAKERS = {"lokr": lokr, "loha": loha}


def saved(path: Path, layers: Mapping[str, Tensors]) -> Path:
    stems = {name: f"lora_unet_{name.replace('.', '_')}" for name in layers}
    save_file(
        {f"{stems[name]}.{key}": one.contiguous() for name, kit in layers.items() for key, one in kit.items()}, path
    )
    return path


def computed(unet: Any, layer: str, x: torch.Tensor, *loras: LoraFile, parts: Any) -> torch.Tensor:
    offloader = Offloader(parts.modules(), torch.device("cpu"))
    with torch.no_grad(), applied_loras(parts, offloader, loras, LoraStore(), Recorder()):
        for hook in unet._forward_pre_hooks.values():
            hook(unet, ())
        made: torch.Tensor = unet.get_submodule(layer)(x)
        return made


def inputs_of(module: Any) -> torch.Tensor:
    side = module.weight.shape[1]
    return random(2, 5, side) if module.weight.ndim == 2 else random(2, side, 8, 6)


FORMS = [
    *(("lokr", form) for form in ("whole", "turned", "second cut", "both cut", "of a high rank", "tucker")),
    *(("loha", form) for form in ("plain", "of a high rank", "tucker")),
]


@pytest.mark.parametrize(
    ("layer", "kind", "form"),
    [(layer, *each) for layer in LAYERS for each in FORMS if layer != LINEAR or each[1] != "tucker"],
)
@pytest.mark.parametrize("alpha", [None, 3.0])
def test_a_layer_computes_what_the_dense_change_would_make_it(
    parts: Any, tmp_path: Path, layer: str, kind: str, form: str, alpha: float | None
) -> None:
    module = parts.unet.get_submodule(layer)
    weight = module.weight.detach()
    MAKE.manual_seed(7)
    kit = MAKERS[kind](form, weight, MAKE)
    if alpha is not None:
        kit["alpha"] = torch.tensor(alpha)
    path = saved(tmp_path / "a.safetensors", {layer: kit})
    x = inputs_of(module)
    before = module(x).detach()
    ours = computed(parts.unet, layer, x, LoraFile("a", path, 0.7), parts=parts)
    change = 0.7 * DENSE[kind](kit, weight)
    if weight.ndim == 2:
        expected = before + torch.nn.functional.linear(x, change)
    else:
        expected = before + torch.nn.functional.conv2d(x, change, None, module.stride, module.padding)
    distance = (expected - before).norm()
    assert distance > 0.1 * before.norm()
    assert (ours - expected).norm() < 1e-5 * distance
    assert torch.equal(module(x), before)
    assert torch.equal(module.weight, weight)


def test_several_of_all_kinds_on_one_layer_add_up(parts: Any, tmp_path: Path) -> None:
    module = parts.unet.get_submodule(CONV)
    weight, x = module.weight.detach(), inputs_of(module)
    MAKE.manual_seed(9)
    change, loras = torch.zeros_like(weight), []
    for number, (kind, form) in enumerate(FORMS):
        kit = MAKERS[kind](form, weight, MAKE) | {"alpha": torch.tensor(1.5)}
        loras.append(LoraFile(form, saved(tmp_path / f"{number}.safetensors", {CONV: kit}), 0.5 - number / 10))
        change += loras[-1].scale * DENSE[kind](kit, weight)
    rank = 3
    down, up = random(rank, *weight.shape[1:]), random(weight.shape[0], rank, 1, 1)
    kit = {"lora_down.weight": down, "lora_up.weight": up}
    loras.append(LoraFile("lora", saved(tmp_path / "lora.safetensors", {CONV: kit}), -0.3))
    change += -0.3 * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    expected = module(x).detach() + torch.nn.functional.conv2d(x, change, None, module.stride, module.padding)
    ours = computed(parts.unet, CONV, x, *loras, parts=parts)
    assert (ours - expected).norm() < 1e-4 * (expected - module(x)).norm()


@pytest.mark.parametrize(("kind", "form"), FORMS)
def test_what_is_kept_beside_the_network_is_as_many_bytes_as_the_header_foretold(
    parts: Any, tmp_path: Path, kind: str, form: str
) -> None:
    from worker.engine.adapters.lora import _Gathering

    module = parts.unet.get_submodule(CONV)
    kit = MAKERS[kind](form, module.weight, MAKE)
    path = saved(tmp_path / "a.safetensors", {CONV: kit})
    gathering = _Gathering(parts, LoraStore(), Recorder())
    gathering.add(LoraFile("a", path, 1.0))
    (addition,) = gathering.hanging()["unet"].additions
    kept = sum(one.numel() for name, one in addition.host.items() if name not in {"scales", "scale.0"})
    (layer,) = identify(path).layers
    size = _size(layer, {key: {"shape": list(one.shape)} for key, one in LoraStore()[path].items()})
    assert kept == size.kept
    assert identify(path).bytes == 2 * (size.kept + size.passing)


HADA: tuple[Part, ...] = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


def test_a_loha_takes_the_smaller_of_two_forms() -> None:
    """At SDXL's widths and the usual ranks: a LoRA of the squared rank, or its factors, multiplied anew each time."""
    assert is_smaller_as_lora(8, 640, 640)
    assert is_smaller_as_lora(16, 1280, 1280)
    assert not is_smaller_as_lora(32, 640, 640)
    shapes = {"hada_w1_a": [640, 32], "hada_w1_b": [32, 640], "hada_w2_a": [640, 32], "hada_w2_b": [32, 640]}
    layer = Layer("denoiser", "a")
    layer.keys.update((part, part) for part in HADA)
    size = _size(layer, {part: {"shape": shape} for part, shape in shapes.items()})
    assert (size.kept, size.passing) == (4 * 32 * 640, 2 * 640 * 640)


# -- files that do not fit are refused by their header


STEM = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_k"
GOOD_LOKR = {"lokr_w1": (8, 8), "lokr_w2_a": (80, 4), "lokr_w2_b": (4, 80), "alpha": ()}
GOOD_LOHA = {"hada_w1_a": (640, 8), "hada_w1_b": (8, 640), "hada_w2_a": (640, 8), "hada_w2_b": (8, 640), "alpha": ()}


def said_of(path: Path, shapes: Mapping[str, tuple[int, ...]], stem: str = STEM) -> str:
    header_only(path, {f"{stem}.{name}": shape for name, shape in shapes.items()})
    with pytest.raises(InvalidInput) as caught:
        check_loras([LoraFile("my style", path, 1.0)], TaskType.TEXT2IMG)
    return str(caught.value)


@pytest.mark.parametrize(
    ("base", "changes", "said"),
    [
        (GOOD_LOKR, {"lokr_w2_b": None}, "only one half"),
        (GOOD_LOKR, {"lokr_w1": None}, "only one half"),
        (GOOD_LOKR, {"lokr_w1_a": (8, 4), "lokr_w1_b": (4, 8)}, "only one half"),
        (GOOD_LOKR, {"lora_down.weight": (4, 640), "lora_up.weight": (640, 4)}, "only one half"),
        (GOOD_LOKR, {"lokr_w2_b": (5, 80)}, "do not go together"),
        (GOOD_LOKR, {"lokr_w1": (8, 8, 3)}, "do not go together"),
        (GOOD_LOKR, {"lokr_w1": (0, 8)}, "do not go together"),
        (GOOD_LOKR, {"lokr_w2_a": (4, 80), "lokr_t2": (4, 5, 3, 3)}, "do not go together"),
        (GOOD_LOKR, {"lokr_w2_a": (80, 600), "lokr_w2_b": (600, 80)}, f"the highest that is taken is {MAX_RANK}"),
        (GOOD_LOKR, {"dora_scale": (640, 1)}, "is LoKr with DoRA, which is not read"),
        (GOOD_LOKR, {"lokr_w3": (8, 8)}, "which is none of a LoRA"),
        (GOOD_LOHA, {"hada_w2_b": None}, "only one half"),
        (GOOD_LOHA, {"hada_t1": (8, 8, 3, 3)}, "only one half"),
        (GOOD_LOHA, {"hada_w2_a": (640, 4), "hada_w2_b": (4, 640)}, "do not go together"),
        (GOOD_LOHA, {"hada_w2_b": (8, 320)}, "do not go together"),
        (GOOD_LOHA, {"hada_w1_a": (640,)}, "do not go together"),
        (GOOD_LOHA, {"alpha": (2,)}, "do not go together"),
        (GOOD_LOHA, {"dora_scale": (640, 1)}, "is LoHa with DoRA, which is not read"),
    ],
)
def test_parts_that_do_not_make_a_change_are_refused(
    tmp_path: Path, base: Mapping[str, tuple[int, ...]], changes: Mapping[str, tuple[int, ...] | None], said: str
) -> None:
    shapes = {name: shape for name, shape in {**base, **changes}.items() if shape is not None}
    found = said_of(tmp_path / "a.safetensors", shapes)
    assert "the LoRA my style " in found
    assert said in found


@pytest.mark.parametrize(
    "shapes",
    [
        {"lokr_w1": (8, 8), "lokr_w2": (40, 96)},
        {"hada_w1_a": (320, 8), "hada_w1_b": (8, 768), "hada_w2_a": (320, 8), "hada_w2_b": (8, 768)},
    ],
)
def test_the_width_of_the_text_that_it_is_for_tells_another_model(
    tmp_path: Path, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    found = said_of(tmp_path / "a.safetensors", shapes, STEM.replace("attn1", "attn2"))
    assert "is made for Stable Diffusion 1" in found


def test_a_layer_of_another_size_is_named(parts: Any, tmp_path: Path) -> None:
    for number, (kind, form) in enumerate(FORMS):
        if form == "tucker":
            continue
        weight = parts.unet.get_submodule(LINEAR).weight
        kit = MAKERS[kind](form, torch.zeros(weight.shape[0] * 2, weight.shape[1]), MAKE)
        path = saved(tmp_path / f"{number}.safetensors", {LINEAR: kit})
        with pytest.raises(
            InvalidInput, match=f"it has {weight.shape[1]} to {2 * weight.shape[0]}, and this model takes"
        ):
            computed(parts.unet, LINEAR, torch.zeros(1, weight.shape[1]), LoraFile("a", path, 1.0), parts=parts)


def test_numbers_that_are_none_are_refused(parts: Any, tmp_path: Path) -> None:
    weight = parts.unet.get_submodule(LINEAR).weight
    for number, (kind, form) in enumerate(FORMS):
        if form == "tucker":
            continue
        kit = MAKERS[kind](form, weight, MAKE)
        next(iter(kit.values())).view(-1)[0] = float("nan")
        path = saved(tmp_path / f"{number}.safetensors", {LINEAR: kit})
        with pytest.raises(InvalidInput, match="not finite numbers"):
            computed(parts.unet, LINEAR, torch.zeros(1, weight.shape[1]), LoraFile("a", path, 1.0), parts=parts)
