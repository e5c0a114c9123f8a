"""Describes what a picture or clip of the demo models' world shows, from its pixels alone. Knows no prompts and no
models.

Refuses to guess: every attribute of `Seen` is None unless the picture shows it clearly.
"""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tests.support import drawn_scenes as world
from tests.support.drawn_scenes import COLOURS, CORNERS, Array, Pixels, Scene

_TOO_FAR = 0.075
"""A colour further than this from the nearest named one, in OKLab, has no name ..."""
_CLEARLY = 0.5
"""... and neither has one that is not twice as near to it as to the next."""
_SAME = 0.12
"""Two colours nearer than this in sRGB (each channel 0 to 1) count as one: noise, an encoder."""
_LEAST_RADIUS, _MOST_RADIUS = 0.06, 0.6
"""Shapes have a radius between these fractions of the shorter side."""
_WORKING_SIDE = 112
"""Larger pictures are first averaged down to about this shorter side."""


@dataclass(frozen=True)
class Seen:
    """The contents of a picture; None where it does not show an attribute clearly."""

    shape: str | None = None
    colour: str | None = None
    background: str | None = None
    column: str | None = None
    row: str | None = None
    x: float | None = None
    """The shape's centre, 0 (left) to 1 (right)."""
    y: float | None = None
    """0 (top) to 1 (bottom)."""
    radius: float | None = None
    """As `Scene.radius`: a fraction of the shorter side."""
    angle: float | None = None
    """Radians, clockwise as seen, modulo the shape's own symmetry; None for a circle."""


def look(pixels: Pixels) -> Seen:
    """Describe a picture: (height, width, 3), uint8, RGB, about 96 to 1280 pixels a side."""
    factor = _factor(pixels)
    picture = _averaged(pixels, factor)
    short = min(picture.shape[:2])
    ground = _ground(picture)
    if ground is None:
        return Seen()
    background, part = _name(ground), _part(picture, ground)
    if part is None:
        return Seen(background=background)
    ink, even = _ink(picture, part)
    cover = _cover(picture, part, ground, ink)
    filled = cover >= 0.5
    if not filled.any():
        return Seen(background=background)
    y, x = (float(value) for value in ndimage.center_of_mass(filled))
    outline = _outline(cover, x, y) if even else None
    radius = (outline.radius if outline else math.sqrt(float(filled.sum()) / math.pi)) / short
    if not _LEAST_RADIUS <= radius <= _MOST_RADIUS:
        return Seen(background=background)
    # A pixel's value is that of its middle, half a pixel from the corner that centres are measured from.
    x, y = (x + 0.5) * factor / pixels.shape[1], (y + 0.5) * factor / pixels.shape[0]
    return Seen(
        shape=outline.shape if outline else None,
        colour=_name(ink) if even else None,
        background=background,
        column=_nearest(x, world.COLUMNS),
        row=_nearest(y, world.ROWS),
        x=x,
        y=y,
        radius=radius,
        angle=outline.angle if outline else None,
    )


def colours(pixels: Pixels) -> dict[str, float]:
    """Return the shares, 0 to 1, of the named colours in the foreground; each pixel counts for its nearest name.

    For a shape of several colours, for which `look` gives no name. Empty without a background, or without a foreground.
    """
    picture = _averaged(pixels, _factor(pixels))
    ground = _ground(picture)
    off = picture[_apart(picture, ground) > _SAME] if ground is not None else picture[:0]
    if not len(off):
        return {}
    nearest = np.linalg.norm(_oklab(off)[:, None] - _PALETTE, axis=2).argmin(axis=1)
    shares = np.bincount(nearest, minlength=len(COLOURS)) / len(off)
    return {name: float(share) for name, share in zip(COLOURS, shares, strict=True) if share}


def _name(colour: Array) -> str | None:
    """Return the nearest of `COLOURS` to an sRGB colour, (3,), 0 to 1; None if it is far from all or between two."""
    distances = np.linalg.norm(_PALETTE - _oklab(colour), axis=1)
    first, second = np.sort(distances)[:2]
    near = first <= _TOO_FAR and first <= _CLEARLY * second
    return tuple(COLOURS)[int(distances.argmin())] if near else None


def _oklab(colour: Array) -> Array:
    """Convert sRGB, (..., 3), 0 to 1, to OKLab (Ottosson 2020, bottosson.github.io/posts/oklab)."""
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


