"""The app's backend of `examples/functions`: its own tests pass, and the worker accepts its real inputs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.example_functions import FUNCTIONS, beside_packages
from tools.emulators.firebase import FirebaseEmulators
from tools.emulators.install import find_node, install, node_environment
from worker.api.request import envelope
from worker.auth.caller import Identity
from worker.auth.tickets import Tickets
from worker.core.config import REPOSITORY
from worker.core.errors import Forbidden, Unauthenticated

SECRET = "0123456789abcdef-0123456789abcdef"
TESTS = ("generate", "limit", "signatures", "credits", "push", "deletion")

WALLET_JOBS = int(os.environ.get("WALLET_JOBS", "200"))

# The first test waits for all of the functions' own; run by hand, ten thousand jobs may take an hour.
pytestmark = pytest.mark.timeout(960 + WALLET_JOBS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return beside_packages(tmp_path_factory.mktemp("functions"))


@pytest.fixture(scope="module")
def tested(folder: Path) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    """Return the run of the function's own tests, and each `input` that the function sent to RunPod's stand-in."""
    sent = folder / "sent.jsonl"
    environment = {**node_environment(), "TICKET_SECRET": SECRET, "SENT_TO": str(sent)}
    command = [str(find_node()), "--test", "--test-concurrency=1", *(f"test/{name}.test.js" for name in TESTS)]
    with FirebaseEmulators(project="demo-functions", auth=True) as firebase:
        # With the Auth emulator's variable, unsigned tokens count: only the tests that need it set it.
        environment |= {name: value for name, value in firebase.env.items() if not name.startswith("FIREBASE_AUTH_")}
        environment["AUTH_HOST"] = firebase.auth_host
        ran = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
    lines = sent.read_text(encoding="utf-8").split("\n") if sent.exists() else []  # a prompt may hold U+2028
    return ran, [json.loads(line)["input"] for line in lines if line]


@pytest.mark.e2e
def test_the_function_that_the_document_shows_does_what_the_example_does(tmp_path: Path) -> None:
    """As printed there, in place of the example's own `generate`."""
    folder = beside_packages(tmp_path)
    text = (REPOSITORY / "docs/client.md").read_text(encoding="utf-8")
    (shown,) = [
        block for block in re.findall(r"^```js\n(.*?)^```", text, re.M | re.S) if "export const generate" in block
    ]
    (folder / "index.js").write_text(shown, encoding="utf-8")
    pattern = "--test-name-pattern=gets a job|order slip|overwritten|no job (where|for)|RunPod"
    ran = subprocess.run(
        [str(find_node()), "--test", "--test-reporter=tap", pattern, "test/generate.test.js"],
        cwd=folder,
        env={**node_environment(), "TICKET_SECRET": SECRET},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    assert int(re.search(r"^# pass (\d+)$", ran.stdout, re.M)[1]) > 15  # type: ignore[index]  # always printed


def identity(secret: str = SECRET) -> Identity:
    return Identity(None, Tickets(secret), required=True)


async def check(who: Identity, job_input: dict[str, Any]) -> None:
    await who.check(envelope(job_input), job_input, acts_for_user=True)


@pytest.mark.e2e
def test_the_functions_own_tests_pass(
    tested: tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]],
) -> None:
    ran, sent = tested
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    assert len(sent) > 10


@pytest.mark.e2e
async def test_the_worker_takes_every_input_that_the_function_sent(
    tested: tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]],
) -> None:
    """Both sides agree on the canonical JSON, its hash and the ticket, even after the platform rewrote the JSON."""
    for job_input in tested[1]:
        await check(identity(), job_input)
        await check(identity(), json.loads(json.dumps(dict(reversed(job_input.items())))))
        assert job_input["user_id"]


@pytest.mark.e2e
async def test_the_worker_refuses_every_input_that_was_changed_on_the_way(
    tested: tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]],
) -> None:
    for job_input in tested[1]:
        for change in (
            {"user_id": "victim"},
            {"file_uid": "another"},
            {"prompt": f"{job_input.get('prompt') or ''}!"},
            {"seed": 8},
            {"num_images": 4},
            {"use_cloud_storage": 1},
        ):
            with pytest.raises(Forbidden):
                await check(identity(), job_input | change)
        with pytest.raises(Unauthenticated):
            await check(identity(SECRET[::-1]), job_input)


@pytest.mark.e2e
def test_after_chaotic_jobs_all_sums_are_exact(folder: Path) -> None:
    """Killed, doubled, refused, cancelled, delayed; `WALLET_JOBS=10000 pytest -s -k chaotic` shows the last line."""
    command = [str(find_node()), "test/chaos.js"]
    with FirebaseEmulators(project="demo-functions") as firebase:
        environment = {**node_environment(), "WALLET_JOBS": str(WALLET_JOBS), "TICKET_SECRET": SECRET}
        environment["FIRESTORE_EMULATOR_HOST"] = firebase.firestore_address
        ran = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300 + WALLET_JOBS, check=False
        )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    last = ran.stdout.rstrip().rpartition("\n")[2]
    assert last.startswith(f"WALLET: {WALLET_JOBS} asked for"), last
    sys.stdout.write(f"{last}\n")


@pytest.mark.e2e
def test_google_s_tools_deploy_it_with_the_settings_of_the_example_and_ask_for_nothing(folder: Path) -> None:
    command = [str(find_node()), "test/deploy.js", str(install() / "firebase-tools")]
    ran = subprocess.run(
        command, cwd=folder, env=node_environment(), capture_output=True, text=True, timeout=280, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads(ran.stdout)
    everything_else = found["regions"].pop("europe-west1")
    assert {"generate", "quote", "registerDevice", "report", "sweep"} <= set(everything_else)
    # The tools' choice: the database's for `settle`, us-central1 for the other.
    assert list(found["regions"].values()) == [["onUserDeleted", "settle"]]
    assert found["values"] == {
        "RUNPOD_ENDPOINT": "endpoint-1",
        "RUNPOD_URL": "https://api.runpod.ai/v2",
        "REGION": "europe-west1",
        "FIRESTORE_DATABASE": "(default)",
        "STORAGE_BUCKET": "",
        "JOBS_PER_MINUTE": "10",
        "QUOTES_PER_MINUTE": "60",
        "CREDITS": "off",
        "CREDITS_PER_1000_UNITS": "1000",
        "FREE_CREDITS": "0",
        "MAX_UNITS": "8000",
        "PUSH": "off",
    }
    assert found["secrets"] == ["RUNPOD_API_KEY", "TICKET_SECRET"]


def test_no_key_or_secret_is_written_into_the_example() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in FUNCTIONS.glob("*.js"))
    for name in ("RUNPOD_API_KEY", "TICKET_SECRET"):
        assert f'defineSecret("{name}")' in source
    assert "enforceAppCheck: true" in source
