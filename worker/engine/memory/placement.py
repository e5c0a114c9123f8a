"""Where weights live while they run: one pure decision. Knows bytes and names; knows no torch and no files."""

from collections.abc import Sequence
from dataclasses import dataclass

from worker.engine.protocol import Placement

GIB = 2**30
SLACK = GIB // 2
"""Bytes left alone: the CUDA context's growth, the allocator's fragments, cuDNN's workspaces."""


@dataclass(frozen=True, slots=True)
class Resident:
    """A model that is in memory now."""

    name: str
    bytes: int
    last_used: int
    """Grows with each use; the smallest was used least recently."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a task needs: its weights, the largest of its networks, and room to work in. Bytes."""

    name: str
    weights: int
    largest: int
    room: int


def decide(
    demand: Demand, residents: Sequence[Resident], *, free: int, total: int, can_offload: bool = True
) -> Placement:
    """Resident if it fits, after evicting the least recently used if need be, else offloaded network by network.

    `free` and `total` are bytes of the GPU (of the machine, where there is no GPU: then nothing can be offloaded).
    A model that fits nowhere is still tried: an estimate is no reason to refuse a job.
    """
    need = demand.weights + demand.room + SLACK
    sizes = f"{_gib(demand.weights)} of weights and {_gib(demand.room)} to work in"
    if need <= free:
        return Placement("resident", f"{sizes} fit into {_gib(free)} free")
    evicted: list[str] = []
    available = free
    for resident in sorted(residents, key=lambda resident: resident.last_used):
        if resident.name == demand.name:
            continue
        evicted.append(resident.name)
        available += resident.bytes
        if need <= available:
            return Placement(
                "resident",
                f"{sizes} fit into {_gib(available)} after evicting {', '.join(evicted)} (least recently used first)",
                tuple(evicted),
            )
    if not can_offload:
        return Placement("resident", f"{sizes} for {_gib(available)}: tight, and there is nowhere else", tuple(evicted))
    # One network at a time on the GPU. What else is resident stands in the way only as far as that needs.
    need = demand.largest + demand.room + SLACK
    evicted, available = [], free
    for resident in sorted(residents, key=lambda resident: resident.last_used):
        if need <= available:
            break
        if resident.name != demand.name:
            evicted.append(resident.name)
            available += resident.bytes
    reason = f"{sizes} do not fit into {_gib(total)}: one network at a time, the largest {_gib(demand.largest)}"
    return Placement("offloaded", reason, tuple(evicted))


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
