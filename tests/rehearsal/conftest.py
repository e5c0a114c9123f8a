"""Fixtures of the rehearsal, which only `make rehearsal` runs; its counts are printed at the end.

It takes minutes on two cores, and needs a C++ compiler.
"""

import os
from pathlib import Path

import pytest

ROWS = "rehearsed"
WITHOUT_CARD = {"test_table.py"}
"""Modules that need neither a compiler nor much time: part of `make test`."""


def _wanted(config: pytest.Config) -> bool:
    named = any("rehearsal" in str(argument) for argument in config.args)
    return named or config.option.markexpr == "rehearsal"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if collection_path.suffix != ".py" or not collection_path.name.startswith("test_"):
        return None
    if collection_path.name in WITHOUT_CARD:
        return True if "not slow" in config.option.markexpr else None
    return None if _wanted(config) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/rehearsal/" in item.nodeid:
            item.add_marker(pytest.mark.slow if item.path.name in WITHOUT_CARD else pytest.mark.rehearsal)
            item.add_marker(pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"))


@pytest.fixture(autouse=True, scope="session")
def _compiler(request: pytest.FixtureRequest) -> None:
    """Skip the rehearsal without a compiler; with CI=true that is an error."""
    if all(item.path.name in WITHOUT_CARD for item in request.session.items):
        return
    from tests.rehearsal import guard

    if (problem := guard.missing()) is not None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(problem)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for name in ("passed", "failed") for report in terminalreporter.getreports(name)]
    rows = [value for report in reports for key, value in getattr(report, "user_properties", []) if key == ROWS]
    if rows:
        terminalreporter.section(
            "bytes beside the weights, in GiB: counted, and as worker/engine/memory/room.py has them"
        )
        for row in rows:
            terminalreporter.write_line(str(row))
