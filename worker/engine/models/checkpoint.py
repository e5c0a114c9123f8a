"""Reads what a checkpoint says of itself without loading it: parts, bytes, native size, steps, guidance scale.

Reads the small JSON files beside the weights, headers of safetensors files, and `worker.json`, which holds what no
config has. Knows no variables and no places. Imports no torch.
"""

import contextlib
import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from worker.api.params import ModelDefaults
from worker.api.request import ZERO_SNR_SCHEDULERS
from worker.core.config import OwnDefaults

_LARGE_LAYERS = re.compile(r"blocks\.\d+\.(?:attn\d|ff|ffn)\..*\.weight")
_ITEM_BYTES = {"I64": 8, "I32": 4, "I16": 2}  # every other type has one byte, or is a float
_METADATA = "__metadata__"
_HEADER_LIMIT = 100_000_000  # the format's own: https://huggingface.co/docs/safetensors
_FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
"""Float types, which are all converted to the run dtype on loading."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if the file is missing or holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def components(folder: Path) -> dict[str, tuple[str, str]]:
    """Return component -> (library, class) of a diffusers folder, in the order of its index, without absent ones."""
    return {
        name: (entry[0], entry[1])
        for name, entry in read_json(folder / "model_index.json").items()
        if isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)
    }


def has_weights(component: str) -> bool:
    """Whether a component is a network (and not a tokenizer, a scheduler or an image processor)."""
    return component.startswith(("unet", "vae", "text_encoder", "transformer", "image_encoder"))


DENOISERS = frozenset({"unet", "refiner_unet", "transformer", "transformer_2"})
"""Networks whose large layers may be quantised to 8 bits."""


def is_quantized(tensor: str) -> bool:
    """Whether a denoiser's matrix of this name may be quantised to 8 bits: attention and feed-forward."""
    return _LARGE_LAYERS.search(tensor) is not None


def loaded_bytes(
    files: Iterable[Path | Mapping[str, dict[str, Any]]], float_bytes: int, *, quantized: bool = False
) -> int:
    """Return the bytes that the tensors of `files` (or their headers) take with floats of `float_bytes` each.

    The stored type does not matter: a one-byte float is loaded as two bytes. If `quantized`, large layers take one byte
    per weight and four per output.
    """
    total = 0
    for file in files:
        for name, tensor in (header(file) if isinstance(file, Path) else file).items():
            kind, shape = tensor.get("dtype", "F32"), tensor.get("shape", (0,))
            size = float_bytes if kind in _FLOATS or kind.startswith("F8") else _ITEM_BYTES.get(kind, 1)
            if quantized and len(shape) == 2 and is_quantized(name):
                size, total = 1, total + 4 * shape[0]
            total += size * math.prod(shape)
    return total


def header(path: Path) -> dict[str, dict[str, Any]]:
    """Return tensor name -> {dtype, shape, data_offsets} of a safetensors file; empty if it is not one."""
    return _tensors(_header(path))


def metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file; empty if it has none."""
    _, content = _header(path) or (0, {})
    texts = content.get(_METADATA)
    return texts if isinstance(texts, dict) else {}


def data_bytes(path: Path) -> int | None:
    """Return the complete size of a safetensors file by its header; None if it is not one."""
    if (found := _header(path)) is None:
        return None
    ends = (entry.get("data_offsets", (0, 0))[1] for entry in _tensors(found).values())
    return found[0] + max(ends, default=0)


def _tensors(found: tuple[int, dict[str, Any]] | None) -> dict[str, dict[str, Any]]:
    return {} if found is None else {name: entry for name, entry in found[1].items() if name != _METADATA}


def _header(path: Path) -> tuple[int, dict[str, Any]] | None:
    """Return the offset of the data and the header; None if it is not a safetensors file."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            content = json.loads(file.read(length)) if length < _HEADER_LIMIT else None
    except (OSError, ValueError, struct.error):
        return None
    return (8 + length, content) if isinstance(content, dict) else None


OWN_FILE = "worker.json"
"""The file in a model's folder that overrides what is found there; its keys are those of `OwnDefaults`."""

_SDXL = ModelDefaults("", width=1024, height=1024, num_inference_steps=30, guidance_scale=5.0)
_SCHEDULE = {
    "prediction_type": "prediction_type",
    "timestep_spacing": "timestep_spacing",
    "zero_snr": "rescale_betas_zero_snr",
    "original_inference_steps": "original_inference_steps",
}
"""Key of `OwnDefaults` -> the entry of the scheduler's config that it sets."""

