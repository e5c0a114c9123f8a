"""IP-Adapters in the published SDXL layout of h94/IP-Adapter, with small random weights."""

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

_MODELS: Any = transformers

PLAIN = "ip-adapter_sdxl_vit-h.safetensors"
PLUS = "ip-adapter-plus_sdxl_vit-h.safetensors"
LARGE = "ip-adapter_sdxl.safetensors"
"""The file whose image encoder is the larger CLIP, in `sdxl_models/image_encoder`."""
FACE_ID = "ip-adapter-faceid_sdxl.safetensors"
"""A file of h94/IP-Adapter-FaceID, which identifies a face."""

EMBEDDED, HIDDEN = 24, 32
"""Widths of the small image encoder: of its projection and of its hidden layers (published: 1024 and 1280)."""
_TOKENS = {PLAIN: 4, LARGE: 4, PLUS: 16}
_INNER = 64


def ip_adapter(folder: Path, unet: Any, *names: str) -> Path:
    """Write a repository of these weights, with the image encoders that they need."""
    torch.manual_seed(8)
    (folder / "sdxl_models").mkdir(parents=True, exist_ok=True)
    for name in names:
        save_file(tensors(unet, name), folder / "sdxl_models" / name)
        if name == LARGE:
            image_encoder(folder / "sdxl_models" / "image_encoder", projection=EMBEDDED + 8)
        else:
            image_encoder(folder / "models" / "image_encoder")
    return folder


def tensors(unet: Any, name: str) -> dict[str, torch.Tensor]:
    """Return the tensors of the file of this name, for a UNet."""
    width = unet.config.cross_attention_dim
    found = _resampler(width) if name == PLUS else _linear(width, EMBEDDED + (8 if name == LARGE else 0), _TOKENS[name])
    for index, processor in enumerate(unet.attn_processors):
        if processor.endswith("attn2.processor"):
            own = unet.get_submodule(processor.removesuffix(".processor"))
            for which in ("to_k", "to_v"):
                weight = getattr(own, which).weight
                found[f"ip_adapter.{index}.{which}_ip.weight"] = torch.randn_like(weight) * 3 / width**0.5
    return found


def image_encoder(folder: Path, *, projection: int = EMBEDDED) -> Path:
    """Write a small CLIP for pictures of 32 x 32."""
    vision = _MODELS.CLIPVisionConfig(
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=projection,
        initializer_factor=8.0,
    )
    _MODELS.CLIPVisionModelWithProjection(vision).save_pretrained(folder)
    return folder


def _linear(width: int, embedded: int, tokens: int) -> dict[str, torch.Tensor]:
    return {
        "image_proj.proj.weight": torch.randn(tokens * width, embedded) / embedded**0.5,
        "image_proj.proj.bias": torch.randn(tokens * width) / 4,
        "image_proj.norm.weight": 1 + torch.randn(width) / 8,
        "image_proj.norm.bias": torch.randn(width) / 8,
    }


def _resampler(width: int) -> dict[str, torch.Tensor]:
    """Return four layers with one head (published: 20 heads)."""
    shapes: dict[str, tuple[int, ...]] = {
        "latents": (1, _TOKENS[PLUS], _INNER),
        "proj_in.weight": (_INNER, HIDDEN),
        "proj_in.bias": (_INNER,),
        "proj_out.weight": (width, _INNER),
        "proj_out.bias": (width,),
        "norm_out.weight": (width,),
        "norm_out.bias": (width,),
    }
    for layer in range(4):
        for norm in ("0.norm1", "0.norm2", "1.0"):
            shapes |= {f"layers.{layer}.{norm}.weight": (_INNER,), f"layers.{layer}.{norm}.bias": (_INNER,)}
        shapes |= {
            f"layers.{layer}.0.to_q.weight": (_INNER, _INNER),
            f"layers.{layer}.0.to_kv.weight": (2 * _INNER, _INNER),
            f"layers.{layer}.0.to_out.weight": (_INNER, _INNER),
            f"layers.{layer}.1.1.weight": (4 * _INNER, _INNER),
            f"layers.{layer}.1.3.weight": (_INNER, 4 * _INNER),
        }
    random = {name: torch.randn(shape) / shape[-1] ** 0.5 for name, shape in shapes.items()}
    norms = {name: value + 1 for name, value in random.items() if "norm" in name or name.endswith("1.0.weight")}
    return {f"image_proj.{name}": value for name, value in (random | norms).items()}
