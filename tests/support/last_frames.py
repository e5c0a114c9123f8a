"""Small Wan checkpoints that take a last frame, made from a small Wan 2.1 that takes a first one."""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch

_KIT: Any = diffusers


def with_experts(wan_i2v: Path, folder: Path) -> Path:
    """Write Wan 2.2 I2V-A14B's layout: two transformers that take pictures among the frames, no image encoder."""
    _copied(wan_i2v, folder, image_dim=None, added_kv_proj_dim=None)
    for part in ("image_encoder", "image_processor"):
        shutil.rmtree(folder / part)
    shutil.copytree(folder / "transformer", folder / "transformer_2")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"image_encoder": [None, None], "image_processor": [None, None], "boundary_ratio": 0.9}
    index["transformer_2"] = index["transformer"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def first_to_last(wan_i2v: Path, folder: Path) -> Path:
    """Write Wan 2.1 FLF2V's layout: position embeddings for both pictures' 17 image tokens (published: 2 x 257)."""
    return _copied(wan_i2v, folder, pos_embed_seq_len=34)


def _copied(wan_i2v: Path, folder: Path, **changes: Any) -> Path:
    shutil.copytree(wan_i2v, folder)
    shutil.rmtree(folder / "transformer")
    config = json.loads((wan_i2v / "transformer" / "config.json").read_text())
    torch.manual_seed(5)
    kind = _KIT.WanTransformer3DModel
    kind.from_config({**config, **changes}).save_pretrained(folder / "transformer")
    return folder
