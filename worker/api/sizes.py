"""Converts a shape (aspect ratio) into the width and height that a model draws. Pure; knows no request."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

Size = tuple[int, int]
"""Width and height."""
ImageSizeName = Literal["square_hd", "square", "portrait_4_3", "portrait_16_9", "landscape_4_3", "landscape_16_9"]
AspectRatio = Literal["21:9", "16:9", "3:2", "4:3", "5:4", "1:1", "4:5", "3:4", "2:3", "9:16", "9:21"]
Resolution = Literal["480p", "720p"]

ASPECT_RATIOS: dict[AspectRatio, float] = {
    name: int(name.partition(":")[0]) / int(name.partition(":")[2]) for name in get_args(AspectRatio)
}
IMAGE_SIZES: dict[ImageSizeName, AspectRatio] = {
    "square_hd": "1:1",
    "square": "1:1",
    "portrait_4_3": "3:4",
    "portrait_16_9": "9:16",
    "landscape_4_3": "4:3",
    "landscape_16_9": "16:9",
}
"""fal.ai's size names -> their shape. A model draws each shape in one size."""
RESOLUTIONS: dict[Resolution, Size] = {"480p": (832, 480), "720p": (1280, 720)}
"""In landscape, from https://github.com/Wan-Video/Wan2.1 (`SIZE_CONFIGS`)."""

_SDXL = (1024, 1024)
_SDXL_LYING: tuple[Size, ...] = (_SDXL, (1152, 896), (1216, 832), (1344, 768), (1536, 640))
_SDXL_SIZES = (*_SDXL_LYING, *((height, width) for width, height in _SDXL_LYING))
"""The sizes of SDXL's training (https://arxiv.org/abs/2307.01952, appendix I) that are nearest to these shapes."""
_LONGEST_IMAGE, _LONGEST_CLIP, _SHORTEST = 2048, 1280, 64
_NEAR = 0.03
"""A trained size is preferred if its shape differs by no more than this (natural logarithm of the ratio)."""


def image_size(ratio: float, native: Size, multiple: int) -> Size:
    """Return the size in which an image model of this native size draws a shape; for SDXL the nearest trained one."""
    if native == _SDXL:
        return _nearest(ratio, _SDXL_SIZES)
    return shaped(ratio, native[0] * native[1], multiple=multiple, least=_SHORTEST, most=_LONGEST_IMAGE)


def video_size(ratio: float, pixels: int, native: Size, multiple: int) -> Size:
    """Return the size in which a video model draws a shape with about `pixels`; one of Wan's own if one is near."""
    known = (native, *RESOLUTIONS.values(), (1280, 704))
    turned = [(height, width) for width, height in known]
    usable = [
        size
        for size in (*known, *turned)
        if not (size[0] % multiple or size[1] % multiple) and 0.9 * pixels <= size[0] * size[1] <= pixels
    ]
    if usable and _off(ratio, near := _nearest(ratio, usable)) <= _NEAR:
        return near
    return shaped(ratio, pixels, multiple=multiple, least=_SHORTEST, most=_LONGEST_CLIP)


def frame_count(seconds: float, fps: int) -> int:
    """Return the frame count, 4k + 1 in 5 ... 121, whose duration is nearest to `seconds`; ties go to the longer."""
    return min(121, max(5, 4 * math.floor((seconds * fps + 1) / 4) + 1))


def _nearest(ratio: float, sizes: Sequence[Size]) -> Size:
    return min(sizes, key=lambda size: _off(ratio, size))


def _off(ratio: float, size: Size) -> float:
    return abs(math.log(size[0] / size[1] / ratio))


def shaped(ratio: float, pixels: int, *, multiple: int, least: int, most: int) -> tuple[int, int]:
    """Return the width and height nearest to `ratio`, with about `pixels` and never more.

    Args:
        ratio: width / height. If the sides' limits do not allow it, the nearest that they do.
        pixels: the limit of width x height; at least `least` squared.
        multiple: both sides are multiples of it.
        least: the shortest side, a multiple of `multiple`.
        most: the longest side.

    Up to a tenth of the pixels is given up for a nearer shape: 16:9 at 1024 x 1024 pixels is 1352 x 760.
    """
    most = min(most, pixels // least)
    height = math.sqrt(pixels / ratio)
    width = height * ratio
    width *= min(1.0, most / width, most / height)

    def side(wanted: float, limit: int) -> int:
        return max(least, min(round(wanted / multiple), limit // multiple) * multiple)

    def sized(width: int) -> tuple[int, int]:
        return width, side(width / ratio, min(most, pixels // width))

    first, last = (side(share * width, most) for share in (0.95, 1.02))
    sizes = [sized(width) for width in range(first, last + 1, multiple)]
    return min(sizes, key=lambda size: (round(abs(math.log(size[0] / size[1] / ratio)), 3), -size[0] * size[1]))
