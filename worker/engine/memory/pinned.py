"""Copies weights to pinned host memory, packed into slabs. Knows tensors, no networks.

torch allocates pinned memory in powers of two (`torch.cuda.host_memory_stats`): alone, a matrix of 5120 x 13824 would
take 256 MiB for its 135, and the two experts of a Wan A14B 80 GiB for their 53.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

log = logging.getLogger(__name__)

SLAB = 2**30
"""Bytes of a slab: a power of two, so that a full one wastes nothing. A larger copy gets its own slab."""
_ALIGNED = 512
"""Alignment of each copy, as in GPU memory."""


@dataclass(slots=True)
class Slab:
    """One piece of memory and its contents."""

    bytes: int = 0
    starts: dict[int, int] = field(default_factory=dict)
    """Tensor index -> its offset."""


def packed(sizes: Sequence[int], most: int = SLAB) -> list[Slab]:
    """Pack pieces of these sizes into slabs of at most `most` bytes: first fit, decreasing."""
    slabs: list[Slab] = []
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        size = -(-sizes[index] // _ALIGNED) * _ALIGNED
        slab = next((slab for slab in slabs if slab.bytes + size <= most), None)
        if slab is None:
            slabs.append(slab := Slab())
        slab.starts[index] = slab.bytes
        slab.bytes += size
    return slabs


def pinned(count: int) -> torch.Tensor:
    """Allocate pinned memory; plain memory if there is no more."""
    try:
        return torch.empty(count, dtype=torch.uint8, pin_memory=True)
    except RuntimeError:
        log.warning("no pinned memory left: offloading will be slower", extra={"action": "pin_memory"})
        return torch.empty(count, dtype=torch.uint8)


def copies(
    tensors: Sequence[torch.Tensor], *, most: int = SLAB, memory: Callable[[int], torch.Tensor] = pinned
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (tensor index, its copy in host memory) as the copies are made.

    A caller that frees each tensor with its copy needs at most one slab of additional memory.
    """
    for slab in packed([tensor.nbytes for tensor in tensors], most):
        room = memory(slab.bytes)
        for index, start in slab.starts.items():
            yield index, _copy(tensors[index].detach(), room[start:])


def _copy(tensor: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
    """Return a view at the start of `room` with the tensor's strides."""
    like = torch.empty_like(tensor, device="meta")
    return room[: tensor.nbytes].view(tensor.dtype).as_strided(like.shape, like.stride()).copy_(tensor)
