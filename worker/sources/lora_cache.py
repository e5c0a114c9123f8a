"""The folder in which downloaded LoRAs are kept: bounded, the least recently used go first, shared between workers.

A file has its name only once it is whole: it is written beside it and renamed, so that a worker that is killed and two
that fetch the same file harm nobody. Knows keys and bytes; does not know where they come from.
"""

import contextlib
import os
import shutil
import tempfile
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from worker.core.errors import DiskFull

MIN_FREE_BYTES = 1 << 30
"""What is always left free on the disk, for clips, the spool and whoever else uses it."""
PARTIAL_SECONDS = 900.0
"""A partial file that nobody has written to for so long belongs to a worker that was killed."""
_LOOK_EVERY_BYTES = 32 << 20
_ASK_EVERY_SECONDS = 0.5


class InUse:
    """The files that one job uses: while this lives, none of them is removed by this worker."""

    def __init__(self) -> None:
        self.paths: set[Path] = set()


class LoraCache:
    """At most `most_bytes` in `folder`, which is made when the first file comes."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most = folder, most_bytes
        self._lock = threading.Lock()
        self._jobs: weakref.WeakSet[InUse] = weakref.WeakSet()
        self._coming: weakref.WeakValueDictionary[str, threading.Lock] = weakref.WeakValueDictionary()

    def file(
        self,
        key: str,
        pieces: Callable[[], Iterable[bytes]],
        in_use: InUse,
        raise_if_stopped: Callable[[], None],
    ) -> Path:
        """The file of that key, fetched where it is not there yet; who wants the same at the same time waits for it.

        Args:
            key: hexadecimal, the same for the same content.
            pieces: gives the content; what it raises is passed on, and nothing of the file is kept.
            in_use: the file is added to it.
            raise_if_stopped: asked while waiting.

        Raises:
            DiskFull: there is no room for it.
        """
        path = self._folder / f"{key}.safetensors"
        with self._alone(key, raise_if_stopped):
            if not self._take(path, in_use):
                try:
                    self._fetch(path, pieces, in_use)
                except OSError as error:
                    raise DiskFull from error
        return path

    @contextlib.contextmanager
    def _alone(self, key: str, raise_if_stopped: Callable[[], None]) -> Iterator[None]:
        """One at a time for each key."""
        with self._lock:
            lock = self._coming.setdefault(key, threading.Lock())
        while not lock.acquire(timeout=_ASK_EVERY_SECONDS):
            raise_if_stopped()
        try:
            yield
        finally:
            lock.release()

    def _take(self, path: Path, in_use: InUse) -> bool:
        """Whether it is there; then it counts as used just now."""
        with self._lock:
            try:
                # Not when it was written: by that, the engine knows a file that it has read.
                os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
            except OSError:
                return False
            self._jobs.add(in_use)
            in_use.paths.add(path)
            return True

    def _fetch(self, path: Path, pieces: Callable[[], Iterable[bytes]], in_use: InUse) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.partial")
        try:
            with partial.open("xb") as file:
                self._make_room()
                written = 0
                for piece in pieces():
                    written += file.write(piece)
                    if written >= _LOOK_EVERY_BYTES:
                        written = 0
                        file.flush()
                        self._make_room()
                file.flush()
                os.fsync(file.fileno())
            self._make_room()
            with self._lock:
                self._jobs.add(in_use)
                in_use.paths.add(path)
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _make_room(self) -> None:
        """Remove what was not used for longest until all of it, what is arriving included, is within its bounds.

        Raises:
            DiskFull: what is in use, or arriving, is too much already.
        """
        with self._lock:
            kept = {path for job in self._jobs for path in job.paths}
            total, files = 0, []
            for path, status in _files(self._folder):
                dead = path.suffix == ".partial" and time.time() - status.st_mtime > PARTIAL_SECONDS
                if dead:
                    path.unlink(missing_ok=True)
                    continue
                total += status.st_size
                if path.suffix != ".partial" and path not in kept:
                    files.append((max(status.st_atime, status.st_mtime), status.st_size, path))
            for _, size, path in sorted(files):
                if total <= self._most and self._free() >= MIN_FREE_BYTES:
                    return
                path.unlink(missing_ok=True)
                total -= size
            if total > self._most or self._free() < MIN_FREE_BYTES:
                raise DiskFull

    def _free(self) -> int:
        return shutil.disk_usage(self._folder).free


def cache_folder(wanted: Path) -> Path:
    """`wanted` where it can be written (on a volume), else a folder of this user's among the temporary ones."""
    for folder in (wanted, wanted.parent):
        if folder.is_dir():
            if os.access(folder, os.W_OK | os.X_OK):
                return wanted
            break
    return Path(tempfile.gettempdir()) / f"loras-{os.getuid()}"


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Those of the cache, others left out; another worker may remove one at any moment."""
    for path in [*folder.glob("*.safetensors"), *folder.glob(".*.partial")]:
        with contextlib.suppress(FileNotFoundError):
            yield path, path.stat()
