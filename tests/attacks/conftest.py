"""The worker under attack, its log, and the table at the end of the run."""

import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.attacked_world import TABLE, World, table
from worker.core.config import Settings, load_settings
from worker.core.logs import configure


@contextmanager
def logged(settings: Settings) -> Iterator[io.StringIO]:
    """Collect everything logged, in the worker's own format, and restore the root logger afterwards."""
    root = logging.getLogger()
    handlers, level, kind, last = root.handlers[:], root.level, logging.getLoggerClass(), logging.lastResort
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook
    stream = io.StringIO()
    with warnings.catch_warnings():
        configure(settings, stream)
        yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook, sys.unraisablehook, threading.excepthook = hooks
    logging.raiseExceptions, logging.lastResort = True, last
    logging.setLoggerClass(kind)


@pytest.fixture(scope="module")
def log() -> Iterator[io.StringIO]:
    """Yield the log at DEBUG."""
    with logged(load_settings(log_level="DEBUG")) as stream:
        yield stream


@pytest.fixture(scope="module")
def world(log: io.StringIO) -> Iterator[World]:
    """Yield one worker for all attacks of a module."""
    made = World(log)
    yield made
    made.good()
    made.close()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table of attempts."""
    if TABLE:
        terminalreporter.section("attacks")
        terminalreporter.write_line(table())
