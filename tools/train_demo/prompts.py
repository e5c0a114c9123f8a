"""Which scenes the training never sees, and the prompts that the models are scored with. Knows words and scenes; knows
no pixels and no models.
"""

import random
import zlib
from dataclasses import dataclass

from tools.train_demo.captions import describe
from tools.train_demo.scenes import MOTIONS, Scene, draw_lots

HELD_OUT_OF = 10
"""One in so many combinations is kept for testing."""


def held_out(scene: Scene) -> bool:
    """Whether a scene's combination of shape, colours and place is reserved for testing; the same on every machine."""
    return _reserved(scene.shape, scene.colour, scene.background, scene.column, scene.row)


def _reserved(*names: str) -> bool:
    return zlib.crc32("|".join(names).encode()) % HELD_OUT_OF == 0


@dataclass(frozen=True)
class Case:
    """A prompt that names all that is checked, of a combination that the training never saw."""

    prompt: str
    shape: str
    colour: str
    background: str
    column: str
    row: str
    size: str | None = None
    """None where the prompt leaves it open."""
    motion: str = "still"
    """Always still for an image."""

    def __post_init__(self) -> None:
        if not _reserved(self.shape, self.colour, self.background, self.column, self.row):
            raise ValueError(f"not held out: {self.prompt}")


def image_cases(count: int = 200, seed: int = 0) -> list[Case]:
    """The first `count` prompts for images: twenty as people type them, the others by `captions`."""
    rng = random.Random(f"images {seed}")
    return _cases(_TYPED_IMAGES, count, rng, moving=False)


def clip_cases(count: int = 50, seed: int = 0) -> list[Case]:
    """The first `count` prompts for clips: ten as people type them, the others by `captions`, every motion in turn."""
    rng = random.Random(f"clips {seed}")
    return _cases(_TYPED_CLIPS, count, rng, moving=True)


def _cases(typed: tuple[Case, ...], count: int, rng: random.Random, *, moving: bool) -> list[Case]:
    cases = list(typed[:count])
    while len(cases) < count:
        scene = draw_lots(rng, moving=moving)
        if held_out(scene) and (not moving or scene.motion == MOTIONS[len(cases) % len(MOTIONS)]):
            cases.append(
                Case(
                    prompt=describe(scene, rng, complete=True).text,
                    shape=scene.shape,
                    colour=scene.colour,
                    background=scene.background,
                    column=scene.column,
                    row=scene.row,
                    size=scene.size,
                    motion=scene.motion,
                )
            )
    return cases


_BLUE_BALL = ("circle", "blue", "white", "right", "centre")
_GREEN_TRIANGLE = ("triangle", "green", "yellow", "left", "top")
_PINK_CIRCLE = ("circle", "pink", "red", "centre", "centre")
_ORANGE_SQUARE = ("square", "orange", "blue", "centre", "top")
_YELLOW_TRIANGLE = ("triangle", "yellow", "pink", "right", "top")
_BLUE_CIRCLE = ("circle", "blue", "yellow", "left", "centre")

_TYPED_IMAGES = (
    Case("pink star top right, green background", "star", "pink", "green", "right", "top"),
    Case("a small red circle at the bottom on green", "circle", "red", "green", "centre", "bottom", "small"),
    Case("big cyan star at the top left, white background", "star", "cyan", "white", "left", "top", "large"),
    Case("on black, a large yellow circle on the left", "circle", "yellow", "black", "left", "centre", "large"),
    Case("left top: white circle on orange", "circle", "white", "orange", "left", "top"),
    Case("red background, black square in the top right corner", "square", "black", "red", "right", "top"),
    Case("a tiny green star on the left, purple background", "star", "green", "purple", "left", "centre", "small"),
    Case("blue ball on white, right side", "circle", "blue", "white", "right", "centre"),
    Case("triangle, purple, bottom right, on green", "triangle", "purple", "green", "right", "bottom"),
    Case("in the middle a huge white triangle on yellow", "triangle", "white", "yellow", "centre", "centre", "large"),
    Case("orange background with a black circle at the bottom right", "circle", "black", "orange", "right", "bottom"),
    Case("Yellow triangle in the top right corner on a pink background", *_YELLOW_TRIANGLE),
    Case("small purple box top right, pink behind", "square", "purple", "pink", "right", "top", "small"),
    Case("the bottom of a blue picture has a red square", "square", "red", "blue", "centre", "bottom"),
    Case("large cyan triangle in the centre, pink background", "triangle", "cyan", "pink", "centre", "centre", "large"),
    Case("black background, bottom left, pink triangle", "triangle", "pink", "black", "left", "bottom"),
    Case("a purple star, 4k, bottom left, on blue", "star", "purple", "blue", "left", "bottom"),
    Case("one white square on the right at the top, green background", "square", "white", "green", "right", "top"),
    Case("orange star at the bottom against pink", "star", "orange", "pink", "centre", "bottom"),
    Case("a little blue circle on a yellow background on the left", *_BLUE_CIRCLE, "small"),
)
_TYPED_CLIPS = (
    Case("big red star at the top spinning, cyan background", "star", "red", "cyan", "centre", "top", "large", "turns"),
    Case("yellow circle on the left moves right, black", "circle", "yellow", "black", "left", "centre", None, "right"),
    Case("pink square top left moving down on blue", "square", "pink", "blue", "left", "top", None, "down"),
    Case("small blue ball on the right going left on white", *_BLUE_BALL, "small", "left"),
    Case("yellow background, a green triangle top left grows", *_GREEN_TRIANGLE, None, "grows"),
    Case("a black star at the bottom left on red, moving up", "star", "black", "red", "left", "bottom", None, "up"),
    Case("a blue square at the bottom, orange background", "square", "blue", "orange", "centre", "bottom"),
    Case("cyan square in the middle rotating on white", "square", "cyan", "white", "centre", "centre", None, "turns"),
    Case("red background: pink circle in the centre getting bigger", *_PINK_CIRCLE, None, "grows"),
    Case("orange square at the top, blue background, sliding down", *_ORANGE_SQUARE, None, "down"),
)
