"""The folders of the demo models as diffusers lays them out: indexes, what is shared, what a model says of itself.

Knows files; knows no weights.
"""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import diffusers

_WARNING = "These are the small built-in demo models: they draw one simple shape on a background, nothing else."
_SAYS: dict[str, dict[str, Any]] = {
    "sdxl": {
        "name": "demo",
        "width": 256,
        "height": 256,
        "num_inference_steps": 12,
        "guidance_scale": 2.0,
        "draft_strength": 0.3,
        "warnings": [_WARNING],
    },
    "sdxl-refiner": {"name": "demo", "width": 256, "height": 256},
    "wan": {
        "name": "demo",
        "width": 192,
        "height": 112,
        "num_inference_steps": 5,
        "guidance_scale": 1.0,
        "num_frames": 81,
        "fps": 15,
        "size_multiple": 16,
        "draft_strength": 0.2,
        "warnings": [_WARNING],
    },
}
"""`worker.json` of each: its native size and its defaults."""
_INDEXES: dict[str, dict[str, Any]] = {
    "sdxl": {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    },
    "sdxl-refiner": {
        "_class_name": "StableDiffusionXLImg2ImgPipeline",
        "force_zeros_for_empty_prompt": False,
        "requires_aesthetics_score": True,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": [None, None],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": [None, None],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    },
    "wan": {
        "_class_name": "WanPipeline",
        "boundary_ratio": None,
        "expand_timesteps": True,
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "transformer_2": [None, None],
        "vae": ["diffusers", "AutoencoderKLWan"],
    },
}
_SHARED_WITH_REFINER = ("text_encoder_2", "tokenizer_2", "vae")
"""As in the large models, the refiner's folder holds copies of these parts of the base's."""


HALVES = {"image": ("sdxl", "sdxl-refiner"), "video": ("wan",)}
"""What is trained by itself: nothing of one half is needed for the other."""


def complete(out: Path, half: str) -> None:
    """Write what the trained parts of one of `HALVES` need to be loaded, as far as they are trained yet."""
    folders = [out / name for name in HALVES[half]]
    for folder in folders:
        index = _INDEXES[folder.name]
        folder.mkdir(parents=True, exist_ok=True)
        head = {"_class_name": index["_class_name"], "_diffusers_version": diffusers.__version__}
        _write(folder / "model_index.json", head | index)
        _write(folder / "worker.json", _SAYS[folder.name])
    for path in itertools.chain.from_iterable(folder.rglob("config.json") for folder in folders):
        # Where a part was trained further from is a folder on the machine that did.
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            _write(path, config)
    for part in _SHARED_WITH_REFINER if half == "image" else ():
        if (out / "sdxl" / part).exists():
            shutil.copytree(out / "sdxl" / part, out / "sdxl-refiner" / part, dirs_exist_ok=True)
    for path in itertools.chain.from_iterable((folder, *folder.rglob("*")) for folder in folders):
        # Weights are written for their writer alone; the image's user is another one.
        path.chmod(0o755 if path.is_dir() else 0o644)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
