"""The real compiler, once: the pixels of a compiled job, and a worker that starts with what another has kept."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from worker.core.config import REPOSITORY


@pytest.mark.timeout(900)  # torch builds C++ for each kernel, on however few cores
def test_a_second_worker_compiles_nothing_and_pixels_are_those_of_the_network_itself(wan_t2v: Path) -> None:
    """`benchmarks/compile.py --quick`, which also says whether it is worth it: on a CPU it may or may not be."""
    script, asked = REPOSITORY / "benchmarks" / "compile.py", ["--quick", "--task", "text2video"]
    size = ["--size", "64", "64", "--model", str(wan_t2v)]
    ended = subprocess.run(
        [sys.executable, script, *asked, *size], capture_output=True, text=True, timeout=840, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    _, _, first, second, found, verdict = ended.stdout.splitlines()
    assert [row.split()[0] for row in (first, second)] == ["first", "second"]
    assert [int(row.split()[3]) for row in (first, second)] == [1, 0], "graphs that were not found"
    away = re.search(r"at most (\d+) of 255; graphs: 1$", found)
    assert away, found
    assert int(away[1]) <= 1
    assert verdict.startswith(("turn it on: COMPILE=regional", "leave it off: it is no faster here"))
