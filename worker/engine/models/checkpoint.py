"""Reads a model's folder: its small JSON files, and what its weights weigh. Imports no torch, loads nothing."""

import json
import math
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_ITEM_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}  # every other type is one byte
_HEADER_LIMIT = 100_000_000  # the format's own: https://huggingface.co/docs/safetensors
_FLOATS = {"F64", "F32", "F16", "BF16"}


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


def variant_of(folder: Path, *, half: bool) -> str | None:
    """`fp16` where the folder's half-precision files are wanted, or are the only ones; else None."""
    names = [path.name for path in folder.glob("*.safetensors")]
    fp16 = [name for name in names if ".fp16" in name]
    return "fp16" if fp16 and (half or len(fp16) == len(names)) else None


def weight_files(folder: Path, *, half: bool) -> list[Path]:
    """The safetensors files that loading the component in `folder` reads."""
    wanted = variant_of(folder, half=half) is not None
    return sorted(path for path in folder.glob("*.safetensors") if (".fp16" in path.name) == wanted)


def loaded_bytes(files: Iterable[Path], float_bytes: int) -> int:
    """Bytes that the tensors of `files` take with floats of `float_bytes` each, whatever type they are stored in."""
    total = 0
    for path in files:
        for tensor in header(path).values():
            kind = tensor.get("dtype", "F32")
            size = float_bytes if kind in _FLOATS else _ITEM_BYTES.get(kind, 1)
            total += size * math.prod(tensor.get("shape", (0,)))
    return total


def header(path: Path) -> dict[str, dict[str, Any]]:
    """Tensor name -> {dtype, shape, data_offsets} of a safetensors file; empty where it is none."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            content = json.loads(file.read(length)) if length < _HEADER_LIMIT else {}
    except (OSError, ValueError, struct.error):
        return {}
    return {name: entry for name, entry in content.items() if name != "__metadata__"}
