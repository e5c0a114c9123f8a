"""What torch compiled, kept in a folder for the next start: one file for each card, set of versions and model.

Knows files and torch's one call each way; does not know what was compiled. What is read is code that will run: the
folder is the operator's own, as trusted as the image (`docs/deploy.md`). A file is whole or it is not there, and one
that a disk has spoilt is not used: it begins with the hash of the rest.
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
"""Of one file; a model's blocks take less than a hundredth of it."""
MAX_FILES = 32
"""In the folder: those that were written first go first."""
_VERSIONS = ("torch", "triton", "diffusers", "accelerate")


class Artifacts:
    """The file of one model on this card."""

    def __init__(self, folder: Path, *, card: str, model: str, mode: str) -> None:
        made_by = {name: _version(name) for name in _VERSIONS} | {"python": platform.python_version()}
        described = json.dumps([card, model, mode, made_by], sort_keys=True)
        called = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")[:40]
        self._path = folder / f"{called}-{hashlib.sha256(described.encode()).hexdigest()[:16]}.compiled"

    def read(self) -> bool:
        """Put what is kept where torch looks for it before it compiles; whether there was something."""
        import torch

        taken = [torch.compiler.load_cache_artifacts(piece) for piece in self._pieces()]
        return any(info is not None for info in taken)

    def write(self) -> None:
        """Keep what was compiled in `one_piece` beside the earlier pieces.

        Where that cannot be, the next start compiles again; where they have no room together, the earlier ones go.
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
        """What was kept, each piece as torch gave it; none where the file is not what was written."""
        try:
            if self._path.stat().st_size > MAX_BYTES:
                raise ValueError("too large")  # noqa: TRY301 - said in one place
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
    """In the body torch knows of nothing that was compiled earlier, as far as `Artifacts.write` asks it.

    Of what is saved again and again in a process, torch's reader would only find what came last
    (`CacheArtifactManager.deserialize` makes a dict of pairs whose names come again).
    """
    from torch.compiler._cache import CacheArtifactManager

    with CacheArtifactManager.with_fresh_cache():
        yield


def _whole(pieces: list[bytes]) -> bytes:
    """A file: the hash of the rest, then each piece behind its length."""
    rest = b"".join(len(piece).to_bytes(8) + piece for piece in pieces)
    return hashlib.sha256(rest).digest() + rest


def _parts(whole: bytes) -> list[bytes]:
    """The pieces of a file.

    Raises:
        ValueError: it is not what `_whole` made.
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
