"""Small LoRAs with random weights for given networks, in the naming of a given trainer."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

Style = Literal["kohya", "peft", "diffusers", "wan"]
_PREFIXES: dict[str, str] = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}


def layers_of(network: torch.nn.Module) -> dict[str, Any]:
    """Return name -> layer, for every layer that a LoRA can change."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return {name: module for name, module in network.named_modules() if isinstance(module, kinds)}


def attentions(name: str) -> bool:
    """Whether a layer is one of those that most trainers change."""
    return name.endswith(("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj"))


def lora(
    path: Path,
    networks: Mapping[str, torch.nn.Module],
    style: Style = "kohya",
    *,
    rank: int = 4,
    alpha: float | None = 2.0,
    size: float = 0.3,
    seed: int = 0,
    only: Callable[[str], bool] = attentions,
) -> Path:
    """Write a LoRA for the layers that `only` selects in these networks (name among a model's parts -> network)."""
    made = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for network, module in networks.items():
        for name, layer in layers_of(module).items():
            if not only(name):
                continue
            outputs, inputs, *kernel = layer.weight.shape
            down = torch.randn(rank, inputs, *kernel, generator=made) * size
            up = torch.randn(outputs, rank, *(1 for _ in kernel), generator=made) * size
            stem, ends = named(style, network, name)
            tensors |= {stem + ends[0]: down, stem + ends[1]: up}
            if style == "kohya" and alpha is not None:
                tensors[f"{stem}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path)
    return path


def named(style: Style, network: str, name: str) -> tuple[str, tuple[str, str]]:
    """Return the names a trainer gives a layer's two matrices: the common prefix, and both suffixes."""
    in_file = f"text_model.{name}" if name.startswith("encoder.") else name  # the name before transformers 5
    if style == "kohya":
        return _PREFIXES[network] + in_file.replace(".", "_"), (".lora_down.weight", ".lora_up.weight")
    if style == "peft":
        return f"base_model.model.{in_file}", (".lora_A.weight", ".lora_B.weight")
    if style == "wan":
        return f"diffusion_model.{_in_wan(name)}", (".lora_A.weight", ".lora_B.weight")
    return f"{network}.{in_file}", (".lora_A.weight", ".lora_B.weight")


def _random(made: torch.Generator) -> Callable[..., torch.Tensor]:
    return lambda *shape: torch.randn(*shape, generator=made) * 0.5


def _halves(number: int) -> tuple[int, int]:
    """Return a number as a product, the smaller factor first, as LyCORIS splits a side."""
    small = max(part for part in range(1, int(number**0.5) + 1) if number % part == 0)
    return small, number // small


def lokr(form: str, weight: torch.Tensor, made: torch.Generator, rank: int = 2) -> dict[str, torch.Tensor]:
    """Return a LoKr as LyCORIS writes it: `first` and `second` factorised or whole, or the second in Tucker form."""
    (j, k), (m, n), kernel = _halves(weight.shape[0]), _halves(weight.shape[1]), weight.shape[2:]
    if form == "turned":  # the larger factor first
        j, k, m, n = k, j, n, m
    random = _random(made)
    kit = {"lokr_w1": random(j, m)}
    if form == "both cut":
        kit = {"lokr_w1_a": random(j, rank), "lokr_w1_b": random(rank, m)}
    if form == "tucker":
        return kit | {
            "lokr_t2": random(rank, rank, *kernel),
            "lokr_w2_a": random(rank, k),
            "lokr_w2_b": random(rank, n),
        }
    if form in {"second cut", "both cut", "of a high rank"}:
        rank = 40 if form == "of a high rank" else rank
        return kit | {"lokr_w2_a": random(k, rank), "lokr_w2_b": random(rank, n * kernel.numel())}
    return kit | {"lokr_w2": random(k, n, *kernel)}


def loha(form: str, weight: torch.Tensor, made: torch.Generator, rank: int = 2) -> dict[str, torch.Tensor]:
    """Return a LoHa as LyCORIS writes it: two low-rank matrices, or two kernels in Tucker form."""
    random = _random(made)
    outputs, inputs, *kernel = weight.shape
    if form == "tucker":
        sides = {
            f"hada_w{n}_{side}": random(rank, size) for n in "12" for side, size in (("a", outputs), ("b", inputs))
        }
        return sides | {f"hada_t{n}": random(rank, rank, *kernel) for n in "12"}
    rank = 24 if form == "of a high rank" else rank
    inputs = weight[0].numel()
    return {
        f"hada_w{n}_{side}": random(*shape)
        for n in "12"
        for side, shape in (("a", (outputs, rank)), ("b", (rank, inputs)))
    }


def lycoris(path: Path, unet: torch.nn.Module, *, only: Callable[[str], bool] = attentions, seed: int = 0) -> Path:
    """Write a file that changes a UNet's layers slightly, each with another of LyCORIS's methods."""
    made = torch.Generator().manual_seed(seed)
    ways = [(lokr, "whole"), (lokr, "both cut"), (loha, "plain"), (loha, "of a high rank")]
    tensors: dict[str, torch.Tensor] = {}
    for number, (name, layer) in enumerate((name, layer) for name, layer in layers_of(unet).items() if only(name)):
        make, form = ways[number % len(ways)]
        stem, _ = named("kohya", "unet", name)
        tensors |= {f"{stem}.{part}": one.contiguous() for part, one in make(form, layer.weight, made).items()}
        tensors[f"{stem}.alpha"] = torch.tensor(0.2)
    save_file(tensors, path)
    return path


def _in_wan(name: str) -> str:
    """Return the layer's name in Wan's own code."""
    if "attn" not in name:
        return name.replace("ffn.net.0.proj", "ffn.0").replace("ffn.net.2", "ffn.2")
    block, _, layer = name.replace("to_out.0", "to_o").rpartition(".to_")
    return block.replace("attn1", "self_attn").replace("attn2", "cross_attn") + f".{layer}"


def networks_of(parts: Any) -> dict[str, torch.nn.Module]:
    """Return the networks of a loaded model that a LoRA can change."""
    names = ("unet", "transformer", "transformer_2")
    clip = ("text_encoder", "text_encoder_2") if hasattr(parts, "unet") else ()
    return {name: module for name, module in parts.modules().items() if name in (*clip, *names)}
