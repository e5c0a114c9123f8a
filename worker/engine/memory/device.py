"""Reports free memory of the GPU, or of the host without one, and tests whether the GPU works.

Imports torch only if there is a GPU.
"""

import contextlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from worker.core.errors import GpuFault
from worker.engine.memory.placement import GIB
from worker.engine.vendor_errors import translate, translated

if TYPE_CHECKING:
    import torch


def device(*, cuda: bool) -> "torch.device":
    """Where models run."""
    import torch

    return torch.device("cuda" if cuda else "cpu")


def name() -> str:
    """Return the GPU's CUDA name.

    Raises:
        GpuFault: it does not answer.
    """
    import torch

    with translated("run"):
        return torch.cuda.get_device_name()


def memory(*, cuda: bool) -> tuple[int, int]:
    """Return free and total bytes of the GPU, or of the host without one.

    Raises:
        GpuFault: the GPU does not answer.
    """
    if not cuda:
        return _machine_memory()
    import torch

    with translated("run"), _answering():
        free, total = torch.cuda.mem_get_info()
        # Memory that torch's allocator caches is as good as free.
        return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated(), total


def try_gpu() -> None:
    """Run a small matrix product on the GPU and check its result.

    Raises:
        GpuFault: it fails, or its result is wrong.
    """
    import torch

    with translated("run"), _answering():
        square = torch.ones(64, 64, device="cuda", dtype=torch.float16)
        total = float((square @ square).float().sum())
    if total != 64.0**3:
        raise GpuFault


@contextmanager
def _answering() -> Iterator[None]:
    """Treat any unspecific error of such a simple call as a GPU that does not respond."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        ours = translate(error, "run")
        raise (GpuFault() if ours is error else ours) from error


@dataclass(frozen=True, slots=True)
class Gpu:
    """The GPU and its software, for the log and the doctor."""

    name: str
    total: int
    """Bytes of memory."""
    driver: str
    """NVIDIA's driver version, such as `580.95.05`, or `unknown`."""
    torch: str
    cuda: str
    """The CUDA version that torch was built for."""
    cudnn: str

    def __str__(self) -> str:
        parts = f"torch {self.torch}, CUDA {self.cuda}, cuDNN {self.cudnn}"
        return f"{self.name}, {self.total / GIB:.1f} GiB, driver {self.driver}, {parts}"


def describe_gpu() -> Gpu:
    """Return the first GPU and its software versions; creates the CUDA context.

    Raises:
        GpuFault: the GPU does not answer.
    """
    import torch

    with translated("run"), _answering():
        properties = torch.cuda.get_device_properties(0)
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]  # torch is typed but for this
    return Gpu(
        name=properties.name,
        total=properties.total_memory,
        driver=driver_version(),
        torch=torch.__version__,
        cuda=str(torch.version.cuda),
        cudnn="none" if cudnn is None else str(cudnn),
    )


def driver_version(file: Path = Path("/proc/driver/nvidia/version")) -> str:
    """Return NVIDIA's driver version from the kernel; `unknown` if a container cannot see it."""
    try:
        said = file.read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    found = re.search(r"\s(\d{3,}\.[\d.]+)\s", said)
    return found[1] if found else "unknown"


def _machine_memory() -> tuple[int, int]:
    """Return available and total bytes for this container or a new program (Linux; elsewhere assumed plenty)."""
    free, total = _whole_machine()
    limit = _container_limit()
    return (free, total) if limit is None else (min(free, limit[0]), min(total, limit[1]))


CGROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
"""cgroup v2 and v1: https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files."""


def _container_limit(root: Path = Path("/sys/fs/cgroup")) -> tuple[int, int] | None:
    """Return free and total bytes of the container's limit; None: no limit.

    /proc/meminfo describes the host, but a container over its limit is killed. The page cache counts as free: the
    kernel reclaims it first.
    """
    for limit, usage, cached in CGROUPS:
        with contextlib.suppress(OSError, ValueError, KeyError):
            most = int((root / limit).read_text())
            stat = dict(line.split() for line in (root / limit).with_name("memory.stat").read_text().splitlines())
            return most - int((root / usage).read_text()) + int(stat[cached]), most
    return None


def _whole_machine() -> tuple[int, int]:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024, int(lines["MemTotal"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 64 * GIB, 64 * GIB
