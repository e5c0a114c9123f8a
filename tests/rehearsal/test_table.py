"""The document's table of models and cards equals the one from the worker's own placement."""

from tests.rehearsal import table
from worker.core.config import REPOSITORY


def test_the_document_has_the_table_of_models_and_cards() -> None:
    document = (REPOSITORY / "docs" / "deploy.md").read_text(encoding="utf-8").splitlines()
    missing = [line for line in table.lines() if line not in document]
    assert not missing, "python -m tests.rehearsal --table prints it anew"
