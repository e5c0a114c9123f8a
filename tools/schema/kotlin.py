"""Writes the contract in Kotlin: plain classes that read and write the maps of Firestore's and Functions' SDKs.

They need no particular JSON library: any of them can produce such maps.
"""

from tools.schema.model import Contract, Field, Kind, Object, Type, spelled
from tools.schema.names import NOTICE, camel, comment, shouted

_PLAIN: dict[Kind, str] = {
    "text": "String",
    "whole": "Long",
    "number": "Double",
    "truth": "Boolean",
    "time": "Date",
    "anything": "Any",
}
_HEAD = f"""// {NOTICE}
//
// Read a document with `GenerationDocument.of(snapshot.data!!) {{ (it as Timestamp).toDate() }}`: each SDK has its own
// time type. Values may be unknown to this version: a `when` over them needs an `else`.

package generation

import java.util.Date

/** A job request. */
interface GenerationRequest {{
    val taskType: TaskType

    /** For a callable function or a JSON library; null fields are left out. */
    fun toMap(): Map<String, Any>
}}

private fun <T : Any> Map<*, *>.need(name: String, read: (Any) -> T): T =
    read(requireNotNull(this[name]) {{ "$name is missing" }})

private fun <T : Any> Map<*, *>.maybe(name: String, read: (Any) -> T): T? = this[name]?.let(read)

private fun whole(value: Any): Long = (value as Number).toLong()

private fun number(value: Any): Double = (value as Number).toDouble()

private fun given(vararg fields: Pair<String, Any?>): Map<String, Any> =
    fields.mapNotNull {{ (name, value) -> value?.let {{ name to it }} }}.toMap()
"""


def written(contract: Contract) -> str:
    """Return the text of the file."""
    parts = [_HEAD, *(_words(one.name, one.words) for one in contract.words)]
    parts += [_class(one, contract.timed) for one in contract.objects]
    return "\n".join(parts)


def _words(name: str, words: tuple[str, ...]) -> str:
    constants = [f'        val {shouted(word)} = {name}("{word}")' for word in words]
    return "\n".join(
        [
            "@JvmInline",
            f"value class {name}(val value: String) {{",
            "    override fun toString() = value",
            "",
            "    companion object {",
            *constants,
            "    }",
            "}\n",
        ]
    )


def _class(one: Object, timed: set[str]) -> str:
    fields = [field for field in one.fields if field.constant is None]
    ordered = sorted(fields, key=lambda field: not field.needed)
    lines = [*comment(one.said, width=120), f"data class {one.name}("]
    for field in ordered:
        lines += comment(field.said, "    ", width=120)
        optional = "" if field.needed else "? = null"
        lines.append(f"    val {camel(field.name)}: {_type(field.type)}{optional},")
    lines.append(f"){' : GenerationRequest' if one.task else ''} {{")
    if one.task:
        lines += [f"    override val taskType get() = TaskType.{shouted(one.task)}", ""]
    return "\n".join([*lines, *(_to_map(one) if one.sent else _of(one, ordered, timed)), "}\n"])


def _to_map(one: Object) -> list[str]:
    said = [f'        "{field.name}" to {_write(field)},' for field in one.fields]
    return [f"    {'override ' if one.task else ''}fun toMap(): Map<String, Any> = given(", *said, "    )"]


def _write(field: Field) -> str:
    if field.name == "task_type":
        return "taskType.value"
    name, dot = camel(field.name), "." if field.required else "?."
    match field.type.kind:
        case "words":
            return f"{name}{dot}value"
        case "object":
            return f"{name}{dot}toMap()"
        case "list" if field.type.of is not None and field.type.of.kind == "object":
            return f"{name}{dot}map {{ it.toMap() }}"
        case _:
            return name


def _of(one: Object, fields: list[Field], timed: set[str]) -> list[str]:
    time = ", time: (Any) -> Date" if one.name in timed else ""
    said = []
    for field in fields:
        read = f'{"need" if field.needed else "maybe"}("{field.name}")'
        said.append(f"            {camel(field.name)} = map.{read} {_read(field.type)},")
    lines = ["    companion object {"]
    if time:
        lines.append("        /** `time` converts the time type of the SDK, or of the JSON. */")
    return [*lines, f"        fun of(map: Map<*, *>{time}) = {one.name}(", *said, "        )", "    }"]


def _read(type_: Type, it: str = "it") -> str:
    return f"{{ {_value(type_, it)} }}"


def _value(type_: Type, it: str) -> str:
    match type_.kind:
        case "text":
            return f"{it} as String"
        case "whole" | "number":
            return f"{type_.kind}({it})"
        case "truth":
            return f"{it} as Boolean"
        case "time":
            return f"time({it})"
        case "words":
            return f"{type_.name}({it} as String)"
        case "object":
            return f"{type_.name}.of({it} as Map<*, *>)"
        case "list" if type_.of is not None:
            return f"({it} as List<*>).map {{ one -> {_value(type_.of, 'one!!')} }}"
        case "map" if type_.of is not None:
            inner = _value(type_.of, "one.value!!")
            return f"({it} as Map<*, *>).entries.associate {{ one -> (one.key as String) to {_bracketed(inner)} }}"
        case _:
            return it


def _bracketed(code: str) -> str:
    return f"({code})" if " as " in code else code


def _type(type_: Type) -> str:
    return spelled(type_, _PLAIN, "List<{}>", "Map<String, {}>")
