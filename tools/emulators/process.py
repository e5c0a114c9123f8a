"""Runs a child process that never outlives its parent, and whose output can be read while it runs.

Each child leads its own process group. A small shell reads from a pipe: when this process ends, in whatever way, the
pipe closes and the shell ends the child's whole group with SIGTERM and, two seconds later, SIGKILL. Knows processes and
signals; knows nothing about what runs in them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

GUARD = 'read -r _ || { kill -s TERM -- "-$1"; sleep 2; kill -s KILL -- "-$1"; } 2>/dev/null'


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Defer Ctrl-C until the end of the block, so that a process cannot start without being registered for clean-up.

    Signals are not blocked, since a child would inherit that. Only the main thread is ever interrupted.
    """
    noted: list[int] = []
    handlers: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if callable(signal.getsignal(number)):
                handlers[number] = signal.signal(number, lambda heard, _frame: noted.append(heard))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for heard in noted[:1]:
            signal.raise_signal(heard)


class GuardedProcess:
    """One child process in its own group, with stderr (and stdout, unless `pipes`) in an unnamed temporary file.

    With `pipes`, the child's stdin and stdout are text pipes for the parent.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        pipes: bool = False,
    ) -> None:
        with uninterrupted():
            self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close(); unnamed, so nothing remains on disk
            self._process = subprocess.Popen(
                command,
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else self._output,
                stderr=self._output,
                text=True,
                bufsize=1,
                start_new_session=True,
            )
            self._guard = subprocess.Popen(
                ["/bin/sh", "-c", GUARD, "guard", str(self._process.pid)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The child's process id, which is also its process group's."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    @property
    def stdin(self) -> IO[str]:
        """The child's stdin; only with `pipes`."""
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def stdout(self) -> IO[str]:
        """The child's stdout; only with `pipes`."""
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def log(self) -> str:
        """The child's output so far; with `pipes`, only stderr."""
        descriptor = self._output.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def signal(self, number: int) -> None:
        """Send a signal to the child alone, not to the processes it started."""
        if self.returncode is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL the whole group, as a container does when its first process dies."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def wait(self, timeout: float) -> int:
        """Wait for the child to exit and return its exit status.

        Raises:
            subprocess.TimeoutExpired: it still runs after `timeout` seconds.
        """
        return self._process.wait(timeout)

    def close(self, grace: float = 0.0) -> None:
        """End the child and everything in its group. Safe to call twice.

        With `grace`, the child is first asked to exit, by closing its stdin or by SIGTERM, and given that many seconds.
        """
        if grace > 0 and self.returncode is None:
            if self._process.stdin is not None:
                self._close_pipe(self._process.stdin)
            else:
                self.signal(signal.SIGTERM)
            deadline = time.monotonic() + grace
            while self.returncode is None and time.monotonic() < deadline:
                time.sleep(0.01)
        self.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                self._close_pipe(pipe)
        if self._guard.poll() is None:
            self._guard.kill()
        self._guard.wait()
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        self._output.close()

    @staticmethod
    def _close_pipe(pipe: IO[str]) -> None:
        with contextlib.suppress(BrokenPipeError):
            pipe.close()


def group_members(group: int) -> list[int]:
    """Return the ids of the running processes of a group, without zombies."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, _, process_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(process_group) == group and state != "Z":
                    members.append(int(entry.name))
    return members
