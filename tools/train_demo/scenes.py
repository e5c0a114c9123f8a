"""The little world that the demo models learn: one shape of one colour on a background, still or moving.

Knows colours, places, sizes, motions and how they look as pixels and read as words; knows no model.
Everything is drawn by torch from signed distances: a batch of any size takes milliseconds and every edge is smooth.
The distances of the square and the star follow Inigo Quilez, "2D distance functions" (iquilezles.org).
"""

import dataclasses
import math
import random

import torch

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
SHAPES = ("circle", "square", "triangle", "star")
SIZES = {"small": (0.125, 0.135), "large": (0.17, 0.185)}
"""Name -> range of the radius where a shape lies loosely, as a part of the picture's shorter side."""
COLUMNS = {"left": 0.27, "centre": 0.5, "right": 0.73}
ROWS = {"top": 0.27, "centre": 0.5, "bottom": 0.73}
MOTIONS = ("still", "left", "right", "up", "down", "grows", "turns")
CORNERS = {"circle": 0, "square": 4, "triangle": 3, "star": 5}
"""A shape looks the same after a turn by a full one divided by this."""
PICTURE_SIZES = {name: sum(ends) / 2 for name, ends in SIZES.items()}
"""The middles of `SIZES`."""
PLAY = 0.012
"""How far a picture's shape may be from the middle of its place, as a part of the side, so that seeds differ.

Any distance up to this: of two or three exact places, a block of latents apart, a UNet drew the mean.
"""
JITTER = 0.02
"""How far a shape's centre may be from its place's where it lies loosely, as a part of the side."""
CLIP_COLUMNS = {"left": 1 / 4, "centre": 1 / 2, "right": 3 / 4}
CLIP_ROWS = {"top": 2 / 7, "centre": 1 / 2, "bottom": 5 / 7}
"""Where a clip's shapes begin and rest: at 192 x 112 pixels on the corners of an autoencoder's blocks of 8 x 8."""
CLIP_SIZES = {"small": 0.14, "large": 0.19}
"""A clip has fewer pixels than a picture, and no play in its shapes' sizes: they can be a little larger."""
SPEED_ACROSS, SPEED_DOWN = 1 / 96, 1 / 56
"""A moving shape's way in one frame, as a part of the side that it moves along: at 192 x 112 two pixels, so that in the
four frames of a latent it comes from one corner of the blocks to the next.
"""
GROWTH = 1.015
"""A growing shape's radius in one frame, as a factor ..."""
GROWN = 0.42
"""... until it is this part of the shorter side."""
TURN_FRAMES = 8
"""After so many frames, two latents, a turning shape looks as it did at first; it turns clockwise as seen."""
TILT = math.radians(4.0)
"""Where it lies loosely, a shape stands upright up to this angle, either way."""

# The radius in `Scene` is a circle's of about the same area; the others' own radii are these multiples of it.
_HALF_SIDE = 0.9  # of the square
_OUTER_TRIANGLE = 1.4  # to its corners
_OUTER_STAR = 1.4  # to its tips
_INNER_STAR = 0.5  # to its notches, as a part of the tips' radius


@dataclasses.dataclass(frozen=True)
class Scene:
    """One scene: what a caption may speak of, and what it leaves to chance (`x`, `y`, `radius`, `angle`)."""

    shape: str
    colour: str
    background: str
    column: str
    row: str
    size: str
    motion: str
    x: float
    """The centre at the first frame, 0 (left) to 1 (right)."""
    y: float
    """0 (top) to 1 (bottom)."""
    radius: float
    """As a part of the shorter side."""
    angle: float
    """Radians, clockwise as seen."""


