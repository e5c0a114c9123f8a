"""One command trains everything: which stages it takes, and that none of its processes outlives it."""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.train_demo import __main__ as command

STARTS = 60.0  # seconds


def running(folder: Path) -> list[int]:
    """The processes whose command line names the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if str(folder).encode() in line:
            found.append(int(path.parent.name))
    return found


def start(out: Path, work: Path) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-m", "tools.train_demo", "--out", str(out), "--work", str(work)]
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


NEEDS = {
    "image_unet": {"image_text"},
    "image_sizes": {"image_text", "image_unet"},
    "image_refiner": {"image_text", "image_unet"},
    "image_decoder": {"image_text", "image_encoder", "image_unet"},
    "video_transformer": {"video_text"},
    "video_motion": {"video_text", "video_encoder", "video_transformer"},
    "video_turning": {"video_text", "video_encoder", "video_motion"},
    "video_decoder": {"video_text", "video_encoder", "video_turning"},
}


def test_the_course_takes_every_stage_once_and_after_what_it_needs() -> None:
    ended: set[str] = set()
    for lanes in command._COURSE:
        begun = set(ended)
        for lane in lanes:
            before = set(ended)
            for stage in lane:
                assert before >= NEEDS.get(stage, set()), stage
                assert stage not in begun
                before.add(stage)
                begun.add(stage)
        ended = begun
    assert ended == set(command._STAGES)


def test_further_leaves_text_encoders_and_encoders_as_they_are() -> None:
    stages = [stage for lanes in command._COURSE for lane in lanes for stage in lane]
    assert {stage for stage in stages if stage not in command._KEPT_FURTHER} == {
        "image_unet",
        "image_sizes",
        "image_refiner",
        "image_decoder",
        "video_transformer",
        "video_motion",
        "video_turning",
        "video_decoder",
    }


LANE = """
import sys, time
threads, *stages = sys.argv[sys.argv.index("--threads") + 1:]
with open("seen", "a") as seen:
    print(threads, *stages, file=seen)
while "image_unet" not in open("seen").read():
    time.sleep(0.01)
if stages == ["image_unet"] and threads == "1":
    time.sleep(60)  # as long as another lane is there
"""


def test_a_lane_that_is_left_goes_on_with_all_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tools" / "train_demo").mkdir(parents=True)
    (tmp_path / "tools" / "train_demo" / "__main__.py").write_text(LANE)
    monkeypatch.chdir(tmp_path)  # where `python -m` looks first
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    options = argparse.Namespace(out=tmp_path, work=tmp_path, threads=2, device=None, further=False)
    command._side_by_side(options, [["image_text", "image_encoder"], ["image_unet"]])
    first, second, last = (tmp_path / "seen").read_text().splitlines()
    assert {first, second} == {"1 image_text image_encoder", "1 image_unet"}
    assert last == "2 image_unet"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_run_that_is_stopped_leaves_no_process_behind(tmp_path: Path) -> None:
    out, work = tmp_path / "models", tmp_path / "work"
    run = start(out, work)
    deadline = time.monotonic() + STARTS
    try:
        while len(running(work)) < 3:
            assert time.monotonic() < deadline
            assert run.poll() is None
            time.sleep(0.1)
        run.terminate()
        assert run.wait(30) != 0
        assert running(work) == []
    finally:
        for process in running(work):
            os.kill(process, signal.SIGKILL)
        run.wait(30)


def test_a_stage_that_fails_ends_the_run_with_an_error(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("no folder")
    run = start(tmp_path / "models", tmp_path / "work")
    assert run.wait(STARTS) != 0
    assert running(tmp_path) == []
