"""Parses a prompt with weights in A1111's syntax into passages of weighted text.

    (word)      1.1 times          [word]     1 / 1.1 times       ((word)), [[word]]   once per level of nesting
    (word:1.3)  1.3 times          BREAK      begins a new chunk  \\(, \\), \\[, \\], \\\\  the sign itself

https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#attentionemphasis. An unclosed bracket
extends to the end; an unopened one is a letter. Pure: knows no tokens.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

ROUND, SQUARE = 1.1, 1 / 1.1
MAX_WEIGHT = 10.0
"""Far above any usable weight (about 2)."""
MAX_DEPTH = 50
"""Limit of nested brackets; further ones are letters. At this depth 1.1 has become 117."""
MAX_PASSAGES = 40
"""Each is a chunk of its own. Of 500, which 4,000 letters may ask for, a step of SDXL is seven times the work, for the
same price, and reading them takes half a minute in which no job can be stopped; of 40 it is half as much again."""
_FINITE = 1e6
"""Bound of weights during multiplication: infinity times 0 would be NaN, which passes every comparison."""
_SIGN = re.compile(
    r"\\(?P<letter>[\\()\[\]])"
    # Bounded, as the spaces are: 4,000 digits or spaces would otherwise backtrack 8,000,000 times.
    r"|:\s{0,20}(?P<weight>[+-]?(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20}))\s{0,20}\)"
    r"|(?P<bracket>[()\[\]])|(?P<text>[^\\()\[\]:]+|.)",
    re.DOTALL,
)
_BREAK = re.compile(r"\s{0,20}\bBREAK\b\s{0,20}")


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a prompt. A weight above 1 strengthens it, a weight below weakens it."""

    text: str
    weight: float = 1.0


Passages = tuple[tuple[Span, ...], ...]
"""The spans between two `BREAK`s, for each such passage."""


def plain(text: str) -> Passages:
    """Return a prompt as one span without weights."""
    return ((Span(text),),)


@lru_cache(maxsize=32)  # a job parses its two prompts several times
def weighted(text: str) -> Passages:
    """Parse a prompt's brackets as weights."""
    texts: list[str] = []
    weights: list[float] = []
    open_at: dict[str, list[int]] = {"(": [], "[": []}

    def times(start: int, factor: float) -> None:
        weights[start:] = [max(-_FINITE, min(_FINITE, weight * factor)) for weight in weights[start:]]

    for sign in _SIGN.finditer(text):
        bracket, weight = sign["bracket"], sign["weight"]
        if bracket in open_at and len(open_at[bracket]) < MAX_DEPTH:
            open_at[bracket].append(len(texts))
        elif weight is not None and open_at["("]:
            times(open_at["("].pop(), float(weight))
        elif bracket == ")" and open_at["("]:
            times(open_at["("].pop(), ROUND)
        elif bracket == "]" and open_at["["]:
            times(open_at["["].pop(), SQUARE)
        else:
            texts.append(sign["letter"] or sign[0])
            weights.append(1.0)
    for bracket, factor in (("(", ROUND), ("[", SQUARE)):
        for start in open_at[bracket]:
            times(start, factor)
    spans = [Span(*said) for said in zip(texts, weights, strict=True)]
    return tuple(tuple(_merged(passage)) for passage in _broken(spans))


def heaviest(passages: Passages) -> float:
    """Return the weight of the largest magnitude, with its sign."""
    return max((span.weight for passage in passages for span in passage), key=abs, default=1.0)


def has_weights(passages: Passages) -> bool:
    """Whether there is any weight or `BREAK`."""
    return len(passages) > 1 or any(span.weight != 1 for span in passages[0])


def letters(passages: Passages) -> str:
    """Return the text without weights."""
    return " ".join("".join(span.text for span in passage) for passage in passages)


def _broken(spans: list[Span]) -> Iterator[list[Span]]:
    passage: list[Span] = []
    for span in _merged(spans):
        first, *others = _BREAK.split(span.text)
        passage.append(replace(span, text=first))
        for text in others:
            yield passage
            passage = [replace(span, text=text)]
    yield passage


def _merged(spans: list[Span]) -> Iterator[Span]:
    """Merge neighbours of equal weight and drop empty spans, except in an empty prompt."""
    last: Span | None = None
    for span in spans:
        if last is not None and math.isclose(last.weight, span.weight):
            last = replace(last, text=last.text + span.text)
        elif span.text:
            if last is not None:
                yield last
            last = span
    yield last or Span("")
