"""Chooses the attention kernel. Kernels sum in different orders, so the last bits of results may differ.

If the requested kernel is unavailable, that is logged once at the start, and torch's own runs. Imports torch and
diffusers only when needed.
"""

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from worker.core.types import Attention

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_FLASH_3 = ("_flash_3", "_flash_3_hub")
"""diffusers' names of FlashAttention 3: as a built package, and from the package `kernels`."""


@contextmanager
def attention(wanted: Attention, device: "torch.device", *, clip: bool) -> Iterator[None]:
    """Use this attention kernel in the body; `clip` is Wan, whose processors use diffusers' setting.

    `auto`: prefer cuDNN for clips on Hopper (1.3x for a Wan step) and B200, otherwise torch's default. `cudnn`: prefer
    cuDNN on any card. Shapes that cuDNN refuses use the next kernel; if cuDNN fails to build a kernel that it promised,
    which would end a job, torch's own runs for all of them. `flash3`: FlashAttention 3 for clips (SDXL's processors use
    only torch), or `auto` without it.
    """
    if wanted == "flash3" and clip and (backend := flash_3(device)) is not None:
        from diffusers.models.attention_dispatch import attention_backend

        with attention_backend(backend):
            yield
        return
    if wanted == "native" or device.type != "cuda":
        yield
        return
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    first = wanted == "cudnn" or (clip and torch.cuda.get_device_capability(device)[0] in {9, 10})
    if not (first and cudnn_runs(device)):
        yield
        return
    order = [
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    ]
    with sdpa_kernel(order, set_priority=True):
        yield


def missing(wanted: Attention, *, cuda: bool) -> str | None:
    """Return why the requested kernel is unavailable; None: it is available. Tries FlashAttention 3 on the card."""
    if wanted in {"auto", "native"}:
        return None
    if not cuda:
        return f"ATTENTION={wanted} is for a GPU: torch's own way runs"
    import torch

    if wanted == "flash3" and flash_3(torch.device("cuda")) is None:
        return (
            "ATTENTION=flash3: FlashAttention 3 does not run here. It takes a Hopper card, and in the image the "
            "package flash_attn_3, or kernels, which downloads it; auto runs"
        )
    if wanted == "cudnn" and not cudnn_runs(torch.device("cuda")):
        return "ATTENTION=cudnn: cuDNN's attention does not run here; torch's own way does"
    return None


@functools.cache
def cudnn_runs(device: "torch.device") -> bool:
    """Whether cuDNN's attention works here and agrees with torch's own, tried with a clip's shapes.

    cuDNN accepts a shape before it builds the kernel. If building fails, for lack of a library or on an unknown card,
    it is an error (https://github.com/pytorch/pytorch/issues/140930) in every clip.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    # (batch, heads, tokens, head width)
    one = torch.randn(3, 1, 2, 256, 128, generator=torch.Generator().manual_seed(0)).to(device, torch.bfloat16)
    try:
        with sdpa_kernel([SDPBackend.CUDNN_ATTENTION], set_priority=True):
            found = scaled_dot_product_attention(*one)
    except RuntimeError as error:
        extra = {"action": "attention", "backend": "cudnn", "error": type(error).__name__}
        log.warning("cuDNN's attention does not run here", extra=extra)
        return False
    return torch.allclose(found.float(), scaled_dot_product_attention(*one).float(), atol=0.02)


@functools.cache
def flash_3(device: "torch.device") -> str | None:
    """Return diffusers' name of a FlashAttention 3 that works here and agrees with torch's own; None: none."""
    import torch
    from diffusers.models.attention_dispatch import attention_backend, dispatch_attention_fn

    if not _is_card(device):
        return None
    # (batch, tokens, heads, head width)
    one = torch.randn(3, 1, 256, 2, 128, generator=torch.Generator().manual_seed(0)).to(device, torch.bfloat16)
    expected = dispatch_attention_fn(*one)
    for backend in _FLASH_3:
        try:
            with attention_backend(backend):
                found = dispatch_attention_fn(*one)
        except (RuntimeError, ValueError, TypeError, ImportError, OSError) as error:
            extra = {"action": "attention", "backend": backend, "error": type(error).__name__}
            log.info("no %s", backend, extra=extra)
            continue
        if torch.allclose(found.float(), expected.float(), atol=0.02):
            return backend
    return None


def _is_card(device: "torch.device") -> bool:
    return device.type == "cuda"
