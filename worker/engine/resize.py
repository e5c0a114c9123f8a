"""A picture -> the size of the job. Pure Pillow; knows no models.

A client's pictures are scaled to cover the target and cropped about their centre, never distorted.
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
    """`image` as RGB of exactly width x height; warns when a part of it, which `field` named, had to be cropped."""
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
    """The middle of a picture, at most four times as long as it is wide, for a network that sees a square of it.

    What such a network comes with scales the shorter side to its own and crops then: of a picture of 1 x 1,000,000
    pixels, a file of some hundred bytes, it would make one of 224 x 224,000,000.
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
    """A picture of ours, (height, width, 3), at another size of nearly its proportions."""
    return Image.fromarray(drawn).resize((width, height), Image.Resampling.LANCZOS)


def fit_mask(
    mask: Image.Image, image_size: tuple[int, int], width: int, height: int, control: "Control"
) -> Image.Image:
    """The mask laid over its image and cropped like it: L of width x height, each value the weight of what is drawn.

    A mask of 0 and 255 alone stays one at any size: a pixel is repainted where half of it or more was white.
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
    """The smallest box with all that a mask repaints, in shares of its sides; None where it repaints nothing."""
    if (box := masks.cleaned(mask).getbbox()) is None:
        return None
    width, height = mask.size
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def cropped_share(size: tuple[int, int], target: tuple[int, int]) -> float:
    """The share of a picture's area, 0 ... 1, that falls off when it is scaled to cover `target`."""
    ours, theirs = size[0] / size[1], target[0] / target[1]
    return 1 - min(ours, theirs) / max(ours, theirs)
