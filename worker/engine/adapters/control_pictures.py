"""Prepares control pictures at the size that a pass draws. Knows no networks.

A control picture is fitted to the output like the source picture; outpainted borders are black, which means unknown.
OpenCV is imported only for edges.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from worker.api.layout import Borders
from worker.engine import resize

if TYPE_CHECKING:
    from worker.api.params import ControlParams, ImageParams
    from worker.core.types import Control

CANNY_THRESHOLDS = (100, 200)
"""Gradient thresholds, 0 ... 1020, from diffusers' and lllyasviel's ControlNet examples
(https://huggingface.co/docs/diffusers/using-diffusers/controlnet)."""
_LIGHT = 128
"""A drawing with a brighter average has dark lines on light."""


def control_picture(
    image: Image.Image,
    entry: "ControlParams",
    params: "ImageParams",
    size: tuple[int, int],
    *,
    field: str,
    control: "Control",
    depth: Callable[[Image.Image], Image.Image],
) -> Image.Image:
    """Return the control picture, RGB of `size` (the job's `drawn_size`, or its draft's). `depth` estimates depth."""
    if params.outpaint is None and params.drawn is None:
        return _shown(resize.fit_image(image, *size, control, field=field), entry, depth)
    output = params.width, params.height
    left, up, right, down = (params.outpaint or Borders()).inside(output)
    inside = resize.fit_image(image, right - left, down - up, control, field=field)
    canvas = Image.new("RGB", output)
    canvas.paste(_shown(inside, entry, depth), (left, up))
    if params.drawn is not None:
        canvas = canvas.crop(params.drawn.box)
    return canvas if canvas.size == size else canvas.resize(size, Image.Resampling.LANCZOS)


def _shown(picture: Image.Image, entry: "ControlParams", depth: Callable[[Image.Image], Image.Image]) -> Image.Image:
    if not entry.preprocess:
        return picture
    if entry.type == "depth":
        return depth(picture)
    if entry.type == "canny":
        return canny(picture)
    return light_on_dark(picture) if entry.type == "scribble" else picture


def canny(picture: Image.Image) -> Image.Image:
    """Return edges, white on black (J. Canny 1986)."""
    import cv2

    edges = cv2.Canny(np.asarray(picture.convert("L")), *CANNY_THRESHOLDS)
    return Image.fromarray(edges).convert("RGB")


def light_on_dark(drawing: Image.Image) -> Image.Image:
    """Return a drawing as ControlNets expect it, light lines on black; dark lines on light are inverted."""
    grey = drawing.convert("L")
    return (ImageOps.invert(grey) if np.asarray(grey).mean() > _LIGHT else grey).convert("RGB")
