"""Width and height from a shape: which size a model draws that is shaped so. Pure arithmetic; knows no request."""

import math


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
