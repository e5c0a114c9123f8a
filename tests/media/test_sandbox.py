"""Whatever a file does to its decoder, it gets nowhere, it ends, and the next picture is read."""

import contextlib
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.clock import SOON_SECONDS, until
from tests.support.hostile_pictures import flat_memory, saved
from worker.core.config import REPOSITORY, load_settings
from worker.core.errors import Cancelled, Internal, InvalidImage
from worker.media import decode, sandbox
from worker.media.reader import Limits
from worker.sources.loader import SourceLoader

SMALL = saved(Image.new("RGB", (16, 16), (255, 0, 0)))
PIXELS = 1 << 24
LIMITS = Limits(PIXELS, PIXELS, sandbox.MEMORY_BYTES)
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="module")
def slow_file() -> bytes:
    """Return a file that takes a second or more: as many scans as are allowed, each of which covers all pixels."""
    data = saved(Image.new("RGB", (2500, 2000), (9, 99, 199)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + 85 * last + data[-2:]


def image(data: bytes = SMALL, **options: object) -> Image.Image:
    return decode.decode_image(data, "image_url", PIXELS, **options).image  # type: ignore[arg-type]  # by name


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def ready() -> int:
    """Return the process id of the decoder that is kept ready."""
    image()
    process = sandbox.shared()._process
    assert process is not None
    until(lambda: not children(process.pid))
    return process.pid


def in_another_process(code: str, **options: object) -> str:
    """Run a program in another folder; returns its output."""
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); {code}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd="/",
        **options,  # type: ignore[call-overload]  # its own options
    )
    return str(done.stdout)


READY = "import io, os, socket, subprocess; from worker.media import reader, sandbox; reader.get_ready()\n"
CONFINE = "sandbox._confine(64 << 20)\n"
ATTEMPTS = """
def attempt(what):
    try: what()
    except (OSError, MemoryError) as error: return type(error).__name__
    return "done"
print(attempt(lambda: open("/etc/passwd")), attempt(socket.socket), attempt(os.pipe))
print(attempt(lambda: subprocess.run(["true"])), attempt(lambda: bytearray(400 << 20)), attempt(lambda: bytearray(9)))
"""
LARGER_THAN_THOUGHT = """
from PIL import Image
out = io.BytesIO()
Image.new("RGB", (9000, 9000)).save(out, "PNG")
reader._BYTES_PER_PIXEL["PNG"] = 0
sandbox._confine(64 << 20)
limits = reader.Limits(1, 1 << 28, 1 << 28)
try: sandbox._within_memory(out.getvalue(), "PNG", "image_url", limits, mask=False, clear="white")
except Exception as error: print(error)
"""


@pytest.mark.slow
@linux
def test_a_decoder_can_open_nothing_start_nothing_and_grow_no_further() -> None:
    said = in_another_process(READY + CONFINE + ATTEMPTS)
    assert said.split() == ["OSError", "OSError", "OSError", "OSError", "MemoryError", "done"]


@pytest.mark.slow
@linux
def test_a_file_that_takes_more_memory_than_was_thought_is_refused_in_words() -> None:
    said = in_another_process(READY + LARGER_THAN_THOUGHT)
    assert said.startswith("invalid_image: image_url: takes more memory to read than PNG may")


@linux
def test_a_decoder_has_no_environment_and_none_of_the_workers_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIREBASE_SERVICE_ACCOUNT_KEY", "a secret")
    sandbox.shared().stop()
    pid = ready()
    assert Path(f"/proc/{pid}/environ").read_bytes() == b"MALLOC_ARENA_MAX=1\0"
    opened = {os.readlink(handle) for handle in Path(f"/proc/{pid}/fd").iterdir()}
    assert {name.partition(":")[0] for name in opened} == {"/dev/null", "socket"}
    assert os.readlink(f"/proc/{pid}/cwd") == "/"


@pytest.mark.slow
@linux
def test_no_picture_is_read_where_another_one_was(slow_file: bytes) -> None:
    """Each has its own process, which ends with it: anything a file changed there is gone."""
    pid, seen = ready(), set[int]()
    for _ in range(3):
        reading = threading.Thread(target=image, args=(slow_file,))
        reading.start()
        until(lambda: bool(children(pid)))
        (child,) = children(pid)
        assert child not in seen
        seen.add(child)
        reading.join()
        until(lambda: not children(pid))
    assert ready() == pid


