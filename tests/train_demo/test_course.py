"""One command trains everything: which stages it takes, and that none of its processes outlives it."""

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
    "image_refiner": {"image_text", "image_unet"},
    "image_decoder": {"image_text", "image_encoder", "image_unet"},
    "video_transformer": {"video_text"},
    "video_decoder": {"video_text", "video_encoder", "video_transformer"},
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
        "image_refiner",
        "image_decoder",
        "video_transformer",
        "video_decoder",
    }


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
