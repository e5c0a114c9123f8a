"""Which of the ways to compute attention runs: the same sum in another order, so the last bits of it may differ.

Imports torch and diffusers only where one of them is asked. What cannot be had is said once, at the start of the
worker, and torch's own way runs.
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
"""In diffusers' words: the package that an operator built, and what the package `kernels` brings."""


@contextmanager
def attention(wanted: Attention, device: "torch.device", *, clip: bool) -> Iterator[None]:
    """In the body attention is computed so; `clip` is Wan, whose processors ask diffusers which way.

    `auto`: on Hopper (1.3x of a Wan step there) and B200 cuDNN's first for a clip, all else as torch has it. `cudnn`:
    cuDNN's first on any card. It is an order of preference: a shape that cuDNN refuses goes to the next; where it
    cannot build what it said it could, which ends a job, torch's own way runs for all of them. `flash3`:
    FlashAttention 3 for a clip (SDXL's processors ask torch alone), as `auto` where there is none.
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
    """Why what is wanted cannot be had here; None: it can. FlashAttention 3 is tried on the card."""
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
    """Whether cuDNN's attention runs here, and gives what torch's own way gives: it is tried as a clip asks for it.

    What cuDNN takes is decided before its kernels are built. Where that fails then, for want of a library or on a card
    that it does not know, it is an error (https://github.com/pytorch/pytorch/issues/140930), and of every clip.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    # (batch, heads, tokens, width of a head)
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
    """What diffusers calls the FlashAttention 3 that runs here, and gives what torch's own way gives; None: none."""
    import torch
    from diffusers.models.attention_dispatch import attention_backend, dispatch_attention_fn

    if not _is_card(device):
        return None
    # (batch, tokens, heads, width of a head)
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
