"""Where weights live while they run: one pure decision, before anything is loaded.

Knows bytes, names of networks and rooms; knows no torch and no files. Of all the ways that fit, the first of this order
is taken: everything on the GPU; all but the text encoders; the same after moving others off; one phase at a time; and
only then the same again with the VAE working in tiles, which takes it about 1.6 times as long.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from worker.engine.memory.room import Room
from worker.engine.protocol import Placement, PlacementMode

GIB = 2**30
PREVIEW = "preview"
EXTRAS = ("ip_adapter", "controlnet", "depth", PREVIEW)
"""How the names of networks begin that some jobs of a model need and most do not. They are on the GPU only while they
run, in every mode: what a job without them is planned in, and how fast it is, does not depend on what others asked for.
"""
SLACK = GIB // 2
"""Bytes left alone: the CUDA context's growth, the allocator's fragments, cuDNN's workspaces."""


@dataclass(frozen=True, slots=True)
class Resident:
    """A model that has bytes on the GPU between jobs."""

    name: str
    bytes: int
    last_used: int
    """Grows with each use; the smallest was used least recently."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a job needs: its model's networks with their bytes, and the room to work in beside them."""

    name: str
    networks: Mapping[str, int]
    room: Room

    def least(self, mode: PlacementMode, *, tiles: bool) -> int:
        """Bytes on the GPU at the job's peak, where its networks live as `mode` says; nothing for errors."""
        aside = set_aside(self.networks, mode)
        stays = sum(size for name, size in self.networks.items() if name not in aside)
        peaks = [0]
        for name in self.networks:
            # The networks of one phase come and go together.
            comes = sum(self.networks[other] for other in aside if stays_beside(other, name))
            peaks.append(comes + self.room.of(name, tiles=tiles))
        return stays + max(peaks)

    def aside(self, mode: PlacementMode) -> int:
        """Bytes of the networks that are in the machine's memory between jobs."""
        return sum(self.networks[name] for name in set_aside(self.networks, mode))


def phase_of(network: str) -> str:
    """What is on the GPU at the same time, offloaded: the text encoders; the UNet with what steers it; others alone."""
    if network.startswith("controlnet"):
        return "unet"
    return "text" if network.startswith("text_encoder") else network


def stays_beside(other: str, running: str) -> bool:
    """Whether `other`, offloaded, stays on the GPU while `running` runs; what draws previews, a few MB, always does."""
    return other == PREVIEW or phase_of(other) == phase_of(running)


def set_aside(networks: Mapping[str, object], mode: PlacementMode) -> frozenset[str]:
    """The networks that are on the GPU only while they run."""
    if mode == "offloaded":
        return frozenset(networks)
    visits = {"text"} if mode == "partly" else set()
    return frozenset(name for name in networks if name.startswith(EXTRAS) or phase_of(name) in visits)


def decide(
    demand: Demand,
    residents: Sequence[Resident],
    *,
    free: int,
    total: int,
    host: int | None = None,
    can_offload: bool = True,
) -> Placement:
    """The first way that fits; `refused` when not even the last one would fit into a GPU that holds nothing else.

    `host` is how many bytes of networks the machine's memory can hold beside the GPU; None: as many as there are. A
    machine that is asked for more ends the process, and every job with it.

    `free` and `total` are bytes of the GPU (of the machine, where there is no GPU: then nothing can be offloaded, and
    nothing is refused, since a machine that is short of memory is slow but works). `free` counts what the demand's own
    model holds. The last way is refused without a margin for errors: an estimate is no reason to refuse a job.
    """
    if not can_offload:
        return _without_gpu(demand, residents, free)
    others = [one for one in sorted(residents, key=lambda one: one.last_used) if one.name != demand.name]
    for mode, tiles, count in _ways(demand, len(others)):
        if host is not None and demand.aside(mode) > host:
            continue
        available = free + sum(other.bytes for other in others[:count])
        need = demand.least(mode, tiles=tiles) + SLACK
        if need <= available:
            evicted = tuple(other.name for other in others[:count])
            chosen = Placement(mode, _fits(demand, need, available), evicted, tiles)
            return replace(chosen, reason=f"{_how(chosen)}: {chosen.reason}")
    if host is not None and demand.aside("offloaded") > host:
        weights, gpu, beside = _gib(demand.aside("offloaded")), _gib(total), _gib(max(host, 0))
        return Placement(
            "refused", f"{weights} of weights fit neither into the GPU's {gpu} nor into {beside} beside it"
        )
    need = demand.least("offloaded", tiles=True)
    names = tuple(other.name for other in others)
    if need > total:
        return Placement("refused", f"at least {_gib(need)} are needed at once, and the GPU has {_gib(total)}")
    return Placement("offloaded", f"{_gib(need)} at once into {_gib(total)}: tight, and there is no less", names, True)


def _ways(demand: Demand, others: int) -> Iterator[tuple[PlacementMode, bool, int]]:
    """(mode, tiles, how many of the others are moved off, least recently used first), best first."""
    partly = set_aside(demand.networks, "partly") != set_aside(demand.networks, "resident")
    smaller = demand.room.decode_in_tiles < demand.room.decode
    for tiles in (False, True) if smaller else (False,):
        for count in range(others + 1):
            yield "resident", tiles, count
            if partly:
                yield "partly", tiles, count
        for count in range(others + 1):
            yield "offloaded", tiles, count


def _without_gpu(demand: Demand, residents: Sequence[Resident], free: int) -> Placement:
    need = demand.least("resident", tiles=False) + SLACK
    evicted: list[str] = []
    available = free
    for other in sorted(residents, key=lambda one: one.last_used):
        if need <= available:
            break
        if other.name != demand.name:
            evicted.append(other.name)
            available += other.bytes
    if need <= available:
        return Placement("resident", _fits(demand, need, available), tuple(evicted))
    return Placement("resident", f"{_gib(need)} for {_gib(available)}: tight, and nowhere else to go", tuple(evicted))


def _how(placement: Placement) -> str:
    how = {
        "resident": "all of it",
        "partly": "all but the text encoders",
        "offloaded": "one network at a time",
    }[placement.mode]
    tiles = ", decoding in tiles" if placement.tiles else ""
    off = ", ".join(placement.evicted)
    return f"{how}{tiles}{f', after moving off {off} (least recently used first)' if off else ''}"


def _fits(demand: Demand, need: int, available: int) -> str:
    return f"{_gib(need)} with {_gib(sum(demand.networks.values()))} of weights fit into {_gib(available)}"


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
