"""A device guard that does nothing, for a torch without CUDA, which needs one even for imaginary tensors.

Without it `copy_` and `.to("cuda")` fail before anything else is asked. Compiled once, kept in `.cache/`.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from worker.core.config import REPOSITORY

MISSING = "the rehearsal needs a C++ compiler: g++ is not installed (Debian and Ubuntu: apt install g++)"
_SOURCE = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
static c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> guard;
extern "C" void install() {
  c10::impl::device_guard_impl_registry[size_t(c10::DeviceType::CUDA)].store(&guard);
}
"""


def missing() -> str | None:
    """Return why there can be no rehearsal here, or None."""
    return None if _built_with_cuda() or _library().exists() or shutil.which("g++") else MISSING


def install() -> None:
    """Install the guard; a torch that was built with CUDA brings its own.

    Raises:
        RuntimeError: there is no compiler.
    """
    if _built_with_cuda():
        return
    library = _library()
    if not library.exists():
        _compile(library)
    ctypes.CDLL(str(library)).install()


def _built_with_cuda() -> bool:
    return torch.version.cuda is not None


def _library() -> Path:
    return REPOSITORY / ".cache" / "rehearsal" / f"guard-{torch.__version__}.so"


def _compile(library: Path) -> None:
    if shutil.which("g++") is None:
        raise RuntimeError(MISSING)
    library.parent.mkdir(parents=True, exist_ok=True)
    root = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        source, made = Path(folder, "guard.cpp"), Path(folder, "guard.so")
        source.write_text(_SOURCE, encoding="utf-8")
        options = ["-std=c++20", "-O0", "-shared", "-fPIC", f"-I{root}/include", f"-L{root}/lib"]
        subprocess.run(["g++", *options, str(source), "-o", str(made), "-lc10"], check=True)
        os.replace(made, library)  # atomically: another process may be looking for it
