"""Runs the decoders of strangers' files in separate processes, so that nothing in a file can affect the worker.

One process stays ready, with the libraries loaded. It decodes nothing itself: it forks a child for each file. A child
has no environment, cannot open files or sockets, has limited memory, and is killed when its time is over. So no picture
shares a process with another, and whatever a file breaks ends with its child. All of it ends with the worker.

Knows processes and their limits; of pictures, only that `reader` decodes a file.
"""

import atexit
import contextlib
import json
import math
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.core.errors import Internal, InvalidImage
from worker.core.messages import MESSAGES
from worker.media import reader

if TYPE_CHECKING:
    from PIL import Image

MEMORY_BYTES = 352 << 20
"""Memory limit for one picture beside its file: an iPhone's longest panorama, 63 megapixels of HEIC."""
_ADDRESS_BYTES = 192 << 20
"""Additional address space for the stacks of decoder threads, which count although they are hardly used."""
_START_SECONDS = 30.0
_ASK_EVERY_SECONDS = 0.1
_LOOK_FOR_WORKER_SECONDS = 5.0
_PIECE_BYTES = 1 << 20
_MAX_HEADER_BYTES = 1 << 16
_NOBODY = 65534
_REPOSITORY = Path(__file__).resolve().parents[2]
_BOOT = "import sys; sys.path.append(sys.argv[1]); from worker.media.sandbox import serve; serve(int(sys.argv[2]))"


class TimeIsOverError(Exception):
    """The file was not decoded in time."""


class EndedError(Exception):
    """The child ended without a valid answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A decoded picture with the facts of `reader.Read`."""

    image: "Image.Image"
    size: tuple[int, int]
    notes: tuple[str, ...]


# --- the worker's side ---