# https://github.com/Wan-Video/Wan2.1 and Wan2.2, wan/configs/shared_config.py: sample_fps, sample_neg_prompt.
_WAN_NEGATIVE_PROMPT = (
    "色调艳丽, 过曝, 静态, 细节模糊不清, 字幕, 风格, 作品, 画作, 画面, 静止, 整体发灰, 最差质量, 低质量, JPEG压缩残留, "
    "丑陋的, 残缺的, 多余的手指, 画得不好的手部, 画得不好的脸部, 畸形的, 毁容的, 形态畸形的肢体, 手指融合, "
    "静止不动的画面, 杂乱的背景, 三条腿, 背景人很多, 倒着走"
).replace(", ", "\N{FULLWIDTH COMMA}")
_WAN = ModelDefaults(
    "",
    width=832,
    height=480,
    num_inference_steps=50,
    guidance_scale=5.0,
    size_multiple=16,
    fps=16,
    negative_prompt=_WAN_NEGATIVE_PROMPT,
)
WAN_KINDS: dict[str, ModelDefaults] = {
    "t2v": _WAN,
    # Wan2.1, generate.py: fewer steps from a picture.
    "i2v": replace(_WAN, num_inference_steps=40),
    # Wan2.2, wan/configs/wan_ti2v_5B.py
    "ti2v": replace(_WAN, width=1280, height=704, size_multiple=32, fps=24, flow_shift=5.0),
    # Wan2.2, wan/configs/wan_t2v_A14B.py and wan_i2v_A14B.py; the second guidance is the low-noise expert's.
    "t2v-experts": replace(_WAN, num_inference_steps=40, guidance_scale=4.0, guidance_scale_2=3.0, flow_shift=12.0),
    "i2v-experts": replace(_WAN, num_inference_steps=40, guidance_scale=3.5, guidance_scale_2=3.5, flow_shift=5.0),
}
"""Each kind of Wan with its authors' settings."""


def sdxl_defaults(
    name: str, folder: Path | None, schedule: Mapping[str, Any], named: Mapping[str, Any], own: Mapping[str, Any]
) -> ModelDefaults:
    """Return the defaults of an SDXL model called `name`; `folder` None: a single file, or not on this machine.

    `schedule` has further entries of its scheduler's config, `named` what its name implies, `own` the operator's
    settings: each overrides the one before.
    """
    config = read_json(folder / "scheduler" / "scheduler_config.json") if folder is not None else {}
    found = replace(_with(_SDXL, named), name=name, **_sampling({**config, **schedule}))
    return _with(_sdxl_size(folder, found), own)


def wan_defaults(name: str, folder: Path | None, kind: str, own: Mapping[str, Any]) -> ModelDefaults:
    """Return the defaults of a Wan model called `name`, of a kind in `WAN_KINDS`; the rest as above."""
    found = replace(_wan_multiple(folder, WAN_KINDS[kind]), name=name, takes_flow_shift=_takes_flow_shift(folder))
    return _with(found, own)


def schedule_of(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a model was trained, as entries of its scheduler's config."""
    # Zero terminal SNR needs the very first step, which the other spacings leave out.
    spacing = {"timestep_spacing": "trailing"} if own.get("zero_snr") else {}
    return spacing | {entry: own[key] for key, entry in _SCHEDULE.items() if key in own}


def own_words(path: Path | None) -> dict[str, Any]:
    """Return the valid settings in a folder's `worker.json`, or in `<name>.json` beside a single file."""
    if path is None:
        return {}
    words = read_json(path.with_suffix(".json") if path.is_file() else path / OWN_FILE)
    said: dict[str, Any] = {}
    for key, value in words.items():
        with contextlib.suppress(ValueError):
            said |= OwnDefaults.model_validate({key: value}).given()
    return said


def _sampling(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a scheduler's config says about the training, as fields of `ModelDefaults`."""
    found: dict[str, Any] = {}
    if (prediction := config.get("prediction_type", "epsilon")) != "epsilon":
        found["prediction_type"] = prediction
    if (spacing := config.get("timestep_spacing", "leading")) != "leading":
        found["timestep_spacing"] = spacing
    if config.get("rescale_betas_zero_snr"):
        found |= {"schedulers": ZERO_SNR_SCHEDULERS, "guidance_rescale": 0.7}
    if str(config.get("_class_name", "")).startswith("EDM"):
        # A different noise schedule: https://arxiv.org/abs/2206.00364, table 1.
        found |= {"schedulers": (), "scheduler": None}
    return found


def _sdxl_size(folder: Path | None, defaults: ModelDefaults) -> ModelDefaults:
    if folder is None:
        return defaults
    sample = read_json(folder / "unet" / "config.json").get("sample_size")
    blocks = read_json(folder / "vae" / "config.json").get("block_out_channels")
    if not isinstance(sample, int) or not isinstance(blocks, list):
        return defaults
    side = sample * 2 ** (len(blocks) - 1)
    return replace(defaults, width=side, height=side)


def _wan_multiple(folder: Path | None, defaults: ModelDefaults) -> ModelDefaults:
    if folder is None:
        return defaults
    patch = read_json(folder / "transformer" / "config.json").get("patch_size")
    scale = read_json(folder / "vae" / "config.json").get("scale_factor_spatial", 8)
    if not isinstance(patch, list) or len(patch) != 3 or not isinstance(scale, int):
        return defaults
    # diffusers' WanPipeline rounds sizes down to this multiple; here other sizes are refused. The wire contract has 16.
    return replace(defaults, size_multiple=max(16, scale * int(patch[1])))


def _takes_flow_shift(folder: Path | None) -> bool:
    """Whether a request's shift has an effect: a scheduler may choose its own by the size, or have none."""
    config = read_json(folder / "scheduler" / "scheduler_config.json") if folder is not None else {}
    flows = config.get("use_flow_sigmas") or str(config.get("_class_name", "FlowMatch")).startswith("FlowMatch")
    return bool(flows) and not config.get("use_dynamic_shifting")


def _with(defaults: ModelDefaults, said: Mapping[str, Any]) -> ModelDefaults:
    """Apply settings to `defaults`; for the schedule, the scheduler's config takes precedence."""
    elsewhere = {*_SCHEDULE, "preview_factors", "hold_end_image"}
    return replace(defaults, **{key: value for key, value in said.items() if key not in elsewhere})
