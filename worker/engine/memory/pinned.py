"""Copies of weights in memory that a GPU reads directly (pinned), side by side in slabs. Knows tensors, no networks.

torch takes such memory in powers of two (`torch.cuda.host_memory_stats`): by itself a matrix of 5120 x 13824 would hold
256 MiB for its 135, and the two experts of a Wan A14B 80 GiB for their 53, which no count of weights shows.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

log = logging.getLogger(__name__)

SLAB = 2**30
"""Bytes of a slab: a power of two, so that a full one wastes nothing. A larger copy has a slab of its own."""
_ALIGNED = 512
"""What each copy begins at a multiple of, as in the GPU's own memory."""


@dataclass(slots=True)
class Slab:
    """One piece of memory, and what lies in it."""

    bytes: int = 0
    starts: dict[int, int] = field(default_factory=dict)
    """Which tensor -> where it begins."""


def packed(sizes: Sequence[int], most: int = SLAB) -> list[Slab]:
    """Slabs of at most `most` bytes in which pieces of these sizes lie side by side: the largest first, each where it
    fits first."""
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
    """So many bytes of pinned memory; of plain memory where there is no other left."""
    try:
        return torch.empty(count, dtype=torch.uint8, pin_memory=True)
    except RuntimeError:
        log.warning("no pinned memory left: offloading will be slower", extra={"action": "pin_memory"})
        return torch.empty(count, dtype=torch.uint8)


def copies(
    tensors: Sequence[torch.Tensor], *, most: int = SLAB, memory: Callable[[int], torch.Tensor] = pinned
) -> Iterator[tuple[int, torch.Tensor]]:
    """(which of the tensors, its copy in the machine's memory), in the order in which they are made.

    Whoever lets go of each tensor as its copy comes never needs more than a slab beside what there was.
    """
    for slab in packed([tensor.nbytes for tensor in tensors], most):
        room = memory(slab.bytes)
        for index, start in slab.starts.items():
            yield index, _copy(tensors[index].detach(), room[start:])


def _copy(tensor: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
    """At the beginning of `room`, in the tensor's own order in memory."""
    like = torch.empty_like(tensor, device="meta")
    return room[: tensor.nbytes].view(tensor.dtype).as_strided(like.shape, like.stride()).copy_(tensor)
