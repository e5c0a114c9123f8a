"""Turns pydantic's errors into readable messages, with the rejected value in a short, safe form and what is valid.

Knows pydantic's error types; knows no request and no range of its own.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import ErrorDetails, PydanticCustomError

from worker.api.field_names import meant, meant_choice
from worker.core.errors import FieldProblem
from worker.core.messages import MESSAGES, text

_SIZES = ("image_size", "aspect_ratio", "resolution")
"""Fields that name a size."""
_PIXELS = re.compile(r"\d{2,5}\s?[xX*\u00d7]\s?\d{3,5}|\d{3,5}\s?[xX*\u00d7]\s?\d{2,5}")


def finding(message_id: str, **params: object) -> PydanticCustomError:
    """Return an error for a validator to raise; `problem` keeps its message id and parameters."""
    return PydanticCustomError(message_id, MESSAGES[message_id], params)


def problem(detail: ErrorDetails, task: str, fields: Mapping[Any, Sequence[str]]) -> FieldProblem:  # noqa: PLR0912 - a table of cases
    """Translate one of pydantic's errors. `fields` are the fields of each task."""
    field, inside = _path(detail["loc"])
    value, context = detail.get("input"), detail.get("ctx") or {}
    match detail["type"]:
        case "missing":
            return FieldProblem(field, "invalid_input.required", task=task)
        case "extra_forbidden" if inside:
            return FieldProblem(field, "invalid_input.outpaint_side")
        case "extra_forbidden":
            return _unknown(field, task, fields)
        case "int_type" | "int_from_float" | "int_parsing_size":
            return FieldProblem(field, "invalid_input.whole_number", got=short(value))
        case "float_type" | "finite_number":
            return FieldProblem(field, "invalid_input.finite_number", got=short(value))
        case "greater_than_equal":
            return FieldProblem(field, "invalid_input.at_least", least=_plain(context["ge"]), got=short(value))
        case "greater_than":
            return FieldProblem(field, "invalid_input.greater_than", bound=_plain(context["gt"]), got=short(value))
        case "less_than_equal":
            return FieldProblem(field, "invalid_input.at_most", most=_plain(context["le"]), got=short(value))
        case "string_type":
            return FieldProblem(field, "invalid_input.string", got=short(value))
        case "bool_type":
            return FieldProblem(field, "invalid_input.boolean", got=short(value))
        case "literal_error" if _in_pixels(value) and field in _SIZES:
            sides = "width and height" if "width" in fields[task] else "video_width and video_height"
            choices = ", ".join(_choices(context))
            return FieldProblem(field, "invalid_input.size_in_pixels", choices=choices, sides=sides, got=short(value))
        case "enum" | "literal_error":
            return not_one_of(field, _choices(context), value)
        case "string_too_short":
            return FieldProblem(field, "invalid_input.empty")
        case "string_too_long":
            return FieldProblem(field, "invalid_input.too_long", most=context["max_length"], got=len(str(value)))
        case "tuple_type":
            return FieldProblem(field, "invalid_input.list", got=short(value))
        case "string_unicode":
            return FieldProblem(field or "input", "invalid_input.unicode")
        case ours if ours in MESSAGES:
            return FieldProblem(field, ours, **context)
        case _:
            return FieldProblem(field, "invalid_input.other", finding=detail["msg"])


def not_one_of(field: str, choices: Sequence[str], value: object) -> FieldProblem:
    """Return the problem of a value that is no choice, with a hint if it is another spelling of one."""
    listed, got = ", ".join(choices), short(value)
    if isinstance(value, str) and (close := meant_choice(value, choices)):
        return FieldProblem(field, "invalid_input.one_of_but_close", choices=listed, close=close, got=got)
    return FieldProblem(field, "invalid_input.one_of", choices=listed, got=got)


def _path(loc: tuple[int | str, ...]) -> tuple[str, bool]:
    """Return the field's path (`outpaint.left`) and whether it lies inside another field."""
    if len(loc) < 2:
        return "".join(map(str, loc)), False
    return ".".join([str(loc[0]), *(_short_name(str(name)) for name in loc[1:])]), True


def _unknown(field: str, task: str, fields: Mapping[Any, Sequence[str]]) -> FieldProblem:
    name = _short_name(field)
    if field == "input":
        return FieldProblem(name, "invalid_input.input_twice")
    close, elsewhere = meant(field, task, fields)
    if owners := ", ".join(other for other, names in fields.items() if field in names):
        if close and not elsewhere:
            return FieldProblem(name, "invalid_input.of_another_task_but_close", task=task, owners=owners, close=close)
        return FieldProblem(name, "invalid_input.of_another_task", task=task, owners=owners)
    if close and elsewhere:
        return FieldProblem(name, "invalid_input.unknown_here", close=close, owners=", ".join(elsewhere))
    if close:
        return FieldProblem(name, "invalid_input.unknown_but_close", close=close)
    return FieldProblem(name, "invalid_input.unknown")


def _in_pixels(value: object) -> bool:
    """Whether a size is written as other services do: `{"width": 1024, "height": 768}` or `1024x768`."""
    return isinstance(value, dict) or (isinstance(value, str) and bool(_PIXELS.fullmatch(value)))


def _choices(context: Mapping[str, Any]) -> list[str]:
    return str(context.get("expected", "")).replace("'", "").replace(" or ", ", ").split(", ")


def _plain(bound: float) -> float:
    """Return a bound as a person writes it: 30, not 30.0."""
    return int(bound) if bound == int(bound) else bound


def _short_name(name: str) -> str:
    return name if re.fullmatch(r"[\x20-\x7e]{1,40}", name) else json.dumps(name[:30])


def short(value: object) -> str:
    """Show a value in about 40 printable characters at most; long and nested values are described instead."""
    if isinstance(value, str):
        start = json.dumps(value[:24])
        return start if len(value) <= 24 else text("invalid_input.got_text", start=start, more=len(value) - 24)
    if isinstance(value, dict):
        return text("invalid_input.got_object", keys=len(value))
    if isinstance(value, list | tuple):
        return text("invalid_input.got_list", items=len(value))
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return text("invalid_input.got_number", bits=value.bit_length())
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)[:40]