def draw_lots(rng: random.Random, *, moving: bool = False) -> Scene:
    """A scene by chance; with `moving` any of `MOTIONS` that has room to be seen, else a still one.

    Its shape is upright, of one of two sizes and in one of nine places: a clip's begins exactly in the middle of one, a
    picture's near it.
    """
    colour, background = rng.sample(sorted(COLOURS), 2)
    shape = rng.choice(SHAPES)
    size = rng.choice(sorted(SIZES))
    column, row = rng.choice(sorted(COLUMNS)), rng.choice(sorted(ROWS))
    motion = rng.choice(MOTIONS) if moving else "still"
    if motion in ("left", "right"):
        column = rng.choice([name for name in sorted(COLUMNS) if name != motion])
    if motion == "up":
        row = rng.choice(["centre", "bottom"])
    if motion == "down":
        row = rng.choice(["centre", "top"])
    if motion == "turns":
        shape = rng.choice([name for name in SHAPES if name != "circle"])
    if moving:
        return Scene(shape, colour, background, column, row, size, motion, *_exactly(column, row, size))
    x, y = COLUMNS[column] + rng.uniform(-PLAY, PLAY), ROWS[row] + rng.uniform(-PLAY, PLAY)
    return Scene(shape, colour, background, column, row, size, motion, x, y, PICTURE_SIZES[size], 0.0)


def exact(scene: Scene) -> bool:
    """Whether a scene begins as those of clips do, in the middle of a place."""
    return (scene.x, scene.y, scene.radius, scene.angle) == _exactly(scene.column, scene.row, scene.size)


def in_play(scene: Scene, rng: random.Random) -> Scene:
    """The scene, loosely: its shape about its place, and of about its size, and nearly upright."""
    x, y = COLUMNS[scene.column] + rng.uniform(-JITTER, JITTER), ROWS[scene.row] + rng.uniform(-JITTER, JITTER)
    radius, angle = rng.uniform(*SIZES[scene.size]), rng.uniform(-TILT, TILT)
    return dataclasses.replace(scene, x=x, y=y, radius=radius, angle=angle)


def _exactly(column: str, row: str, size: str) -> tuple[float, float, float, float]:
    return CLIP_COLUMNS[column], CLIP_ROWS[row], CLIP_SIZES[size], 0.0


def turn_of(shape: str) -> float:
    """The angle of a turning shape's way in one frame, in radians; of a circle's nothing is seen."""
    return 2 * math.pi / (CORNERS[shape] * TURN_FRAMES) if CORNERS[shape] else 0.0


def paint(scenes: list[Scene], height: int, width: int, frames: int = 1) -> torch.Tensor:
    """The scenes as pixels: (scenes, frames, 3, height, width), 0 to 1, sRGB."""
    first = torch.tensor([[s.x, s.y, s.radius, s.angle] for s in scenes], dtype=torch.float32)
    step = torch.arange(frames, dtype=torch.float32)[None, :]
    motion = [s.motion for s in scenes]
    x, y, radius, angle = (column[:, None].expand(-1, frames) for column in first.unbind(1))
    across = step * SPEED_ACROSS * _where(motion, right=1.0, left=-1.0)
    down = step * SPEED_DOWN * _where(motion, down=1.0, up=-1.0)
    x = _moved(x, across, CLIP_COLUMNS["left"], CLIP_COLUMNS["right"])
    y = _moved(y, down, CLIP_ROWS["top"], CLIP_ROWS["bottom"])
    radius = torch.where(_where(motion, grows=1.0) > 0, (radius * GROWTH**step).clamp(max=GROWN), radius)
    turn = torch.tensor([turn_of(s.shape) for s in scenes])[:, None]
    angle = angle + step * turn * _where(motion, turns=1.0)
    ink = torch.tensor([COLOURS[s.colour] for s in scenes], dtype=torch.float32) / 255
    ground = torch.tensor([COLOURS[s.background] for s in scenes], dtype=torch.float32) / 255
    place = torch.stack([x * width, y * height, radius * min(height, width), angle], dim=-1)
    return render([s.shape for s in scenes], place, (ink, ground), height, width)


