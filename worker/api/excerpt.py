"""Reduces a request to what its document stores: without inline data, and at most `MAX_BYTES`.

Works on the values only, so that future fields are bounded as well. Knows Firestore's sizes and limits
(https://firebase.google.com/docs/firestore/storage-size, /quotas); knows no field except those it must keep whole.
"""

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from worker.api.field_types import BARE_BASE64, MAX_REFERENCE_CHARACTERS
from worker.api.validation_errors import short

MAX_BYTES = 64 << 10
MAX_DEPTH = 8
MAX_VALUES = 1000
"""In total: each value is an index entry of the document, whatever its size."""
_CUTS = (MAX_REFERENCE_CHARACTERS, 1000, 100)
"""Limits for the characters of a text; the first with which everything fits is used."""

T = TypeVar("T")

_KEY = re.compile(r"(?!__.*__\Z)[A-Za-z0-9_-]{1,100}")
_INLINE_VALUE = re.compile(r"[\s\x00-\x20\ufeff\"'(]*data(?::|%3a)", re.IGNORECASE)
_LINES = r"\S*(?:\s+[A-Za-z0-9+/=_-]{40,})*"
_INLINE_PART = re.compile(
    r"data(?::|%3a)(?:(?=[^,\s]{0,200}(?:/|%2f))[^,\s]{0,200}?|[^,]{0,200}?base64\s{0,9})(?:,|%2c)\s{0,9}"
    rf"{_LINES}|(?<![A-Za-z0-9+/=_-])(?:{BARE_BASE64.pattern})[A-Za-z0-9+/=_%-]{{60}}{_LINES}",
    re.IGNORECASE,
)


def excerpt(request: Mapping[str, Any], whole: Collection[str] = ()) -> dict[str, Any]:
    """Return a request in a form that Firestore accepts, whatever it contains.

    Args:
        request: a JSON object.
        whole: text fields to keep whole except for inline data. Together at most half of `MAX_BYTES`.
    """
    kept: dict[str, Any] = {}
    for most in _CUTS:
        texts = {name: _text(request[name], MAX_BYTES) for name in whole if isinstance(request.get(name), str)}
        kept = _Excerpt(most).fields(request, 1) | texts
        if stored_bytes(kept) <= MAX_BYTES:
            return kept
    plain: dict[str, Any] = {}
    for name, value in kept.items():
        if not isinstance(value, dict | list) and stored_bytes(plain | {name: value}) <= MAX_BYTES:
            plain[name] = value
    return plain


def stored_bytes(value: object) -> int:
    """Return the size of a value in a document, by Firestore's rules."""
    match value:
        case str():
            return len(value.encode()) + 1
        case None | bool():
            return 1
        case Mapping():
            return sum(stored_bytes(name) + stored_bytes(item) for name, item in value.items())
        case list() | tuple():
            return sum(map(stored_bytes, value))
        case _:
            return 8


class _Excerpt:
    """Bounds values, and how many there are."""

    def __init__(self, most: int) -> None:
        self._most, self._left = most, MAX_VALUES

    def fields(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        """Return the fields whose names Firestore accepts."""
        named = (item for item in value.items() if isinstance(item[0], str) and _KEY.fullmatch(item[0]))
        return {name: self._value(item, depth) for name, item in self._while_room(named)}

    def _value(self, value: object, depth: int) -> Any:
        match value:
            case str():
                return _inline(value) if _INLINE_VALUE.match(value) else _text(value, self._most)
            case None | bool():
                return value
            case int() if -(2**63) <= value < 2**63:
                return value
            case float() if math.isfinite(value):
                return value
            case Mapping() if depth < MAX_DEPTH:
                return self.fields(value, depth + 1)
            case list() | tuple() if depth < MAX_DEPTH:
                # Firestore rejects a list inside a list.
                return [
                    short(item) if isinstance(item, list | tuple) else self._value(item, depth + 1)
                    for item in self._while_room(value)
                ]
            case _:
                return short(value)

    def _while_room(self, items: Iterable[T]) -> Iterator[T]:
        for item in items:
            if self._left <= 0:
                return
            self._left -= 1
            yield item


def _text(text: str, most: int) -> str:
    if len(text) > most:
        text = f"{text[:most]}... ({len(text)} characters)"
    return _INLINE_PART.sub(lambda part: _inline(part[0]), text.encode(errors="replace").decode())


def _inline(text: str) -> str:
    return f"(inline image, {len(text)} characters)"
