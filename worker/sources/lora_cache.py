"""A bounded cache folder for downloaded LoRAs, shared between workers; the least recently used are removed first.

A file is written under another name and renamed once it is whole, so a killed worker, or two workers that fetch the
same file, do no harm. Knows keys and bytes; does not know where the bytes come from.
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
"""Disk space that always stays free, for clips, the spool and other processes."""
PARTIAL_SECONDS = 900.0
"""A partial file without a write for this long belongs to a killed worker."""
_LOOK_EVERY_BYTES = 32 << 20
_ASK_EVERY_SECONDS = 0.5


class InUse:
    """The files of one job. While this object lives, this worker removes none of them."""

    def __init__(self) -> None:
        self.paths: set[Path] = set()


class LoraCache:
    """A cache of at most `most_bytes` in `folder`, which is created with the first file."""

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
        """Return the file of a key, fetching it if necessary; concurrent calls for one key fetch it once.

        Args:
            key: hexadecimal, the same for the same content.
            pieces: yields the content; its errors propagate, and nothing of the file is kept.
            in_use: receives the file.
            raise_if_stopped: called while waiting.

        Raises:
            DiskFull: there is no room for the file.
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
        """Hold the lock of a key."""
        with self._lock:
            lock = self._coming.setdefault(key, threading.Lock())
        while not lock.acquire(timeout=_ASK_EVERY_SECONDS):
            raise_if_stopped()
        try:
            yield
        finally:
            lock.release()

    def _take(self, path: Path, in_use: InUse) -> bool:
        """Mark the file as just used; returns whether it exists."""
        with self._lock:
            try:
                # Keep the modification time: the engine recognises a file that it has read by it.
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
        """Remove the least recently used files until everything, including partial files, is within the limits.

        Raises:
            DiskFull: files in use and partial files alone exceed them.
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
    """Return `wanted` if it is writable (on a volume), else a per-user temporary folder."""
    for folder in (wanted, wanted.parent):
        if folder.is_dir():
            if os.access(folder, os.W_OK | os.X_OK):
                return wanted
            break
    return Path(tempfile.gettempdir()) / f"loras-{os.getuid()}"


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the cache's files; another worker may remove one at any moment."""
    for path in [*folder.glob("*.safetensors"), *folder.glob(".*.partial")]:
        with contextlib.suppress(FileNotFoundError):
            yield path, path.stat()
