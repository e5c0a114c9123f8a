"""Builds JSON Schema (2020-12) from pydantic's models and the worker's shapes: one schema per message on the wire.

Request schemas are strict: the worker accepts what they accept, except for rules beyond single fields. Response schemas
are open: later versions may add fields, and a word from a list may be one that this version does not know.
"""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter

from worker.api import field_types, params, shapes, sizes
from worker.api.request import REQUESTS, Outpaint, Request
from worker.core.errors import ERROR_CODES
from worker.core.types import ControlType, Level, ProgressData, Quantized, Stage
from worker.document.transitions import WORKER_LOST

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
REF = "#/$defs/"
WORDS: dict[str, tuple[str, ...]] = {
    "GenerationStatus": get_args(shapes.Status),
    "GenerationStage": get_args(Stage),
    "StorageKind": get_args(shapes.StorageKind),
    "ErrorCode": tuple(sorted(ERROR_CODES | {WORKER_LOST})),
    "ControlType": get_args(ControlType),
    "ReferenceType": ("subject", "style"),
    "OutputFormat": get_args(field_types.FormatName),
    "VideoQuality": get_args(field_types.VideoQuality),
    "ImageSizeName": get_args(sizes.ImageSizeName),
    "AspectRatio": get_args(sizes.AspectRatio),
    "Resolution": get_args(sizes.Resolution),
    "InpaintArea": ("whole", "masked"),
    "EndImage": get_args(params.EndImage),
    "ModelFamily": ("sdxl", "wan"),
    "Acceleration": ("none", *get_args(Level)),
    "AccelerationLevel": get_args(Level),
    "QuantizedKind": get_args(Quantized),
    "StepCacheKind": ("first_block", "sea"),
}
"""Lists of words without a class in the worker, by their names in schemas and types."""
RENAMED = {
    "ProgressData": "GenerationProgress",
    "DocumentError": "GenerationError",
    "Usage": "GenerationUsage",
    "FileEntry": "GenerationFile",
}
"""Shapes whose names are unclear outside our modules, or are taken in Swift."""
PARAMS = "GenerationParams"


def schemas() -> dict[str, Schema]:
    """Return each schema by the name of its file."""
    return {
        "request": _file("GenerationRequest", "A job: the `input` of a call to RunPod's API.", Request, takes=True),
        "response": _file(
            "WorkerResponse",
            "The response to a job: its result, or its error.",
            shapes.GenerationResponse | shapes.GenerationFailure,
        ),
        "document": _file("GenerationDocument", None, shapes.GenerationDocument),
        "progress": _file("GenerationProgress", None, ProgressData),
        "quote": _file("Quote", None, shapes.Quote),
        "capabilities": _file("Capabilities", None, shapes.Capabilities),
    }


def closed(schema: Schema) -> Schema:
    """Return the schema without room for unknown fields and words, to which this version's worker conforms."""

    def close(part: Any) -> Any:
        if isinstance(part, list):
            return [close(one) for one in part]
        if not isinstance(part, dict):
            return part
        if _is_open(part):
            return close(part["anyOf"][0])
        shut = {key: close(value) for key, value in part.items()}
        return {**shut, "additionalProperties": False} if part.keys() >= {"type", "properties"} else shut

    shut: Schema = close(schema)
    # A document keeps all fields of a request; its shape names only those that a list shows.
    shut["$defs"].get("RequestData", {}).pop("additionalProperties", None)
    return shut


def _is_open(part: Mapping[str, Any]) -> bool:
    return len(part.get("anyOf", ())) == 2 and part["anyOf"][1] == {"type": "string"}


def _file(title: str, description: str | None, model: Any, *, takes: bool = False) -> Schema:
    raw = TypeAdapter(model).json_schema(mode="validation" if takes else "serialization")
    found: Schema = raw.pop("$defs", {})
    if "properties" in raw:
        found[title] = raw
    if any("params" in one.get("properties", {}) for one in found.values()):
        found |= _params()
    described = _docstrings()
    named = {RENAMED.get(name, name): one for name, one in found.items()}
    defs = {name: _tidied(one, described.get(name, {}), takes=takes) for name, one in named.items()}
    defs |= {name: {"enum": list(words)} for name, words in WORDS.items()}
    if takes:
        for request in REQUESTS.values():
            defs[request.__name__] = _whole(defs[request.__name__], request)
        grown = [
            {"required": [side], "properties": {side: {"type": "integer", "minimum": 8}}}
            for side in Outpaint.model_fields
        ]
        defs["Outpaint"]["anyOf"] = grown
    else:
        _name_codes(defs)
    root = {"$ref": REF + title} if title in defs else {"anyOf": _tidied(raw, {}, takes=takes)["anyOf"]}
    used = _used(root, defs)
    return {
        "$schema": DIALECT,
        "title": title,
        **({} if description is None else {"description": description}),
        **root,
        "$defs": {name: defs[name] for name in sorted(used)},
    }


def _params() -> Schema:
    """Return the schema of a response's `params`: the public fields of image and video parameters, never null."""
    found: Schema = {}
    properties: Schema = {}
    for kind in (params.ImageParams, params.VideoParams):
        raw = TypeAdapter(kind).json_schema(mode="serialization")
        found |= raw.pop("$defs")
        properties |= {name: one for name, one in raw["properties"].items() if name not in params.PRIVATE}
    # A field that is None is left out of `params`; in nested objects it is null.
    properties = {name: _not_null(one) for name, one in properties.items()}
    said = "The parameters that the job ran with; those that did not apply are absent."
    return {**found, PARAMS: {"description": said, "properties": properties, "required": ["width", "height"]}}


