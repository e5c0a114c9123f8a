"""Two thousand jobs in a row on one process leak no memory, threads, file descriptors or temporary files.

`FAULTS_ENDURANCE_JOBS` changes the number of jobs.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tools.emulators.firebase import FirebaseEmulators
from tools.emulators.worker_process import ROOT, clean_environment

JOBS = int(os.environ.get("FAULTS_ENDURANCE_JOBS", "2000"))
LAPS = 20
GROWTH_BYTES = 3_000_000
"""Over the second half. One leaked picture a job (12 kB) would be more than 12 MB."""


@pytest.mark.e2e
@pytest.mark.timeout(60 + JOBS * 0.3)
def test_case_47_two_thousand_jobs_in_a_row(firebase: FirebaseEmulators, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    env = clean_environment() | firebase.env | {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT), "LOG_LEVEL": "ERROR"}
    command = [sys.executable, str(Path(__file__).with_name("marathon.py")), str(JOBS), str(LAPS)]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=JOBS * 0.3, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    laps: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    print("\n  jobs  RSS MB  threads  descriptors  temporary files")
    for lap in laps:
        print(
            f"{lap['jobs']:>6} {lap['rss'] / 1e6:>7.1f} {lap['threads']:>8} {lap['descriptors']:>12} {lap['files']:>16}"
        )
    print("ended:", laps[-1]["ended"])
    each = JOBS // 20
    assert laps[-1]["ended"] == {
        "completed": 15 * each + 1,
        "invalid_input": each,
        "out_of_memory": each,
        "internal": each,
        "idempotency_mismatch": each - 1,  # the first round had nothing to differ from
        "stopped": each,
    }
    middle, end = laps[LAPS // 2 : LAPS // 2 + 5], laps[-5:]
    growth = median(lap["rss"] for lap in end) - median(lap["rss"] for lap in middle)
    assert growth < GROWTH_BYTES, f"{growth / 1e6:.1f} MB more after {JOBS // 2} jobs more"
    warm = laps[1:]
    for what in ("threads", "descriptors"):
        assert max(lap[what] for lap in end) <= max(lap[what] for lap in middle) + 2, [lap[what] for lap in warm]
    assert [lap["files"] for lap in laps] == [0] * LAPS
    assert list(temporary.iterdir()) == []
