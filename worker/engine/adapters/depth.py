"""Estimates the depth of a photo with Depth Anything (https://arxiv.org/abs/2406.09414): near is bright.

Knows one network and pictures; knows no ControlNet.
"""

import math
from typing import Any

import numpy as np
import torch
from PIL import Image

_SIDE, _PATCH = 518, 14
"""The shorter side in training, in pixels, and the multiple of both sides."""
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's mean and deviation, as in each release's `preprocessor_config.json`."""
_MOST_PIXELS = 3 * _SIDE**2
"""Limit of a panorama's pixels, with which the memory grows (`memory.room.DEPTH`)."""


@torch.no_grad()
def depth(network: Any, picture: Image.Image, device: torch.device) -> Image.Image:
    """Return RGB of the picture's size, from black (farthest) to white (nearest)."""
    scale = min(_SIDE / min(picture.size), math.sqrt(_MOST_PIXELS / math.prod(picture.size)))
    width, height = (max(_PATCH, round(side * scale / _PATCH) * _PATCH) for side in picture.size)
    small = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(small, dtype=np.float32) / 255.0)
    told = ((pixels - torch.tensor(_MEAN)) / torch.tensor(_DEVIATION)).permute(2, 0, 1)[None]
    found = network(told.to(device, network.dtype)).predicted_depth[None].float()
    full = torch.nn.functional.interpolate(found, picture.size[::-1], mode="bicubic", align_corners=False)[0, 0].cpu()
    low, high = full.min(), full.max()
    grey = ((full - low) / (high - low).clamp(min=torch.finfo(full.dtype).tiny) * 255).round().to(torch.uint8).numpy()
    return Image.fromarray(grey).convert("RGB")
