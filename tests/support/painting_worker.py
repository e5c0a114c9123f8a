"""`handler.py` with a painter in place of the models, and with a moment to die at; everything else is real.

Run as RunPod runs the handler: the same `build`, `main`, `serve`, SDK loop and Firebase adapters, but no torch, so that
a process is ready in two seconds. `PAINTER` (JSON, see `Script`) sets the behaviour of the whole process; the first
word of a prompt, up to its colon, sets what goes wrong with one job.
"""

import ctypes
import dataclasses
import functools
import json
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tests.support.fakes import PaintingGenerator
from worker.api.params import ModelDefaults, Params
from worker.api.request import Request
from worker.core import timing
from worker.core.config import Settings
from worker.core.errors import GpuFault, ModelUnavailable, OutOfMemory
from worker.core.types import Control, Sources, TaskType
from worker.engine.protocol import Generated, GeneratedImage, Placement
from worker.firebase.app import Firebase
from worker.firebase.firestore import FirestoreStore
from worker.firebase.gcs import FirebaseBucket
from worker.storage.store import ObjectInfo

Moment = Literal[
    "before_claim",
    "after_claim",
    "loading",
    "generating",
    "before_upload",
    "after_upload",
    "before_document",
    "after_document",
]
"""Moments at which a process can die: `document` is the write of `completed`."""

log = logging.getLogger("painter")


@dataclass(frozen=True, slots=True)
class Script:
    """The behaviour of one process."""

    ledger: str = ""
    """File to which every generation appends when it begins, when all is painted, and when it ends."""
    side: int = 64
    steps: int = 4
    step_seconds: float = 0.02
    die_at: Moment | None = None
    die_on: int = 1
    """The process dies when it reaches `die_at` for the `die_on`-th time."""
    stop_grace: float = timing.STOP_GRACE_SECONDS
    healthy: bool = True
    disk_bytes: int | None = None
    """Size of the disk for temporary files; None: the machine's own."""

    @classmethod
    def from_environment(cls) -> "Script":
        """Load the script from `PAINTER`."""
        return cls(**json.loads(os.environ.get("PAINTER", "{}")))


class Fate:
    """Ends the process at its moment as the death of a container does: at once, with every process it started."""

    def __init__(self, script: Script) -> None:
        self._script, self._left = script, script.die_on
        self._lock = threading.Lock()

    def meets(self, moment: Moment) -> None:
        """Die if this is the moment."""
        if moment != self._script.die_at:
            return
        with self._lock:
            self._left -= 1
            if self._left:
                return
        # Only our own process group: in a process started by hand, the group is the shell's.
        die: Callable[[int, int], None] = os.killpg if os.getpgrp() == os.getpid() else os.kill
        die(os.getpid(), signal.SIGKILL)
        threading.Event().wait()


class Painter(PaintingGenerator):
    """Paints seeded noise, records it in a ledger, and misbehaves as the prompt's first word asks."""

    def __init__(self, script: Script, fate: Fate | None = None) -> None:
        super().__init__(side=script.side, steps=script.steps)
        self.step_seconds = script.step_seconds
        self.released = threading.Event()
        """Releases generations that hang."""
        self._script, self._fate = script, fate or Fate(script)

    def describe(self, task_type: TaskType, model: str | None = None) -> ModelDefaults:
        return dataclasses.replace(super().describe(task_type, model), name="painter")

    def health(self) -> Sequence[str]:
        if not self._script.healthy:
            raise ModelUnavailable("model_unavailable.unreadable")
        return super().health()

    def prepare(self, request: Request, params: Params, control: Control) -> Placement:
        self._fate.meets("loading")
        return super().prepare(request, params, control)

    def generate(self, request: Request, params: Params, sources: Sources, control: Control) -> Iterator[Generated]:
        self._tell("begin", request)
        # A duplicate is stopped at a step; small pictures would finish before it is recognised as one.
        painted = Path(f"{self._script.ledger}.{request.file_uid}")
        self.lingers = bool(self._script.ledger) and painted.exists()
        try:
            for generated in super().generate(request, params, sources, control):
                self._fate.meets("generating")
                yield self._spoiled(generated, request.prompt.partition(":")[0])
            if self._script.ledger:
                painted.touch()
            self._tell("painted", request)
        finally:
            self._tell("end", request)

    def _spoiled(self, generated: Generated, wish: str) -> Generated:
        match wish:
            case "out of memory":
                raise OutOfMemory
            case "gpu fault":
                raise GpuFault
            case "raises":
                raise RuntimeError("/secret/path token=abc")
            case "exits":
                raise SystemExit(3)
            case "interrupts":
                raise KeyboardInterrupt
            case "hangs":
                self.released.wait()
            case "hangs at the second" if isinstance(generated, GeneratedImage) and generated.index == 1:
                self.released.wait()
            case "not json" if isinstance(generated, GeneratedImage):
                seed: Any = np.int64(generated.seed)
                return dataclasses.replace(generated, seed=seed)
        return generated

    def _tell(self, event: str, request: Request) -> None:
        if not self._script.ledger:
            return
        process = {"worker": os.environ.get("RUNPOD_POD_ID", ""), "pid": os.getpid()}
        line = {"event": event, "at": time.time(), **process, "file_uid": request.file_uid}
        # One short write to a file opened for appending is atomic, whoever else is writing.
        with Path(self._script.ledger).open("a") as ledger:
            ledger.write(json.dumps(line) + "\n")


