"""What is wrong with a field, as a person would say it: with its value in a short, safe form, and what would be right.

Knows pydantic's kinds of errors; knows no request and no range of its own.
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import ErrorDetails

from worker.core.errors import FieldProblem


def problem(detail: ErrorDetails, task: str, fields: Mapping[Any, Sequence[str]]) -> FieldProblem:  # noqa: PLR0912 - a table of cases
    """One of pydantic's findings as a person would say it. `fields` are the fields of each task."""
    field = str(detail["loc"][0]) if detail["loc"] else ""
    value, context = detail.get("input"), detail.get("ctx") or {}
    match detail["type"]:
        case "missing":
            return FieldProblem(field, f"is required for {task}")
        case "extra_forbidden":
            return FieldProblem(_short_name(field), _unknown(field, task, fields))
        case "int_type" | "int_from_float" | "float_type" | "finite_number" | "int_parsing_size":
            kind = "a whole number" if detail["type"].startswith("int") else "a finite number"
            return FieldProblem(field, f"must be {kind} (got {short(value)})")
        case "greater_than_equal":
            return FieldProblem(field, f"must be at least {context['ge']} (got {short(value)})")
        case "greater_than":
            return FieldProblem(field, f"must be greater than {context['gt']} (got {short(value)})")
        case "less_than_equal":
            return FieldProblem(field, f"must be at most {context['le']} (got {short(value)})")
        case "string_type":
            return FieldProblem(field, f"must be a string (got {short(value)})")
        case "bool_type":
            return FieldProblem(field, f"must be true or false (got {short(value)})")
        case "enum" | "literal_error":
            return FieldProblem(field, f"must be one of {_choices(context)} (got {short(value)})")
        case "string_too_long" | "string_too_short":
            return FieldProblem(
                field, f"must have 1 to {context.get('max_length', 1)} characters (got {len(str(value))})"
            )
        case "string_unicode":
            return FieldProblem(field or "input", "must be valid Unicode text, the names of its fields too")
        case "owner":
            return FieldProblem("", detail["msg"])
        case "identifier" | "image_ref":
            return FieldProblem(field, f"{detail['msg']} (got {short(value)})")
        case _:
            return FieldProblem(field, detail["msg"])


def _unknown(field: str, task: str, fields: Mapping[Any, Sequence[str]]) -> str:
    owners = [other for other, names in fields.items() if field in names]
    if owners:
        return f"is not a field of {task} (it belongs to {', '.join(owners)})"
    known = fields[task]
    close = difflib.get_close_matches(field[:40], known, n=1) or [name for name in known if field and field in name]
    return "is not a known field" + (f"; did you mean {close[0]}?" if close else "")


def _choices(context: Mapping[str, Any]) -> str:
    return str(context.get("expected", "")).replace("'", "").replace(" or ", ", ")


def _short_name(name: str) -> str:
    return name if re.fullmatch(r"[\x20-\x7e]{1,40}", name) else json.dumps(name[:30])


def short(value: object) -> str:
    """A value in at most some 40 printable characters: long, nested and unprintable ones are described instead."""
    if isinstance(value, str):
        text = json.dumps(value[:24])
        return text if len(value) <= 24 else f"{text} and {len(value) - 24} more characters"
    if isinstance(value, dict):
        return f"an object of {len(value)} keys"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)} items"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)[:40]
