"""Reads JSON that Python's parser rejects, so that its sender can get an error message.

Python parses about a thousand levels of nesting and integers of 4,300 digits. Past that it raises, and everything in
the same text is lost: the id of the job itself, and other users' jobs in the same batch. Knows JSON's tokens; knows no
job and no request.
"""

import json
import re
from typing import Any

MAX_DEPTH = 64
"""Levels that are kept. A request needs only a few, so cutting off deeper ones affects no valid value."""
MAX_DIGITS = 400
"""Digits of a number that is kept; a float has at most 309. A longer one becomes infinite, which no field accepts."""

_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]|-?\d{' + str(MAX_DIGITS + 1) + ",}", re.DOTALL)


def read(text: str) -> Any:
    """Parse a JSON text of any depth, with numbers of any length.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return json.loads(readable(text))


def readable(text: str) -> str:
    """Return the text with arrays and objects at `MAX_DEPTH` emptied and numbers over `MAX_DIGITS` made infinite."""
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
