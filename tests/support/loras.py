"""Small LoRAs for the networks at hand, of random weights, in the names of this or that trainer."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

Style = Literal["kohya", "peft", "diffusers", "wan"]
_PREFIXES: dict[str, str] = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}


def layers_of(network: torch.nn.Module) -> dict[str, Any]:
    """Name -> layer, of every layer that a LoRA may be for."""
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
    """A file for these networks (name among the parts of a model -> network), for the layers that `only` names."""
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
    """Where a trainer keeps the two matrices of a layer: how their names begin, and how each ends."""
    in_file = f"text_model.{name}" if name.startswith("encoder.") else name  # as it was before transformers 5
    if style == "kohya":
        return _PREFIXES[network] + in_file.replace(".", "_"), (".lora_down.weight", ".lora_up.weight")
    if style == "peft":
        return f"base_model.model.{in_file}", (".lora_A.weight", ".lora_B.weight")
    if style == "wan":
        return f"diffusion_model.{_in_wan(name)}", (".lora_A.weight", ".lora_B.weight")
    return f"{network}.{in_file}", (".lora_A.weight", ".lora_B.weight")


def _in_wan(name: str) -> str:
    """As Wan's own code calls it."""
    if "attn" not in name:
        return name.replace("ffn.net.0.proj", "ffn.0").replace("ffn.net.2", "ffn.2")
    block, _, layer = name.replace("to_out.0", "to_o").rpartition(".to_")
    return block.replace("attn1", "self_attn").replace("attn2", "cross_attn") + f".{layer}"


def networks_of(parts: Any) -> dict[str, torch.nn.Module]:
    """The networks of a loaded model that a LoRA may be for."""
    names = ("unet", "transformer", "transformer_2")
    clip = ("text_encoder", "text_encoder_2") if hasattr(parts, "unet") else ()
    return {name: module for name, module in parts.modules().items() if name in (*clip, *names)}
