"""What the values of a mask mean: 0 keeps, 255 repaints, what is between is between, or a trace of a lossy format.

Knows grey levels; neither where a mask is from nor what becomes of it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_NOISE = 8
"""Levels by which a lossy format may change the black and the white of a mask anywhere."""
_MIDDLE, _RINGING = slice(64, 192), 0.02
"""Levels that an edge between black and white has only where it is soft; the share of pixels that JPEG rings in."""
_CLEAN = [0 if value < _NOISE else 255 if value > 255 - _NOISE else value for value in range(256)]
_HALF = [255 if value >= 128 else 0 for value in range(256)]


def is_black_and_white(levels: Sequence[int]) -> bool:
    """Whether a mask of this histogram was drawn in black and white alone.

    At an edge JPEG is off by more than elsewhere (by 58 levels at quality 60): a mask that has hardly any grey, and
    none of the middle, which every soft or smoothed edge has, is one.
    """
    return not any(levels[_MIDDLE]) and sum(levels[_NOISE : 256 - _NOISE]) <= _RINGING * sum(levels)


def cleaned(mask: "Image.Image") -> "Image.Image":
    """The mask as L without the traces that a lossy format leaves in its black and white."""
    mask = mask.convert("L")
    return halved(mask) if is_black_and_white(mask.histogram()) else mask.point(_CLEAN)


def halved(mask: "Image.Image") -> "Image.Image":
    """An L of 0 and 255 alone: a pixel is repainted where half of it or more was white."""
    return mask.point(_HALF)


def is_hard(mask: "Image.Image") -> bool:
    """Whether it is all 0 and 255."""
    return not any(mask.histogram()[1:255])