def _factor(pixels: Pixels) -> int:
    """Return the factor by which a picture's sides are divided before analysis."""
    return max(1, int(min(pixels.shape[:2])) // _WORKING_SIDE)


def _averaged(pixels: Pixels, factor: int) -> Array:
    """Average blocks of `factor` x `factor` pixels, 0 to 1, dropping the remainder at the right and the bottom."""
    height, width = (side // factor for side in pixels.shape[:2])
    blocks = pixels[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    # Adding slices takes a third of the time of `mean` over two axes of so few numbers.
    total = np.zeros((height, width, 3))
    for down, across in itertools.product(range(factor), repeat=2):
        total += blocks[:, down, :, across]
    return total / factor**2 / 255


def _ground(picture: Array) -> Array | None:
    """Return the colour of most of the border (a grown shape fills most of the middle), or None if there is none."""
    edge = max(2, round(0.03 * min(picture.shape[:2])))
    sides = (picture[:edge], picture[-edge:], picture[:, :edge], picture[:, -edge:])
    ring = np.concatenate([side.reshape(-1, 3) for side in sides])
    near = _apart(ring, np.median(ring, axis=0)) < _SAME
    ground: Array = np.median(ring[near], axis=0)
    return ground if near.mean() >= 0.55 else None


def _part(picture: Array, ground: Array) -> NDArray[np.bool_] | None:
    """Return the mask of the one shape on the ground; None without one, or with more than specks beside it."""
    off = _apart(picture, ground) > _SAME
    labels, count = ndimage.label(off)
    sizes = np.sort(np.bincount(labels.ravel(), minlength=count + 1)[1:])
    if not count or sizes[-1] < math.pi * (_LEAST_RADIUS * min(off.shape)) ** 2:
        return None
    part: NDArray[np.bool_] = labels == 1 + int(np.bincount(labels.ravel())[1:].argmax())
    beside = ~ndimage.binary_dilation(part, iterations=2)
    scattered = bool(off[beside].mean() > 0.03) if beside.any() else True
    return None if scattered or (count > 1 and sizes[-2] > 0.15 * sizes[-1]) else part


def _ink(picture: Array, part: NDArray[np.bool_]) -> tuple[Array, bool]:
    """Return the colour deep inside a part, and whether it is uniform there."""
    depth = ndimage.distance_transform_edt(part)
    core = picture[depth >= 0.5 * depth.max()]
    ink: Array = np.median(core, axis=0)
    return ink, bool((_apart(core, ink) < _SAME).mean() > 0.9)


def _cover(picture: Array, part: NDArray[np.bool_], ground: Array, ink: Array) -> Array:
    """Return each pixel's coverage by the shape, 0 to 1: where its colour lies between the ground's and the ink's."""
    along = ink - ground
    share = (((picture - ground) @ along) / float(along @ along)).clip(0, 1)
    cover: Array = np.where(ndimage.binary_dilation(part, iterations=2), share, 0.0)
    return cover


def _apart(colours: Array, one: Array) -> Array:
    difference = colours - one
    distance: Array = np.sqrt(np.einsum("...c,...c->...", difference, difference))
    return distance


def _nearest(value: float, places: dict[str, float]) -> str:
    return min(places, key=lambda name: abs(places[name] - value))


# -- the shape, by its outline: the distance from centre to edge in every direction, against that of the four shapes

_RAYS = 180
_ANGLES = np.arange(_RAYS) * (2 * math.pi / _RAYS)
_SOFTNESS = {"circle": (0.0,), "square": (0.0, 0.1, 0.2), "triangle": (0.0, 0.1, 0.2), "star": (0.0, 0.1, 0.2)}
"""Blur of an edge, as fractions of the radius: a soft picture is compared with a soft template.

A blurred circle stays a circle, and a softer star would be a pentagon.
"""
_MOST_MISFIT = 0.06
"""Root mean squared difference of the outlines, as a fraction of the radius, above which nothing matches ..."""
_NEARER = 0.65
"""... and how much nearer the best shape must be than the second."""


@dataclass(frozen=True)
class _Outline:
    misfit: float
    shape: str
    radius: float
    """In pixels; defined as in `Scene`."""
    angle: float | None


def _outline(cover: Array, x: float, y: float) -> _Outline | None:
    """Match a coverage, (height, width), 0 to 1, about the centroid (x, y) with a shape; None if none fits."""
    profile = _profile(cover, x, y)
    if profile is None:
        return None
    fits: dict[str, _Outline] = {}
    for shape, turned in _templates():
        scale = np.maximum((turned @ profile) / (turned**2).sum(1), 1e-6)
        misfits = np.sqrt(((profile - scale[:, None] * turned) ** 2).mean(1)) / scale
        at = int(misfits.argmin())
        angle = at * 2 * math.pi / _RAYS if CORNERS[shape] else None
        fit = _Outline(float(misfits[at]), shape, float(scale[at]), angle)
        if shape not in fits or fit.misfit < fits[shape].misfit:
            fits[shape] = fit
    best, second = sorted(fits.values(), key=lambda fit: fit.misfit)[:2]
    within = float((profile**2).sum()) * math.pi / _RAYS
    # A ring, or a shape that folds back on itself, covers less than its outline encloses.
    if abs(within - float((cover >= 0.5).sum())) > 0.08 * within:
        return None
    return best if best.misfit <= min(_MOST_MISFIT, _NEARER * second.misfit) else None


def _profile(cover: Array, x: float, y: float) -> Array | None:
    """Return the distance of the edge along each ray; None if part of it lies outside the picture."""
    height, width = cover.shape
    inside = np.argwhere(cover >= 0.5)
    reach = float(np.hypot(inside[:, 0] - y, inside[:, 1] - x).max()) + 3
    step = max(0.5, reach / 200)
    lengths = np.arange(0, reach, step)
    rows, columns = y + np.sin(_ANGLES)[:, None] * lengths, x + np.cos(_ANGLES)[:, None] * lengths
    outside = (rows < 0) | (rows > height - 1) | (columns < 0) | (columns > width - 1)
    values = np.where(outside, 0.0, ndimage.map_coordinates(cover, [rows, columns], order=1, mode="nearest"))
    covered = values >= 0.5
    last = np.where(covered.any(axis=1), values.shape[1] - 1 - np.argmax(covered[:, ::-1], axis=1), 0)
    beyond = np.minimum(last + 1, values.shape[1] - 1)
    rays = np.arange(_RAYS)
    if outside[rays, beyond].any():
        return None
    here, there = values[rays, last], values[rays, beyond]
    edges: NDArray[np.float64] = (last + ((here - 0.5) / np.maximum(here - there, 1e-6)).clip(0, 1)) * step
    return edges


@functools.cache
def _templates() -> list[tuple[str, Array]]:
    """Return every shape's outlines at every softness, in units of its radius: (rotations by two degrees, rays)."""
    side, radius, templates = 384, 0.17, []
    for shape, softnesses in _SOFTNESS.items():
        cover = world.cover(Scene(shape, radius=radius), side, side)
        for softness in softnesses:
            profile = _profile(ndimage.gaussian_filter(cover, softness * radius * side), side / 2 - 0.5, side / 2 - 0.5)
            assert profile is not None
            turns = range(_RAYS // CORNERS[shape] if CORNERS[shape] else 1)
            templates.append((shape, np.stack([np.roll(profile / (radius * side), turn) for turn in turns])))
    return templates


# -- motion

_SHOWN, _NOT_SHOWN = 0.4, 0.2
"""Fractions of a motion's expected extent: above the first it is present, below the second it is not."""
_EVERY = 2
"""Frames from one look to the next, a quarter of what a turning shape takes to look the same."""
_JITTER = 0.06
"""How far a decoder may shake a shape from one look to the next."""
_MOST_WAY, _MOST_TURN = 0.27, math.radians(60)
"""Upper bounds: a moving shape stops at the margin, and long clips show more rotation than is needed."""
_GROWN = 1.2
"""A shape whose radius changes by more than this factor grows or shrinks, whatever else it does."""


def motion(frames: Sequence[Pixels] | Pixels) -> str | None:
    """Return the motion of a clip of at least 9 frames: "still", "left", "right", "up", "down", "turns", or None."""
    way_frames = len(frames) - 1
    looks = [look(np.asarray(frame)) for frame in frames[::_EVERY]]
    seen = [one for one in looks if one.x is not None and one.y is not None and one.radius is not None]
    if len(seen) < 0.8 * len(looks) or _same([one.colour for one in seen]) is None:
        return None
    x, y, radius = (np.array([getattr(one, name) for one in seen]) for name in ("x", "y", "radius"))
    speeds = world.SPEED_ACROSS, world.SPEED_DOWN
    most_across, most_down = (max(_JITTER, 2.5 * speed * _EVERY) for speed in speeds)
    jumps = np.hypot(np.diff(x) / most_across, np.diff(y) / most_down).max() > 1
    if jumps or not 1 / _GROWN < radius[-1] / radius[0] < _GROWN:
        return None
    across, down = (
        float(at[-1] - at[0]) / min(speed * way_frames, _MOST_WAY) for at, speed in zip((x, y), speeds, strict=True)
    )
    shape = _same([one.shape for one in seen])
    turned = _turned(seen, shape, way_frames) if shape and CORNERS[shape] else 0.0
    shares = {
        ("right" if across > 0 else "left"): abs(across),
        ("down" if down > 0 else "up"): abs(down),
        "turns": abs(turned),
    }
    first, second = sorted(shares, key=lambda name: shares[name], reverse=True)[:2]
    if shares[first] < _NOT_SHOWN:
        return "still" if shape else None  # whether an unknown shape turns cannot be told
    return first if shares[first] >= _SHOWN and shares[second] <= 0.5 * shares[first] else None


def _same(values: list[str | None]) -> str | None:
    """Return the value that at least seven in ten of the looks agree on."""
    value, times = Counter(values).most_common(1)[0]
    return value if times >= 0.7 * len(values) else None


def _turned(seen: list[Seen], shape: str, frames: int) -> float:
    """Return the rotation from the first look to the last, as a fraction of that expected of so many frames.

    Each step goes to the nearest angle of the shape's symmetry.
    """
    angles = [one.angle for one in seen if one.shape == shape and one.angle is not None]
    period = 2 * math.pi / CORNERS[shape]
    way = sum((after - before + period / 2) % period - period / 2 for before, after in pairwise(angles))
    return way / min(period / world.TURN_FRAMES * frames, _MOST_TURN)
