"""Interprets mask values: 0 keeps, 255 repaints, values between are soft, or artefacts of a lossy format.

Knows grey levels; neither where a mask is from nor what becomes of it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_NOISE = 8
"""Deviation from black and white, in levels, that a lossy format may cause anywhere."""
_MIDDLE, _RINGING = slice(64, 192), 0.02
"""Levels that occur only at a soft edge, and the share of pixels in which JPEG ringing may cause them."""
_CLEAN = [0 if value < _NOISE else 255 if value > 255 - _NOISE else value for value in range(256)]
_HALF = [255 if value >= 128 else 0 for value in range(256)]


def is_black_and_white(levels: Sequence[int]) -> bool:
    """Whether a mask with this histogram was drawn in pure black and white.

    At an edge JPEG is off by more than elsewhere (by 58 levels at quality 60): a mask that has hardly any grey, and
    none of the middle, which every soft or smoothed edge has, is one.
    """
    return not any(levels[_MIDDLE]) and sum(levels[_NOISE : 256 - _NOISE]) <= _RINGING * sum(levels)


def cleaned(mask: "Image.Image") -> "Image.Image":
    """Return the mask as L without a lossy format's artefacts in its black and white."""
    mask = mask.convert("L")
    return halved(mask) if is_black_and_white(mask.histogram()) else mask.point(_CLEAN)


def halved(mask: "Image.Image") -> "Image.Image":
    """Return the mask with 0 and 255 only: values of one half or more become white."""
    return mask.point(_HALF)


def is_hard(mask: "Image.Image") -> bool:
    """Whether the mask has only 0 and 255."""
    return not any(mask.histogram()[1:255])
