"""The page's types: TypeScript checks it together with the client and with Firebase's types."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fixtures import missing
from tools.app.page import WEB, BuildError, Page
from tools.emulators.install import InstallError, MissingNodeError
from worker.core.config import REPOSITORY

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


def test_every_code_that_a_user_may_meet_has_words() -> None:
    """Codes of documents, of the client and of the backend: none of them shows as "Something went wrong"."""
    schema = json.loads((REPOSITORY / "schema" / "document.json").read_text())
    codes = set(_listed(schema, "worker_lost"))
    assert len(codes) > 20
    refusals = (REPOSITORY / "client" / "src" / "errors.ts").read_text().partition("REFUSALS")[2].partition("};")[0]
    codes |= {quoted or bare for quoted, bare in re.findall(r'^  (?:"([a-z-]+)"|([a-z]+)): ', refusals, re.M)}
    codes |= {"too_large", "unavailable", "deadline-exceeded"}
    words = (WEB / "src" / "words.ts").read_text()
    table, own = (
        words.partition(begin)[2].partition(end)[0] for begin, end in (("CODES", "};"), ("THEIR_OWN_WORDS", ");"))
    )
    known = set(re.findall(r'^  "?([a-z_-]+)"?: "', table, re.M)) | set(re.findall(r'"([a-z_-]+)"', own))
    assert codes - known == set()


def _listed(schema: Any, one: str) -> list[str]:
    """Return the list of words in a schema that contains this one."""
    if isinstance(schema, list) and one in schema:
        return schema
    inner = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else []
    return next((found for value in inner if (found := _listed(value, one))), [])


def test_the_page_names_no_host_and_no_key(page: Page) -> None:
    """Nothing committed names a project: host and key come from variables."""
    texts = "".join(path.read_text() for path in (WEB / "src").glob("*.ts")) + (WEB / "index.html").read_text()
    assert "firebaseapp.com" not in texts
    assert "AIza" not in texts
    assert Path(WEB / ".env.example").read_text().count("…") >= 5
