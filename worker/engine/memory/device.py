"""The GPU, or the machine where there is none: how much memory is free, and whether the GPU computes.

Imports torch only where there is a GPU to ask.
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
    """What CUDA calls the GPU.

    Raises:
        GpuFault: it does not answer.
    """
    import torch

    with translated("run"):
        return torch.cuda.get_device_name()


def memory(*, cuda: bool) -> tuple[int, int]:
    """Bytes free and in all: of the GPU, or of the machine.

    Raises:
        GpuFault: the GPU does not answer.
    """
    if not cuda:
        return _machine_memory()
    import torch

    with translated("run"), _answering():
        free, total = torch.cuda.mem_get_info()
        # What the allocator holds but does not use is as good as free.
        return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated(), total


def try_gpu() -> None:
    """Run a small matrix product on the GPU and check its result.

    Raises:
        GpuFault: it does not work, or gives another result.
    """
    import torch

    with translated("run"), _answering():
        square = torch.ones(64, 64, device="cuda", dtype=torch.float16)
        total = float((square @ square).float().sum())
    if total != 64.0**3:
        raise GpuFault


@contextmanager
def _answering() -> Iterator[None]:
    """An error that means nothing in particular means, of a question this simple, that the GPU does not answer."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:  # an AssertionError is a torch that was built without CUDA
        ours = translate(error, "run")
        raise (GpuFault() if ours is error else ours) from error


@dataclass(frozen=True, slots=True)
class Gpu:
    """The card and what drives it, as the log and the doctor say it."""

    name: str
    total: int
    """Bytes of memory."""
    driver: str
    """Version of NVIDIA's driver, such as `580.95.05`, or `unknown`."""
    torch: str
    cuda: str
    """What torch was built for."""
    cudnn: str

    def __str__(self) -> str:
        parts = f"torch {self.torch}, CUDA {self.cuda}, cuDNN {self.cudnn}"
        return f"{self.name}, {self.total / GIB:.1f} GiB, driver {self.driver}, {parts}"


def describe_gpu() -> Gpu:
    """What the first card is, and with which versions it is driven; makes the CUDA context.

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
    """Version of NVIDIA's driver, as the kernel tells it; `unknown` where a container does not see it."""
    try:
        said = file.read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    found = re.search(r"\s(\d{3,}\.[\d.]+)\s", said)
    return found[1] if found else "unknown"


def _machine_memory() -> tuple[int, int]:
    """What is available to this container, or to a new program, and in all (Linux; elsewhere taken as plenty)."""
    free, total = _whole_machine()
    limit = _container_limit()
    return (free, total) if limit is None else (min(free, limit[0]), min(total, limit[1]))


CGROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
"""Version 2 and 1: https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files."""


def _container_limit(root: Path = Path("/sys/fs/cgroup")) -> tuple[int, int] | None:
    """Bytes free and in all of what the container may use; None: no limit is told.

    /proc/meminfo is that of the host, and who takes more than the limit is killed. Files in the page cache count as
    free: the kernel lets go of them first.
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
