"""The page's own types: TypeScript reads it together with the client, and with Firebase's types."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fixtures import missing
from tools.app.page import WEB, BuildError, Page
from tools.emulators.install import InstallError, MissingNodeError

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    try:
        opened = Page().__enter__()
    except (MissingNodeError, InstallError) as error:
        missing(f"the page's packages cannot be had: {error}")
    yield opened
    opened.__exit__()


def test_the_page_and_the_client_have_their_types(page: Page) -> None:
    page.check()


def test_a_slip_of_the_pen_is_found(page: Page) -> None:
    main = page.folder / "src" / "main.ts"
    before = main.read_text()
    main.write_text(before.replace("stopCredits();", "stopCredits(1);", 1))
    try:
        with pytest.raises(BuildError, match="Expected 0 arguments"):
            page.check()
    finally:
        main.write_text(before)


def test_the_page_names_no_host_and_no_key(page: Page) -> None:
    """What is committed points nowhere: both come from variables."""
    texts = "".join(path.read_text() for path in (WEB / "src").glob("*.ts")) + (WEB / "index.html").read_text()
    assert "firebaseapp.com" not in texts
    assert "AIza" not in texts
    assert Path(WEB / ".env.example").read_text().count("…") >= 5
