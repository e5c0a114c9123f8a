"""Fixtures that all tests share, and the marks for quick tests; the local world comes from `tools.emulators`.

`make unit` runs the tests that stay in this process: no Node, no torch, and no program but the encoder and decoder that
the worker itself starts.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.support.examples import QUICK, QUICK_EXAMPLES
from worker.core.config import Settings, set_library_defaults

pytest_plugins = ["tests.support.fixtures"]

OUTSIDE = {"firebase_session", "faulty_firebase_session", "fake_gcs_session", "control_plane", "fitness_checks"}
"""Fixtures that start something outside this process, or serve it: a test that uses one is `e2e`. RunPod's SDK, when
imported, runs another Python to ask about the CPU.
"""
PROGRAMS = {Path(sys.executable).name, "exiftool", "ffprobe", "node", "npm"}
"""Programs that only an `e2e` test starts; the worker's decoder is a Python with -I, and no other program is."""

WHOLE = re.compile(r"^pytestmark = .*\bmark\.(e2e|slow)\b", re.MULTILINE)

LONGEST = (
    "tests/app/test_app.py",
    "tests/client/test_client.py",
    "tests/faults/test_random.py",
    "tests/demo_models/test_acceptance.py",
    "tests/media/test_phone_files.py",
    "tests/faults/test_delivered_again.py",
    "tests/faults/test_endurance.py",
    "tests/faults/test_leaving.py",
    "tests/test_sdk_loop.py",
    "tests/firebase/test_app.py",
    "tests/faults/test_firestore_faults.py",
    "tests/engine/families/test_sdxl.py",
    "tests/test_handler.py",
    "tests/tools/test_control_plane.py",
    "tests/faults/test_models.py",
    "tests/engine/test_engine.py",
    "tests/demo_models/test_pixel_checker.py",
    "tests/faults/test_storage_faults.py",
    "tests/engine/families/test_wan.py",
    "tests/test_examples.py",
    "tests/test_benchmarks.py",
    "tests/faults/test_outbox.py",
    "tests/attacks/test_fuzz.py",
    "tests/job/test_runner.py",
    "tests/faults/test_platform.py",
    "tests/attacks/test_table.py",
    "tests/engine/test_safety.py",
    "tests/attacks/test_secrets.py",
    "tests/media/test_decode.py",
    "tests/media/test_sandbox.py",
    "tests/sources/test_http.py",
)
"""Modules that run first, so that pytest-xdist's workers end at about the same time (with --no-loadscope-reorder)."""

VARIABLES = {"GCLOUD_PROJECT", *map(str.upper, Settings.model_fields)}

# No deadline: an example that is slow on a busy machine is not an error.
hypothesis.settings.register_profile("whole", deadline=None)
hypothesis.settings.register_profile(QUICK, max_examples=QUICK_EXAMPLES, deadline=None)
hypothesis.settings.load_profile("whole")

set_library_defaults()
# Pictures here are small and several tests run at a time: torch's threads would mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is ever downloaded: a test that tries fails at once


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip importing a module whose mark, set for the whole module, is not selected."""
    wanted = config.option.markexpr
    if collection_path.suffix != ".py" or "not " not in wanted:
        return None
    marked = WHOLE.search(collection_path.read_text(encoding="utf-8"))
    return True if marked and f"not {marked[1]}" in wanted else None


def _stays_inside(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen":
        program, command = arguments[:2]
        outside = Path(os.fsdecode(program)).name in PROGRAMS and "-I" not in command
        assert not outside, "an e2e test without its mark"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "not e2e" in config.option.markexpr:
        sys.addaudithook(_stays_inside)
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.split("::")[0], len(places)))
    for item in items:
        if not OUTSIDE.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.e2e)


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Fail a test that imports torch where no slow test is selected: the import takes longer than all quick tests."""
    assert "not slow" not in item.config.option.markexpr or "torch" not in sys.modules, "a slow test without its mark"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the developer's own variables from the environment of every test."""
    for name in VARIABLES.intersection(os.environ):
        monkeypatch.delenv(name)
