"""What a model says of itself without being loaded: native size, steps, guidance. Imports no torch.

Reads the configs beside the weights, and `worker.json`, in which a folder says what no config does. Knows no variables
and no places.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from worker.api.params import ModelDefaults
from worker.engine.models.checkpoint import read_json

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
}


def sdxl_defaults(name: str, folder: Path | None) -> ModelDefaults:
    """Of an SDXL model called `name`; `folder` is None where its files are elsewhere or in one file."""
    return _with_own(replace(_sdxl_size(folder), name=name), folder)


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
