"""Vendors' errors and their translations: the table, row by row."""

import errno
import gc
import json
import logging
import os
import subprocess
import sys
import weakref
from typing import Any

import httpx2
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError

from worker.core.config import REPOSITORY
from worker.core.errors import Cancelled, DiskFull, GpuFault, InvalidImage, JobTimeout, ModelUnavailable, OutOfMemory
from worker.engine.vendor_errors import POISON, importing, quiet, release_memory, translate, translated

_RESPONSE = httpx2.Response(404, request=httpx2.Request("GET", "https://example.com"))


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), OutOfMemory),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), OutOfMemory),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), OutOfMemory),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), OutOfMemory),
        (RuntimeError("CUDA unknown error - this may be due to an incorrectly set up environment"), GpuFault),
        (MemoryError(), OutOfMemory),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), GpuFault),
        (RuntimeError("CUDA error: device-side assert triggered"), GpuFault),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), GpuFault),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), GpuFault),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), GpuFault),
        (OSError(errno.ENOSPC, "No space left on device"), DiskFull),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("doing", ["load", "run"])
def test_errors_of_the_card_and_the_disk(error: Exception, ours: type, doing: Any) -> None:
    translation = translate(error, doing)
    assert type(translation) is ours
    assert "CUDA error" not in str(translation)


@pytest.mark.parametrize(
    "said",
    [
        "GET was unable to find an engine to execute this computation",
        "FIND was unable to find an engine to execute this computation",
        "Unable to find a valid cuDNN algorithm to run convolution",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    ],
)
@pytest.mark.parametrize(("free", "ours"), [(2**29, OutOfMemory), (2**33, GpuFault)])
def test_what_a_library_says_on_a_full_card_is_out_of_memory_and_on_an_empty_one_a_fault(
    said: str, free: int, ours: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 2**34))
    assert type(translate(RuntimeError(said), "run")) is ours


@pytest.mark.parametrize(
    "said",
    [
        "The NVIDIA driver on your system is too old (found version 12020).",
        "CUDA driver version is insufficient for CUDA runtime version",
        "Found no NVIDIA driver on your system.",
    ],
)
def test_a_driver_that_is_too_old_is_told_with_what_to_change(said: str) -> None:
    with pytest.raises(GpuFault, match=r"driver is missing or too old.*CUDA versions"):
        raise translate(RuntimeError(said), "run")


@pytest.mark.parametrize("mark", POISON)
def test_every_sticky_message_is_a_fault_of_the_card(mark: str) -> None:
    assert isinstance(translate(RuntimeError(f"CUDA error: {mark.upper()}"), "run"), GpuFault)


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while deserializing header: /secret/path"),
        OSError("/secret/path/unet does not appear to have a file named config.json"),
        ValueError("Cannot load /secret/path because weight has shape"),
        KeyError("/secret/path"),
        httpx2.ConnectError("huggingface.example: name resolution failed /secret/path"),
        RepositoryNotFoundError("401 for /secret/path", response=_RESPONSE),
        LocalEntryNotFoundError("/secret/path"),
        RuntimeError("Error(s) in loading state_dict for /secret/path"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_weights_that_cannot_be_had_are_model_unavailable_without_a_path(error: Exception) -> None:
    ours = translate(error, "load")
    assert isinstance(ours, ModelUnavailable)
    assert "/secret" not in str(ours)


@pytest.mark.parametrize("error", [Cancelled(), JobTimeout(), InvalidImage(), KeyboardInterrupt()])
@pytest.mark.parametrize("doing", ["load", "run"])
def test_the_jobs_own_reasons_to_stop_pass(error: BaseException, doing: Any) -> None:
    assert translate(error, doing) is error


@pytest.mark.parametrize("error", [ValueError("a bug"), TypeError("a bug"), RuntimeError("size mismatch")])
def test_what_means_nothing_special_while_running_is_left_alone(error: Exception) -> None:
    assert translate(error, "run") is error


def test_the_cause_is_kept_and_the_failed_call_keeps_no_tensors() -> None:
    alive: list[weakref.ref[torch.Tensor]] = []

    def fails() -> None:
        tensor = torch.zeros(4)
        alive.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfMemory) as caught, translated("run"):
        fails()
    gc.collect()
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    assert alive[0]() is None


def test_memory_that_is_released_is_the_machines_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinned memory of freed weights stays with torch until it is told to release it, and would count as taken."""
    told: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: told.append("card"))
    monkeypatch.setattr(torch.accelerator, "empty_host_cache", lambda: told.append("machine"))
    release_memory()
    assert told == ["card", "machine"]


@pytest.mark.parametrize("vendor", ["diffusers", "transformers"])
def test_vendors_print_no_errors_of_their_own(vendor: str) -> None:
    """They print the paths of weights; what they raise is translated."""
    quiet()
    assert not logging.getLogger(f"{vendor}.any").isEnabledFor(logging.ERROR)


@pytest.mark.parametrize("vendor", ["diffusers", "transformers"])
def test_a_verbosity_that_the_operator_set_holds(vendor: str, caplog: pytest.LogCaptureFixture) -> None:
    """The library takes it from its variable when it is imported."""
    caplog.set_level(logging.INFO, logger=vendor)
    quiet()
    assert logging.getLogger(f"{vendor}.any").isEnabledFor(logging.INFO)


@pytest.mark.e2e
def test_what_vendors_say_is_in_the_log_alone_whatever_the_operator_asked_them_to_say() -> None:
    """They set up handlers of their own when they are imported; torch's describe what it compiles, with its path."""
    names = "torch", "torch._inductor.codecache", "diffusers.models", "transformers.models", "huggingface_hub.hub"
    code = (
        "import logging; from worker.core import config, logs; config.set_library_defaults();"
        "logs.configure(config.load_settings(runpod_endpoint_id='e1'))\n"
        "import torch, diffusers, transformers, huggingface_hub\n"
        f"for name in {names}: logging.getLogger(name).error('SECRET of /a/path')\n"
        "torch._dynamo.config.recompile_limit = 1\n"
        "@torch.compile(backend='eager', dynamic=False)\n"
        "def secret(x): return x * 2\n"
        "for size in (2, 3, 4): secret(torch.ones(size))\n"
    )
    asked = {f"{name}_VERBOSITY": "info" for name in ("HF_HUB", "DIFFUSERS", "TRANSFORMERS")}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=os.environ | asked, capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    assert [line["logger"] for line in lines] == [*names, "torch._dynamo.convert_frame"]
    assert all(line["message"].startswith("said in ") for line in lines)
    for private in ("SECRET", "secret", "/"):
        assert private not in ran.stderr


def test_the_collector_rests_during_imports_and_works_again_however_they_end() -> None:
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled()
