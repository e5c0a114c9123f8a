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

        try:
            if self._path.stat().st_size > MAX_BYTES:
                raise ValueError("too large")  # noqa: TRY301 - said in one place
            kept = self._path.read_bytes()
            if hashlib.sha256(kept[32:]).digest() != kept[:32]:
                raise ValueError("cut short")  # noqa: TRY301 - as above
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:
            log.warning("what was compiled earlier is not used: %s", type(error).__name__, extra={"action": "compiled"})
            return False
        return torch.compiler.load_cache_artifacts(kept[32:]) is not None

    def write(self) -> None:
        """Keep all that this process has compiled or read; where that cannot be, the next start compiles again."""
        if not self._path.parent.parent.is_dir():
            return  # no volume
        import torch

        saved = torch.compiler.save_cache_artifacts()
        if saved is None or len(saved[0]) > MAX_BYTES - 32:
            return
        partial = self._path.with_name(f".{self._path.stem}.{uuid.uuid4().hex}.partial")
        try:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            try:
                partial.write_bytes(hashlib.sha256(saved[0]).digest() + saved[0])
                partial.replace(self._path)
            finally:
                partial.unlink(missing_ok=True)
            self._make_room()
        except OSError as error:
            log.warning("what was compiled is not kept: %s", type(error).__name__, extra={"action": "compiled"})

    def _make_room(self) -> None:
        files = sorted(self._path.parent.glob("*.compiled"), key=lambda path: path.stat().st_mtime)
        for path in files[:-MAX_FILES]:
            path.unlink(missing_ok=True)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"
