"""Scales pictures and masks to the size of a job. Pure Pillow; knows no models.

A client's pictures are scaled to cover the target and cropped at the centre, never distorted.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from worker.media import masks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from worker.api.layout import Shares
    from worker.core.types import Control

_SEEN = 4
"""More than the square, so that as a rule nothing is changed, and what is seen does not depend on the cut."""
_MOST_SQUARES = 33
"""Of the longest picture that a model draws, 2048 x 64, all is in that many."""


def fit_image(
    image: Image.Image, width: int, height: int, control: "Control", *, field: str = "image_url"
) -> Image.Image:
    """Return `image` as RGB of exactly width x height; warns with `field` if a part had to be cropped."""
    lost = cropped_share(image.size, (width, height))
    if lost >= 0.01:
        control.warn(
            f"{field}: the picture has other proportions than {width}x{height}; "
            f"it was scaled to cover and {round(100 * lost)} % of it was cropped"
        )
    image = image.convert("RGB")
    if image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def middle(image: Image.Image) -> Image.Image:
    """Return the middle of a picture, at most four times as long as wide, for a network with a square input.

    The network's preprocessor scales the shorter side first and crops afterwards: a picture of 1 x 1,000,000 pixels, a
    file of some hundred bytes, would become 224 x 224,000,000.
    """
    most = _SEEN * min(image.size)
    if max(image.size) <= most:
        return image
    width, height = (min(side, most) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def squares(image: Image.Image) -> Iterator[Image.Image]:
    """Squares that show all of a picture together, for a network that sees one: its middle, and on to both ends.

    Of what is hardly longer than wide it is the picture itself, of which the network sees nine tenths. A strip has
    `_MOST_SQUARES`, evenly spread.
    """
    short, long = sorted(image.size)
    if long <= short * 1.1:
        yield image
        return
    count = min(_MOST_SQUARES, 2 * math.ceil((long / short - 1) / 2) + 1)
    for place in range(count):
        begin = round(place * (long - short) / (count - 1))
        left, top = (begin, 0) if image.width == long else (0, begin)
        yield image.crop((left, top, left + short, top + short))


def enlarged(drawn: "NDArray[np.uint8]", width: int, height: int) -> Image.Image:
    """Resize one of our pictures, (height, width, 3), to nearly the same proportions."""
    return Image.fromarray(drawn).resize((width, height), Image.Resampling.LANCZOS)


def fit_mask(
    mask: Image.Image, image_size: tuple[int, int], width: int, height: int, control: "Control"
) -> Image.Image:
    """Scale and crop the mask like its image: L of width x height, each value the weight of the drawing.

    A mask of 0 and 255 only stays so at any size: a pixel is repainted if half of it or more was white.
    `image_size` is the source image's own size; a mask of another size is stretched over it first.
    """
    mask = masks.cleaned(mask)
    hard = masks.is_hard(mask)
    if mask.size != image_size:
        if cropped_share(mask.size, image_size) >= 0.01:
            control.warn("mask_url: the mask has other proportions than the image and was stretched over it")
        mask = mask.resize(image_size, Image.Resampling.BILINEAR)
    if mask.size != (width, height):
        mask = ImageOps.fit(mask, (width, height), Image.Resampling.BILINEAR)
    return masks.halved(mask) if hard else mask


def masked_box(mask: Image.Image) -> "Shares | None":
    """Return the smallest box that contains everything a mask repaints, relative to its sides; None: nothing."""
    if (box := masks.cleaned(mask).getbbox()) is None:
        return None
    width, height = mask.size
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def cropped_share(size: tuple[int, int], target: tuple[int, int]) -> float:
    """Return the share of a picture's area, 0 ... 1, that is cropped when it is scaled to cover `target`."""
    ours, theirs = size[0] / size[1], target[0] / target[1]
    return 1 - min(ours, theirs) / max(ours, theirs)
