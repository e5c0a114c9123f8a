"""The real compiler, once: the pixels of a compiled job, and a worker that starts with another's artifacts."""

import re
import subprocess
import sys

import pytest

from worker.core.config import REPOSITORY


@pytest.mark.timeout(900)  # torch builds C++ for each kernel, on however few cores
@pytest.mark.parametrize(("task", "weights", "graphs"), [("text2video", "wan_t2v", 1), ("text2img", "small_sdxl", 2)])
def test_a_second_worker_compiles_nothing_and_pixels_are_those_of_the_network_itself(
    task: str, weights: str, graphs: int, request: pytest.FixtureRequest
) -> None:
    """`benchmarks/compile.py --quick` also reports whether compiling pays: on a CPU it may or may not."""
    script, asked = REPOSITORY / "benchmarks" / "compile.py", ["--quick", "--task", task]
    size = ["--size", "64", "64", "--model", str(request.getfixturevalue(weights))]
    ended = subprocess.run(
        [sys.executable, script, *asked, *size], capture_output=True, text=True, timeout=840, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    _, _, first, second, found, verdict = ended.stdout.splitlines()
    assert [row.split()[0] for row in (first, second)] == ["first", "second"]
    assert [int(row.split()[3]) for row in (first, second)] == [graphs, 0], "graphs that were not found"
    away = re.search(r"at most (\d+) of 255; graphs: (\d+)$", found)
    assert away, found
    assert int(away[1]) <= 1
    assert int(away[2]) == graphs
    assert verdict.startswith(("turn it on: COMPILE=regional", "leave it off: it is no faster here"))
