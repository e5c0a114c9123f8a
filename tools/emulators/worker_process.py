"""Runs the worker as RunPod does: `python handler.py` in its own process, connected to the control plane."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tools.emulators.control_plane import ControlPlane
from tools.emulators.process import GuardedProcess

ROOT = Path(__file__).parents[2]
# A developer's own settings must not reach a worker under test.
OWN_SETTINGS = re.compile(r"^(RUNPOD_|FIREBASE_|GOOGLE_|GCLOUD_|.*_EMULATOR_HOST$)")


class WorkerProcess:
    """Context manager: one worker process, which ends with everything that it started.

    `env` overrides the control plane's variables, which override this process's environment without RunPod's and
    Google's. `worker_id` becomes RUNPOD_POD_ID.
    """

    def __init__(
        self,
        plane: ControlPlane,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
        *,
        script: Path = ROOT / "handler.py",
        worker_id: str = "worker-1",
    ) -> None:
        self._plane = plane
        self._command = [sys.executable, str(script), *args]
        self._env = clean_environment() | plane.env | {"RUNPOD_POD_ID": worker_id} | dict(env or {})
        self.worker_id = worker_id

    def __enter__(self) -> Self:
        self._started = time.time()
        self._process = GuardedProcess(self._command, env=self._env, cwd=ROOT)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close()

    @property
    def pid(self) -> int:
        """The worker's process id, which is also its process group's."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    @property
    def log(self) -> str:
        """The worker's stdout and stderr so far."""
        return self._process.log

    def wait_ready(self, timeout: float = 90.0) -> Self:
        """Wait until the worker polls for jobs.

        Raises:
            RuntimeError: it exited or did not poll in time; the message carries the end of its log.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self.returncode is None:
            try:
                self._plane.wait_worker(self.worker_id, 0.2, since=self._started)
            except TimeoutError:
                continue
            return self
        state = "runs" if self.returncode is None else f"ended with {self.returncode}"
        raise RuntimeError(f"the worker {state} and asked for no jobs:\n{self.log[-4000:]}")

    def terminate(self) -> None:
        """Send SIGTERM to the worker, as RunPod does when it scales down."""
        self._process.signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL the worker and everything that it started, as when its container dies."""
        self._process.kill()

    def wait(self, timeout: float = 30.0) -> int:
        """Wait for the worker to exit and return its exit status.

        Raises:
            TimeoutError: it still runs after `timeout` seconds.
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the worker still runs after {timeout:.0f} s:\n{self.log[-4000:]}") from None


def clean_environment() -> dict[str, str]:
    """Return this process's environment without the variables that configure RunPod, Firebase and Google."""
    kept = {name: value for name, value in os.environ.items() if not OWN_SETTINGS.match(name)}
    return {**kept, "PYTHONUNBUFFERED": "1"}