@linux
@pytest.mark.parametrize("deadly", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_decoder_that_crashes_is_the_files_fault_and_the_next_picture_is_read(
    slow_file: bytes, deadly: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    pid, said = ready(), list[str]()

    def read() -> None:
        try:
            image(slow_file)
        except InvalidImage as error:
            said.append(error.message)

    reading = threading.Thread(target=read)
    reading.start()
    until(lambda: bool(children(pid)))
    os.kill(children(pid)[0], deadly)
    reading.join()
    assert said == [
        "image_url: the JPEG ended its reader: it is damaged, or takes too much memory; save it again as JPEG"
    ]
    (line,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert vars(line)["action"] == "decoder_ended"
    assert image().getpixel((0, 0)) == (255, 0, 0)


@linux
def test_a_file_that_takes_too_long_ends_in_time(slow_file: bytes) -> None:
    pid, started = ready(), time.monotonic()
    with pytest.raises(InvalidImage, match=r"could not be read within 0\.05 seconds"):
        image(slow_file, seconds=0.05)
    assert time.monotonic() - started < SOON_SECONDS
    until(lambda: not children(pid))
    assert image().size == (16, 16)


@pytest.mark.slow
@linux
def test_where_the_worker_cannot_kill_a_decoder_ends_by_itself(
    slow_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_here(_pid: int) -> int:
        raise PermissionError

    pid = ready()
    monkeypatch.setattr(os, "pidfd_open", not_here)
    with pytest.raises(InvalidImage, match="could not be read"):
        image(slow_file, seconds=0.05)
    until(lambda: not children(pid))


@linux
def test_a_job_that_is_stopped_does_not_wait_for_its_picture(slow_file: bytes) -> None:
    pid, asked = ready(), list[float]()

    def raise_if_stopped() -> None:
        asked.append(time.monotonic())
        if len(asked) > 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        image(slow_file, raise_if_stopped=raise_if_stopped)
    until(lambda: not children(pid))


@linux
def test_the_process_that_is_kept_is_started_again_when_it_is_gone() -> None:
    pid = ready()
    os.kill(pid, signal.SIGKILL)
    assert image().size == (16, 16)
    assert ready() != pid


def test_a_worker_that_cannot_start_a_decoder_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.shared().stop()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/no/such/python")
        decode.start()  # jobs without pictures are unaffected
        with pytest.raises(Internal, match="decoder does not start"):
            image()
        patch.setattr(sys, "executable", "/bin/false")
        with pytest.raises(Internal, match="decoder does not start"):
            image()
    assert image().size == (16, 16)


def test_many_pictures_at_once_are_read_two_by_two_and_each_gets_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, lock, read = 0, 0, threading.Lock(), sandbox.Sandbox.read

    def counted(*args: Any, **options: Any) -> sandbox.Answer:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        try:
            return read(*args, **options)
        finally:
            with lock:
                running -= 1

    monkeypatch.setattr(sandbox.Sandbox, "read", counted)
    files = [saved(Image.effect_noise((300 + number, 200), 50)) for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        sizes = [picture.size for picture in pool.map(image, files)]
    assert sizes == [(300 + number, 200) for number in range(12)]
    assert most == 2


def test_a_job_that_waits_for_a_place_can_be_stopped() -> None:
    def stop() -> None:
        raise Cancelled

    with decode._place(lambda: None), decode._place(lambda: None), pytest.raises(Cancelled):
        image(raise_if_stopped=stop)
    assert image().size == (16, 16)


@pytest.mark.slow
@linux
@pytest.mark.parametrize("deadly", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_of_it_when_the_worker_ends(deadly: signal.Signals) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from worker.media import decode, sandbox\n"
        "decode.start(); print(sandbox.shared()._process.pid, flush=True); sys.stdin.readline()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as process:  # type: ignore[call-overload]  # pipes
        assert process.stdout
        pid = int(process.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        process.send_signal(deadly)
    until(lambda: not Path(f"/proc/{pid}/exe").exists() or b"\0" not in cmdline(pid))


def cmdline(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@pytest.mark.slow
def test_a_fork_of_the_worker_gets_a_decoder_of_its_own() -> None:
    code = (
        "import io, os; from PIL import Image; from worker.media import decode, sandbox; out = io.BytesIO()\n"
        "Image.new('RGB', (7, 5)).save(out, 'PNG')\n"
        "read = lambda: decode.decode_image(out.getvalue(), 'x', 99).image.size\n"
        "read(); pid = os.fork()\n"
        "if pid == 0: os._exit(read() != (7, 5))\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), read(), os.getcwd())"
    )
    assert in_another_process(code).split(None, 1) == ["0", "(7, 5) /\n"]


@contextlib.contextmanager
def answering(*pieces: bytes, seconds_between: float = 0) -> Iterator[sandbox._Talk]:
    """Yield a connection on which these bytes arrive, and then no more."""
    ours, theirs = socket.socketpair()

    def answer() -> None:
        with theirs, contextlib.suppress(OSError):
            for piece in pieces:
                theirs.sendall(piece)
                time.sleep(seconds_between)

    talking = threading.Thread(target=answer)
    talking.start()
    with ours:
        yield sandbox._Talk(ours, time.monotonic() + 5, lambda: None)
    talking.join()


def said(what: object) -> bytes:
    text = json.dumps(what).encode()
    return struct.pack(">I", len(text)) + text


GOOD = {"shown": [2, 1], "size": [2, 1], "notes": []}


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0\0",
        struct.pack(">I", 0),
        struct.pack(">I", 2**32 - 1) + bytes(100),
        struct.pack(">I", 60_000) + b"[" * 60_000,
        struct.pack(">I", 4) + b"\xff\xfe{}",
        said([]),
        said(None),
        said({}),
        said({"error": "internal.unexpected", "params": {"reference": "x"}}),
        said({"error": "invalid_image.nothing", "params": {}}),
        said({"error": "invalid_image.unreadable", "params": {}}),
        said({"error": "invalid_image.unreadable", "params": []}),
        said({"error": ["x"], "params": {}}),
        said({"error": "invalid_image.unreadable", "params": {"field": "image_url", "kind": "https://evil.example"}}),
        said({"error": "invalid_image.unreadable", "params": {"field": "prompt", "kind": "PNG"}}),
        said({"error": "invalid_image.unreadable", "params": {"field": "image_url", "kind": {"x": "y"}}}),
        said(GOOD | {"shown": [2**31, 2**31]}),
        said(GOOD | {"shown": [4097, 4097]}),
        said(GOOD | {"shown": [-2, -1]}),
        said(GOOD | {"shown": [0, 1]}),
        said(GOOD | {"shown": ["2", "1"]}),
        said(GOOD | {"shown": [2.5, 1]}),
        said(GOOD | {"shown": [2, 1, 1]}),
        said(GOOD | {"size": None}),
        said(GOOD | {"notes": 5}) + bytes(6),
        said(GOOD),
        said(GOOD) + bytes(5),
    ],
)
def test_an_answer_that_is_none_is_believed_in_no_part(answer: bytes) -> None:
    """A decoder that a file has taken over says what the file wants."""
    with flat_memory(20), answering(answer) as talk, pytest.raises(sandbox.EndedError):
        sandbox._checked_answer(talk, "image_url", PIXELS, "RGB")


def test_an_answer_that_drips_ends_in_time() -> None:
    with answering(*[b"\0"] * 90, seconds_between=0.2) as talk:
        talk._until = time.monotonic() + 0.3
        with pytest.raises(sandbox.TimeIsOverError):
            talk.receive(100)


def test_notes_that_nobody_knows_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(said(GOOD | {"notes": ["profile", "<script>", "x" * 9999]}) + bytes(6)) as talk:
        answer = sandbox._checked_answer(talk, "image_url", PIXELS, "RGB")
    monkeypatch.setattr(sandbox.Sandbox, "read", lambda *_args, **_options: answer)
    (warning,) = decode.decode_image(SMALL, "image_url", PIXELS).warnings
    assert "colour profile" in warning


def test_it_is_started_in_advance_on_the_platform_only() -> None:
    sandbox.shared().stop()
    SourceLoader(load_settings())
    assert sandbox.shared()._process is None
    SourceLoader(load_settings(runpod_webhook_get_job="http://127.0.0.1/job-take"))
    assert sandbox.shared()._process is not None
    assert image().size == (16, 16)
