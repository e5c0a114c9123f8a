"""Writes the contract in Swift: Codable structs for JSONDecoder and Firestore's own decoder."""

from tools.schema.model import Contract, Field, Kind, Object, Type, spelled
from tools.schema.names import NOTICE, camel, slashes

_KEYWORDS = frozenset({"internal", "default", "in", "is", "as", "case", "for", "repeat", "public", "private", "static"})
_PLAIN: dict[Kind, str] = {"text": "String", "whole": "Int", "number": "Double", "truth": "Bool", "time": "Date"}
_HEAD = f"""// {NOTICE}
//
// Read a document with `snapshot.data(as: GenerationDocument.self)` (FirebaseFirestore), a response with JSONDecoder.
// Values may be unknown to this version: compare them (`document.status == .completed`), and handle any other.

import Foundation

/// A job request.
public protocol GenerationRequest: Encodable, Sendable {{
    var taskType: TaskType {{ get }}
}}
"""


def written(contract: Contract) -> str:
    """Return the text of the file."""
    parts = [_HEAD, *(_words(one.name, one.words) for one in contract.words)]
    parts += [_struct(one) for one in contract.objects]
    return "\n".join(parts)


def _words(name: str, words: tuple[str, ...]) -> str:
    constants = [f'    public static let {_name(word)} = {name}(rawValue: "{word}")' for word in words]
    return "\n".join(
        [
            f"public struct {name}: RawRepresentable, Codable, Hashable, Sendable {{",
            "    public let rawValue: String",
            "",
            "    public init(rawValue: String) {",
            "        self.rawValue = rawValue",
            "    }",
            "",
            *constants,
            "}\n",
        ]
    )


def _struct(one: Object) -> str:
    fields = [field for field in one.fields if not _untyped(field.type)]
    protocols = "GenerationRequest" if one.task else "Encodable, Sendable" if one.sent else "Codable, Sendable"
    lines = [*slashes(one.said), f"public struct {one.name}: {protocols} {{"]
    for field in fields:
        lines += slashes(field.said, "    ")
        if field.constant is not None:
            lines.append(f"    public let {_name(field.name)} = TaskType.{_name(field.constant)}")
        else:
            lines.append(f"    public var {_name(field.name)}: {_optional(field)}")
    if one.sent:
        lines += _init([field for field in fields if field.constant is None])
    lines += ["", "    private enum CodingKeys: String, CodingKey {"]
    lines += [f'        case {_name(field.name)} = "{field.name}"' for field in fields]
    return "\n".join([*lines, "    }", "}\n"])


def _init(fields: list[Field]) -> list[str]:
    """Write a public initializer; a struct's memberwise one is internal."""
    ordered = sorted(fields, key=lambda field: not field.required)
    given = [
        f"        {_name(field.name)}: {_optional(field)}{'' if field.required else ' = nil'}" for field in ordered
    ]
    kept = [f"        self.{_name(field.name).strip('`')} = {_name(field.name)}" for field in ordered]
    return ["", "    public init(", ",\n".join(given), "    ) {", *kept, "    }"]


def _optional(field: Field) -> str:
    return f"{_type(field.type)}{'' if field.needed else '?'}"


def _untyped(type_: Type) -> bool:
    return type_.kind == "anything" or (type_.of is not None and _untyped(type_.of))


def _name(name: str) -> str:
    plain = camel(name)
    return f"`{plain}`" if plain in _KEYWORDS else plain


def _type(type_: Type) -> str:
    return spelled(type_, _PLAIN, "[{}]", "[String: {}]")
