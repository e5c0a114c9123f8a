"""What people type about a scene: its words in any order, with what they leave out. Knows words; knows no pixels."""

import dataclasses
import itertools
import random

from tools.train_demo.scenes import COLOURS, MOTIONS, SHAPES, SIZES, Scene

COLUMN_NAMES = ("left", "centre", "right")
ROW_NAMES = ("top", "centre", "bottom")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "background": tuple(COLOURS),
    "column": COLUMN_NAMES,
    "row": ROW_NAMES,
    "size": tuple(SIZES),
    "motion": MOTIONS,
}
"""What a caption may say, and its values. What it leaves out is None in `Caption.said`."""

_SHAPE_WORDS = {
    "circle": ("circle", "circle", "circle", "disc", "ball", "dot"),
    "square": ("square", "square", "square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
}
_COLOUR_WORDS = {"purple": ("purple", "purple", "violet"), "cyan": ("cyan", "cyan", "turquoise")}
_SIZE_WORDS = {"small": ("small", "small", "little", "tiny"), "large": ("large", "big", "big", "huge")}
_CENTRE = ("centre", "center", "middle")
_FLOWING = {"on", "at", "in", "over", "against", "with", "to", "moving", "turning", "growing"}
_STYLES = (
    "high quality",
    "sharp",
    "simple",
    "minimal",
    "flat colours",
    "flat design",
    "clean edges",
    "digital art",
    "vector art",
    "beautiful",
    "4k",
)
_KINDS = ("a picture of", "a photo of", "an image of", "a drawing of", "a painting of", "an illustration of")
_CLIPS = ("a video of", "a clip of", "an animation of")


@dataclasses.dataclass(frozen=True)
class Caption:
    """A prompt, and per attribute what it says of it: a value of `ATTRIBUTES`, or None."""

    text: str
    said: dict[str, str | None]


def describe(scene: Scene, rng: random.Random, *, complete: bool = False, certain: bool = False) -> Caption:
    """One way to say it. The shape and its colours may be left out, and what goes without saying.

    That it is large, in the centre and at rest goes without saying. With `certain` nothing else is left out, and with
    `complete` only that it is at rest.
    """

    def keep(chance: float, *, needed: bool) -> bool:
        return complete or needed or rng.random() < chance

    moving = scene.motion != "still"
    shape = scene.shape if keep(0.9, needed=certain) else None
    colour = scene.colour if keep(0.65, needed=certain) else None
    background = scene.background if keep(0.8, needed=certain) else None
    size = scene.size if keep(0.5, needed=scene.size != "large") else None
    motion = scene.motion if moving else None
    place = keep(0.5, needed=(scene.column, scene.row) != ("centre", "centre"))
    column, row, place_words = _place(scene, rng) if place else (None, None, "")
    if shape is None and colour is None:
        # "on the left" without anything that is there: too little to type.
        shape = scene.shape
    apart = not complete and rng.random() < 0.1  # "star, red, small"
    subject = _subject(shape, None if apart else colour, None if apart else size, rng)
    if motion and rng.random() < 0.6:
        subject += " " + _motion(motion, rng)
        motion_words = ""
    else:
        motion_words = _motion(motion, rng) if motion else ""
    rest = [place_words, _background(background, rng), motion_words]
    if apart:
        rest += [_colour(colour, rng), _size(size, rng)]
    rest = [part for part in rest if part]
    text = _join(subject, rest, moving, rng)
    said = {
        "shape": shape,
        "colour": colour,
        "background": background,
        "column": column,
        "row": row,
        "size": size,
        "motion": motion,
    }
    return Caption(text, said)


def _subject(shape: str | None, colour: str | None, size: str | None, rng: random.Random) -> str:
    noun = rng.choice(_SHAPE_WORDS[shape]) if shape else rng.choice(("shape", "thing", "object"))
    adjectives = [word for word in (_size(size, rng), _colour(colour, rng)) if word]
    if len(adjectives) == 2 and rng.random() < 0.15:
        adjectives.reverse()
    article = rng.choice(("a ", "a ", "one ", "the ", "", ""))
    text = " ".join([*adjectives, noun])
    if article == "a " and text[0] in "aeiou":
        article = "an "
    return article + text


def _size(size: str | None, rng: random.Random) -> str:
    return rng.choice(_SIZE_WORDS[size]) if size else ""


def _colour(colour: str | None, rng: random.Random) -> str:
    return rng.choice(_COLOUR_WORDS.get(colour, (colour,))) if colour else ""


def _background(colour: str | None, rng: random.Random) -> str:
    if not colour:
        return ""
    word = _colour(colour, rng)
    a = "an" if word[0] in "aeiou" else "a"
    return rng.choice(
        (
            f"on {word}",
            f"on {word}",
            f"on {a} {word} background",
            f"on {a} {word} background",
            f"{word} background",
            f"{word} background",
            f"over {word}",
            f"against {word}",
            f"against {a} {word} background",
            f"with {a} {word} background",
            f"in front of {word}",
            f"background {word}",
        )
    )


def _place(scene: Scene, rng: random.Random) -> tuple[str | None, str | None, str]:
    column, row = scene.column, scene.row
    middle = rng.choice(_CENTRE)
    if column == "centre" and row == "centre":
        return column, row, rng.choice((f"in the {middle}", f"at the {middle}", f"{middle}", f"in {middle}"))
    if column == "centre":
        # "at the top" alone: people mean the middle of the top.
        words = [f"at the {row}", f"at the {row}", f"on {row}", row, f"{row} {middle}", f"at the {row} {middle}"]
        words += [f"in the upper {middle}" if row == "top" else f"in the lower {middle}"]
        return column, row, rng.choice(words)
    if row == "centre":
        words = [f"on the {column}", f"on the {column}", f"at the {column}", f"on the {column} side"]
        if scene.motion == "still":
            # Beside "moving" these would name a way.
            words += [column, f"to the {column}", f"{middle} {column}"]
        return column, row, rng.choice(words)
    upper = "upper" if row == "top" else "lower"
    words = [f"at the {row} {column}", f"{row} {column}", f"in the {row} {column} corner", f"{column} {row}"]
    words += [f"in the {upper} {column}", f"at the {row}, on the {column}", f"in the {upper} {column} corner"]
    return column, row, rng.choice(words)


def _motion(motion: str, rng: random.Random) -> str:
    if motion == "grows":
        return rng.choice(("growing", "grows", "getting bigger", "getting larger", "that grows"))
    if motion == "turns":
        return rng.choice(("turning", "turns", "spinning", "rotating", "turning around", "that spins"))
    verb = rng.choice(("moving", "moving", "moves", "going", "sliding", "that moves", "flying"))
    way: dict[str, tuple[str, ...]] = {"left": ("left", "to the left"), "right": ("right", "to the right")}
    way |= {"up": ("up", "upwards", "to the top"), "down": ("down", "downwards", "to the bottom")}
    return f"{verb} {rng.choice(way[motion])}"


def _join(subject: str, rest: list[str], moving: bool, rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.12:
        subject = f"{rng.choice(_CLIPS if moving else _KINDS)} {subject}"
    rng.shuffle(rest)
    parts = [subject, *rest]
    if rng.random() < 0.3:
        rng.shuffle(parts)
    if rng.random() < 0.1:
        parts.insert(rng.choice((0, len(parts))), rng.choice(_STYLES))
    text = parts[0]
    for before, part in itertools.pairwise(parts):
        # Two bare fragments need the comma; "on blue" and "at the top" flow on without one.
        comma = rng.random() < (0.25 if before == subject else 0.8)
        text += (", " if comma or part.split()[0] not in _FLOWING else " ") + part
    if rng.random() < 0.15:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.1:
        text += "."
    return text


_UNKNOWN_WORDS = """
cat dog bird horse fish fox astronaut robot man woman house city street forest tree mountain sea beach river lake sky
cloud sun moon night rain snow fire water flower garden road car train boat castle coffee apple
"""
_UNKNOWN = tuple(_UNKNOWN_WORDS.split())
_LINK_WORDS = """
a the in on at with and of near under between portrait landscape cinematic realistic detailed best quality
"""
_LINKS = tuple(_LINK_WORDS.split())


def say(scene: Scene, rng: random.Random, *, wordy: bool = False) -> Caption:
    """A caption as it is trained on: mostly `describe`, now and then a fragment, other words, or nothing at all.

    With `wordy` there are many more words around it, up to what an encoder of 77 tokens holds.
    """
    kind = rng.random()
    nothing: dict[str, str | None] = dict.fromkeys(ATTRIBUTES)
    if kind < 0.02:
        return Caption("", nothing)
    if kind < 0.05:
        others = [rng.choice(_UNKNOWN if rng.random() < 0.5 else _LINKS) for _ in range(rng.randint(1, 20))]
        return Caption(" ".join(others), nothing)
    if kind < 0.11:
        # A fragment, as in a negative prompt.
        name = rng.choice(("colour", "colour", "background", "shape", "size"))
        value = getattr(scene, name)
        words_of = {"background": _background(value, rng), "size": _size(value, rng) if name == "size" else ""}
        words_of |= {"colour": _colour(value, rng), "shape": rng.choice(_SHAPE_WORDS[scene.shape])}
        return Caption(words_of[name], nothing | {name: value})
    caption = describe(scene, rng)
    if wordy:
        words = " ".join(rng.choice(_LINKS if rng.random() < 0.5 else _STYLES) for _ in range(rng.randint(1, 16)))
        text = f"{caption.text}, {words}" if rng.random() < 0.7 else f"{words}, {caption.text}"
        return Caption(text, caption.said)
    return caption
