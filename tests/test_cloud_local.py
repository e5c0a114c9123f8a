"""The script that runs every task on this machine: its output where no person watches."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import handler
import test_cloud_local
from worker.core.config import REPOSITORY, load_settings

pytestmark = pytest.mark.slow

JOBS: dict[str, dict[str, Any]] = {
    "text2img": {"num_inference_steps": 2},
    "text2video": {"task_type": "text2video", "num_frames": 5, "num_inference_steps": 2},
}


@pytest.mark.parametrize("task", JOBS)
async def test_no_bar_is_drawn_into_a_file_by_the_script_or_by_a_library(
    task: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    services = handler.build(load_settings(models_dir=tmp_path))
    response, files, _ = await test_cloud_local.make(services, task, {"prompt": "a red star", **JOBS[task]})
    assert response["model"] == "demo"
    assert files
    shown = capfd.readouterr()
    assert "\r" not in shown.out + shown.err


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("LOG_LEVEL", "loud", "LOG_LEVEL: Input should be 'DEBUG'"),
        ("SDXL_MODEL", "/nowhere", "model_unavailable: SDXL_MODEL names a folder that is not there"),
    ],
)
def test_what_the_environment_gets_wrong_is_one_line(
    variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    script = [sys.executable, test_cloud_local.__file__]
    ran = subprocess.run(script, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    (line,) = (ran.stdout + ran.stderr).splitlines()
    assert (ran.returncode, line.startswith(f"FAILED: {said}")) == (1, True), line
