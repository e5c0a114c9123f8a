"""Runs the app's backend of `examples/functions`, and its wallet on documents that workers wrote."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

from tests.support.fixtures import missing
from tools.emulators.firebase import DocumentWrite, FirebaseEmulators
from tools.emulators.install import InstallError, MissingNodeError, find_node, install, node_environment

FUNCTIONS = Path(__file__).parents[2] / "examples" / "functions"
USERS = 16
"""Wallets among which the generations are shared; each processes its own."""
TOLD = ("status", "attempt", "job_id", "generation_data", "usage")
"""The fields of a document that a wallet reads."""


def beside_packages(parent: Path) -> Path:
    """Copy the functions to `parent`, next to their packages: ES modules resolve them nowhere else."""
    try:
        packages = install(FUNCTIONS, development=True)
    except (MissingNodeError, InstallError) as error:
        missing(f"the functions cannot be tested: {error}")
    folder = parent / "functions"
    copytree(FUNCTIONS, folder, ignore=ignore_patterns("node_modules"))
    (folder / "node_modules").symlink_to(packages)
    return folder


def paid(histories: Mapping[str, Sequence[DocumentWrite]], parent: Path) -> str:
    """Let the wallet process these documents, by file_uid; returns a one-line summary.

    Raises:
        AssertionError: a result was not paid exactly once, at its price, or an amount is still held.
    """
    lines = parent / "histories.jsonl"
    with lines.open("w") as written:
        for number, (file_uid, writes) in enumerate(histories.items()):
            told = {"uid": f"user-{number % USERS}", "fileUid": file_uid, "history": _documents(writes)}
            written.write(json.dumps(told) + "\n")
    command = [str(find_node()), "test/replay.js", str(lines)]
    with FirebaseEmulators(project="demo-functions") as firebase:
        environment = {**node_environment(), "FIRESTORE_EMULATOR_HOST": firebase.firestore_address}
        environment["GCLOUD_PROJECT"] = "demo-functions"
        folder = beside_packages(parent)
        ran = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600 + len(histories),
            check=False,
        )
    last = ran.stdout.rstrip().rpartition("\n")[2]
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert last.startswith(f"CREDITS: {len(histories)} generations"), last
    return last


def _documents(writes: Sequence[DocumentWrite]) -> list[dict[str, Any] | None]:
    """Return the fields a wallet reads after each write; None where the document was deleted."""
    documents: list[dict[str, Any] | None] = []
    fields: dict[str, Any] = {}
    for write in writes:
        fields = {} if write.kind == "delete" else {**fields, **(write.fields or {})}
        documents.append({name: fields[name] for name in TOLD if name in fields} if fields else None)
    return documents
