"""Fixtures that all tests share; the local world comes from `tools.emulators`."""

import os

import pytest

from worker.core.config import Settings, set_library_defaults

pytest_plugins = ["tests.support.fixtures"]

set_library_defaults()
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is ever downloaded: a test that would try fails at once


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the developer's own reaches a test."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("GCLOUD_PROJECT", raising=False)
