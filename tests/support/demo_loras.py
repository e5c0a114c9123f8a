"""LoRAs with random weights for the built-in SDXL model; no torch."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from worker.engine.models.hub import DEMO_MODELS


def lora(path: Path, seed: int) -> Path:
    """Write random low-rank weights for the built-in UNet's attention, in diffusers' names."""
    (weights,) = (DEMO_MODELS / "sdxl" / "unet").glob("*.safetensors")
    dice, tensors = np.random.default_rng(seed), {}
    for name, weight in load_file(weights).items():
        if name.endswith(("to_q.weight", "to_v.weight")):
            stem, (outputs, inputs) = f"unet.{name.removesuffix('.weight')}", weight.shape
            tensors[f"{stem}.lora_A.weight"] = dice.normal(0, 0.3, (4, inputs)).astype(np.float32)
            tensors[f"{stem}.lora_B.weight"] = dice.normal(0, 0.3, (outputs, 4)).astype(np.float32)
    save_file(tensors, path)
    return path
