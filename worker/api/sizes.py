"""Width and height from a shape: which size a model draws that is shaped so. Pure arithmetic; knows no request."""

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
"""The names that fal.ai made common -> their shape. A model has one size that it draws a shape in."""
RESOLUTIONS: dict[Resolution, Size] = {"480p": (832, 480), "720p": (1280, 720)}
"""Lying, as Wan's authors have them: https://github.com/Wan-Video/Wan2.1 (`SIZE_CONFIGS`)."""

_SDXL = (1024, 1024)
_SDXL_LYING: tuple[Size, ...] = (_SDXL, (1152, 896), (1216, 832), (1344, 768), (1536, 640))
_SDXL_SIZES = (*_SDXL_LYING, *((height, width) for width, height in _SDXL_LYING))
"""Those of SDXL's training (https://arxiv.org/abs/2307.01952, appendix I) that are nearest to the shapes here."""
_LONGEST_IMAGE, _LONGEST_CLIP, _SHORTEST = 2048, 1280, 64
_NEAR = 0.03
"""A trained size that is off by no more than so much of the shape is the better one."""


def image_size(ratio: float, native: Size, multiple: int) -> Size:
    """The size that an image model of this native size draws a shape in: for SDXL's, the nearest it was trained on."""
    if native == _SDXL:
        return _nearest(ratio, _SDXL_SIZES)
    return shaped(ratio, native[0] * native[1], multiple=multiple, least=_SHORTEST, most=_LONGEST_IMAGE)


def video_size(ratio: float, pixels: int, native: Size, multiple: int) -> Size:
    """The size that a video model draws a shape in, of about so many pixels; one of Wan's own where one is near."""
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
    """The number of frames, 4k + 1 and 5 ... 121, that plays nearest to so long; of two the longer."""
    return min(121, max(5, 4 * math.floor((seconds * fps + 1) / 4) + 1))


def _nearest(ratio: float, sizes: Sequence[Size]) -> Size:
    return min(sizes, key=lambda size: _off(ratio, size))


def _off(ratio: float, size: Size) -> float:
    return abs(math.log(size[0] / size[1] / ratio))


def shaped(ratio: float, pixels: int, *, multiple: int, least: int, most: int) -> tuple[int, int]:
    """The width and height nearest to `ratio`, of about `pixels` and never more.

    Args:
        ratio: width / height. One that the sides' limits do not allow comes out as near as they do.
        pixels: the most that width x height may be; at least `least` squared.
        multiple: what both sides are multiples of.
        least: the shortest that a side may be, a multiple of `multiple`.
        most: the longest.

    A tenth of the pixels is given up for a nearer shape: 16:9 at 1024 x 1024 pixels is 1352 x 760.
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
