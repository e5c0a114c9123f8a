"""A shape by its outline: how far the edge is from the centre in every direction, against that of the four shapes.

Knows coverage (how much of a pixel the shape fills) and outlines; knows no colours and no models.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tools.train_demo.scenes import CORNERS, SHAPES, Scene, paint

Array = NDArray[np.float64]

RAYS = 180
_ANGLES = np.arange(RAYS) * (2 * math.pi / RAYS)
_COS, _SIN = np.cos(_ANGLES), np.sin(_ANGLES)

_SOFTNESS = {"circle": (0.0,), "square": (0.0, 0.1, 0.2), "triangle": (0.0, 0.1, 0.2), "star": (0.0, 0.1, 0.2)}
"""How far an edge is blurred, as a part of the radius: a soft picture is compared with a soft template.

A circle stays one, and a star any softer is a pentagon.
"""
_MOST_MISFIT = 0.06
"""Root of the mean squared difference of the outlines, as a part of the radius, at which a match ends ..."""
_CLEARLY = 0.65
"""... and how much nearer the best shape has to be than the second."""
_LEAST_SEEN = 0.45
"""Part of the outline that has to lie within the picture."""


@dataclass(frozen=True)
class Outline:
    """The shape that fits best. Lengths are in pixels of the coverage, angles in radians, clockwise as seen."""

    shape: str
    x: float
    y: float
    radius: float
    """As `Scene.radius` means it: a circle's of about the same area."""
    angle: float | None
    """From upright, between minus and plus half of what maps the shape onto itself; None for a circle."""


def match(cover: Array, x: float, y: float) -> Outline | None:
    """The shape whose coverage this is, (height, width), 0 to 1, about the centroid (x, y); None: none of them.

    A part beyond the border is allowed for: the centre is then moved to where the visible part of the outline fits.
    """
    for _ in range(6):
        profile, seen = _profile(cover, x, y)
        if seen.mean() < _LEAST_SEEN or not profile.any():
            return None
        cut = not seen.all()
        found = _fit(profile, seen, recentre=cut)
        if not cut or math.hypot(found.dx, found.dy) < 0.15:
            break
        x, y = x + found.dx, y + found.dy
        if not (0 <= x < cover.shape[1] and 0 <= y < cover.shape[0]):
            return None
    within = float((profile**2).sum()) * math.pi / RAYS
    covered = float((cover >= 0.5).sum())
    # A ring, or something that folds back behind itself, covers less than its outline holds.
    if abs(within - covered) > 0.08 * within or found.misfit > _MOST_MISFIT or found.misfit > _CLEARLY * found.second:
        return None
    return Outline(found.shape, x, y, found.radius, found.angle)


def _profile(cover: Array, x: float, y: float) -> tuple[Array, NDArray[np.bool_]]:
    """Distance of the edge along each ray, and whether the edge is within the picture there."""
    height, width = cover.shape
    inside = np.argwhere(cover >= 0.5)
    if not len(inside):
        return np.zeros(RAYS), np.zeros(RAYS, dtype=bool)
    reach = float(np.hypot(inside[:, 0] - y, inside[:, 1] - x).max()) + 3
    step = max(0.5, reach / 200)
    lengths = np.arange(0, reach, step)
    rows = y + _SIN[:, None] * lengths
    columns = x + _COS[:, None] * lengths
    values = ndimage.map_coordinates(cover, [rows, columns], order=1, mode="nearest")
    outside = (rows < 0) | (rows > height - 1) | (columns < 0) | (columns > width - 1)
    values[outside] = 0
    last = values.shape[1] - 1 - np.argmax(values[:, ::-1] >= 0.5, axis=1)
    last = np.where((values >= 0.5).any(axis=1), last, 0)
    beyond = np.minimum(last + 1, values.shape[1] - 1)
    rays = np.arange(RAYS)
    here, there = values[rays, last], values[rays, beyond]
    seen = ~outside[rays, beyond]
    part = np.where(seen, (here - 0.5) / np.maximum(here - there, 1e-6), 0.5)
    return (last + np.clip(part, 0, 1)) * step, seen


@dataclass(frozen=True)
class _Fit:
    shape: str
    misfit: float
    second: float
    radius: float
    angle: float | None
    dx: float
    dy: float


@dataclass(frozen=True)
class _Templates:
    rows: Array
    """Outlines of every shape at every softness and turn, (rows, rays), as parts of the radius of a scene."""
    blocks: tuple[tuple[str, slice], ...]
    """Which rows are a shape at one softness: one turn by two degrees after the other, up to its symmetry."""


@functools.cache
def _templates() -> _Templates:
    side, radius = 384, 0.17
    blocks: list[tuple[str, slice]] = []
    rows: list[Array] = []
    for shape in SHAPES:
        scene = Scene(shape, "white", "black", "centre", "centre", "large", "still", 0.5, 0.5, radius, 0.0)
        picture = paint([scene], side, side)[0, 0].mean(0).numpy().astype(np.float64)
        cover = (picture - picture.min()) / (picture.max() - picture.min())
        for softness in _SOFTNESS[shape]:
            soft = ndimage.gaussian_filter(cover, softness * radius * side) if softness else cover
            profile, _ = _profile(soft, side / 2 - 0.5, side / 2 - 0.5)
            turns = RAYS // CORNERS[shape] if CORNERS[shape] else 1
            blocks.append((shape, slice(len(rows), len(rows) + turns)))
            rows += [np.roll(profile / (radius * side), turn) for turn in range(turns)]
    return _Templates(np.stack(rows), tuple(blocks))


def _fit(profile: Array, seen: NDArray[np.bool_], *, recentre: bool) -> _Fit:
    templates = _templates()
    weight = seen.astype(np.float64)
    target, rows = profile * weight, templates.rows * weight
    basis = np.stack([_COS * weight, _SIN * weight])
    inverse = np.linalg.pinv(basis @ basis.T)
    if recentre:
        # An edge seen from (dx, dy) off the centre is nearer by dx cos + dy sin, to first order: not a misfit.
        target = target - (basis @ target) @ inverse @ basis
        rows = rows - (rows @ basis.T) @ inverse @ basis
    scale = np.maximum((rows @ target) / np.maximum((rows**2).sum(1), 1e-12), 1e-6)
    misfits = np.sqrt(((target[None] - scale[:, None] * rows) ** 2).sum(1) / weight.sum()) / scale
    best: dict[str, tuple[float, slice]] = {}
    for shape, block in templates.blocks:
        misfit = float(misfits[block].min())
        if shape not in best or misfit < best[shape][0]:
            best[shape] = (misfit, block)
    (shape, (misfit, block)), (_, (second, _)) = sorted(best.items(), key=lambda item: item[1][0])[:2]
    at = block.start + int(misfits[block].argmin())
    rest = profile * weight - scale[at] * templates.rows[at] * weight
    dx, dy = inverse @ (basis @ rest) if recentre else (0.0, 0.0)
    return _Fit(shape, misfit, second, float(scale[at]), _angle(misfits[block], shape), float(dx), float(dy))


def _angle(misfits: Array, shape: str) -> float | None:
    """The turn at which the misfit is least, between the tried ones by the parabola through three of them."""
    if not CORNERS[shape]:
        return None
    turns, at = len(misfits), int(misfits.argmin())
    before, here, after = (misfits[(at + offset) % turns] ** 2 for offset in (-1, 0, 1))
    bend = before - 2 * here + after
    exact = at + (0.5 * (before - after) / bend if bend > 1e-12 else 0.0)
    if exact > turns / 2:
        exact -= turns
    return float(exact * 2 * math.pi / RAYS)
