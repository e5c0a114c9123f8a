"""The import rules: importing the handler is cheap, vendors stay behind their adapters, and imports run one way."""

import ast
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([ROOT / "handler.py", *(ROOT / "worker").rglob("*.py")])
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"core", "demo_models", "telemetry"}),
    frozenset({"api"}),
    frozenset({"media"}),
    frozenset({"document", "storage", "sources", "auth", "engine"}),
    frozenset({"delivery", "firebase"}),
    frozenset({"job"}),
    frozenset({"handler", "reaper", "doctor"}),
)
"""From the bottom up. A module imports from its own package and from layers below; packages of a layer are independent.
docs/architecture.md shows the same as a picture.
"""
HOMES = {
    "runpod": {"handler"},
    "torch": {"worker.engine"},
    "diffusers": {"worker.engine"},
    "transformers": {"worker.engine"},
    "accelerate": {"worker.engine"},
    "huggingface_hub": {"worker.engine.models.hub"},
    "safetensors": {"worker.engine.models.loader", "worker.engine.adapters.lora"},
    "firebase_admin": {"worker.firebase"},
    "google": {"worker.firebase"},
    "grpc": {"worker.firebase.firestore"},
    "google_crc32c": {"worker.firebase"},
    "requests": {"worker.firebase", "worker.telemetry.otlp"},
    "httpx": {"worker.sources.http"},
    "httpcore": {"worker.sources.http"},
    "idna": {"worker.sources.http"},
    "jwt": {"worker.auth.tickets"},
    "rfc8785": {"worker.api.fingerprint"},
    "pydantic": {"worker.api", "worker.core.config"},
    "pydantic_core": {"worker.api"},
    "pydantic_settings": {"worker.core.config"},
    "typing_extensions": {"worker.core.types", "worker.api.shapes"},
    "imageio_ffmpeg": {"worker.media.video"},
    "PIL": {"worker.media", "worker.engine", "worker.core.types", "worker.sources.loader"},
    "pillow_heif": {"worker.media.reader"},
    "c2pa": {"worker.media.credentials"},
    "cryptography": {"worker.media.credentials"},
    "blurhash": {"worker.media.thumbnail"},
    "cv2": {"worker.engine.adapters.control_pictures"},
    "numpy": {"worker.media", "worker.engine"},
    "opentelemetry": {"worker.telemetry.otlp"},
    "tqdm": {"worker.job.progress"},
}
"""Each third-party library -> the packages or modules that may import it, even if only for type checkers."""
HEAVY = ("torch", "diffusers", "transformers", "firebase_admin", "google.cloud", "google.auth", "grpc", "runpod")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    """`worker/engine/engine.py` -> `worker.engine.engine`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def imported(path: Path) -> tuple[tuple[str, bool, bool], ...]:
    """Return each import of a file: the module's name, whether it is at the top level, and only for type checkers."""

    found: list[tuple[str, bool, bool]] = []

    def visit(node: ast.AST, *, top: bool, typing: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, top, typing) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path.name}: imports are absolute here"
                found.extend((f"{child.module}.{alias.name}", top, typing) for alias in child.names)
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                visit(child, top=False, typing=typing)
            elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                visit(child, top=top, typing=True)
            elif not isinstance(child, ast.expr):  # expressions contain no imports
                visit(child, top=top, typing=typing)

    visit(tree(path), top=True, typing=False)
    return tuple(found)


def importers(package: str, *, typing: bool = False) -> dict[str, bool]:
    """Return the files that import a package -> whether one of these imports is at the top level."""
    found: dict[str, bool] = {}
    for path in SOURCES:
        for name, top, for_typing in imported(path):
            if (name == package or name.startswith(package + ".")) and (typing or not for_typing):
                found[name_of(path)] = found.get(name_of(path), False) or top
    return found


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    code = "import handler"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    return set(re.findall(r"^import time:\s+\d+ \|\s+\d+ \| +(\S+)$", done.stderr, re.MULTILINE))


@pytest.mark.e2e
@pytest.mark.parametrize("package", HEAVY)
def test_importing_the_handler_imports_nothing_heavy(loaded: set[str], package: str) -> None:
    assert "worker.job.runner" in loaded
    assert not [name for name in loaded if name == package or name.startswith(package + ".")]


@pytest.mark.e2e
def test_importing_the_handler_starts_no_thread_and_builds_nothing() -> None:
    code = "import threading, handler; print(threading.active_count(), handler.shared_services.cache_info().currsize)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "0"]


