"""Names of the wire as languages write theirs, and sentences as comments."""

import re
import textwrap

NOTICE = "Made by `python -m tools.schema` from the schemas in schema/: change those, not this."


def camel(name: str) -> str:
    """`image_url` -> `imageUrl`, `21:9` -> `x21To9`, `K_EULER` -> `kEuler`, `UniPC` -> `uniPC`."""
    parts = [part for part in re.split(r"[^A-Za-z0-9]+", name.replace(":", "_to_")) if part]
    parts = [part.lower() if part.isupper() else part for part in parts]
    first, *rest = parts
    plain = first[0].lower() + first[1:] + "".join(part[0].upper() + part[1:] for part in rest)
    return f"x{plain}" if plain[0].isdigit() else plain


def shouted(name: str) -> str:
    """`out_of_memory` -> `OUT_OF_MEMORY`, `21:9` -> `X21_TO_9`, `DPMSolverMultistep` -> `DPM_SOLVER_MULTISTEP`."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name.replace(":", "_to_"))
    plain = re.sub(r"[^A-Za-z0-9]+", "_", apart).upper()
    return f"X{plain}" if plain[0].isdigit() else plain


def comment(said: str, indent: str = "", *, width: int = 100) -> list[str]:
    """A documentation comment as TypeScript, Kotlin and Java have it; nothing where there is nothing to say."""
    if not said:
        return []
    text = said.replace("*/", "* /")
    if len(indent) + len(text) + 7 <= width:
        return [f"{indent}/** {text} */"]
    return [
        f"{indent}/**",
        *(f"{indent} * {line}" for line in textwrap.wrap(text, width - len(indent) - 3)),
        f"{indent} */",
    ]


def slashes(said: str, indent: str = "", *, width: int = 100) -> list[str]:
    """A documentation comment as Swift and Dart have it."""
    return [f"{indent}/// {line}" for line in textwrap.wrap(said, width - len(indent) - 4)] if said else []
