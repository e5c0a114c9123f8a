"""Turns JSON Schema into the declarations for a language: word lists, objects and their fields. Knows no language.

Objects that a client sends are for writing; those that it receives are for reading.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tools.schema.contract import REF, Schema

Kind = Literal["text", "whole", "number", "truth", "time", "anything", "words", "object", "list", "map"]


@dataclass(frozen=True, slots=True)
class Type:
    """The type of a value; `of` is the element type of a list or map, `name` the name of words or an object."""

    kind: Kind
    name: str = ""
    of: "Type | None" = None


@dataclass(frozen=True, slots=True)
class Field:
    """A field; it may be missing or null unless it is required."""

    name: str
    type: Type
    said: str = ""
    required: bool = True
    nullable: bool = False
    constant: str | None = None
    """Its only possible value."""

    @property
    def needed(self) -> bool:
        """Whether it always has a value."""
        return self.required and not self.nullable


@dataclass(frozen=True, slots=True)
class Words:
    """A list of words; later versions may add some."""

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Object:
    """An object; `sent`: whether the client sends it."""

    name: str
    said: str
    fields: tuple[Field, ...]
    sent: bool

    @property
    def task(self) -> str | None:
        """The task of a request; None: not a request."""
        return next((field.constant for field in self.fields if field.name == "task_type"), None)


@dataclass(frozen=True, slots=True)
class Contract:
    """All declarations, each after those that it uses."""

    words: tuple[Words, ...]
    objects: tuple[Object, ...]

    @property
    def timed(self) -> set[str]:
        """Names of the objects with a field that is a time."""
        return {one.name for one in self.objects if any(field.type.kind == "time" for field in one.fields)}


def spelled(type_: Type, plain: Mapping[Kind, str], list_: str, map_: str) -> str:
    """Spell a type in a language, given its `plain` types and its templates for lists and maps."""
    if type_.of is None:
        return plain.get(type_.kind, type_.name)
    return (list_ if type_.kind == "list" else map_).format(spelled(type_.of, plain, list_, map_))


def contract(schemas: Mapping[str, Schema]) -> Contract:
    """Read all schemas together; a name must mean the same in each of them."""
    words: dict[str, Words] = {}
    objects: dict[str, Object] = {}
    for file, schema in schemas.items():
        for name, one in schema["$defs"].items():
            if "enum" in one:
                words[name] = Words(name, tuple(one["enum"]))
            else:
                made = Object(name, one.get("description", ""), tuple(_fields(one, schema["$defs"])), file == "request")
                assert objects.setdefault(name, made) == made, name
    return Contract(tuple(words[name] for name in sorted(words)), tuple(_in_order(objects)))


def _in_order(objects: Mapping[str, Object]) -> Iterator[Object]:
    done: set[str] = set()

    def visit(name: str) -> Iterator[Object]:
        if name in done:
            return
        done.add(name)
        for field in objects[name].fields:
            inner = field.type.of or field.type
            if inner.kind == "object":
                yield from visit(inner.name)
        yield objects[name]

    for name in objects:
        yield from visit(name)


def _fields(schema: Schema, defs: Schema) -> Iterator[Field]:
    required = set(schema.get("required", ()))
    for name, one in schema["properties"].items():
        choices = [choice for choice in one.get("anyOf", [one]) if choice != {"type": "null"}]
        yield Field(
            name,
            _type(choices[0], defs),
            said=one.get("description", ""),
            required=name in required or "const" in one,
            nullable={"type": "null"} in one.get("anyOf", ()),
            constant=one.get("const"),
        )


def _type(schema: Schema, defs: Schema) -> Type:
    if "anyOf" in schema:
        return _type(schema["anyOf"][0], defs)
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(REF)
        return Type("words" if "enum" in defs[name] else "object", name)
    plain: dict[Any, Kind] = {"integer": "whole", "number": "number", "boolean": "truth"}
    match schema.get("type"):
        case "string":
            return Type("time" if schema.get("format") == "date-time" else "text")
        case "array":
            return Type("list", of=_type(schema.get("items") or schema["prefixItems"][0], defs))
        case "object":
            inner = schema.get("additionalProperties")
            return Type("map", of=_type(inner, defs) if isinstance(inner, dict) else Type("anything"))
        case kind:
            return Type(plain[kind])
