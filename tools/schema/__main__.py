"""Writes the contract's files, or with `--check` lists the outdated ones."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.schema import dart, kotlin, swift, typescript
from tools.schema.contract import schemas
from tools.schema.model import contract

ROOT = Path(__file__).parents[2]


def files() -> Iterator[tuple[Path, str]]:
    """Yield the path and the text of every generated file."""
    found = schemas()
    for name, schema in found.items():
        yield ROOT / "schema" / f"{name}.json", json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
    declared = contract(found)
    yield ROOT / "client/src/wire.ts", typescript.written(declared)
    yield ROOT / "client/types/Generation.swift", swift.written(declared)
    yield ROOT / "client/types/Generation.kt", kotlin.written(declared)
    yield ROOT / "client/types/generation.dart", dart.written(declared)


def old_files() -> list[Path]:
    """Return the generated files that are missing or outdated."""
    return [path for path, text in files() if not path.exists() or path.read_text(encoding="utf-8") != text]


def main() -> int:
    """Write or check the files; return 1 if a check finds outdated ones, else 0."""
    if "--check" in sys.argv[1:]:
        old = [str(path.relative_to(ROOT)) for path in old_files()]
        sys.stderr.writelines(f"{name} is old: python -m tools.schema\n" for name in old)
        return 1 if old else 0
    for path, text in files():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
