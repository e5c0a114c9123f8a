"""What a picture or a clip of the little world shows, from its pixels alone. Knows no captions and no models.

Refuses what it cannot tell: every attribute of `Seen` is None unless the picture shows it clearly.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tools.train_demo import outline
from tools.train_demo.scenes import (
    COLOURS,
    COLUMNS,
    CORNERS,
    GROWN,
    GROWTH,
    PICTURE_SIZES,
    ROWS,
    SPEED_ACROSS,
    SPEED_DOWN,
    turn_of,
)

Array = NDArray[np.float64]
Pixels = NDArray[np.uint8]

_TOO_FAR = 0.075
"""A colour this far from the nearest name, in OKLab, has none ..."""
_CLEARLY = 0.5
"""... nor one that is not twice as near to it as to the next."""
_SAME = 0.12
"""Two colours nearer than this in sRGB (each channel 0 to 1) are taken for one: noise, an encoder."""
_LEAST_RADIUS, _MOST_RADIUS = 0.06, 0.6
"""What is smaller or larger than this part of the shorter side is no shape."""
_WORKING_SIDE = 112
"""Larger pictures are averaged down to about this shorter side first."""


@dataclass(frozen=True)
class Seen:
    """What is in a picture; None is what it does not show clearly."""

    shape: str | None = None
    colour: str | None = None
    background: str | None = None
    column: str | None = None
    row: str | None = None
    size: str | None = None
    x: float | None = None
    """The shape's centre, 0 (left) to 1 (right)."""
    y: float | None = None
    """0 (top) to 1 (bottom)."""
    radius: float | None = None
    """As `Scene.radius`: a part of the shorter side."""
    area: float | None = None
    """A part of the picture."""
    angle: float | None = None
    """From upright, radians, clockwise as seen; up to the shape's own symmetry, so None for a circle."""


def look(pixels: Pixels) -> Seen:
    """What a picture shows: (height, width, 3), uint8, RGB, about 96 to 1280 pixels a side."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"a picture is (height, width, 3) of uint8, not {pixels.shape} of {pixels.dtype}")
    full_height, full_width = pixels.shape[:2]
    factor = max(1, min(full_height, full_width) // _WORKING_SIDE)
    picture = _averaged(pixels, factor)
    height, width = picture.shape[:2]
    short = min(height, width)
    ground = _ground(picture)
    parts = _parts(picture, ground) if ground is not None else None
    if ground is None or parts is None:
        return Seen()
    background = name_of(ground)
    if len(parts) != 1 or parts[0].sum() < math.pi * (_LEAST_RADIUS * short) ** 2:
        return Seen(background=background)
    box = _box(parts[0])
    ink, even = _ink(picture[box], parts[0][box])
    cover = _cover(picture[box], parts[0][box], ground, ink)
    filled = cover >= 0.5
    if not filled.any():
        return Seen(background=background)
    area = float(filled.sum()) / (height * width)
    y, x = (float(value) for value in ndimage.center_of_mass(filled))
    fit = outline.match(cover, x, y) if even else None
    radius = math.sqrt(area * height * width / math.pi) / short
    if fit is not None:
        x, y, radius = fit.x, fit.y, fit.radius / short
    if not _LEAST_RADIUS <= radius <= _MOST_RADIUS:
        return Seen(background=background)
    x, y = x + box[1].start, y + box[0].start
    x, y = (x + 0.5) * factor / full_width, (y + 0.5) * factor / full_height
    return Seen(
        shape=fit.shape if fit else None,
        colour=name_of(ink) if even else None,
        background=background,
        column=_nearest(x, COLUMNS),
        row=_nearest(y, ROWS),
        size=_nearest(radius, PICTURE_SIZES),
        x=x,
        y=y,
        radius=radius,
        area=area,
        angle=fit.angle if fit else None,
    )


def name_of(colour: Array) -> str | None:
    """The nearest of `COLOURS` to an sRGB colour, (3,), 0 to 1; None when it is far from all or between two."""
    distances = np.linalg.norm(_PALETTE - _oklab(colour), axis=1)
    first, second = np.sort(distances)[:2]
    near = first <= _TOO_FAR and first <= _CLEARLY * second
    return tuple(COLOURS)[int(distances.argmin())] if near else None


def colours(pixels: Pixels) -> dict[str, float]:
    """Shares, 0 to 1, of the named colours in what stands off the background, each pixel counted with the nearest name.

    For a shape of several colours, of which `look` names none. Empty where there is no background, or nothing on it.
    """
    picture = _averaged(pixels, max(1, min(pixels.shape[:2]) // _WORKING_SIDE))
    ground = _ground(picture)
    off = picture[_apart(picture, ground) > _SAME] if ground is not None else picture[:0]
    if not len(off):
        return {}
    nearest = np.linalg.norm(_oklab(off)[:, None] - _PALETTE, axis=2).argmin(axis=1)
    shares = np.bincount(nearest, minlength=len(COLOURS)) / len(off)
    return {name: float(share) for name, share in zip(COLOURS, shares, strict=True) if share}


def _oklab(colour: Array) -> Array:
    """sRGB, (..., 3), 0 to 1 -> OKLab (Ottosson 2020, bottosson.github.io/posts/oklab)."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    lab: Array = np.cbrt(cones) @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )
    return lab


