"""The app's side, `client/`: compiled under its own strict settings, with its test cases run in Node."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fixtures import missing
from tools.emulators.firebase import EmulatorError, FirebaseEmulators
from tools.emulators.functions import FunctionsEmulator, FunctionsError
from tools.emulators.google_firestore import GoogleFirestore, MissingEmulatorError
from tools.emulators.install import InstallError, MissingNodeError, find_node, install, node_environment
from tools.emulators.ports import held_port
from worker.core.config import REPOSITORY

CLIENT = REPOSITORY / "client"
HERMES = CLIENT / "test" / "hermes"
EXAMPLES = REPOSITORY / "schema" / "examples"


@pytest.fixture(scope="module")
def packages() -> Path:
    """Return the folder with the compiler and Firebase, as the client's lock file pins them."""
    try:
        installed = install(CLIENT, development=True)
    except (MissingNodeError, InstallError) as error:
        missing(f"the client cannot be compiled: {error}")
    return installed


@pytest.fixture(scope="module")
def compiled(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `src/` and `test/` as JavaScript, and the packages that the tests import."""
    folder = tmp_path_factory.mktemp("client")
    # The compiler looks for packages above the files that it reads.
    for name in ("src", "test", "tsconfig.json"):
        (folder / name).symlink_to(CLIENT / name)
    (folder / "node_modules").symlink_to(packages)
    (folder / "package.json").write_text(json.dumps({"type": "module"}))
    out = folder / "out"
    tsc = packages / "typescript" / "bin" / "tsc"
    done = node(folder, str(tsc), "-p", "test/tsconfig.json", "--outDir", str(out), "--preserveSymlinks")
    assert done.returncode == 0, done.stdout + done.stderr
    (out / "node_modules").symlink_to(packages)
    (out / "package.json").write_text(json.dumps({"type": "module"}))
    return out


def node(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(find_node()), *arguments],
        cwd=folder,
        env=node_environment() | variables,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def passed(folder: Path, *files: str, **variables: str) -> int:
    """Run test files of the client; returns the number of cases, all of which passed."""
    ran = node(folder, "--test", "--test-reporter=tap", *files, **variables)
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
    assert "\n# fail 0" in ran.stdout
    assert "--test-name-pattern" in files[0] or "\n# skipped 0" in ran.stdout
    return int(re.search(r"^# pass (\d+)$", ran.stdout, re.MULTILINE)[1])  # type: ignore[index]


@pytest.mark.e2e
def test_the_client_does_what_its_cases_say(compiled: Path) -> None:
    """Against a phone, a server and workers with a simulated clock; each case names the report it comes from."""
    assert passed(compiled, "test/liveness.test.js") > 100


@pytest.mark.e2e
def test_react_native_firebase_fits_by_its_types(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_legacy_peer_deps", "true")  # its types, without React Native
    try:
        theirs = install(CLIENT / "test" / "react-native")
    except (MissingNodeError, InstallError) as error:
        missing(f"React Native Firebase is not here: {error}")
        return
    for name in ("src", "test", "tsconfig.json"):
        (tmp_path / name).symlink_to(CLIENT / name)
    (tmp_path / "node_modules").symlink_to(theirs)
    tsc = packages / "typescript" / "bin" / "tsc"
    done = node(tmp_path, str(tsc), "-p", "test/react-native/tsconfig.json", "--preserveSymlinks")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def react_native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the client, its cases, and React Native's layer between app and phone: 220 MB, once."""
    try:
        packages = install(HERMES)
    except (MissingNodeError, InstallError) as error:
        missing(f"React Native's compilers are not here: {error}")
    folder = tmp_path_factory.mktemp("react-native")
    for name in ("src", "test"):
        shutil.copytree(CLIENT / name, folder / name)
    shutil.copy(CLIENT / "tsconfig.json", folder)
    (folder / "node_modules").symlink_to(packages)
    return folder


def bundle(folder: Path, entry: str, profile: str) -> Path:
    out = folder / f"{Path(entry).stem}.{profile}.js"
    done = node(folder, "test/hermes/bundle.mjs", entry, str(out), profile)
    assert done.returncode == 0, done.stderr
    return out


def hermes(folder: Path, package: str, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of the programs that are built for this kind of machine."""
    place = (
        folder
        / "node_modules"
        / package
        / {"linux": "linux64-bin", "darwin": "osx-bin"}.get(sys.platform, "none")
        / program
    )
    if not place.exists() or (sys.platform == "linux" and platform.machine() != "x86_64"):
        missing("there is no Hermes for this machine")
    return subprocess.run([place, *arguments], cwd=folder, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_the_client_does_in_hermes_what_its_cases_say(react_native: Path) -> None:
    """The engine has only the language: no browser or Node global that React Native might lack."""
    cases = bundle(react_native, "test/liveness.test.ts", "default")
    ran = hermes(react_native, "hermes-engine-cli", "hermes", "-w", "-Xmicrotask-queue", str(cases))
    wrong = re.findall(r"^not ok .*\n.*", ran.stdout, re.MULTILINE)
    assert (ran.returncode, wrong, ran.stderr) == (0, [], "")
    passed = {line.removeprefix("ok - ") for line in ran.stdout.splitlines() if line.startswith("ok - ")}
    assert f"# pass {len(passed)}\n# fail 0\n" in ran.stdout
    assert len(passed) > 100


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_react_natives_compiler_finds_no_name_in_the_client_that_is_not_the_languages(react_native: Path) -> None:
    """The compiler of the newest release; the timers and the console are read from `globalThis`."""
    client = bundle(react_native, "src/index.ts", "hermes-stable")
    options = ("-O", "-strict", "-Wundefined-variable", "-emit-binary", "-out", "client.hbc")
    done = hermes(react_native, "hermes-compiler/hermesc", "hermesc", *options, str(client))
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r'the variable "(\w+)" was not declared', done.stderr)) <= {"Promise"}
    assert (react_native / "client.hbc").stat().st_size > 10_000
    client.write_text(client.read_text() + "\nprocess.exit(structuredClone);")
    done = hermes(react_native, "hermes-compiler/hermesc", "hermesc", *options, str(client))
    assert {"process", "structuredClone"} <= set(re.findall(r'the variable "(\w+)" was not declared', done.stderr))


@pytest.mark.e2e
def test_every_block_of_code_in_the_document_parses(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs/client.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```js\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 4
    for number, block in enumerate(blocks):
        (tmp_path / f"{number}.mjs").write_text(block, encoding="utf-8")
        try:
            checked = node(tmp_path, "--check", f"{number}.mjs")
        except MissingNodeError as error:
            missing(f"the document's code cannot be parsed: {error}")
            return
        assert checked.returncode == 0, block + checked.stderr


GLOBALS = """
import type { Client, GenerationState } from "generation-client";
declare global {
  const client: Client, fileUid: string, file: File;
  function show(what: unknown): void;
  function onChange(state: GenerationState): void;
}
"""


@pytest.mark.e2e
def test_the_documents_code_has_the_clients_types(packages: Path, tmp_path: Path) -> None:
    """As an app's compiler reads it, strictly: an optional value is not taken for present."""
    documents = ("docs/client.md", "docs/from-imagen.md", "client/README.md")
    texts = "".join((REPOSITORY / name).read_text(encoding="utf-8") for name in documents)
    blocks = re.findall(r"^```(js|ts)\n(.*?)^```", texts, re.MULTILINE | re.DOTALL)
    others = ("firebase-functions", "// before", "expo-image-picker")  # their packages are not the client's
    ours = [(kind, block) for kind, block in blocks if not any(name in block for name in others)]
    assert len(ours) > 5
    for number, (kind, block) in enumerate(ours):
        (tmp_path / f"block{number}.{kind}").write_text(f"{block}\nexport {{}};\n", encoding="utf-8")
    (tmp_path / "globals.d.ts").write_text(GLOBALS)
    (tmp_path / "package.json").write_text(json.dumps({"type": "module"}))
    (tmp_path / "node_modules").symlink_to(packages)
    options = {
        **dict.fromkeys(("allowJs", "checkJs", "strict", "skipLibCheck", "preserveSymlinks", "noEmit"), True),
        **dict.fromkeys(("noImplicitAny", "useUnknownInCatchVariables"), False),  # needs types in JavaScript
        "target": "ES2022",
        "lib": ["ES2022", "DOM"],
        "module": "NodeNext",
        "types": [],
        "paths": {"generation-client": [str(CLIENT / "src" / "index.ts")]},
    }
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "include": ["*"]}))
    done = node(tmp_path, str(packages / "typescript" / "bin" / "tsc"), "-p", ".")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.e2e
