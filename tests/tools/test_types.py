"""The types for apps, checked by each language's compiler where available, with the same examples for all.

TypeScript by tsc, in its strictest mode; Kotlin by kotlinc, and run. Swift's and Dart's compilers are in no package
registry that the tests use: tree-sitter's grammars parse these two.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.fixtures import missing
from tools.emulators.install import InstallError, MissingNodeError, find_node, install, node_environment
from tools.schema.__main__ import ROOT

EXAMPLES = ROOT / "schema" / "examples"
TYPES = ROOT / "client" / "types"
DECLARED = {
    "request": "GenerationRequest",
    "response": "WorkerResponse",
    "document": "GenerationDocument",
    "progress": "GenerationProgress",
    "quote": "Quote",
    "capabilities": "Capabilities",
}
LATER = "of-a-later-version"


def examples() -> list[tuple[str, str, Any]]:
    """Return kind, name and content of each example."""
    return [
        (path.parent.name, path.stem, json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(EXAMPLES.rglob("*.json"))
    ]


def packages(source: Path, *, development: bool = False) -> Path:
    try:
        return install(source, development=development)
    except (MissingNodeError, InstallError) as error:
        missing(f"the types cannot be read: {error}")
        raise


def run(folder: Path, *command: str, seconds: float = 600) -> str:
    done = subprocess.run(
        command, cwd=folder, env=node_environment(), capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


# --- TypeScript -----------------------------------------------------------------------------------------------------


def typescript(folder: Path, code: str) -> str:
    """Return the compiler's output for code beside the types; empty if nothing is wrong."""
    installed = packages(ROOT / "client", development=True)
    (folder / "wire.ts").write_text((ROOT / "client/src/wire.ts").read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "use.ts").write_text('import type * as wire from "./wire.js";\n' + code, encoding="utf-8")
    (folder / "package.json").write_text('{"type": "module"}')
    options = ["--noEmit", "--strict", "--exactOptionalPropertyTypes", "--target", "es2020", "--types", ""]
    done = subprocess.run(
        [str(find_node()), str(installed / "typescript" / "bin" / "tsc"), *options, "--module", "nodenext", "use.ts"],
        cwd=folder,
        env=node_environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.stdout


@pytest.mark.e2e
def test_the_examples_are_of_their_types_in_typescript(tmp_path: Path) -> None:
    """Literals, so that a field unknown to the types is an error, except in the example of a later version."""
    code = []
    for kind, name, value in examples():
        declared = f"wire.{DECLARED[kind]}" + ("<string>" if kind == "document" else "")
        variable = f"{kind}_{name}".replace("-", "_")
        literal = json.dumps(value, ensure_ascii=False)
        if name == LATER:
            code += [f"const given_{variable} = {literal};", f"const {variable}: {declared} = given_{variable};"]
        else:
            code.append(f"const {variable}: {declared} = {literal};")
        code.append(f"void {variable};")
    assert typescript(tmp_path, "\n".join(code)) == ""


@pytest.mark.e2e
def test_what_is_wrong_is_an_error_in_typescript(tmp_path: Path) -> None:
    code = """
    const a: wire.GenerationRequest = { task_type: "img2img", prompt: "x" };
    const b: wire.GenerationRequest = { prompt: "x", aspect_ratio: "17:9" };
    const c: wire.GenerationDocument<string> = { status: 3 };
    void [a, b, c];
    """
    said = typescript(tmp_path, code)
    assert re.findall(r"use\.ts\((\d+),", said) == ["3", "4", "5"], said


# --- Kotlin ---------------------------------------------------------------------------------------------------------


def kotlin_literal(value: Any) -> str:
    match value:
        case dict():
            return (
                "mapOf<String, Any?>("
                + ", ".join(f"{_quoted(k)} to {kotlin_literal(v)}" for k, v in value.items())
                + ")"
            )
        case list():
            return "listOf<Any?>(" + ", ".join(map(kotlin_literal, value)) + ")"
        case str():
            return _quoted(value)
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int():
            return f"{value}L"
        case _:
            return repr(value)


def _quoted(text: str) -> str:
    return json.dumps(text).replace("$", "\\$")


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kotlin_reads_the_examples_and_writes_what_was_asked(tmp_path: Path) -> None:
    """Compiles and runs; for those who change the types: it skips, even with CI=true, where there is no Java."""
    java = shutil.which("java")
    if java is None:
        pytest.skip("needs Java; Kotlin's compiler itself comes from npm")
    library = packages(ROOT / "tools/schema/node") / "kotlin-compiler" / "lib"
    read = {"document": "GenerationDocument", "progress": "GenerationProgress", "quote": "Quote"}
    read["capabilities"] = "Capabilities"
    lines = ["import generation.*", "import java.time.Instant", "import java.util.Date", "", "fun main() {"]
    lines.append("    val time = { it: Any -> Date.from(Instant.parse(it as String)) }")
    for kind, name, value in examples():
        if kind in read or kind == "response":
            declared = read.get(kind, "GenerationFailure" if name == "failure" else "GenerationResponse")
            more = ", time" if kind == "document" else ""
            lines.append(f"    println({declared}.of({kotlin_literal(value)}{more}))")
    lines += [
        '    println(Img2ImgRequest(prompt = "a fox", imageUrl = "gs://b/uploads/u/a.png", scheduler = Scheduler.DDIM,',
        '        outputFormat = OutputFormat("avif"), loras = listOf(Lora(path = "ink", scale = 0.5))).toMap())',
        "}",
    ]
    (tmp_path / "Main.kt").write_text("\n".join(lines), encoding="utf-8")
    compiler = ["-cp", str(library / "kotlin-compiler.jar"), "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"]
    runtime = str(library / "kotlin-stdlib.jar")
    options = ["-no-stdlib", "-no-reflect", "-cp", runtime, "-Werror", "-d", str(tmp_path / "out")]
    run(tmp_path, java, *compiler, *options, str(TYPES / "Generation.kt"), "Main.kt", seconds=800)
    said = run(tmp_path, java, "-cp", os.pathsep.join([str(tmp_path / "out"), runtime]), "MainKt").splitlines()
    assert len(said) == sum(kind != "request" for kind, _, _ in examples()) + 1
    later = next(line for line in said if "status=archived" in line)
    for word in (
        "stage=polishing",
        "code=a_later_code",
        "scheduler=A_LATER_ONE",
        "storage=gallery",
        "taskType=text2song",
    ):
        assert word in later
    assert any("jobCost=8000000000" in line for line in said), "a number beyond 32 bits"
    assert "{prompt=a fox," in said[-1]
    assert "loras=[{path=ink, scale=0.5}]" in said[-1]
    assert "output_format=avif" in said[-1]
    assert "task_type=img2img" in said[-1]
    assert "seed" not in said[-1]


# --- Swift and Dart -------------------------------------------------------------------------------------------------


def parsed(*files: tuple[str, Path]) -> dict[str, list[dict[str, Any]]]:
    """Return the syntax errors in each file."""
    installed = packages(ROOT / "tools/schema/node")
    asked = [f"{language}={path}" for language, path in files]
    script = str(ROOT / "tools/schema/node/parse.mjs")
    found: dict[str, list[dict[str, Any]]] = json.loads(
        run(ROOT, str(find_node()), "--liftoff-only", script, str(installed), *asked)
    )
    return found


@pytest.mark.e2e
def test_swift_and_dart_are_code_of_these_languages(tmp_path: Path) -> None:
    swift, dart = TYPES / "Generation.swift", TYPES / "generation.dart"
    assert parsed(("swift", swift), ("dart", dart)) == {str(swift): [], str(dart): []}
    broken = tmp_path / "broken"
    broken.write_text("struct A { let }\nclass B { final }", encoding="utf-8")
    assert parsed(("swift", broken))[str(broken)]
    assert parsed(("dart", broken))[str(broken)]


@pytest.mark.parametrize(
    ("file", "made"),
    [("Generation.swift", r"{name}\(rawValue: \"{word}\"\)"), ("generation.dart", r"{name}\('{word}'\)")],
)
def test_swift_and_dart_name_every_word_and_every_field(file: str, made: str) -> None:
    text = (TYPES / file).read_text(encoding="utf-8")
    for path in sorted((ROOT / "schema").glob("*.json")):
        for name, schema in json.loads(path.read_text(encoding="utf-8"))["$defs"].items():
            for word in schema.get("enum", ()):
                assert re.search(made.format(name=name, word=re.escape(word)), text), (name, word)
            block = text.partition(f"struct {name}:" if file.endswith("swift") else f"class {name} ")[2]
            for field in schema.get("properties", {}):
                if (name, field) != ("GenerationDocument", "claim"):  # internal to the worker, of no type
                    assert f'"{field}"' in block or f"'{field}'" in block or field == "task_type", (name, field)
