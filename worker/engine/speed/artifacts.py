"""Keeps torch's compiled artifacts for the next start: one file per card, set of versions and model.

The artifacts are code that will run: the folder is the operator's own, as trusted as the image (`docs/deploy.md`).
Files are written atomically and begin with a hash of the rest, so a corrupted one is not used. Knows files, and torch's
calls to save and load; does not know what was compiled.
"""

import hashlib
import importlib.metadata
import json
import logging
import platform
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

MAX_BYTES = 256 << 20
"""Limit of one file; a model's blocks take less than a hundredth of it."""
MAX_FILES = 32
"""Limit of the folder; the oldest files are removed first."""
_VERSIONS = ("torch", "triton", "diffusers", "accelerate")


class Artifacts:
    """The file of one model on this card."""

    def __init__(self, folder: Path, *, card: str, model: str, mode: str) -> None:
        made_by = {name: _version(name) for name in _VERSIONS} | {"python": platform.python_version()}
        described = json.dumps([card, model, mode, made_by], sort_keys=True)
        called = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")[:40]
        self._path = folder / f"{called}-{hashlib.sha256(described.encode()).hexdigest()[:16]}.compiled"

    def read(self) -> bool:
        """Load the artifacts into torch's caches; returns whether there were any."""
        import torch

        taken = [torch.compiler.load_cache_artifacts(piece) for piece in self._pieces()]
        return any(info is not None for info in taken)

    def write(self) -> None:
        """Save what was compiled in `one_piece`, beside the earlier pieces.

        If that fails, the next start compiles again; if the pieces are too large together, the earlier ones are
        dropped.
        """
        if not self._path.parent.parent.is_dir():
            return  # no volume
        import torch

        saved = torch.compiler.save_cache_artifacts()
        if saved is None:
            return
        pieces = [*self._pieces(), saved[0]]
        if len(_whole(pieces)) > MAX_BYTES:
            pieces = pieces[-1:]
        whole = _whole(pieces)
        if len(whole) > MAX_BYTES:
            return
        partial = self._path.with_name(f".{self._path.stem}.{uuid.uuid4().hex}.partial")
        try:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            try:
                partial.write_bytes(whole)
                partial.replace(self._path)
            finally:
                partial.unlink(missing_ok=True)
            self._make_room()
        except OSError as error:
            log.warning("what was compiled is not kept: %s", type(error).__name__, extra={"action": "compiled"})

    def _pieces(self) -> list[bytes]:
        """Return the saved pieces; empty if the file is missing or corrupted."""
        try:
            if self._path.stat().st_size > MAX_BYTES:
                raise ValueError("too large")  # noqa: TRY301 - handled in one place
            return _parts(self._path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except (OSError, ValueError) as error:
            log.warning("what was compiled earlier is not used: %s", type(error).__name__, extra={"action": "compiled"})
            return []

    def _make_room(self) -> None:
        files = sorted(self._path.parent.glob("*.compiled"), key=lambda path: path.stat().st_mtime)
        for path in files[:-MAX_FILES]:
            path.unlink(missing_ok=True)


@contextmanager
def one_piece() -> Iterator[None]:
    """Make torch forget earlier artifacts in the body, so that `Artifacts.write` saves only new ones.

    If a process saves repeatedly, torch's reader finds only the last save (`CacheArtifactManager.deserialize` makes a
    dict of pairs with repeated names).
    """
    from torch.compiler._cache import CacheArtifactManager

    with CacheArtifactManager.with_fresh_cache():
        yield


def _whole(pieces: list[bytes]) -> bytes:
    """Return a file's bytes: the hash of the rest, then each piece after its length."""
    rest = b"".join(len(piece).to_bytes(8) + piece for piece in pieces)
    return hashlib.sha256(rest).digest() + rest


def _parts(whole: bytes) -> list[bytes]:
    """The pieces of a file.

    Raises:
        ValueError: it was not made by `_whole`.
    """
    digest, rest = whole[:32], whole[32:]
    if hashlib.sha256(rest).digest() != digest:
        raise ValueError("cut short")
    pieces = []
    while rest:
        end = 8 + int.from_bytes(rest[:8])
        pieces.append(rest[8:end])
        rest = rest[end:]
    return pieces


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"
