"""What the README says of the repository is there, and what is there is in the README."""

import re

from worker.config import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_the_file_tree_lists_every_module_of_the_worker_and_nothing_else() -> None:
    tree = README.split("```\nhandler.py ", 1)[1].split("```", 1)[0]
    listed = set(re.findall(r"^  (\w+\.py) ", tree, re.MULTILINE))
    assert listed == {path.name for path in (REPOSITORY / "worker").glob("*.py")}


def test_every_file_that_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (REPOSITORY / link).exists()] == []


def test_the_commands_of_the_readme_are_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE))
    assert {"demo", "test", "check", "serve", "cloud"} <= named <= targets