def cover(pixels: torch.Tensor) -> torch.Tensor:
    """(scenes, 3, ..., height, width) pixels -> (scenes, 1, ..., height, width): the shape's part of each, 0 to 1.

    The upper left corner is background.
    """
    off = (pixels - pixels[..., :1, :1]).abs().amax(1, keepdim=True)
    most = off.flatten(1).amax(1).view(-1, *[1] * (off.ndim - 1))
    return off / most


def render(
    shapes: list[str], place: torch.Tensor, colours: tuple[torch.Tensor, torch.Tensor], height: int, width: int
) -> torch.Tensor:
    """Shapes as pixels, (shapes, frames, 3, height, width).

    `place` is (shapes, frames, 4): centre x and y and the radius in pixels, the angle in radians; `colours` are the
    shapes' own and their backgrounds', each (shapes, 3), 0 to 1.
    """
    x, y, radius, angle = place.unbind(-1)
    across = torch.arange(width, dtype=torch.float32) + 0.5
    down = torch.arange(height, dtype=torch.float32) + 0.5
    dx = (across - x[..., None])[:, :, None, :]
    dy = (down - y[..., None])[:, :, :, None]
    cos, sin = torch.cos(angle)[..., None, None], torch.sin(angle)[..., None, None]
    right, below = dx * cos + dy * sin, dy * cos - dx * sin
    size = radius[..., None, None]
    distance = torch.empty(*x.shape, height, width)
    for shape in SHAPES:
        of_it = [index for index, name in enumerate(shapes) if name == shape]
        if of_it:
            distance[of_it] = _DISTANCE[shape](right[of_it], below[of_it], size[of_it])
    cover = (0.5 - distance).clamp(0, 1)[:, :, None]
    ink, ground = (colour[:, None, :, None, None] for colour in colours)
    return ground + (ink - ground) * cover


def _moved(start: torch.Tensor, way: torch.Tensor, first: float, last: float) -> torch.Tensor:
    # What is beyond the places already, as a given picture's shape may be, stays there.
    return torch.clamp(start + way, start.clamp(max=first), start.clamp(min=last))


def _where(motions: list[str], **values: float) -> torch.Tensor:
    return torch.tensor([values.get(motion, 0.0) for motion in motions])[:, None]


def _circle(x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    return torch.hypot(x, y) - radius


def _square(x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    return _polygon(x, y, radius * _HALF_SIDE, sides=4)


def _triangle(x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    # The distance to its sides is half of that to its corners; it stands on one side.
    return _polygon(x, y, radius * _OUTER_TRIANGLE / 2, sides=3)


def _polygon(x: torch.Tensor, y: torch.Tensor, inner: torch.Tensor, sides: int) -> torch.Tensor:
    # The largest of the distances to its sides: exact within, and near enough at an edge.
    distance = torch.full_like(x, -math.inf)
    for side in range(sides):
        turn = 2 * math.pi * side / sides
        distance = torch.maximum(distance, y * math.cos(turn) + x * math.sin(turn) - inner)
    return distance


def _star(x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    # Folded into the slice between a tip (upwards) and the notch beside it, the outline is one straight line.
    slice_ = math.pi / 5
    turn = torch.atan2(x, -y)
    folded = torch.abs(torch.remainder(turn + slice_, 2 * slice_) - slice_)
    length = torch.hypot(x, y)
    along, aside = length * torch.cos(folded), length * torch.sin(folded)
    tip = radius * _OUTER_STAR
    notch_along, notch_aside = tip * _INNER_STAR * math.cos(slice_), tip * _INNER_STAR * math.sin(slice_)
    edge_along, edge_aside = notch_along - tip, notch_aside
    span = torch.hypot(edge_along, edge_aside)
    return (aside * -edge_along + (along - tip) * edge_aside) / span


_DISTANCE = {"circle": _circle, "square": _square, "triangle": _triangle, "star": _star}
