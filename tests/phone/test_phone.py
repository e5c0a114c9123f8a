"""The phone's code of docs/client.md, run in Node: what it does of a job while the phone sleeps, errs or is offline."""

import re
import subprocess
from pathlib import Path
from shutil import copy

import pytest

from tests.support.fixtures import missing
from tools.emulators.install import MissingNodeError, find_node, node_environment
from worker.core.config import REPOSITORY

HERE = Path(__file__).parent
BLOCKS = re.findall(r"^```js\n(.*?)^```", (REPOSITORY / "docs/client.md").read_text(encoding="utf-8"), re.M | re.S)


def node(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        command = [str(find_node()), *arguments]
    except MissingNodeError as error:
        missing(f"the phone's code cannot be run: {error}")
    return subprocess.run(
        command, cwd=folder, env=node_environment(), capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.e2e
def test_the_phones_code_of_the_document_does_what_its_cases_say(tmp_path: Path) -> None:
    """`generate.test.mjs` has the cases, each with the report that it comes from."""
    (code,) = [block for block in BLOCKS if "export function generate(" in block]
    stubbed = re.sub(r'from "firebase/\w+"', 'from "./stub.mjs"', code)
    (tmp_path / "generate.mjs").write_text(stubbed, encoding="utf-8")
    for name in ("stub.mjs", "generate.test.mjs"):
        copy(HERE / name, tmp_path)
    ran = node(tmp_path, "--test", "--test-reporter=tap", "generate.test.mjs")
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    assert "\n# fail 0" in ran.stdout
    assert len(re.findall(r"^\s*ok \d", ran.stdout, re.M)) > 40


@pytest.mark.e2e
def test_every_block_of_code_parses(tmp_path: Path) -> None:
    assert len(BLOCKS) > 2
    for number, block in enumerate(BLOCKS):
        (tmp_path / f"{number}.mjs").write_text(block, encoding="utf-8")
        checked = node(tmp_path, "--check", f"{number}.mjs")
        assert checked.returncode == 0, block + checked.stderr
