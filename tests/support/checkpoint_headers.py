"""Headers of safetensors files with the tensor names and shapes of published checkpoints, and no weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Tensors = dict[str, tuple[str, list[int]]]

UNET = "model.diffusion_model."


def unet(width: int, channels: int = 4, block: int = 4) -> Tensors:
    """Return the tensors that identify a UNet whose text embedding is `width` wide."""
    return {
        f"{UNET}input_blocks.0.0.weight": ("F16", [320, channels, 3, 3]),
        f"{UNET}input_blocks.{block}.1.transformer_blocks.0.attn2.to_k.weight": ("F16", [640, width]),
    }


ENCODERS: Tensors = {
    "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight": ("F16", [77, 768]),
    "conditioner.embedders.1.model.positional_embedding": ("F16", [77, 1280]),
}
VAE: Tensors = {"first_stage_model.decoder.conv_in.weight": ("F16", [512, 4, 3, 3])}
SDXL: Tensors = unet(2048) | ENCODERS | VAE


def put_header(path: Path, tensors: Mapping[str, tuple[str, list[int]]], **metadata: str) -> Path:
    """Write a file that declares these tensors (name -> dtype, shape) without any of their data."""
    entries: dict[str, Any] = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]} for name, (dtype, shape) in tensors.items()
    }
    header = json.dumps(entries | ({"__metadata__": metadata} if metadata else {})).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return path
