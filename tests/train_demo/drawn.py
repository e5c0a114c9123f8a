"""Scenes as pixels, and what models, encoders and mistakes do to pixels."""

import io
import itertools
import random
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from tools.train_demo.scenes import COLOURS, SHAPES, Scene, draw_lots, in_play, paint

Pixels = NDArray[np.uint8]


def scene(**changes: object) -> Scene:
    """A large red star in the centre on white, but for the changes."""
    values: dict[str, object] = {
        "shape": "star",
        "colour": "red",
        "background": "white",
        "column": "centre",
        "row": "centre",
        "size": "large",
        "motion": "still",
        "x": 0.5,
        "y": 0.5,
        "radius": 0.18,
        "angle": 0.0,
    }
    return Scene(**(values | changes))  # type: ignore[arg-type]  # the names are those of the fields


def every_shape_and_colour(seed: int, count: int = 40) -> Iterator[Scene]:
    """Scenes by chance, of which each has the next shape and colour."""
    rng = random.Random(seed)
    pairs = itertools.cycle(itertools.product(COLOURS, SHAPES))
    while count:
        colour, shape = next(pairs)
        drawn = draw_lots(rng)
        while (drawn.colour, drawn.shape) != (colour, shape):
            drawn = draw_lots(rng)
        yield in_play(drawn, rng)
        count -= 1


def drawn(one: Scene, height: int = 256, width: int = 256) -> Pixels:
    """(height, width, 3)."""
    only: Pixels = clip(one, 1, height, width)[0]
    return only


def clip(one: Scene, frames: int, height: int = 112, width: int = 192) -> Pixels:
    """(frames, height, width, 3)."""
    pixels = paint([one], height, width, frames)[0].permute(0, 2, 3, 1)
    array: Pixels = (pixels * 255).round().to(torch.uint8).numpy()
    return array


def soft(pixels: Pixels, sigma: float) -> Pixels:
    return _uint8(ndimage.gaussian_filter(pixels.astype(np.float64), (sigma, sigma, 0)))


def noisy(pixels: Pixels, sigma: float = 4.0) -> Pixels:
    return _uint8(pixels + np.random.default_rng(0).normal(0, sigma, pixels.shape))


def specked(pixels: Pixels) -> Pixels:
    """Ten specks of 2 x 2 pixels, of any colour."""
    rng, copy = np.random.default_rng(0), pixels.copy()
    for _ in range(10):
        row, column = rng.integers(0, pixels.shape[0] - 2), rng.integers(0, pixels.shape[1] - 2)
        copy[row : row + 2, column : column + 2] = rng.integers(0, 256, 3)
    return copy


def through(pixels: Pixels, factor: int) -> Pixels:
    """Down by a factor and up again, as through a small autoencoder."""
    height, width = pixels.shape[:2]
    small = Image.fromarray(pixels).resize((width // factor, height // factor), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def jpeg(pixels: Pixels, quality: int = 85) -> Pixels:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality)
    return np.asarray(Image.open(out))


def polygon(points: list[tuple[float, float]], side: int = 256) -> Pixels:
    """A red polygon on white, its corners in parts of the side."""
    picture = Image.new("RGB", (4 * side, 4 * side), COLOURS["white"])
    ImageDraw.Draw(picture).polygon([(4 * side * x, 4 * side * y) for x, y in points], fill=COLOURS["red"])
    return np.asarray(picture.resize((side, side), Image.Resampling.BOX))


def _uint8(values: NDArray[np.float64]) -> Pixels:
    rounded: Pixels = values.round().clip(0, 255).astype(np.uint8)
    return rounded