@pytest.mark.parametrize("vendor", HOMES)
def test_each_vendor_has_one_home(vendor: str) -> None:
    strays = [
        name
        for name in importers(vendor, typing=True)
        if not any(name == home or name.startswith(home + ".") for home in HOMES[vendor])
    ]
    assert strays == []


def test_every_library_that_is_imported_has_a_home() -> None:
    ours = {"worker", *sys.stdlib_module_names}
    used = {name.partition(".")[0] for path in SOURCES for name, _, _ in imported(path)}
    assert used - ours == set(HOMES)


def test_every_library_that_is_imported_is_pinned_by_name() -> None:
    found = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    pinned, packages = {name.replace("_", "-") for name in found}, packages_distributions()
    strays = {vendor for vendor in HOMES if not pinned & {name.replace("_", "-") for name in packages[vendor]}}
    assert strays == {"pydantic_core"}, "pydantic pins the one version of it that it works with"


@pytest.mark.parametrize("vendor", ["runpod", "firebase_admin", "google"])
def test_what_is_slow_to_import_is_imported_in_functions(vendor: str) -> None:
    assert not any(importers(vendor).values())


def test_the_environment_is_read_in_one_file() -> None:
    readers = {
        name_of(path)
        for path in SOURCES
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv", "putenv"})
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and {a.name for a in node.names} & {"environ", "getenv"}
        )
    }
    assert readers == {"worker.core.config"}


def test_nothing_is_printed_and_nothing_broad_is_caught() -> None:
    """One broad `except`, where the outcome is decided; errors that cross threads or are re-raised do not count."""
    broad: dict[str, int] = {}
    for path in SOURCES:
        for node in ast.walk(tree(path)):
            assert not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"), (
                path
            )
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = ast.unparse(node.type) if node.type else "BaseException"
            again = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            if caught in {"Exception", "BaseException"} and not again:
                broad[name_of(path)] = broad.get(name_of(path), 0) + 1
    for hands_on in ("worker.job.gpu_queue", "worker.engine.models.fetch"):
        assert broad.pop(hands_on, 0) == 1, "hands everything to whoever waits"
    assert broad.pop("worker.engine.speed.compile", 0) == 1, "what cannot be compiled runs as it is"
    assert broad.pop("worker.doctor", 0) == 1, "one check that breaks is a red row beside the others"
    assert broad == {"worker.job.runner": 1}


# -- the order of imports


@cache
def graph(*, functions: bool, typing: bool = False) -> dict[str, set[str]]:
    """Return module of this project -> the modules of this project that it imports."""
    names = {name_of(path) for path in SOURCES}

    def module(name: str) -> str | None:
        return name if name in names else name.rpartition(".")[0] if name.rpartition(".")[0] in names else None

    found: dict[str, set[str]] = {}
    for path in SOURCES:
        targets = {
            target
            for name, top, for_typing in imported(path)
            if (typing or not for_typing) and (top or functions) and (target := module(name))
        }
        found[name_of(path)] = targets - {name_of(path), "worker"}
    return found


def package_of(name: str) -> str:
    """`worker.engine.memory.cache` -> `engine`; `worker.reaper` and `handler` stand for themselves."""
    return name.removeprefix("worker.").partition(".")[0]


def layer_of(name: str) -> int:
    return next((level for level, packages in enumerate(LAYERS) if package_of(name) in packages), -1)


def test_every_module_is_in_a_layer() -> None:
    assert [name for name in graph(functions=True) if name != "worker" and layer_of(name) < 0] == []


@pytest.mark.parametrize("package", sorted(frozenset().union(*LAYERS)))
def test_imports_run_one_way(package: str) -> None:
    wrong = [
        f"{name} imports {target}"
        for name, targets in graph(functions=True, typing=True).items()
        for target in targets
        if package_of(name) == package != package_of(target) and layer_of(target) >= layer_of(name)
    ]
    assert wrong == []


def test_google_is_known_to_the_handler_and_the_commands_alone() -> None:
    users = {
        name
        for name, targets in graph(functions=True, typing=True).items()
        if package_of(name) != "firebase" and any(package_of(target) == "firebase" for target in targets)
    }
    assert users == {"handler", "worker.reaper", "worker.doctor"}


@pytest.mark.parametrize("functions", [False, True], ids=["at the top", "anywhere"])
def test_imports_have_no_cycle(functions: bool) -> None:
    edges = graph(functions=functions)
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way, name))
        if name not in done:
            for target in sorted(edges[name]):
                walk(target, (*way, name))
            done.add(name)

    for name in sorted(edges):
        walk(name, ())


def test_every_module_says_what_it_is() -> None:
    assert [name_of(path) for path in SOURCES if not ast.get_docstring(tree(path))] == []