class MortalDocuments(FirestoreStore):
    """Firestore, with moments around the claim and the terminal write."""

    fate: Fate

    def create(self, path: str, fields: Mapping[str, Any], *, timeout: float) -> object | None:
        before, after = _moments(fields)
        self.fate.meets(before)
        version = super().create(path, fields, timeout=timeout)
        self.fate.meets(after)
        return version

    def update(self, path: str, fields: Mapping[str, Any], *, unchanged: object, timeout: float) -> object | None:
        if "status" not in fields:
            return super().update(path, fields, unchanged=unchanged, timeout=timeout)
        before, after = _moments(fields)
        self.fate.meets(before)
        version = super().update(path, fields, unchanged=unchanged, timeout=timeout)
        self.fate.meets(after)
        return version


def _moments(fields: Mapping[str, Any]) -> tuple[Moment, Moment]:
    return (
        ("before_claim", "after_claim") if fields["status"] == "processing" else ("before_document", "after_document")
    )


class MortalBucket(FirebaseBucket):
    """The bucket, with moments before any upload and after that of a result."""

    fate: Fate

    def upload(self, path: str, data: bytes, **options: Any) -> ObjectInfo | None:
        self.fate.meets("before_upload")
        info = super().upload(path, data, **options)
        if "/thumbs/" not in path:
            self.fate.meets("after_upload")
        return info


class MortalFirebase(Firebase):
    """Firebase whose adapters have these moments."""

    fate: Fate

    @functools.cached_property
    def documents(self) -> FirestoreStore | None:
        found = super().documents
        if found is None:
            return None
        mortal = MortalDocuments(found.client)
        mortal.fate = self.fate
        return mortal

    @functools.cached_property
    def bucket(self) -> FirebaseBucket | None:
        found = super().bucket
        if found is None:
            return None
        mortal = MortalBucket(found._bucket)
        mortal.fate = self.fate
        return mortal


def small_disk(size: int) -> str:
    """Mount a new file system of `size` bytes that only this process and its children see; returns its folder.

    Raises:
        OSError: this machine does not permit it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    folder = tempfile.mkdtemp(prefix="small-disk-")
    new_user, new_mounts = 0x10000000, 0x00020000  # CLONE_NEWUSER, CLONE_NEWNS of <sched.h>
    for flags in (new_mounts, new_user | new_mounts):
        if libc.unshare(flags) == 0:
            break
    private, options = 0x00044000, f"size={size}".encode()  # MS_REC | MS_PRIVATE of <sys/mount.h>
    libc.mount(None, b"/", None, private, None)
    if libc.mount(b"none", folder.encode(), b"tmpfs", 0, options) != 0:
        raise OSError(ctypes.get_errno(), "no file system of its own")
    return folder


def main() -> None:
    """Replace the models with the painter and run the handler."""
    import handler

    script = Script.from_environment()
    if script.disk_bytes is not None:
        tempfile.tempdir = small_disk(script.disk_bytes)
    timing.STOP_GRACE_SECONDS = script.stop_grace
    fate = Fate(script)
    MortalFirebase.fate = fate

    def painter(_settings: Settings) -> Painter:
        return Painter(script, fate)

    vars(handler).update(Engine=painter, Firebase=MortalFirebase)
    handler.main()


if __name__ == "__main__":
    main()
