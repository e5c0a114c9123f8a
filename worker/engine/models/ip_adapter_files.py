"""Finds the IP-Adapter for SDXL in a folder of h94/IP-Adapter's layout. Imports no torch.

A folder has `sdxl_models/*.safetensors`, or the files themselves, and an image encoder in one of `ENCODERS`. The widths
of a file's tensors tell which encoder it needs.
"""

from dataclasses import dataclass
from pathlib import Path

from worker.core.messages import text
from worker.engine.models.checkpoint import header, read_json
from worker.engine.models.weight_files import is_complete, is_whole

PREFERRED = (
    "ip-adapter-plus_sdxl_vit-h.safetensors",
    "ip-adapter_sdxl_vit-h.safetensors",
    "ip-adapter_sdxl.safetensors",
)
"""The preferred files, in order; otherwise any other. Those for CLIP ViT-H precede the one for a larger image encoder;
Plus uses a picture's patches and follows a subject better (tencent-ailab/IP-Adapter, README)."""
ENCODERS = ("models/image_encoder", "sdxl_models/image_encoder", "image_encoder")
_FACES = ("faceid", "instantid", "instant-id")
"""Parts of tensor names that identify FaceID weights."""


@dataclass(frozen=True, slots=True)
class IpAdapterFiles:
    """An adapter and the image encoder that it was trained with."""

    weights: Path
    encoder: Path
    """A folder in transformers' layout."""
    context: int
    """Width of its cross-attention input, which is that of the UNet's prompt (SDXL 2048, SD 1.5 768)."""


def ip_adapter_files(folder: Path) -> IpAdapterFiles | str:
    """Return the adapter of a folder, or why there is none, as the end of a sentence."""
    found = [*folder.glob("sdxl_models/*.safetensors"), *folder.glob("*.safetensors")]
    if not found:
        files = [*folder.glob("sdxl_models/*"), *folder.glob("*")]
        pickled = any(path.suffix == ".bin" for path in files)
        return text("model_unavailable.no_safe_ip_adapter" if pickled else "model_unavailable.no_ip_adapter")
    served = [path for path in found if not any(word in path.name.lower() for word in _FACES)]
    if not served:
        return text("model_unavailable.is_face_id")
    ranks = {name: rank for rank, name in enumerate(PREFERRED)}
    ordered = sorted(served, key=lambda path: (ranks.get(path.name, len(ranks)), path.name))
    tried = [_adapter(path, folder) for path in ordered]
    return next((one for one in tried if isinstance(one, IpAdapterFiles)), tried[0])


def _adapter(weights: Path, folder: Path) -> IpAdapterFiles | str:
    if not is_whole(weights):
        return text("model_unavailable.cut_off")
    shapes = {name: entry["shape"] for name, entry in header(weights).items()}
    keys = shapes.get("ip_adapter.1.to_k_ip.weight")
    plus = "image_proj.latents" in shapes
    reads = shapes.get("image_proj.proj_in.weight" if plus else "image_proj.proj.weight")
    if keys is None or reads is None or any("to_k_lora" in name for name in shapes):
        return text("model_unavailable.is_face_id" if _identifies(shapes) else "model_unavailable.no_ip_adapter")
    width, where = reads[1], "hidden_size" if plus else "projection_dim"
    for name in ENCODERS:
        if read_json(folder / name / "config.json").get(where) == width and is_complete(folder / name):
            return IpAdapterFiles(weights, folder / name, keys[1])
    return text("model_unavailable.no_image_encoder", width=width)


def _identifies(shapes: dict[str, list[int]]) -> bool:
    """Whether the weights are a variant of FaceID."""
    return any("to_k_lora" in name or name.startswith(("image_proj.perceiver", "image_proj.proj.2")) for name in shapes)