def test_bad_days_lose_no_job_and_pay_for_none_twice(compiled: Path) -> None:
    """At random but repeatably: sleep, tunnels, wrong clocks, lost responses, restarts, changes of mind."""
    assert passed(compiled, "test/chaos.test.js", CHAOS_DAYS="200") == 1


@pytest.mark.e2e
def test_the_client_understands_the_examples_of_the_contract(compiled: Path) -> None:
    assert passed(compiled, "test/contract.test.js", EXAMPLES=str(EXAMPLES)) > 5


def test_the_client_has_no_dependency_of_its_own() -> None:
    package = json.loads((CLIENT / "package.json").read_text())
    assert not {"dependencies", "peerDependencies", "optionalDependencies"} & set(package)
    sources = [path.read_text(encoding="utf-8") for path in (CLIENT / "src").glob("*.ts")]
    assert sources
    imported = {name for text in sources for name in re.findall(r'(?:from|import) "([^"]+)"', text)}
    assert all(name.startswith("./") for name in imported), imported


@pytest.fixture(scope="module")
def firebase_variables() -> Iterator[dict[str, str]]:
    """Yield variables for everything that the client talks to: Google's Firestore, Auth and Storage, and the functions.

    Our Firestore has neither rules nor the stream through which Firebase's SDK for apps writes.
    """
    project = "demo-client"
    secrets = {
        "RUNPOD_ENDPOINT": "endpoint-1",
        "RUNPOD_API_KEY": "the-runpod-key",
        "TICKET_SECRET": "a secret that both sides hold, 32+ characters",
        "JOBS_PER_MINUTE": "0",
    }
    try:
        with (
            held_port() as runpod,
            GoogleFirestore(project=project, rules=REPOSITORY / "firestore.rules") as firestore,
            FirebaseEmulators(project=project, auth=True, firestore_at=firestore.address) as firebase,
        ):
            firestore.wait_ready()
            secrets["RUNPOD_URL"] = f"http://127.0.0.1:{runpod}"
            with FunctionsEmulator(firebase.env, env=secrets) as functions:
                yield firebase.env | {
                    "FUNCTIONS_EMULATOR_HOST": f"127.0.0.1:{functions.port}",
                    "RUNPOD_PORT": str(runpod),
                    "EXAMPLES": str(EXAMPLES),
                }
    except (MissingEmulatorError, MissingNodeError, InstallError, EmulatorError, FunctionsError) as error:
        missing(f"the emulators are not available: {error}")


@pytest.mark.e2e
def test_the_client_works_with_firebase(compiled: Path, firebase_variables: dict[str, str]) -> None:
    """With the real SDK, rules and backend function, and a network that breaks."""
    assert passed(compiled, "test/firebase.test.js", **firebase_variables) > 15


@pytest.mark.e2e
@pytest.mark.parametrize("aside", [-3600, 3600])
def test_a_phone_whose_clock_is_wrong_misses_who_is_gone_and_no_one_else(
    compiled: Path, firebase_variables: dict[str, str], aside: int
) -> None:
    pattern = "--test-name-pattern=clock|goes from its slip|finds its job"
    variables = firebase_variables | {"PHONE_CLOCK_ASIDE": str(aside)}
    assert passed(compiled, pattern, "test/firebase.test.js", **variables) == 3
