"""What a checkpoint says of itself, without being loaded: its parts, its bytes, its native size, steps and guidance.

Reads the small JSON files beside the weights, headers of safetensors files, and `worker.json`, in which a folder says
what no config does. Knows no variables and no places. Imports no torch.
"""

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from worker.api.params import ModelDefaults
from worker.api.request import ZERO_SNR_SCHEDULERS

_ITEM_BYTES = {"I64": 8, "I32": 4, "I16": 2}  # every other type is one byte, or a float
_METADATA = "__metadata__"
_HEADER_LIMIT = 100_000_000  # the format's own: https://huggingface.co/docs/safetensors
_FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
"""Whatever their width on the disk, they are widened or narrowed to one as they are read."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where the file is missing or holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def components(folder: Path) -> dict[str, tuple[str, str]]:
    """Component -> (library, class) of a diffusers folder, in the order of its index, without the absent ones."""
    return {
        name: (entry[0], entry[1])
        for name, entry in read_json(folder / "model_index.json").items()
        if isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)
    }


def has_weights(component: str) -> bool:
    """Whether a component is a network (and not a tokenizer, a scheduler or an image processor)."""
    return component.startswith(("unet", "vae", "text_encoder", "transformer", "image_encoder"))


def loaded_bytes(files: Iterable[Path | Mapping[str, dict[str, Any]]], float_bytes: int) -> int:
    """Bytes that the tensors of `files` (or of their headers) take with floats of `float_bytes` each.

    Whatever type they are stored in: a float of one byte is loaded as one of two.
    """
    total = 0
    for file in files:
        for tensor in (header(file) if isinstance(file, Path) else file).values():
            kind = tensor.get("dtype", "F32")
            size = float_bytes if kind in _FLOATS or kind.startswith("F8") else _ITEM_BYTES.get(kind, 1)
            total += size * math.prod(tensor.get("shape", (0,)))
    return total


def header(path: Path) -> dict[str, dict[str, Any]]:
    """Tensor name -> {dtype, shape, data_offsets} of a safetensors file; empty where it is none."""
    return _tensors(_header(path))


def metadata(path: Path) -> dict[str, str]:
    """The texts that a safetensors file says of itself; empty where there are none."""
    _, content = _header(path) or (0, {})
    texts = content.get(_METADATA)
    return texts if isinstance(texts, dict) else {}


def data_bytes(path: Path) -> int | None:
    """Bytes that a safetensors file has when all of it is there; None where it is none."""
    if (found := _header(path)) is None:
        return None
    ends = (entry.get("data_offsets", (0, 0))[1] for entry in _tensors(found).values())
    return found[0] + max(ends, default=0)


def _tensors(found: tuple[int, dict[str, Any]] | None) -> dict[str, dict[str, Any]]:
    return {} if found is None else {name: entry for name, entry in found[1].items() if name != _METADATA}


def _header(path: Path) -> tuple[int, dict[str, Any]] | None:
    """Where the data begin, and what stands in front of them; None where it is no safetensors file."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            content = json.loads(file.read(length)) if length < _HEADER_LIMIT else None
    except (OSError, ValueError, struct.error):
        return None
    return (8 + length, content) if isinstance(content, dict) else None


OWN_FILE = "worker.json"
"""Lies in a model's folder and wins over everything else; its keys are the fields of `ModelDefaults`."""

_SDXL = ModelDefaults("", width=1024, height=1024, num_inference_steps=30, guidance_scale=5.0)
_WAN = ModelDefaults("", width=832, height=480, num_inference_steps=50, guidance_scale=5.0, size_multiple=16)
_TI2V = replace(_WAN, width=1280, height=704, size_multiple=32)

_KINDS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "width": int,
    "height": int,
    "num_inference_steps": int,
    "guidance_scale": (int, float),
    "num_frames": int,
    "fps": int,
    "size_multiple": int,
    "draft_strength": (int, float),
    "guidance_rescale": (int, float),
}


def sdxl_defaults(name: str, folder: Path | None, scheduler: Mapping[str, Any]) -> ModelDefaults:
    """Of an SDXL model called `name`; `folder` is None where its files are elsewhere or in one file.

    `scheduler` has what is known of its scheduler's config beside what the folder says.
    """
    config = read_json(folder / "scheduler" / "scheduler_config.json") if folder is not None else {}
    return _with_own(replace(_sdxl_size(folder), name=name, **_sampling({**config, **scheduler})), folder)


def _sampling(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a scheduler's config says of how the model was trained, as fields of `ModelDefaults`."""
    found: dict[str, Any] = {}
    if (prediction := config.get("prediction_type", "epsilon")) != "epsilon":
        found["prediction_type"] = prediction
    if (spacing := config.get("timestep_spacing", "leading")) != "leading":
        found["timestep_spacing"] = spacing
    if config.get("rescale_betas_zero_snr"):
        found |= {"schedulers": ZERO_SNR_SCHEDULERS, "guidance_rescale": 0.7}
    if str(config.get("_class_name", "")).startswith("EDM"):
        # Another noise: https://arxiv.org/abs/2206.00364, table 1.
        found["schedulers"] = ()
    return found


def wan_defaults(name: str, folder: Path | None, *, ti2v: bool) -> ModelDefaults:
    """Of a Wan model called `name`, as above; `ti2v` says that it is of Wan 2.2 TI2V's layout."""
    return _with_own(replace(_wan_multiple(folder, _TI2V if ti2v else _WAN), name=name), folder)


def _sdxl_size(folder: Path | None) -> ModelDefaults:
    if folder is None:
        return _SDXL
    sample = read_json(folder / "unet" / "config.json").get("sample_size")
    blocks = read_json(folder / "vae" / "config.json").get("block_out_channels")
    if not isinstance(sample, int) or not isinstance(blocks, list):
        return _SDXL
    side = sample * 2 ** (len(blocks) - 1)
    return replace(_SDXL, width=side, height=side)


def _wan_multiple(folder: Path | None, defaults: ModelDefaults) -> ModelDefaults:
    if folder is None:
        return defaults
    patch = read_json(folder / "transformer" / "config.json").get("patch_size")
    scale = read_json(folder / "vae" / "config.json").get("scale_factor_spatial", 8)
    if not isinstance(patch, list) or len(patch) != 3 or not isinstance(scale, int):
        return defaults
    # diffusers' WanPipeline rounds sizes down to this multiple; here they are refused. The contract's own is 16.
    return replace(defaults, size_multiple=max(16, scale * int(patch[1])))


def _with_own(defaults: ModelDefaults, folder: Path | None) -> ModelDefaults:
    """`defaults` with what the folder's `worker.json` says, where that is of the right type."""
    if folder is None:
        return defaults
    own = read_json(folder / OWN_FILE)
    changes: dict[str, Any] = {key: own[key] for key, kind in _KINDS.items() if isinstance(own.get(key), kind)}
    said = own.get("warnings")
    if isinstance(said, list):
        changes["warnings"] = tuple(str(line) for line in said)
    return replace(defaults, **changes)
