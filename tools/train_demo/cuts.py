"""Cut-outs of shapes in any colours, sizes and angles, still or moving: what encoders and decoders are trained on.

Knows pixels; knows no words and no latents.
"""

import math
import random

import torch

from tools.train_demo.scenes import COLOURS, SHAPES, render, turn_of

_IMAGE_CUTS = ((64, 24), (96, 12), (96, 12), (192, 3))
"""Side in pixels, and how many in a batch of about the same size."""
_VIDEO_CUTS = (
    (1, 64, 64, 16),
    (1, 96, 96, 8),
    (5, 64, 64, 4),
    (9, 64, 64, 2),
    (17, 48, 48, 2),
    (33, 32, 32, 3),
    (33, 48, 48, 2),
    (81, 32, 32, 2),
)
"""Frames, height and width in pixels, and how many in a batch. Frames later than those of the longest drift in colour.

Two at least: over a single clip torch takes another convolution, whose step takes three times as long as two clips'.
"""
_IMAGES_LARGEST, _CLIPS_LARGEST = 120.0, 60.0
"""Radius in pixels of the largest shapes."""


def of_pictures(rng: random.Random, palette: float) -> torch.Tensor:
    """(batch, 3, side, side) pixels, -1 to 1; `palette` of the colours are the world's own."""
    side, count = rng.choice(_IMAGE_CUTS)
    return _cut_outs(rng, (count, 1, side, side), palette, _IMAGES_LARGEST)[:, 0] * 2 - 1


def of_clips(rng: random.Random, palette: float) -> torch.Tensor:
    """(batch, 3, frames, height, width) pixels, -1 to 1; `palette` of the colours are the world's own."""
    frames, height, width, count = rng.choice(_VIDEO_CUTS)
    return _cut_outs(rng, (count, frames, height, width), palette, _CLIPS_LARGEST).transpose(1, 2) * 2 - 1


def _cut_outs(rng: random.Random, form: tuple[int, int, int, int], palette: float, largest: float) -> torch.Tensor:
    """Shapes anywhere, of any size up to a radius of `largest` pixels and any angle, moving by chance.

    `form` is count, frames, height and width; (count, frames, 3, height, width), 0 to 1.
    """
    count, frames, height, width = form
    shapes, place, ink, ground = [], [], [], []
    for _ in range(count):
        shapes.append(rng.choice(SHAPES))
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        radius, angle = math.exp(rng.uniform(math.log(9), math.log(largest))), rng.uniform(-math.pi, math.pi)
        if rng.random() < 0.6:
            angle *= 0.03
        pace, way = rng.uniform(0, 4), rng.uniform(0, 2 * math.pi)
        kind = rng.randrange(4)
        across, down = (pace * math.cos(way), pace * math.sin(way)) if kind == 1 else (0.0, 0.0)
        growth, turn = (1.015 if kind == 2 else 1.0), (turn_of(shapes[-1]) if kind == 3 else 0.0)
        place.append([[x + across * f, y + down * f, radius * growth**f, angle + turn * f] for f in range(frames)])
        first, second = _colour(rng, palette), _colour(rng, palette)
        ink.append(first)
        ground.append(second)
    return render(shapes, torch.tensor(place), (torch.tensor(ink), torch.tensor(ground)), height, width)


def _colour(rng: random.Random, palette: float) -> list[float]:
    if rng.random() < palette:
        return [value / 255 for value in COLOURS[rng.choice(sorted(COLOURS))]]
    return [rng.random() for _ in range(3)]
