"""Translates errors of the vendors' libraries into ours by one table, and silences their output.

Knows which exceptions torch, safetensors, diffusers and the operating system raise; knows no models and no requests.
"""

import errno
import gc
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from worker.core.errors import Cancelled, DiskFull, GpuFault, Internal, JobError, ModelUnavailable, OutOfMemory

log = logging.getLogger(__name__)

Doing = Literal["load", "run"]

POISON = (
    "device-side assert",
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "uncorrectable ecc",
    "ecc error",
    "unspecified launch failure",
    "launch timed out",
    "hardware stack error",
    "invalid program counter",
    "cudnn_status_internal_error",
    "cudnn_status_execution_failed",
    "cublas_status_internal_error",
    "cublas_status_execution_failed",
    "cuda driver error",
    "cuda unknown error",
    "cuda-capable device(s) is/are busy",
    "no cuda gpus are available",
    "gpu is lost",
    "device unavailable",
    "driver shutting down",
)
"""Messages after which this CUDA context is unusable (sticky errors), or the GPU itself is gone."""

OLD_DRIVER = ("driver on your system is too old", "driver version is insufficient", "found no nvidia driver")
"""Messages of a driver that this build of torch cannot use, as on every machine of this kind."""

NO_MEMORY = (
    "out of memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "can't allocate memory",
    "not enough memory",
)
"""Messages of a failed allocation; the context stays usable."""

NO_MEMORY_OR_BROKEN = (
    "unable to find an engine",
    "unable to find a valid cudnn algorithm",
    "cudnn_status_not_supported",
    "cudnn_status_internal_error_device_allocation_failed",
    "cublas_status_not_initialized",
)
"""Messages of cuDNN and cuBLAS that mean either no memory for a workspace or handle, or a general failure."""

LITTLE = 2**30
"""With fewer free bytes on the GPU than this, such a message means out of memory."""

_HTTP_CLIENTS = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "requests"})  # huggingface_hub 2 uses httpx2


def translate(error: BaseException, doing: Doing) -> BaseException:
    """Return our error for a vendor's error; `error` itself if there is none.

    Vendors' messages contain paths, hosts and sizes: none of their text is copied.
    """
    if isinstance(error, JobError | Cancelled) or not isinstance(error, Exception):
        return error
    text = str(error).lower()
    if isinstance(error, MemoryError):
        return OutOfMemory("out_of_memory.worker")
    if isinstance(error, RuntimeError):  # torch.OutOfMemoryError and torch.AcceleratorError are RuntimeErrors
        if type(error).__name__ == "OutOfMemoryError" or any(mark in text for mark in NO_MEMORY):
            return OutOfMemory()
        if any(mark in text for mark in OLD_DRIVER):
            return GpuFault("gpu_fault.driver")
        if any(mark in text for mark in NO_MEMORY_OR_BROKEN):
            return OutOfMemory() if _little_is_free() else GpuFault()
        if type(error).__name__ == "AcceleratorError" or any(mark in text for mark in POISON):
            return GpuFault()
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFull()
    if doing == "load":
        module = type(error).__module__.partition(".")[0]
        if module in _HTTP_CLIENTS or _is_hub_error(error):
            return ModelUnavailable("model_unavailable.not_downloaded")
        if module == "safetensors" or type(error).__name__ == "SafetensorError":
            return ModelUnavailable("model_unavailable.unreadable")
        if isinstance(error, OSError | ValueError | KeyError | RuntimeError | TypeError | AttributeError | ImportError):
            return ModelUnavailable("model_unavailable.unreadable")
    return error


def _little_is_free() -> bool:
    import torch  # already imported: the error is torch's

    try:
        # Memory that torch's allocator caches does not count: cuDNN cannot use it.
        return bool(torch.cuda.mem_get_info()[0] < LITTLE)
    except (RuntimeError, AssertionError):
        return False


def _is_hub_error(error: Exception) -> bool:
    return any(kind.__module__.startswith("huggingface_hub") for kind in type(error).__mro__)


@contextmanager
def translated(doing: Doing) -> Iterator[None]:
    """Translate a vendor's error from the body, keeping its cause and freeing the memory of its frames."""
    try:
        yield
    except Exception as error:
        ours = translate(error, doing)
        # A traceback keeps all local variables of the failed call alive: gigabytes on the GPU.
        traceback.clear_frames(error.__traceback__)
        if ours is error:
            raise
        log.warning(
            "%s became %s", type(error).__name__, type(ours).__name__, extra={"action": "vendor_error", "doing": doing}
        )
        raise ours from error


def release_memory() -> None:
    """Free unreferenced memory: Python's garbage, then torch's cached GPU memory.

    Also pinned host memory, because the next placement counts free host memory.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        try:
            torch.cuda.empty_cache()
            torch.accelerator.empty_host_cache()
        except RuntimeError as error:
            raise GpuFault from error


@contextmanager
def importing() -> Iterator[None]:
    """Disable garbage collection while large libraries are imported, which makes that about a sixth faster."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def quiet() -> None:
    """Turn off the vendors' progress bars and warnings, which may quote prompts and paths; no variable does that."""
    import diffusers
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    del diffusers
    for vendor in (diffusers_logging, transformers_logging):
        vendor.disable_progress_bar()
    warnings.filterwarnings("ignore", module=r"(diffusers|transformers|huggingface_hub|torch)\b.*")


def no_picture() -> Internal:
    """Return the error for a model output that is not a usable picture."""
    return Internal("internal.no_picture")
