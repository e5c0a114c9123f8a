"""A picture -> the size of the job. Pure Pillow; knows no models.

A client's pictures are scaled to cover the target and cropped about their centre, never distorted.
"""

from typing import TYPE_CHECKING

from PIL import Image, ImageOps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from worker.api.layout import Shares
    from worker.core.types import Control

_NOISE = 8
"""Levels by which a lossy format may change the black and the white of a mask anywhere."""
_MIDDLE, _RINGING = slice(64, 192), 0.02
"""Levels that an edge between black and white has only where it is soft; the share of pixels that JPEG rings in."""
_CLEAN = [0 if value < _NOISE else 255 if value > 255 - _NOISE else value for value in range(256)]
_HALF = [255 if value >= 128 else 0 for value in range(256)]


def fit_image(image: Image.Image, width: int, height: int, control: "Control") -> Image.Image:
    """`image` as RGB of exactly width x height; warns when a part of it had to be cropped."""
    lost = cropped_share(image.size, (width, height))
    if lost >= 0.01:
        control.warn(
            f"image_url: the picture has other proportions than {width}x{height}; "
            f"it was scaled to cover and {round(100 * lost)} % of it was cropped"
        )
    image = image.convert("RGB")
    if image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def enlarged(drawn: "NDArray[np.uint8]", width: int, height: int) -> Image.Image:
    """A picture of ours, (height, width, 3), at another size of nearly its proportions."""
    return Image.fromarray(drawn).resize((width, height), Image.Resampling.LANCZOS)


def fit_mask(
    mask: Image.Image, image_size: tuple[int, int], width: int, height: int, control: "Control"
) -> Image.Image:
    """The mask laid over its image and cropped like it: L of width x height, each value the weight of what is drawn.

    A mask of 0 and 255 alone stays one at any size: a pixel is repainted where half of it or more was white.
    `image_size` is the source image's own size; a mask of another size is stretched over it first.
    """
    mask = cleaned(mask)
    hard = is_hard(mask)
    if mask.size != image_size:
        if cropped_share(mask.size, image_size) >= 0.01:
            control.warn("mask_url: the mask has other proportions than the image and was stretched over it")
        mask = mask.resize(image_size, Image.Resampling.BILINEAR)
    if mask.size != (width, height):
        mask = ImageOps.fit(mask, (width, height), Image.Resampling.BILINEAR)
    return mask.point(_HALF) if hard else mask


def cleaned(mask: Image.Image) -> Image.Image:
    """The mask as L without the traces that a lossy format leaves in its black and white.

    What is nearly one of them is it. At an edge JPEG is off by more (by 58 levels at quality 60): a mask that has
    hardly any grey, and none of the middle, which every soft or smoothed edge has, was black and white alone.
    """
    mask = mask.convert("L")
    levels = mask.histogram()
    grey = sum(levels[_NOISE : 256 - _NOISE])
    hard = not any(levels[_MIDDLE]) and grey <= _RINGING * sum(levels)
    return mask.point(_HALF if hard else _CLEAN)


def is_hard(mask: Image.Image) -> bool:
    """Whether it is all 0 and 255."""
    return not any(mask.histogram()[1:255])


def masked_box(mask: Image.Image) -> "Shares | None":
    """The smallest box with all that a mask repaints, in shares of its sides; None where it repaints nothing."""
    if (box := cleaned(mask).getbbox()) is None:
        return None
    width, height = mask.size
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def cropped_share(size: tuple[int, int], target: tuple[int, int]) -> float:
    """The share of a picture's area, 0 ... 1, that falls off when it is scaled to cover `target`."""
    ours, theirs = size[0] / size[1], target[0] / target[1]
    return 1 - min(ours, theirs) / max(ours, theirs)
