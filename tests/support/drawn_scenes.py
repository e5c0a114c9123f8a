"""The demo models' world: one shape of one colour on a background, and its pixels.

Knows colours, places, motions and outlines; knows no models. The distance of the star follows Inigo Quilez, "2D
distance functions" (iquilezles.org).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Pixels = NDArray[np.uint8]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (247, 140, 30),
    "yellow": (250, 222, 60),
    "green": (42, 160, 70),
    "cyan": (70, 205, 215),
    "blue": (40, 80, 210),
    "purple": (125, 50, 170),
    "pink": (250, 150, 190),
    "black": (25, 25, 28),
    "white": (248, 248, 246),
}
"""Name -> sRGB, 0 to 255."""
COLUMNS = {"left": 0.27, "centre": 0.5, "right": 0.73}
ROWS = {"top": 0.27, "centre": 0.5, "bottom": 0.73}
CORNERS = {"circle": 0, "square": 4, "triangle": 3, "star": 5}
"""A turn by a full circle divided by this leaves a shape looking the same."""
SPEED_ACROSS, SPEED_DOWN = 1 / 96, 1 / 56
"""A moving shape's step per frame, as a fraction of the side that it moves along."""
TURN_FRAMES = 8
"""Frames after which a turning shape looks as it did at first; it turns clockwise as seen."""

# `Scene.radius` is that of a circle of about the same area; the other shapes' own radii are these multiples of it.
_HALF_SIDE = 0.9  # of the square
_TIP = 1.4  # to a triangle's corners, and to a star's tips
_NOTCH = 0.5  # to a star's notches, as a fraction of the tips' radius


@dataclass(frozen=True)
class Scene:
    """A scene; by default a large red star in the centre on white."""

    shape: str = "star"
    colour: str = "red"
    background: str = "white"
    x: float = 0.5
    """The centre, 0 (left) to 1 (right)."""
    y: float = 0.5
    """0 (top) to 1 (bottom)."""
    radius: float = 0.18
    """As a fraction of the shorter side."""
    angle: float = 0.0
    """Radians, clockwise as seen."""


def drawn(scene: Scene, height: int = 256, width: int = 256) -> Pixels:
    """Draw the scene as pixels, (height, width, 3)."""
    ink, ground = (np.array(COLOURS[name], dtype=np.float64) for name in (scene.colour, scene.background))
    pixels: Pixels = (ground + (ink - ground) * cover(scene, height, width)[..., None]).round().astype(np.uint8)
    return pixels


def cover(scene: Scene, height: int, width: int) -> Array:
    """Return the fraction of each pixel that the shape fills, (height, width), 0 to 1."""
    down, across = np.mgrid[:height, :width] + 0.5
    across, down = across - scene.x * width, down - scene.y * height
    cos, sin = math.cos(scene.angle), math.sin(scene.angle)
    right, below = across * cos + down * sin, down * cos - across * sin
    inside: Array = (0.5 - _distance(scene.shape, right, below, scene.radius * min(height, width))).clip(0, 1)
    return inside


def _distance(shape: str, right: Array, below: Array, radius: float) -> Array:
    """Return each pixel's signed distance from the outline, negative inside; exact near an edge."""
    if shape == "circle":
        return np.hypot(right, below) - radius
    if shape == "star":
        # Folded into the slice between a tip (pointing up) and the next notch, the outline is one straight line.
        slice_, tip = math.pi / 5, radius * _TIP
        folded = np.abs(np.remainder(np.arctan2(right, -below) + slice_, 2 * slice_) - slice_)
        length = np.hypot(right, below)
        edge_along, edge_aside = tip * (_NOTCH * math.cos(slice_) - 1), tip * _NOTCH * math.sin(slice_)
        beside = (length * np.cos(folded) - tip) * edge_aside - length * np.sin(folded) * edge_along
        return beside / math.hypot(edge_along, edge_aside)
    # The largest distance to a side; a triangle's sides are half as far as its corners, and it stands on one.
    inner = radius * (_HALF_SIDE if shape == "square" else _TIP / 2)
    turns = (2 * math.pi * side / CORNERS[shape] for side in range(CORNERS[shape]))
    outermost: Array = np.max([below * math.cos(turn) + right * math.sin(turn) for turn in turns], axis=0)
    return outermost - inner
