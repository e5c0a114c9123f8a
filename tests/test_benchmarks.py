"""The benchmarks run; their measurements are for people, so no test here checks a time."""

import subprocess
import sys

import pytest

from tools.emulators.firebase import FirebaseEmulators
from worker.core.config import REPOSITORY

pytestmark = pytest.mark.e2e
QUANTIZED = ["QUANTIZE=int8", "QUANTIZE=fp8"]


def printed(name: str, seconds: float) -> list[str]:
    """Run a benchmark with `--quick`; returns its lines of output."""
    command = [sys.executable, str(REPOSITORY / "benchmarks" / name), "--quick"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, cwd=REPOSITORY)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout.splitlines()


def test_decode_prints_both_ways_and_their_ratio() -> None:
    """`benchmarks/decode.py --quick` asserts that both ways give equal pixels."""
    heads, *rows = printed("decode.py", 120)
    assert heads.split()[0] == "file"
    assert [row.split()[0] for row in rows] == ["small.avif", "old.bmp"]
    assert all(row.endswith("x") for row in rows)


def test_plan_prints_both_ways_and_their_ratio() -> None:
    """`benchmarks/plan.py --quick` asserts that both ways give equal plans."""
    _, *rows = printed("plan.py", 240)
    assert [row.split()[0] for row in rows] == ["text2img", "img2img", "text2video"]
    assert all(row.endswith("x") for row in rows)


def test_overhead_prints_both_ways_at_both_latencies(firebase: FirebaseEmulators) -> None:
    """`benchmarks/overhead.py --quick` compares every case, ours beside the plain way, with and without latency."""
    # The fixture only skips where there is no Node, which the benchmark needs for emulators of its own.
    lines = printed("overhead.py", 240)
    rows = [line for line in lines if line.startswith(("1 image", "4 images", "clip"))]
    for latency in ("0", "100"):
        for way in ("ours", "plain"):
            found = [row for row in rows if row.split()[3 if "image" in row else 2 :][:2] == [latency, way]]
            assert len(found) >= 3, f"{latency} ms, {way}: {lines}"
    assert any("x" in row.split()[-1] for row in rows if "ours" in row), "no ratio was printed"
    assert any("where ours goes" in line for line in lines)


def test_step_cache_prints_what_each_threshold_skips_and_costs() -> None:
    rows = [line.split() for line in printed("step_cache.py", 240)[2:]]
    assert [row[0] for row in rows] == ["none", "first_block", "sea"]
    assert rows[0][-1] == "same"
    assert rows[0][1] == "100%"


def test_switches_prints_each_way_beside_the_plain_one() -> None:
    rows = {line.split()[0]: line.split() for line in printed("switches.py", 240)[1:]}
    assert list(rows) == ["plain", *(f"ATTENTION={way}" for way in ("native", "cudnn", "flash3")), *QUANTIZED]
    assert rows["plain"][-1] == "same"
    assert "same" in rows["ATTENTION=native"]
    assert all(float(rows[way][5]) > 40 for way in QUANTIZED)
