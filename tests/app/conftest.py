"""One stack and one browser for all tests, because both are slow to start."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.app.visitor import Visitor, chromium
from tests.support.fixtures import missing
from tools.app.stack import LocalApp
from tools.emulators.google_firestore import MissingEmulatorError
from tools.emulators.install import InstallError, MissingNodeError

Arrive = Callable[..., Visitor]


@pytest.fixture(scope="module")
def app() -> Iterator[LocalApp]:
    """Yield the emulators, the worker, the functions and the page."""
    if chromium() is None:
        missing("Chromium is not here (the package chromium)")
    try:
        started = LocalApp().__enter__()
    except (MissingEmulatorError, MissingNodeError, InstallError) as error:
        missing(f"the app cannot be started: {error}")
    yield started
    started.__exit__()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Running as root, as in a container, Chromium has no sandbox of its own.
        yield playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])


@pytest.fixture
def visitor(app: LocalApp, browser: Browser) -> Iterator[Arrive]:
    """Return `visitor(phone=True, dark=True)`, which opens the app for somebody new."""
    there: list[Visitor] = []

    def arrive(*, phone: bool = False, dark: bool = False) -> Visitor:
        there.append(Visitor(browser, app.url, phone=phone, dark=dark))
        return there[-1]

    yield arrive
    for one in there:
        one.close()
