"""Caches what was read from models' files until one of the files changes.

Each reading names the folders that it depends on (`look`). Its result is reused while the state of every file in them
(inode, size, change time) is unchanged; comparing states is cheaper than reading, and needs no lock. So a model that
arrives, is replaced or loses a file is noticed at once. Errors are never cached. Thread-safe.
"""

import os
import stat
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
State = tuple[Any, ...]
"""A file's inode, size and change time; a folder's with those of its contents; empty: it does not exist."""

DEPTH = 4
"""Depth of folders to inspect, as in the hub's cache: `snapshots/<commit>/unet/<file>`."""
SETTLED_NS = 2_000_000_000
"""How long after a change another one may go unnoticed: some file systems have timestamps of one second."""


@dataclass(slots=True)
class _Looks:
    """The file states within one `together`."""

    states: dict[Path, State]
    """Shared with the outermost `together`, so that each state is read once."""
    paths: set[Path] = field(default_factory=set)

    def at(self, path: Path) -> State:
        self.paths.add(path)
        if path not in self.states:
            self.states[path] = _state(path, DEPTH)
        return self.states[path]


_LOOKS: ContextVar[_Looks | None] = ContextVar("looks", default=None)


class Kept:
    """Results of readings, by key."""

    def __init__(self) -> None:
        self._found: dict[Hashable, tuple[dict[Path, State], Any]] = {}

    def get(self, key: Hashable, read: Callable[[], T]) -> T:
        """Return the result of `read`, cached while the files that it looked at are unchanged."""
        with together():
            looks = _LOOKS.get()
            assert looks is not None  # noqa: S101 - set by `together`
            states, found = self._found.get(key, ({}, None))
            if states and all(looks.at(path) == state for path, state in states.items()):
                value: T = found
                return value
            looks.paths.clear()
            value = read()
            states = {path: looks.states[path] for path in looks.paths}
            if max(map(_changed, states.values()), default=0) < time.time_ns() - SETTLED_NS:
                self._found[key] = states, value
            return value


def look(*paths: Path) -> None:
    """Declare, before reading, which files or folders a reading depends on."""
    if (looks := _LOOKS.get()) is not None:
        for path in paths:
            looks.at(path)


@contextmanager
def together() -> Iterator[None]:
    """Within the body, read each file's state only once, so that all answers are consistent."""
    outer = _LOOKS.get()
    looks = _Looks({} if outer is None else outer.states)
    token = _LOOKS.set(looks)
    try:
        yield
    finally:
        _LOOKS.reset(token)
        if outer is not None:
            outer.paths |= looks.paths


def _state(path: Path | str, depth: int) -> State:
    try:
        found = os.stat(path)
        own = (found.st_ino, found.st_size, found.st_mtime_ns)
        if not stat.S_ISDIR(found.st_mode) or not depth:
            return own
        names = sorted(name for name in os.listdir(path) if not name.startswith("."))
        return (*own, *((name, _state(f"{path}/{name}", depth - 1)) for name in names))
    except OSError:
        return ()


def _changed(state: State) -> int:
    """Return the change time of the newest file."""
    return max((*state[2:3], *(_changed(inner) for _, inner in state[3:])), default=0)
