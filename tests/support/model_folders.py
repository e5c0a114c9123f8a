"""Model folders made of small files only, and a registry over them."""

import json
from pathlib import Path
from typing import Any

from tests.support.checkpoint_headers import put_header
from worker.core.config import Settings, load_settings
from worker.engine.models.hub import Place
from worker.engine.models.registry import ModelRegistry

EMPTY_SAFETENSORS = (2).to_bytes(8, "little") + b"{}"


def put(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def put_weights(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(EMPTY_SAFETENSORS)


def put_tensor(path: Path, length: int = 64) -> None:
    """Write a safetensors file with one byte tensor."""
    entry = {"tensor": {"dtype": "U8", "shape": [length], "data_offsets": [0, length]}}
    content = json.dumps(entry).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(content).to_bytes(8, "little") + content + bytes(length))


def put_shapes(path: Path, shapes: dict[str, list[int]]) -> None:
    """Write the header of a safetensors file with these tensors, and none of their data."""
    put_header(path, {name: ("F16", shape) for name, shape in shapes.items()})


def put_ip_adapter(folder: Path, *, context: int = 2048) -> Path:
    """Write h94/IP-Adapter's files for SDXL with CLIP ViT-H, for a UNet whose text embedding is `context` wide."""
    shapes = {"image_proj.proj.weight": [4 * context, 1024], "ip_adapter.1.to_k_ip.weight": [640, context]}
    put_shapes(folder / "sdxl_models" / "ip-adapter_sdxl_vit-h.safetensors", shapes)
    put(folder / "models" / "image_encoder" / "config.json", {"hidden_size": 1280, "projection_dim": 1024})
    put_tensor(folder / "models" / "image_encoder" / "model.safetensors")
    return folder


def put_shards(folder: Path, stem: str, count: int, *, variant: str = "") -> list[Path]:
    """Write a network's shards and their index, named as diffusers and transformers do; returns the shards."""
    dotted = f".{variant}" if variant else ""
    shards = [folder / f"{stem}{dotted}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    for shard in shards:
        put_tensor(shard)
    index = {"weight_map": {f"tensor.{number}": shard.name for number, shard in enumerate(shards)}}
    put(folder / f"{stem}.safetensors.index{dotted}.json", index)
    return shards


def fake_sdxl(folder: Path, sample_size: int = 128, **index: Any) -> Path:
    parts = {name: ["diffusers", "X"] for name in ("unet", "vae", "text_encoder", "text_encoder_2")}
    put(folder / "model_index.json", {"_class_name": "StableDiffusionXLPipeline", **parts, **index})
    put(folder / "unet" / "config.json", {"sample_size": sample_size, "in_channels": 4})
    put(folder / "vae" / "config.json", {"block_out_channels": [1, 2, 3, 4]})
    for part in parts:
        put_weights(folder / part / "model.safetensors")
    return folder


def fake_wan(folder: Path, *, in_channels: int = 16, scale: int = 8, **index: Any) -> Path:
    parts = {name: ["diffusers", "X"] for name in ("transformer", "vae", "text_encoder")}
    put(folder / "model_index.json", {"_class_name": "WanPipeline", **parts, **index})
    put(
        folder / "transformer" / "config.json",
        {"in_channels": in_channels, "out_channels": 48 if in_channels == 48 else 16, "patch_size": [1, 2, 2]},
    )
    put(folder / "vae" / "config.json", {"scale_factor_spatial": scale})
    for part in parts:
        put_weights(folder / part / "model.safetensors")
    return folder


def registry(*, cuda: bool, where: tuple[Place, ...] = (), **values: Any) -> ModelRegistry:
    settings: Settings = load_settings(
        **(
            dict.fromkeys(("sdxl_model", "sdxl_vae", "sdxl_refiner", "ip_adapter_model", "wan_model", "wan_i2v_model"))
            | values
        )
    )
    return ModelRegistry(settings, cuda=cuda, where=where)
