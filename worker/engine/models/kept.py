"""What was read of models' files, kept until one of them changes.

Each reading says which folders it looks at (`look`). What it found is given again as long as the state of every file in
them (inode, size, time of change) is what it was, which takes less than to read them, and no lock. So a model that
arrives, is exchanged or loses a file is seen at once, as if nothing were kept. An error is never kept. Any thread.
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
"""A file's inode, size and time of change; a folder's with those of all that is in it; empty: it is not there."""

DEPTH = 4
"""Folders below each other that are looked into: as the hub's cache has a model, `snapshots/<commit>/unet/<file>`."""
SETTLED_NS = 2_000_000_000
"""So long after a change a file may change again unseen: the clocks of some file systems tick once a second."""


@dataclass(slots=True)
class _Looks:
    """The files that are looked at in the body of one `together`."""

    states: dict[Path, State]
    """Shared with the outermost `together`, so that each file's state is asked for once."""
    paths: set[Path] = field(default_factory=set)

    def at(self, path: Path) -> State:
        self.paths.add(path)
        if path not in self.states:
            self.states[path] = _state(path, DEPTH)
        return self.states[path]


_LOOKS: ContextVar[_Looks | None] = ContextVar("looks", default=None)


class Kept:
    """What was read, by a key that says what it answers."""

    def __init__(self) -> None:
        self._found: dict[Hashable, tuple[dict[Path, State], Any]] = {}

    def get(self, key: Hashable, read: Callable[[], T]) -> T:
        """What `read` finds, or found when the files that it looked at were as they are now."""
        with together():
            looks = _LOOKS.get()
            assert looks is not None  # noqa: S101 - `together` has just set it
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
    """Say, before it is read, what a reading depends on: files, or folders with all that is in them."""
    if (looks := _LOOKS.get()) is not None:
        for path in paths:
            looks.at(path)


@contextmanager
def together() -> Iterator[None]:
    """In the body, the state of a file is asked for once: what is asked there has one answer."""
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
    """When the newest of its files changed."""
    return max((*state[2:3], *(_changed(inner) for _, inner in state[3:])), default=0)
