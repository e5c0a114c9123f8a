"""The security rules: their syntax by Firebase's own grammar, their behaviour by the official emulators."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.support.fixtures import missing
from tools.emulators.google_firestore import GoogleFirestore, MissingEmulatorError
from tools.emulators.install import InstallError, MissingNodeError, find_node, install, node_environment

RULES = Path(__file__).parent
ROOT = RULES.parents[1]
FILES = {"firestore": "firestore.rules", "storage": "storage.rules"}
MINIMUM_JAVA = 21  # firebase-tools 15 refuses older ones


def mistakes(*files: Path) -> list[str | None]:
    """Return what Firebase's parser finds wrong with each file, None for a good one."""
    try:
        packages = install(RULES)
    except (MissingNodeError, InstallError) as error:
        missing(f"the rules cannot be parsed: {error}")
    command = [find_node(), RULES / "syntax.js", *files]
    environment = {**node_environment(), "NODE_PATH": str(packages)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    found: dict[str, str | None] = json.loads(ran.stdout)
    return [found[str(file)] for file in files]


def test_firebase_json_names_the_rules_files() -> None:
    settings = json.loads((ROOT / "firebase.json").read_text())
    assert {service: settings[service]["rules"] for service in FILES} == FILES
    listening = [emulator for emulator in settings["emulators"].values() if isinstance(emulator, dict)]
    assert {emulator.get("host", "127.0.0.1") for emulator in listening} == {"127.0.0.1"}


@pytest.mark.e2e
def test_the_rules_parse() -> None:
    assert mistakes(*(ROOT / name for name in FILES.values())) == [None, None]


@pytest.mark.e2e
def test_the_parser_sees_a_slip_of_the_pen(tmp_path: Path) -> None:
    """The syntax check can fail: each small mistake in our own rules is found."""
    good = (ROOT / "firestore.rules").read_text()
    slips = [("allow get", "alow get"), ("&&", "&& &&"), ("rules_version = '2';", "rules_version = ;"), ("{", "")]
    files = [tmp_path / f"{number}.rules" for number in range(len(slips))]
    for file, (right, wrong) in zip(files, slips, strict=True):
        file.write_text(good.replace(right, wrong, 1))
    assert all(mistakes(*files))


@pytest.mark.parametrize("name", FILES.values())
def test_nothing_is_open_by_default(name: str) -> None:
    """Every file ends in a rule that refuses the rest, and no rule is unconditional."""
    text = re.sub(r"//.*", "", (ROOT / name).read_text())
    conditions = re.findall(r"allow ([\w, ]+?)\s*(:|;)\s*(if\s+\S+)?", text)
    assert conditions
    assert all(colon == ":" and condition and condition != "if true" for _, colon, condition in conditions)
    assert re.search(r"match /\{\w+=\*\*\} \{\s*allow read, write: if false;\s*\}\s*\}\s*\}\s*$", text)


def test_an_upload_may_have_the_types_of_pictures_or_none_and_never_one_that_browsers_run() -> None:
    """firebase-js-sdk#1570: React Native's blobs have no type; the SDKs then send application/octet-stream."""
    (types,) = re.findall(r"\.matches\('(image/[^']+)'\)", (ROOT / "storage.rules").read_text())
    pictures = [f"image/{kind}" for kind in ("png", "jpeg", "webp", "heic", "heif", "avif", "gif", "bmp", "tiff")]
    assert all(re.fullmatch(types, kind) for kind in [*pictures, "image/jpg", "application/octet-stream"])
    for kind in ("text/html", "image/svg+xml", "application/xhtml+xml", "image/*", "image/png; x=y", "video/mp4", ""):
        assert not re.fullmatch(types, kind), kind


def test_a_web_page_may_read_results_and_change_nothing() -> None:
    (rule,) = json.loads((ROOT / "cors.json").read_text())
    assert set(rule) == {"origin", "method", "responseHeader", "maxAgeSeconds"}
    assert set(rule["method"]) == {"GET", "HEAD"}
    assert "cors.json" in (ROOT / "docs/firebase.md").read_text()


def test_what_goes_by_itself_is_sources_by_their_age_and_results_by_the_time_they_carry() -> None:
    rules = json.loads((ROOT / "lifecycle.json").read_text())["rule"]
    assert {rule["action"]["type"] for rule in rules} == {"Delete"}
    conditions = {rule["condition"].pop("matchesPrefix")[0]: rule["condition"] for rule in rules}
    assert conditions == {"uploads/": {"age": 1}, "generating/": {"daysSinceCustomTime": 1}}
    assert "--lifecycle-file=lifecycle.json" in (ROOT / "docs/firebase.md").read_text()
    overrides = json.loads((ROOT / "firestore.indexes.json").read_text())["fieldOverrides"]
    ends = {(one["collectionGroup"], one["fieldPath"]) for one in overrides if one.get("ttl") and not one["indexes"]}
    assert {("files", "delete_at"), ("pushed", "expires_at")} <= ends


@pytest.mark.e2e
def test_the_rules_behave_in_the_official_emulators() -> None:
    """`npm test`: every allowed and refused case. It skips, even with CI=true, where it cannot run."""
    unable = why_no_official_emulators()
    if unable:
        pytest.skip(f"{unable}; `cd tests/rules && npm ci && npm test` runs it where both can be had")
    try:
        services, packages = install(), install(RULES, development=True)
    except (MissingNodeError, InstallError) as error:
        missing(f"the rules cannot be tested: {error}")
    environment = node_environment()
    environment |= {"NODE_PATH": str(packages), "PATH": f"{services / '.bin'}{os.pathsep}{environment['PATH']}"}
    script = json.loads((RULES / "package.json").read_text())["scripts"]["test"]
    # Through a shell, as npm itself does: the script's quotes need one.
    ran = subprocess.run(
        script, shell=True, cwd=RULES, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]


@pytest.mark.e2e
def test_the_rules_of_documents_behave_in_googles_own_evaluator() -> None:
    """The same cases, as far as they concern Firestore, on Google's Firestore emulator alone."""
    try:
        packages = install(RULES, development=True)
        with GoogleFirestore(project="demo-generation-rules", rules=ROOT / "firestore.rules") as firestore:
            firestore.wait_ready()
            environment = node_environment() | {
                "NODE_PATH": str(packages),
                "FIRESTORE_EMULATOR_HOST": firestore.address,
            }
            command = [str(find_node()), "--test", str(RULES / "rules.test.js")]
            ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    except (MissingEmulatorError, MissingNodeError, InstallError) as error:
        missing(f"the rules cannot be tested: {error}")
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    passed = re.search(r"^# pass (\d+)$", ran.stdout, re.MULTILINE) or re.search(r"pass (\d+)", ran.stdout)
    assert passed is not None
    assert int(passed[1]) >= 40


@cache
def why_no_official_emulators() -> str | None:
    """Return what this machine lacks for the official Firestore and Storage rules emulators, or None."""
    version = java_version()
    if version < MINIMUM_JAVA:
        found = f"Java {version} is here" if version else "there is no Java here"
        return f"the official rules emulators need Java {MINIMUM_JAVA} and {found}"
    folder = Path(os.environ.get("FIREBASE_EMULATORS_PATH") or Path.home() / ".cache" / "firebase" / "emulators")
    for kind in ("cloud-firestore-emulator", "cloud-storage-rules-runtime"):
        if not list(folder.glob(f"{kind}*.jar")):
            return f"the official {kind} is not downloaded (`firebase setup:emulators:{kind.split('-')[1]}`)"
    return None


def java_version() -> int:
    """Return the major version of the `java` on PATH, 0 without one."""
    java = shutil.which("java")
    if java is None:
        return 0
    told = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False).stderr
    number = re.search(r'version "(?:1\.)?(\d+)', told)
    return int(number[1]) if number else 0
