"""The prompts that measure the demo models, and the marking of their pictures. Knows no pixels and no models.

Every prompt names everything that is checked, in a combination that the training left out.
"""

from dataclasses import dataclass, field

from tests.support.pixel_checker import Seen


@dataclass(frozen=True)
class Case:
    """A prompt and the attributes it asks for."""

    prompt: str
    shape: str
    colour: str
    background: str
    column: str
    row: str
    motion: str = "still"
    """Always still for an image."""


IMAGES = (
    Case("pink star top right, green background", "star", "pink", "green", "right", "top"),
    Case("a small red circle at the bottom on green", "circle", "red", "green", "centre", "bottom"),
    Case("big cyan star at the top left, white background", "star", "cyan", "white", "left", "top"),
    Case("on black, a large yellow circle on the left", "circle", "yellow", "black", "left", "centre"),
    Case("left top: white circle on orange", "circle", "white", "orange", "left", "top"),
    Case("red background, black square in the top right corner", "square", "black", "red", "right", "top"),
    Case("a tiny green star on the left, purple background", "star", "green", "purple", "left", "centre"),
    Case("blue ball on white, right side", "circle", "blue", "white", "right", "centre"),
    Case("triangle, purple, bottom right, on green", "triangle", "purple", "green", "right", "bottom"),
    Case("in the middle a huge white triangle on yellow", "triangle", "white", "yellow", "centre", "centre"),
    Case("orange background with a black circle at the bottom right", "circle", "black", "orange", "right", "bottom"),
    Case("Yellow triangle in the top right corner on a pink background", "triangle", "yellow", "pink", "right", "top"),
    Case("small purple box top right, pink behind", "square", "purple", "pink", "right", "top"),
    Case("the bottom of a blue picture has a red square", "square", "red", "blue", "centre", "bottom"),
    Case("large cyan triangle in the centre, pink background", "triangle", "cyan", "pink", "centre", "centre"),
    Case("black background, bottom left, pink triangle", "triangle", "pink", "black", "left", "bottom"),
    Case("a purple star, 4k, bottom left, on blue", "star", "purple", "blue", "left", "bottom"),
    Case("one white square on the right at the top, green background", "square", "white", "green", "right", "top"),
    Case("orange star at the bottom against pink", "star", "orange", "pink", "centre", "bottom"),
    Case("a little blue circle on a yellow background on the left", "circle", "blue", "yellow", "left", "centre"),
    Case("One yellow big ball against turquoise, left bottom", "circle", "yellow", "cyan", "left", "bottom"),
    Case("One big white star on pink, in the lower left corner", "star", "white", "pink", "left", "bottom"),
    Case(
        "the tiny green triangle at the bottom right, background orange",
        "triangle",
        "green",
        "orange",
        "right",
        "bottom",
    ),
    Case(
        "against a purple background, large red dot, in the upper left corner", "circle", "red", "purple", "left", "top"
    ),
)
CLIPS = (
    Case("big red star at the top spinning, cyan background", "star", "red", "cyan", "centre", "top", "turns"),
    Case("yellow circle on the left moves right, black", "circle", "yellow", "black", "left", "centre", "right"),
    Case("pink square top left moving down on blue", "square", "pink", "blue", "left", "top", "down"),
    Case("small blue ball on the right going left on white", "circle", "blue", "white", "right", "centre", "left"),
)


def right(case: Case, seen: Seen) -> dict[str, bool]:
    """Return, per attribute, whether the picture shows what the prompt asked for; `all` is the conjunction."""
    marks = {
        "colour": seen.colour == case.colour,
        "background": seen.background == case.background,
        "position": (seen.column, seen.row) == (case.column, case.row),
        "shape": seen.shape == case.shape,
    }
    return marks | {"all": all(marks.values())}


@dataclass
class Tally:
    """Counts of correct marks, by attribute."""

    marks: dict[str, list[bool]] = field(default_factory=dict)

    def add(self, marks: dict[str, bool]) -> None:
        """Add one picture or clip."""
        for name, mark in marks.items():
            self.marks.setdefault(name, []).append(mark)

    def share(self, name: str) -> float | None:
        """Return the per cent correct; None if it was never asked for."""
        marks = self.marks.get(name)
        return 100 * sum(marks) / len(marks) if marks else None
