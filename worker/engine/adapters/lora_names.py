"""Maps trainers' layer names to the network's own: diffusers' current and old names, kohya's, Wan's, Stability's.

Knows names and the numbering of blocks; knows no file and no weight.
"""

from collections.abc import Iterator
from typing import Any

import torch

_OLD_SPELLINGS = (
    ("_processor_to_", "_to_"),
    ("self_attn_to_out", "self_attn_out_proj"),
    *((f"self_attn_to_{one}", f"self_attn_{one}_proj") for one in "qkv"),
)
"""Names in diffusers before 0.22 -> current names."""
# https://github.com/Wan-Video/Wan2.1, wan/modules/model.py.
_WAN_NAMES = (
    ("attn1.to_out.0", "self_attn.o"),
    ("attn2.to_out.0", "cross_attn.o"),
    *((f"attn1.to_{one}", f"self_attn.{one}") for one in "qkv"),
    *((f"attn2.to_{one}", f"cross_attn.{one}") for one in "qkv"),
    ("attn2.add_k_proj", "cross_attn.k_img"),
    ("attn2.add_v_proj", "cross_attn.v_img"),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"),
    ("condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3"),
    ("proj_out", "head.head"),
)
"""Suffixes of layer names in diffusers -> in Wan's own code."""
# https://github.com/Stability-AI/generative-models, sgm/modules/diffusionmodules/openaimodel.py.
_IN_RESNETS = (
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)
_OUTSIDE_BLOCKS = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


def flat(name: str) -> str:
    """Return a name without its separators: trainers use dots and underscores inconsistently."""
    compared = name.replace(".", "_")
    for old, new in _OLD_SPELLINGS:
        compared = compared.replace(old, new)
    return compared


def layers_by_name(network: Any) -> dict[str, tuple[str, torch.nn.Module]]:
    """Return every trainer's name for a layer, flattened -> the layer's own name, and the layer."""
    table: dict[str, tuple[str, torch.nn.Module]] = {}
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.Conv3d):
            for alias in aliases(name, network):
                table[flat(alias)] = name, module
    return table


def aliases(name: str, network: Any) -> Iterator[str]:
    """Yield the names of a layer of diffusers or transformers, its own name first."""
    yield name
    if name.endswith("to_out.0"):
        yield name.removesuffix(".0")
    kind = type(network).__name__
    if kind.startswith("CLIPText"):
        # transformers 5 dropped text_model; all files have it.
        yield name.removeprefix("text_model.")
        yield "text_model." + name.removeprefix("text_model.")
    elif kind.startswith("Wan"):
        yield from (name.removesuffix(ours) + theirs for ours, theirs in _WAN_NAMES if name.endswith(ours))
    elif kind.startswith("UNet") and (theirs := of_sgm(name, network)) is not None:
        yield theirs


def of_sgm(name: str, unet: Any) -> str | None:
    """Return a UNet layer's name in Stability's code, which numbers blocks consecutively; None: not in a block."""
    if name in _OUTSIDE_BLOCKS:
        return _OUTSIDE_BLOCKS[name]
    side, *rest = name.split(".")
    layers = unet.config.layers_per_block
    if side == "mid_block":
        kind, index, *inside = rest
        place = f"middle_block.{1 if kind == 'attentions' else 2 * int(index)}"
    elif side in {"down_blocks", "up_blocks"}:
        block, kind, index, *inside = rest
        first = int(block) * (layers + 1)
        if side == "down_blocks" and kind == "downsamplers":
            return f"input_blocks.{first + layers + 1}.0.op"
        if kind == "upsamplers":
            attends = hasattr(unet.up_blocks[int(block)], "attentions")
            return f"output_blocks.{first + layers}.{2 if attends else 1}.conv"
        number = first + int(index) + (side == "down_blocks")
        place = f"{'input' if side == 'down_blocks' else 'output'}_blocks.{number}.{int(kind == 'attentions')}"
    else:
        return None
    tail = ".".join(inside)
    if kind == "resnets":
        tail = dict(_IN_RESNETS).get(tail, tail)
    return f"{place}.{tail}"
