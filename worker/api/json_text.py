"""JSON text that Python's reader refuses -> text that it reads, so that whoever sent it can be told what is wrong.

Python reads about a thousand levels of nesting and whole numbers of 4,300 digits; past that it raises, and with the
text it came in everything beside it is lost: the ids of its own job, and other users' jobs in the same batch. Knows
JSON's tokens; knows no job and no request.
"""

import json
import re
from typing import Any

MAX_DEPTH = 64
"""Levels that are kept: no request has more than a few. What lies deeper is left out, which no valid value is."""
MAX_DIGITS = 400
"""Of a number that is kept: a float ends at 309. A longer one becomes one that is not finite, which no field takes."""

_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]|-?\d{' + str(MAX_DIGITS + 1) + ",}", re.DOTALL)


def read(text: str) -> Any:
    """The value of a JSON text, however deep or long-winded it is.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return json.loads(readable(text))


def readable(text: str) -> str:
    """The text with each array and object below `MAX_DEPTH` emptied, and numbers past `MAX_DIGITS` as infinite ones."""
    kept: list[str] = []
    depth, begin = 0, 0
    for token in _TOKEN.finditer(text):
        first = token[0][0]
        if first in "[{":
            depth += 1
            if depth == MAX_DEPTH:
                kept.append(text[begin : token.end()])
        elif first in "]}":
            if depth == MAX_DEPTH:
                begin = token.start()
            depth -= 1
        elif first != '"' and depth < MAX_DEPTH:
            kept += (text[begin : token.start()], "1e999")
            begin = token.end()
    if depth < MAX_DEPTH:
        kept.append(text[begin:])
    return "".join(kept)
