"""The message of `make app` without Java or Google's emulator, and the jar it picks among several."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tools.emulators import google_firestore
from tools.emulators.google_firestore import MissingEmulatorError, find


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide a machine with neither; the folder is the only one on PATH, and firebase-tools' place for its jars."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("FIREBASE_EMULATORS_PATH", str(tmp_path))
    monkeypatch.delenv("FIRESTORE_EMULATOR_JAR", raising=False)
    monkeypatch.setattr(google_firestore, "PLACES", ())
    monkeypatch.setattr(google_firestore, "BREW_JAVA", tmp_path / "brew" / "java")
    return tmp_path


def program(path: Path) -> Path:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_without_java_it_says_how_to_get_it_on_debian_and_on_a_mac(nothing: Path) -> None:
    with pytest.raises(MissingEmulatorError, match=r"apt install default-jre-headless.*brew install openjdk"):
        find()


def test_without_the_jar_it_says_what_fetches_it(nothing: Path) -> None:
    program(nothing / "java")
    with pytest.raises(MissingEmulatorError, match=r"npx firebase-tools setup:emulators:firestore"):
        find()


def test_the_newest_jar_of_firebase_tools_is_taken(nothing: Path) -> None:
    java = program(nothing / "java")
    for age, version in ((0, "1.20.0"), (1000, "1.19.8")):
        jar = nothing / f"cloud-firestore-emulator-v{version}.jar"
        jar.touch()
        os.utime(jar, (1_800_000_000 - age, 1_800_000_000 - age))
    assert find() == (java, nothing / "cloud-firestore-emulator-v1.20.0.jar")


def test_a_jar_that_is_named_comes_first(nothing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(nothing / "java")
    (nothing / "cloud-firestore-emulator-v1.20.0.jar").touch()
    named = nothing / "mine.jar"
    monkeypatch.setenv("FIRESTORE_EMULATOR_JAR", str(named))
    with pytest.raises(MissingEmulatorError):
        find()
    named.touch()
    assert find()[1] == named
