"""A picture -> the size of the job. Pure Pillow and NumPy; knows no models.

A client's pictures are scaled to cover the target and cropped about their centre, never distorted.
"""

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from worker.core.types import Control

MASK_THRESHOLD = 128
"""Mask values from here to 255 are repainted."""


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
) -> "NDArray[np.bool_]":
    """The mask laid over its image and cropped like it: (height, width), True where the picture is repainted.

    `image_size` is the source image's own size; a mask of another size is stretched over it first.
    """
    mask = mask.convert("L")
    if mask.size != image_size:
        if cropped_share(mask.size, image_size) >= 0.01:
            control.warn("mask_url: the mask has other proportions than the image and was stretched over it")
        mask = mask.resize(image_size, Image.Resampling.BILINEAR)
    if mask.size != (width, height):
        mask = ImageOps.fit(mask, (width, height), Image.Resampling.BILINEAR)
    repaint: NDArray[np.bool_] = np.asarray(mask) >= MASK_THRESHOLD
    if not repaint.any():
        control.warn("mask_url: the mask has no white pixel, so the picture stays as it was")
    return repaint


def cropped_share(size: tuple[int, int], target: tuple[int, int]) -> float:
    """The share of a picture's area, 0 ... 1, that falls off when it is scaled to cover `target`."""
    ours, theirs = size[0] / size[1], target[0] / target[1]
    return 1 - min(ours, theirs) / max(ours, theirs)