def _not_null(schema: Schema) -> Schema:
    choices = [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]
    return choices[0] if len(choices) == 1 else schema


def _tidied(schema: Schema, described: Mapping[str, str], *, takes: bool) -> Schema:
    """Rewrite pydantic's schema of one model with only JSON Schema's keywords and with our names."""

    def walk(part: Any, *, nullable: bool = False) -> Any:
        if isinstance(part, list):
            return [walk(one) for one in part]
        if not isinstance(part, dict):
            return part
        if "properties" in part:
            return _object(part)
        words = part.get("enum")
        if words and isinstance(words[0], str) and part is not schema:
            return _word(_name_of(tuple(words)), takes=takes)
        if len(part.get("anyOf", ())) > 1:
            part = {**part, "anyOf": list(_as_one(part["anyOf"]))}
        if "$ref" in part:
            name = part["$ref"].removeprefix("#/$defs/")
            return (
                _word(name, takes=takes)
                if name in ("TaskType", "Scheduler")
                else {"$ref": REF + RENAMED.get(name, name)}
            )
        if "const" in part and not takes:
            return {"type": part["type"]}  # later versions may add words
        renamed = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum"}
        tidy = {renamed.get(key, key): walk(value) for key, value in part.items() if key != "title"}
        # Pydantic has both the bound that it checks and the one that we document.
        if {"ge", "minimum"} <= part.keys():
            tidy["minimum"] = part["minimum"]
        if tidy.get("default", 0) is None:
            del tidy["default"]
        return tidy

    def _object(part: Schema) -> Schema:
        required = set(part.get("required", ()))
        properties = {}
        for name, one in part["properties"].items():
            told = walk(one)
            if takes and name not in required and "const" not in told:
                told = _nullable(told)
            if name == "params":
                told = {"$ref": REF + PARAMS}
            if name in described:
                told = {"description": described[name], **told}
            properties[name] = told
        return {
            **({"description": " ".join(part["description"].split())} if "description" in part else {}),
            "type": "object",
            "properties": properties,
            **({"required": [name for name in part["properties"] if name in required]} if required else {}),
            **({"additionalProperties": False} if takes else {}),
        }

    tidy: Schema = walk(schema)
    return tidy


def _as_one(choices: list[Schema]) -> Iterator[Schema]:
    """Merge lists of words from several places into one."""
    listed = [one for one in choices if one.get("type") == "string" and one.keys() & {"enum", "const"}]
    if listed:
        yield {"enum": [word for one in listed for word in one.get("enum", [one.get("const")])], "type": "string"}
    yield from (one for one in choices if one not in listed)


def _nullable(schema: Schema) -> Schema:
    """Allow null, which means "not given", in an optional field of a request."""
    default = {"default": schema.pop("default")} if "default" in schema else {}
    choices = schema.get("anyOf", [schema])
    return {"anyOf": [*(one for one in choices if one != {"type": "null"}), {"type": "null"}], **default}


def _word(name: str, *, takes: bool) -> Schema:
    ref = {"$ref": REF + name}
    return ref if takes else {"anyOf": [ref, {"type": "string"}]}


def _name_of(words: tuple[str, ...]) -> str:
    found = next((name for name, known in WORDS.items() if known == words), None)
    if found is None:
        raise LookupError(f"WORDS has no name for {', '.join(words)}")
    return found


def _name_codes(defs: Schema) -> None:
    """Type error codes as words; in the worker's own types they are strings, since each error class has its own."""
    for name, field in (("GenerationFailure", "error_code"), ("GenerationError", "code")):
        if name in defs:
            defs[name]["properties"][field] = _word("ErrorCode", takes=False)


def _whole(schema: Schema, request: type[BaseModel]) -> Schema:
    """Add the rules that involve more than one field."""
    given = {"not": {"type": "null"}}

    def both(*names: str) -> Schema:
        return {"required": list(names), "properties": dict.fromkeys(names, given)}

    rules: list[Schema] = [
        {
            "if": {"properties": {"use_cloud_storage": {"const": True}}, "required": ["use_cloud_storage"]},
            "then": both("user_id", "file_uid"),
        },
    ]
    for name, others in getattr(request, "one_of_these", ()):
        rules += [{"not": both(name, other)} for other in others]
    if "outpaint" in schema["properties"]:
        rules.append({"anyOf": [both("mask_url"), both("outpaint")]})
    return {**schema, "allOf": rules}


def _used(root: Schema, defs: Schema) -> set[str]:
    """Return the names of the definitions that a schema uses."""
    found: set[str] = set()
    waiting = list(_refs(root))
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _refs(defs[name])
    return found


def _refs(part: Any) -> Iterator[str]:
    if isinstance(part, list):
        for one in part:
            yield from _refs(one)
    elif isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"].removeprefix(REF)
        for value in part.values():
            yield from _refs(value)


def _docstrings() -> dict[str, dict[str, str]]:
    """Return the attribute docstrings of the worker's shapes, by class and field."""
    found: dict[str, dict[str, str]] = {}
    for source in (inspect.getsource(shapes), inspect.getsource(inspect.getmodule(ProgressData) or shapes)):
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef):
                found[RENAMED.get(node.name, node.name)] = dict(_described(node))
    return found


def _described(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, said in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(said, ast.Expr)
            and isinstance(said.value, ast.Constant)
        ):
            yield field.target.id, re.sub(r"\s+", " ", str(said.value.value)).replace("None:", "null:")
