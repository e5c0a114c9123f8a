"""Writes the contract in TypeScript: only types, which add nothing to an app's JavaScript."""

import json

from tools.schema.model import Contract, Object, Type
from tools.schema.names import NOTICE, comment

_HEAD = f"""// {NOTICE}
//
// Data from a later worker may have fields and values that these types do not know: `Open` leaves room for such values.

/** A value from a list that may grow. */
export type Open<Word extends string> = Word | (string & {{}});

/** A time, as in Firestore's SDKs. */
export interface Timestamp {{
  toMillis(): number;
}}
"""


def written(contract: Contract) -> str:
    """Return the text of the file."""
    parts = [_HEAD]
    parts += [
        f"export type {one.name} = {' | '.join(json.dumps(word) for word in one.words)};\n" for one in contract.words
    ]
    parts += [_interface(one, contract.timed) for one in contract.objects]
    requests = [one.name for one in contract.objects if one.task]
    said = "A job request. `task_type` selects its type; only `text2img` may leave it out."
    parts.append("\n".join([*comment(said), f"export type GenerationRequest = {' | '.join(requests)};\n"]))
    parts.append("export type WorkerResponse = GenerationResponse | GenerationFailure;\n")
    return "\n".join(parts)


def _interface(one: Object, timed: set[str]) -> str:
    generic = "<Time = Timestamp>" if one.name in timed else ""
    lines = [*comment(one.said), f"export interface {one.name}{generic} {{"]
    for field in one.fields:
        lines += comment(field.said, "  ")
        if field.constant is not None:
            optional = "?" if field.constant == "text2img" else ""
            lines.append(f"  {field.name}{optional}: {json.dumps(field.constant)};")
            continue
        # In an SDK's local snapshots, a time that the server has not set yet is null.
        null = " | null" if field.nullable or field.type.kind == "time" else ""
        lines.append(f"  {field.name}{'' if field.required else '?'}: {_type(field.type, one)}{null};")
    if one.name == "RequestData":
        lines += [*comment("The other fields of the request.", "  "), "  [field: string]: unknown;"]
    return "\n".join([*lines, "}\n"])


def _type(type_: Type, within: Object) -> str:
    match type_.kind:
        case "text":
            return "string"
        case "whole" | "number":
            return "number"
        case "truth":
            return "boolean"
        case "time":
            return "Time"
        case "words":
            return type_.name if within.sent else f"Open<{type_.name}>"
        case "object":
            return type_.name
        case "list":
            assert type_.of is not None
            inner = _type(type_.of, within)
            return f"Array<{inner}>" if " " in inner or "<" in inner else f"{inner}[]"
        case "map":
            assert type_.of is not None
            return f"Record<string, {_type(type_.of, within)}>"
        case _:
            return "unknown"