_PALETTE = _oklab(np.array(list(COLOURS.values()), dtype=np.float64) / 255)


def _averaged(pixels: Pixels, factor: int) -> Array:
    """Blocks of `factor` x `factor` pixels as one, 0 to 1; what is left over at the right and below is left out."""
    height, width = (side // factor for side in pixels.shape[:2])
    total = np.zeros((height, width, 3), dtype=np.uint32)
    for row in range(factor):
        for column in range(factor):
            total += pixels[row : height * factor : factor, column : width * factor : factor]
    return total / (255.0 * factor * factor)


def _ground(picture: Array) -> Array | None:
    """The colour of most of the border, as a grown shape fills most of the middle; None when it has no such colour."""
    edge = max(2, round(0.03 * min(picture.shape[:2])))
    sides = (picture[:edge], picture[-edge:], picture[:, :edge], picture[:, -edge:])
    ring = np.concatenate([side.reshape(-1, 3) for side in sides])
    near = _apart(ring, np.median(ring, axis=0)) < _SAME
    ground: Array = np.median(ring[near], axis=0)
    return ground if near.mean() >= 0.55 else None


def _parts(picture: Array, ground: Array) -> list[NDArray[np.bool_]] | None:
    """What stands on the ground: no part, the shape, or the two largest where the second is no speck beside the first.

    None when the rest is not flat.
    """
    off = _apart(picture, ground) > _SAME
    labels, count = ndimage.label(off)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    largest = [int(index) for index in np.argsort(sizes)[::-1][:2]]
    parts = [labels == index + 1 for index in largest]
    beside = ~ndimage.binary_dilation(np.isin(labels, [index + 1 for index in largest]), iterations=2)
    if not beside.any() or off[beside].mean() > 0.03:
        return None
    return parts[:1] if len(parts) == 2 and sizes[largest[1]] <= 0.15 * sizes[largest[0]] else parts


def _box(part: NDArray[np.bool_], margin: int = 6) -> tuple[slice, slice]:
    """Where a part is, with a margin as far as the picture goes."""
    rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    first = [max(0, int(at[0]) - margin) for at in (rows, columns)]
    return slice(first[0], int(rows[-1]) + 1 + margin), slice(first[1], int(columns[-1]) + 1 + margin)


def _ink(picture: Array, part: NDArray[np.bool_]) -> tuple[Array, bool]:
    """The colour in the depth of a part, and whether it is the same everywhere there."""
    depth = ndimage.distance_transform_edt(part)
    core = picture[depth >= 0.5 * depth.max()]
    ink: Array = np.median(core, axis=0)
    return ink, bool((_apart(core, ink) < _SAME).mean() > 0.9)


def _cover(picture: Array, part: NDArray[np.bool_], ground: Array, ink: Array) -> Array:
    """How much of each pixel the shape covers, 0 to 1: where its colour lies between the ground's and the ink's."""
    along = ink - ground
    share = (((picture - ground) @ along) / float(along @ along)).clip(0, 1)
    cover: Array = np.where(ndimage.binary_dilation(part, iterations=2), share, 0.0)
    labels, count = ndimage.label(cover >= 0.5)
    if count > 1:
        cover[(labels > 0) & (labels != int(np.bincount(labels.ravel())[1:].argmax()) + 1)] = 0
    return cover


def _apart(colours: Array, one: Array) -> Array:
    difference = colours - one
    distance: Array = np.sqrt(np.einsum("...c,...c->...", difference, difference))
    return distance


def _nearest(value: float, places: dict[str, float]) -> str:
    return min(places, key=lambda name: abs(places[name] - value))


_SHOWN, _NOT_SHOWN = 0.4, 0.2
"""Shares of what is expected of a motion in so many frames, above which it is there and below which it is not."""
_EVERY = 2
"""At most so many frames from one look to the next, a quarter of what a turning shape takes to look the same."""
_JITTER = 0.06
"""How far a decoder may shake a shape from one look to the next."""
_MOST_WAY, _MOST_TURN = 0.27, math.radians(60)
"""A moving shape comes to rest at the margin, and long clips show more of a turn than is needed."""


def motion(frames: Sequence[Pixels] | Pixels) -> str | None:
    """Which of `MOTIONS` a clip of 9 to 121 frames shows; None when it is unclear, or more than one."""
    count = len(frames)
    if count < 9:
        raise ValueError(f"a motion cannot be told from {count} frames")
    every = max(1, min(_EVERY, (count - 1) // 8))
    at = sorted({*range(0, count, every), count - 1})
    looks = [look(np.asarray(frames[index])) for index in at]
    seen = [one for one in looks if one.x is not None and one.y is not None and one.radius is not None]
    if len(seen) < 0.8 * len(looks) or _same([one.colour for one in seen]) is None:
        return None
    x, y, radius = (np.array([getattr(one, name) for one in seen]) for name in ("x", "y", "radius"))
    most_across, most_down = (max(_JITTER, 2.5 * speed * every) for speed in (SPEED_ACROSS, SPEED_DOWN))
    if np.hypot(np.diff(x) / most_across, np.diff(y) / most_down).max() > 1:
        return None  # it jumps
    across, down = (
        float(at[-1] - at[0]) / min(speed * (count - 1), _MOST_WAY)
        for at, speed in ((x, SPEED_ACROSS), (y, SPEED_DOWN))
    )
    room = math.log(GROWN / float(radius[0])) if radius[0] < 0.9 * GROWN else math.inf
    grown = math.log(float(radius[-1] / radius[0])) / min(math.log(GROWTH) * (count - 1), room)
    shape = _same([one.shape for one in seen])
    turned = _turned(seen, shape) / min(turn_of(shape) * (count - 1), _MOST_TURN) if shape and CORNERS[shape] else 0.0
    shares = {
        ("right" if across > 0 else "left"): abs(across),
        ("down" if down > 0 else "up"): abs(down),
        "grows": abs(grown),
        "turns": abs(turned),
    }
    first, second = sorted(shares, key=lambda name: shares[name], reverse=True)[:2]
    if shares[first] < _NOT_SHOWN:
        return "still" if shape else None  # of an unknown shape nobody can say that it does not turn
    if shares[first] < _SHOWN or shares[second] > 0.5 * shares[first] or (first == "grows" and grown < 0):
        return None
    return first


def _same(values: list[str | None]) -> str | None:
    """What at least seven in ten of the looks agree on."""
    value, times = Counter(values).most_common(1)[0]
    return value if times >= 0.7 * len(values) else None


def _turned(seen: list[Seen], shape: str) -> float:
    """How far a shape has turned from the first look to the last, each step by the nearest of its symmetry."""
    angles = [one.angle for one in seen if one.shape == shape and one.angle is not None]
    if not angles:
        return 0.0
    period = 2 * math.pi / CORNERS[shape]
    return sum((after - before + period / 2) % period - period / 2 for before, after in pairwise(angles))
