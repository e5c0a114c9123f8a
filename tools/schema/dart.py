"""Writes the contract in Dart: plain classes that read and write the maps of Firestore's and Functions' SDKs."""

from tools.schema.model import Contract, Field, Kind, Object, Type, spelled
from tools.schema.names import NOTICE, camel, slashes

_KEYWORDS = frozenset({"default", "in", "is", "new", "null", "this", "with", "for", "class", "enum", "super", "switch"})
_PLAIN: dict[Kind, str] = {
    "text": "String",
    "whole": "int",
    "number": "double",
    "truth": "bool",
    "time": "DateTime",
    "anything": "Object",
}
_HEAD = f"""// {NOTICE}
//
// Read a document with `GenerationDocument.of(snapshot.data()!, (it) => (it as Timestamp).toDate())`: each SDK has
// its own time type. Values may be unknown to this version: a `switch` over them needs a default.

/// A value from a list that may grow.
abstract class Word {{
  const Word(this.value);

  final String value;

  @override
  bool operator ==(Object other) => other is Word && other.runtimeType == runtimeType && other.value == value;

  @override
  int get hashCode => value.hashCode;

  @override
  String toString() => value;
}}

/// A job request.
abstract class GenerationRequest {{
  TaskType get taskType;

  /// For a callable function or a JSON encoder; null fields are left out.
  Map<String, Object> toMap();
}}
"""


def written(contract: Contract) -> str:
    """Return the text of the file."""
    parts = [_HEAD, *(_words(one.name, one.words) for one in contract.words)]
    parts += [_class(one, contract.timed) for one in contract.objects]
    return "\n".join(parts)


def _words(name: str, words: tuple[str, ...]) -> str:
    constants = [f"  static const {_name(word)} = {name}('{word}');" for word in words]
    return "\n".join([f"class {name} extends Word {{", f"  const {name}(super.value);", "", *constants, "}\n"])


def _class(one: Object, timed: set[str]) -> str:
    fields = [field for field in one.fields if field.constant is None]
    lines = [*slashes(one.said, width=120)]
    lines.append(f"class {one.name} {'implements GenerationRequest ' if one.task else ''}{{")
    given = [f"    {'required ' if field.needed else ''}this.{_name(field.name)}," for field in fields]
    lines += [f"  const {one.name}({{", *given, "  });"]
    if not one.sent:
        lines += ["", *_of(one, fields, timed)]
    for field in fields:
        lines += ["", *slashes(field.said, "  ", width=120)] if field.said else [""]
        lines.append(f"  final {_type(field.type)}{'' if field.needed else '?'} {_name(field.name)};")
    if one.task:
        lines += ["", "  @override", f"  TaskType get taskType => TaskType.{_name(one.task)};"]
    if one.sent:
        lines += ["", *_to_map(one)]
    return "\n".join([*lines, "}\n"])


def _of(one: Object, fields: list[Field], timed: set[str]) -> list[str]:
    lines = []
    time = ", DateTime Function(Object) time" if one.name in timed else ""
    if time:
        lines.append("  /// `time` converts the time type of the SDK, or of the JSON.")
    lines.append(f"  factory {one.name}.of(Map<Object?, Object?> map{time}) => {one.name}(")
    for field in fields:
        it = f"map['{field.name}']"
        read = _value(field.type, f"{it}!")
        lines.append(f"        {_name(field.name)}: {read if field.needed else f'{it} == null ? null : {read}'},")
    return [*lines, "      );"]


def _to_map(one: Object) -> list[str]:
    lines = ["  @override"] if one.task else []
    lines.append("  Map<String, Object> toMap() => {")
    for field in one.fields:
        name = _name(field.name)
        if field.required:
            lines.append(f"        '{field.name}': {_write(field.type, name)},")
        else:
            lines.append(f"        if ({name} != null) '{field.name}': {_write(field.type, f'{name}!')},")
    return [*lines, "      };"]


def _write(type_: Type, it: str) -> str:
    match type_.kind:
        case "words":
            return f"{it}.value"
        case "object":
            return f"{it}.toMap()"
        case "list" if type_.of is not None and type_.of.kind == "object":
            return f"{it}.map((one) => one.toMap()).toList()"
        case "text" if it == "taskType":
            return f"{it}.value"
        case _:
            return it


def _value(type_: Type, it: str) -> str:
    match type_.kind:
        case "text":
            return f"{it} as String"
        case "whole":
            return f"({it} as num).toInt()"
        case "number":
            return f"({it} as num).toDouble()"
        case "truth":
            return f"{it} as bool"
        case "time":
            return f"time({it})"
        case "words":
            return f"{type_.name}({it} as String)"
        case "object":
            return f"{type_.name}.of({it} as Map<Object?, Object?>)"
        case "list" if type_.of is not None:
            return f"({it} as List<Object?>).map((one) => {_value(type_.of, 'one!')}).toList()"
        case "map" if type_.of is not None:
            inner = _value(type_.of, "one!")
            return f"({it} as Map<Object?, Object?>).map((key, one) => MapEntry(key! as String, {inner}))"
        case _:
            return it


def _name(name: str) -> str:
    plain = camel(name)
    return f"{plain}_" if plain in _KEYWORDS else plain


def _type(type_: Type) -> str:
    return spelled(type_, _PLAIN, "List<{}>", "Map<String, {}>")
