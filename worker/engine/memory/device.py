"""The GPU, or the machine where there is none: how much memory is free, and whether the GPU computes.

Imports torch only where there is a GPU to ask.
"""

from collections.abc import Iterator
from contextlib import contextmanager
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


def _machine_memory() -> tuple[int, int]:
    """What is available to a new program, and in all (Linux; elsewhere taken as plenty)."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024, int(lines["MemTotal"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 64 * GIB, 64 * GIB
