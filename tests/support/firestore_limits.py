"""Firestore's documented storage limits, implemented independently of the worker.

https://firebase.google.com/docs/firestore/quotas, /storage-size and /manage-data/data-types
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

MAX_DOCUMENT_BYTES = 1 << 20
MAX_VALUE_BYTES = MAX_DOCUMENT_BYTES - 89
MAX_NAME_BYTES = 1500
MAX_DEPTH = 20
MAX_INDEX_ENTRIES = 40_000


def value_bytes(value: Any) -> int:
    """Return the size of a field's value."""
    if value is None or isinstance(value, bool):
        return 1
    if isinstance(value, str):
        return len(value.encode()) + 1
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, list | tuple):
        return sum(value_bytes(item) for item in value)
    if isinstance(value, Mapping):
        return sum(len(name.encode()) + 1 + value_bytes(item) for name, item in value.items())
    if isinstance(value, int | float | datetime):
        return 8
    raise TypeError(f"no Firestore value: {type(value).__name__}")


def document_bytes(path: str, fields: Mapping[str, Any]) -> int:
    """Return the size of a document: its name, its fields and 32 bytes."""
    return sum(len(part.encode()) + 1 for part in path.split("/")) + 16 + value_bytes(fields) + 32


def problems(path: str, fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield the reasons why Firestore would refuse the document; nothing if it accepts it."""
    yield from _problems(fields, 0, "")
    try:
        size = document_bytes(path, fields)
    except (TypeError, UnicodeEncodeError):
        return  # already reported
    if size > MAX_DOCUMENT_BYTES:
        yield f"the document has {size} bytes"
    if _index_entries(fields) > MAX_INDEX_ENTRIES:
        yield "too many index entries"


def _problems(value: Any, depth: int, path: str) -> Iterator[str]:
    if depth > MAX_DEPTH:
        yield "too deep"
        return
    if isinstance(value, Mapping):
        for name, item in value.items():
            if not isinstance(name, str) or not name or re.fullmatch("__.*__", name, re.DOTALL):
                yield "a field name that is none, empty or reserved"
                continue
            if not _is_utf8(name) or len((path + name).encode()) > MAX_NAME_BYTES:
                yield "a field name that is too long or no UTF-8"
                continue
            yield from _problems(item, depth + 1, f"{path}{name}.")
    elif isinstance(value, list | tuple):
        for item in value:
            if isinstance(item, list | tuple):
                yield "an array in an array"
            yield from _problems(item, depth + 1, path)
    elif isinstance(value, str):
        if not _is_utf8(value):
            yield "a text that is no UTF-8"
        elif len(value.encode()) > MAX_VALUE_BYTES:
            yield "a text that is too long"
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield "a number of more than 64 bits"
    elif not isinstance(value, int | float | bytes | datetime | None):
        yield f"no Firestore value: {type(value).__name__}"


def _is_utf8(text: str) -> bool:
    return not re.search("[\ud800-\udfff]", text)


def _index_entries(value: Any) -> int:
    """Return the index entries of a field: one ascending, one descending, and one for each element of an array."""
    if isinstance(value, Mapping):
        return sum(2 + _index_entries(item) for item in value.values())
    return len(value) if isinstance(value, list | tuple) else 0