class Sandbox:
    """The ready process. Thread-safe: each picture has its own child and connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    def start(self) -> None:
        """Start the process; returns at once."""
        with self._lock:
            self._started()

    def stop(self) -> None:
        """End the process; the next picture starts another one."""
        with self._lock:
            self._end()

    def forget(self) -> None:
        """Reset after a fork of the worker: the process belongs to the parent, and a lost thread may hold the lock."""
        if self._line is not None:
            self._line.close()
        self.__init__()  # type: ignore[misc]  # resets every field

    def read(
        self,
        data: bytes,
        kind: str,
        what: str,
        limits: reader.Limits,
        *,
        mask: bool,
        clear: reader.Clear,
        seconds: float,
        raise_if_stopped: Callable[[], None],
    ) -> Answer:
        """Run `reader.read` in a child.

        Raises:
            InvalidImage: as `reader.read`.
            TimeIsOverError, EndedError: the file cannot be decoded.
            Internal: no child can be started.
        """
        request = {"kind": kind, "what": what, "mask": mask, "clear": clear, "bytes": len(data)}
        request |= {"limits": asdict(limits), "seconds": max(1, math.ceil(seconds))}
        with self._child() as line:
            talk = _Talk(line, time.monotonic() + seconds, raise_if_stopped)
            head = json.dumps(request).encode()
            # A child that ends early has usually answered first, so its answer is still read.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                talk.send(struct.pack(">I", len(head)) + head)
                talk.send(data)
            return _checked_answer(talk, what, limits.held, "L" if mask else "RGB")

    @contextlib.contextmanager
    def _child(self) -> Iterator[socket.socket]:
        ours, pid = self._forked()
        with ours, _killable(pid) as kill:
            try:
                yield ours
            finally:
                kill()

    def _forked(self) -> tuple[socket.socket, int]:
        with self._lock:
            for _ in range(2):
                line = self._started()
                ours, theirs = socket.socketpair()
                try:
                    with theirs:
                        socket.send_fds(line, [b"\0"], [theirs.fileno()])
                    (pid,) = struct.unpack(">I", line.recv(4))
                except (OSError, struct.error):
                    ours.close()
                    self._end()
                    continue
                return ours, pid
        raise Internal("internal.no_decoder")

    def _started(self) -> socket.socket:
        if self._line is not None:
            return self._line
        ours, theirs = socket.socketpair()
        # -I: imports do not depend on the current folder or the environment.
        command = [sys.executable, "-I", "-c", _BOOT, str(_REPOSITORY), str(theirs.fileno())]
        quiet = subprocess.DEVNULL
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command,
                    stdin=quiet,
                    stdout=quiet,
                    stderr=quiet,
                    cwd="/",
                    # One arena, so that memory freed by threads returns to the system.
                    env={"MALLOC_ARENA_MAX": "1"},
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            raise Internal("internal.no_decoder") from error
        ours.settimeout(_START_SECONDS)
        self._line = ours
        return ours

    def _end(self) -> None:
        if self._line is not None:
            self._line.close()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.5)
            self._process.kill()
            self._process.wait()
        self._line = self._process = None


class _Talk:
    """The connection to a child, with a time limit and checks for a stop."""

    def __init__(self, line: socket.socket, until: float, raise_if_stopped: Callable[[], None]) -> None:
        self._line, self._until, self._raise_if_stopped, self._ask_at = line, until, raise_if_stopped, 0.0
        line.settimeout(_ASK_EVERY_SECONDS)

    def send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._go_on()
            with contextlib.suppress(TimeoutError):
                rest = rest[self._line.send(rest[:_PIECE_BYTES]) :]

    def receive(self, count: int) -> bytearray:
        got = bytearray(count)
        rest = memoryview(got)
        while rest:
            self._go_on()
            with contextlib.suppress(TimeoutError):
                arrived = self._line.recv_into(rest)
                if not arrived:
                    raise EndedError
                rest = rest[arrived:]
        return got

    def _go_on(self) -> None:
        now = time.monotonic()
        if now > self._until:
            raise TimeIsOverError
        if now > self._ask_at:
            self._ask_at = now + _ASK_EVERY_SECONDS
            self._raise_if_stopped()


def _checked_answer(talk: _Talk, what: str, most: int, mode: str) -> Answer:
    """Receive and validate a child's answer: it has read a stranger's file, so nothing in it is trusted."""
    try:
        return _answer(talk, what, most, mode)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise EndedError from error


def _answer(talk: _Talk, what: str, most: int, mode: str) -> Answer:
    from PIL import Image

    (length,) = struct.unpack(">I", talk.receive(4))
    if length > _MAX_HEADER_BYTES:
        raise EndedError
    said = json.loads(talk.receive(length))
    if "error" in said:
        raise _refusal(said["error"], said["params"], what)
    (width, height), (own_width, own_height) = said["shown"], said["size"]
    if min(width, height, own_width, own_height) <= 0 or width * height > most:
        raise EndedError
    image = Image.new(mode, (int(width), int(height)))
    row = len(image.getbands()) * image.width
    step = max(1, _PIECE_BYTES // row)
    for top in range(0, image.height, step):
        rows = min(step, image.height - top)
        image.paste(Image.frombytes(mode, (image.width, rows), talk.receive(rows * row)), (0, top))
    return Answer(image, (int(own_width), int(own_height)), tuple(map(str, said["notes"]))[:8])


def _refusal(message_id: str, params: Mapping[str, Any], what: str) -> InvalidImage:
    known = {what, *reader.KIND_NAMES}
    if not message_id.startswith("invalid_image.") or message_id not in MESSAGES:
        raise EndedError
    if not all(value in known if isinstance(value, str) else isinstance(value, int) for value in params.values()):
        raise EndedError
    return InvalidImage(message_id, **params)


@contextlib.contextmanager
def _killable(pid: int) -> Iterator[Callable[[], None]]:
    """Yield a callable that kills exactly this process, never a later one with the same pid."""
    try:
        handle = os.pidfd_open(pid)
    except (AttributeError, OSError):
        yield lambda: None  # it ends with its connection, or by its own alarm
        return

    def kill() -> None:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)

    try:
        yield kill
    finally:
        os.close(handle)


# --- the other side ---


def serve(line_fd: int) -> None:
    """Fork a child for each connection, until the worker is gone."""
    line, worker = socket.socket(fileno=line_fd), os.getppid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    reader.get_ready()
    while True:
        if not select.select([line], [], [], _LOOK_FOR_WORKER_SECONDS)[0]:
            if os.getppid() != worker:
                return
            continue
        _, handles, _, _ = socket.recv_fds(line, 1, 1)
        if not handles:
            return
        pid = os.fork()
        if pid == 0:
            try:
                line.close()
                _serve_one(socket.socket(fileno=handles[0]))
            finally:
                os._exit(0)
        os.close(handles[0])
        line.sendall(struct.pack(">I", pid))


def _serve_one(line: socket.socket) -> None:
    with line.makefile("rb") as incoming:
        (length,) = struct.unpack(">I", incoming.read(4))
        request = json.loads(incoming.read(length))
        data = incoming.read(request["bytes"])
    # The worker kills a child that takes too long; this alarm does if the worker cannot, or is gone.
    signal.alarm(request["seconds"] + 1)
    limits = reader.Limits(**request["limits"])
    _confine(limits.memory)
    kind, what = request["kind"], request["what"]
    try:
        read = _within_memory(data, kind, what, limits, mask=request["mask"], clear=request["clear"])
    except InvalidImage as error:
        _say(line, {"error": error.message_id, "params": dict(error.params)})
        return
    image = read.image
    _say(line, {"shown": image.size, "size": read.size, "notes": read.notes})
    step = max(1, _PIECE_BYTES // (len(image.getbands()) * image.width))
    for top in range(0, image.height, step):
        line.sendall(image.crop((0, top, image.width, min(top + step, image.height))).tobytes())


def _within_memory(
    data: bytes, kind: str, what: str, limits: reader.Limits, *, mask: bool, clear: reader.Clear
) -> reader.Read:
    try:
        return reader.read(data, kind, what, limits, mask=mask, clear=clear)
    except MemoryError as error:
        raise InvalidImage("invalid_image.too_much_memory", field=what, kind=kind) from error


def _say(line: socket.socket, what: Mapping[str, Any]) -> None:
    said = json.dumps(what).encode()
    line.sendall(struct.pack(">I", len(said)) + said)


def _confine(memory: int) -> None:
    """Permanently limit memory, and forbid files, sockets and programs. Limits that a system lacks are skipped."""
    import resource

    pages, data_pages = 0, 0
    with contextlib.suppress(OSError, ValueError):
        numbers = Path("/proc/self/statm").read_text(encoding="ascii").split()
        pages, data_pages = int(numbers[0]), int(numbers[5])
    page = resource.getpagesize()
    limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)]
    if pages:
        limits.append((resource.RLIMIT_AS, pages * page + memory + _ADDRESS_BYTES))
        limits.append((resource.RLIMIT_DATA, data_pages * page + memory + _ADDRESS_BYTES // 4))
    for name, most in limits:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(name, (most, most))
    if os.geteuid() == 0:
        # Limits and file permissions do not bind root.
        with contextlib.suppress(OSError):
            os.setgroups([])
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
    # Last: from here on nothing can be opened.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


_SANDBOX = Sandbox()
os.register_at_fork(after_in_child=_SANDBOX.forget)
atexit.register(_SANDBOX.stop)


def shared() -> Sandbox:
    """Return the worker's sandbox."""
    return _SANDBOX
