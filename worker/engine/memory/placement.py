"""Decides where a job's weights are while it runs: a pure function, before anything is loaded.

The first placement that fits is taken, in this order: everything on the GPU; all but the text encoders; the same after
evicting others; one phase at a time; and then the same with a tiled VAE, which takes about 1.6 times as long. Knows
bytes, network names and working memory; knows no torch and no files.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from worker.engine.memory.room import Room
from worker.engine.protocol import Placement, PlacementMode

GIB = 2**30
PREVIEW = "preview"
EXTRAS = ("ip_adapter", "controlnet", "depth", PREVIEW)
"""Name prefixes of extras, which only some jobs of a model need. In every mode they are on the GPU only while they run,
so that the placement and speed of a job without them do not depend on other jobs.
"""
SLACK = GIB // 2
"""Reserved bytes: growth of the CUDA context, fragmentation, cuDNN's workspaces."""


@dataclass(frozen=True, slots=True)
class Resident:
    """A model with bytes on the GPU between jobs."""

    name: str
    bytes: int
    last_used: int
    """Counter of uses; the smallest is the least recently used."""


@dataclass(frozen=True, slots=True)
class Demand:
    """A job's memory: its networks with their bytes, and the working memory beside them."""

    name: str
    networks: Mapping[str, int]
    room: Room

    def least(self, mode: PlacementMode, *, tiles: bool) -> int:
        """Return the GPU bytes at the job's peak in this `mode`, without a margin."""
        aside = set_aside(self.networks, mode)
        stays = sum(size for name, size in self.networks.items() if name not in aside)
        peaks = [0]
        for name in self.networks:
            # The networks of one phase move together.
            comes = sum(self.networks[other] for other in aside if stays_beside(other, name))
            peaks.append(comes + self.room.of(name, tiles=tiles))
        return stays + max(peaks)

    def aside(self, mode: PlacementMode) -> int:
        """Return the bytes of the networks that are in host memory between jobs."""
        return sum(self.networks[name] for name in set_aside(self.networks, mode))


def phase_of(network: str) -> str:
    """The offloaded networks that are on the GPU together: text encoders; UNet and ControlNets; others alone."""
    if network.startswith("controlnet"):
        return "unet"
    return "text" if network.startswith("text_encoder") else network


def stays_beside(other: str, running: str) -> bool:
    """Whether offloaded `other` stays on the GPU while `running` runs; the preview decoder, a few MB, always does."""
    return other == PREVIEW or phase_of(other) == phase_of(running)


def set_aside(networks: Mapping[str, object], mode: PlacementMode) -> frozenset[str]:
    """Return the networks that are on the GPU only while they run."""
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
    """Return the first placement that fits; `refused` if not even the last one fits into an empty GPU.

    `host` is how many bytes of networks host memory can hold; None: unlimited. A host that runs out of memory kills the
    process with all its jobs.

    `free` and `total` are bytes of the GPU, or of the host without one: then nothing is offloaded or refused, because a
    host that is short of memory is slow but works. `free` includes what the job's own model holds. The last placement
    is refused without a margin, because an estimate alone must not refuse a job.
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
    """Yield (mode, tiled VAE, number of models to evict, least recently used first), best first."""
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
