"""Holds the loaded models: downloads, places, loads and evicts them, least recently used first.

Knows models and bytes; knows no pictures. Importing this module imports no torch.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from worker.core.errors import GpuFault, ModelUnavailable, OutOfMemory
from worker.core.types import Control, Progress
from worker.engine.memory import device
from worker.engine.memory.footprint import extra_bytes, spec_bytes
from worker.engine.memory.placement import EXTRAS, GIB, Demand, Resident, decide, set_aside
from worker.engine.memory.room import Phase, Room, Size, room
from worker.engine.models.fetch import fetch
from worker.engine.models.hub import What
from worker.engine.models.registry import (
    PINNED,
    SDXL_BASE,
    ModelRegistry,
    ModelSpec,
    WeightSource,
)
from worker.engine.models.roles import Role, folder_problem
from worker.engine.protocol import Placement
from worker.engine.vendor_errors import importing, quiet, release_memory, translated

if TYPE_CHECKING:
    from worker.engine.memory.offload import Offloader
    from worker.engine.models.loader import Parts, SdxlParts
    from worker.engine.speed.compile import Compiled

log = logging.getLogger(__name__)

HOST_RESERVE = 4 * GIB
"""Host memory, in bytes, that is kept free of weights."""
LEARNT_MARGIN = 1.1
"""Factor by which a phase that ran out of memory is assumed to need more than it had."""
_FETCHED_AS: Mapping[Role, What] = {
    "vae": "vae",
    "ip_adapter": "ip_adapter",
    "controlnet": "controlnet",
    "depth": "safety",
    "preview": "vae",
    "upscaler": "upscaler",
}


@dataclass(slots=True)
class Loaded:
    """One model in memory."""

    spec: ModelSpec
    parts: "Parts"
    offloader: "Offloader"
    last_used: int
    extras: set[str] = field(default_factory=set)
    """Loaded extras (`WeightSource.network`)."""
    compiled: dict[str, "Compiled"] = field(default_factory=dict)
    """Network -> its compiled parts."""


class ModelCache:
    """The loaded models. Tasks that share a model share its networks.

    A model that leaves the GPU stays in host memory while there is room, so that two models that do not fit side by
    side are each read from disk once. The memory that jobs were seen to need is remembered per model.
    """

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry
        self._loaded: dict[str, Loaded] = {}
        self._learnt: dict[str, dict[Phase, float]] = {}
        self._clock = 0
        self._cuda = registry.cuda

    def __getitem__(self, spec: ModelSpec) -> Loaded:
        return self._loaded[spec.name]

    def __contains__(self, spec: ModelSpec) -> bool:
        return spec.name in self._loaded

    @property
    def modes(self) -> dict[str, str]:
        """Return the loaded models: name -> `resident`, `partly` or `offloaded`."""
        return {name: str(entry.offloader.mode) for name, entry in self._loaded.items()}

    @property
    def entries(self) -> tuple[Loaded, ...]:
        """Return the loaded models, most recently used first."""
        return tuple(sorted(self._loaded.values(), key=lambda entry: -entry.last_used))

    def take(self, spec: ModelSpec, size: Size, control: Control, *, downloads: bool = True) -> Placement:
        """Place the model for a job of this size. `downloads`: whether missing weights may be downloaded.

        Raises:
            ModelUnavailable, OutOfMemory (also of a size that cannot fit, before anything is touched), GpuFault,
            DiskFull, or what `control.raise_if_stopped` raises.
        """
        control.raise_if_stopped()
        self._clock += 1
        entry = self._loaded.get(spec.name)
        if entry is None and not downloads:
            self._registry.check_configs(spec)
        spec = self._fetch(spec, control, downloads=downloads)
        if entry is not None:
            entry.last_used = self._clock
        placement = self.decide(spec, size)
        if placement.mode == "refused" and self.decide(spec, size, alone=True).mode != "refused":
            # Other models take too much host memory. A size that fits nowhere evicts none.
            self._drop([name for name in self._loaded if name != spec.name])
            placement = self.decide(spec, size)
        if placement.mode == "refused":
            log.warning("%s: %s", spec.name, placement.reason, extra={"action": "placement", "model": spec.name})
            raise OutOfMemory("out_of_memory.too_large", reason=placement.reason)
        if entry is None or entry.offloader.mode != placement.mode or placement.evicted or self._missing(spec):
            self._note(spec, placement)
        self.evict(placement.evicted)
        try:
            self._place(spec, placement, control)
        except OutOfMemory:
            if placement.mode == "offloaded" or not self._fits_beside(spec):
                raise
            self.evict([name for name in self._loaded if name != spec.name])
            placement = Placement("offloaded", "bringing it to the GPU ran out of memory", tiles=placement.tiles)
            self._note(spec, placement)
            self._place(spec, placement, control)
        return placement

    def decide(self, spec: ModelSpec, size: Size, *, alone: bool = False) -> Placement:
        """Return the placement for a job of this size, or with the model `alone` in host memory; changes nothing.

        Raises:
            GpuFault: the GPU does not answer.
        """
        entry = self._loaded.get(spec.name)
        networks = self._networks(spec)
        demand = Demand(spec.name, networks, self.room(spec, size))
        residents = [
            Resident(name, other.offloader.resting_bytes, other.last_used)
            for name, other in self._loaded.items()
            if other.offloader.resting_bytes
        ]
        free, total = device.memory(cuda=self._cuda)
        own = 0 if entry is None else entry.offloader.resting_bytes
        copies = {name: other.offloader.host_bytes for name, other in self._loaded.items()}
        host = device.memory(cuda=False)[0] - HOST_RESERVE
        host += sum(copies.values()) if alone else copies.get(spec.name, 0)
        placed = decide(demand, residents, free=free + own, total=total, host=host, can_offload=self._cuda)
        if spec.family == "upscaler" and placed.mode == "resident" and self._cuda:
            # Small: between jobs it must not take memory from a model that draws.
            return replace(placed, mode="offloaded")
        return placed

    def bytes_to_load(self, spec: ModelSpec) -> int:
        """Return the bytes of a job's networks that are not loaded yet."""
        if spec in self:
            return sum(extra_bytes(replace(spec, extras=self._missing(spec)), cuda=self._cuda).values())
        return self._registry.read(spec, self._stored_bytes)

    def _stored_bytes(self, spec: ModelSpec) -> int:
        # On disk they are not quantised.
        return sum(spec_bytes(replace(spec, quantize=None), cuda=self._cuda).values())

    def _networks(self, spec: ModelSpec) -> dict[str, int]:
        """Return network -> bytes for the networks that a job needs, without other jobs' extras."""
        entry = self._loaded.get(spec.name)
        if entry is None:
            return spec_bytes(spec, cuda=self._cuda)
        loaded = entry.offloader.networks
        own = {name: size for name, size in loaded.items() if not name.startswith(EXTRAS)}
        extras = extra_bytes(spec, cuda=self._cuda)
        return own | {name: loaded.get(name, size) for name, size in extras.items()}

    def _missing(self, spec: ModelSpec) -> tuple[WeightSource, ...]:
        entry = self._loaded.get(spec.name)
        return tuple(extra for extra in spec.extras if entry is None or extra.network not in entry.extras)

    def room(self, spec: ModelSpec, size: Size) -> Room:
        """Return the working memory of a job of this size, with what was learnt about the model."""
        return room(spec, size, cuda=self._cuda).scaled(self._learnt.get(spec.name, {}))

    def ran_out(self, spec: ModelSpec, size: Size, phase: Phase, free: int) -> None:
        """Remember that a phase needed more than the `free` bytes beside the weights, and make room.

        From now on that phase's estimate is raised for this model, at all sizes. Afterwards only this model is on the
        GPU, and only its running networks if host memory holds the rest.
        """
        estimate = getattr(room(spec, size, cuda=self._cuda), phase)
        if estimate:
            learnt = self._learnt.setdefault(spec.name, {})
            learnt[phase] = max(learnt.get(phase, 1.0), LEARNT_MARGIN * free / estimate)
        self.evict([name for name in self._loaded if name != spec.name])
        if self._fits_beside(spec):
            with translated("run"):
                self[spec].offloader.settle(Placement("offloaded", "a job ran out of memory"))
        release_memory()
        self._say_changed()

    def evict(self, names: Sequence[str]) -> None:
        """Move these models off the GPU: to host memory while there is room, else unload them."""
        gone, parked = [], []
        for name in names:
            if (entry := self._loaded.get(name)) is None:
                continue
            if self._fits_beside(entry.spec):
                with translated("run"):
                    entry.offloader.settle(Placement("offloaded", "another model needs the room"))
                parked.append(name)
            else:
                del self._loaded[name], entry
                gone.append(name)
        if gone or parked:
            release_memory()
            extra = {"action": "evict", "models": gone, "parked": parked}
            log.info("evicted %s", ", ".join([*gone, *parked]), extra=extra)
            self._say_changed()

    def _fits_beside(self, spec: ModelSpec) -> bool:
        """Whether a model can leave the GPU: host memory has room for what has no copy there yet."""
        entry = self._loaded.get(spec.name)
        if entry is None:
            missing = sum(self._networks(spec).values())
        else:
            missing = entry.offloader.bytes - entry.offloader.host_bytes
        return self._cuda and missing + HOST_RESERVE <= device.memory(cuda=False)[0]

    def clear(self) -> None:
        """Unload every model."""
        self._drop(tuple(self._loaded))

    def _drop(self, names: Sequence[str]) -> None:
        for name in names:
            self._loaded.pop(name)
        release_memory()
        self._say_changed()

    def _say_changed(self) -> None:
        """Let previews check again whether the GPU has memory beside their model."""
        for entry in self._loaded.values():
            if entry.spec.family == "sdxl":
                cast("SdxlParts", entry.parts).beside.changed()

    @contextmanager
    def cleanly(self) -> Iterator[None]:
        """If the body raises, free its memory and move offloaded networks off the GPU."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, GpuFault):  # on a broken context every further call fails, too
                for entry in self._loaded.values():
                    entry.offloader.rest()
                release_memory()
            raise

    def _place(self, spec: ModelSpec, placement: Placement, control: Control) -> None:
        with self.cleanly(), translated("load"):
            entry = self._loaded.get(spec.name)
            if entry is not None:
                self._load_extras(entry, spec, control)
                moved = entry.offloader.mode != placement.mode
                entry.offloader.settle(placement)
                if moved:
                    self._say_changed()
                return
            started = time.monotonic()
            parts = self._load(spec, placement, control)
            from worker.engine.memory.offload import Offloader

            offloader = Offloader(parts.modules(), device.device(cuda=self._cuda))
            offloader.settle(placement)
            entry = self._loaded[spec.name] = Loaded(spec, parts, offloader, self._clock)
            seconds = round(time.monotonic() - started, 2)
            log.info("%s loaded", spec.name, extra={"action": "model_loaded", "seconds": seconds})
            self._load_extras(entry, spec, control)
            offloader.settle(placement)

    def _load_extras(self, entry: Loaded, spec: ModelSpec, control: Control) -> None:
        """Load the job's extras into host memory."""
        for source in self._missing(spec):
            from worker.engine.models.loader import Loader, SdxlParts

            loader = Loader(spec, cuda=self._cuda, control=control, on_card=lambda _name: False)
            if isinstance(entry.parts, SdxlParts):
                entry.offloader.add(source.network, loader.load_extra(source, entry.parts))
                entry.extras.add(source.network)
                log.info("%s loaded", source.name, extra={"action": "extra_loaded", "model": spec.name})

    def _load(self, spec: ModelSpec, placement: Placement, control: Control) -> "Parts":
        control.report(Progress("loading", 0, 1))
        # The slow imports belong to loading, not to the first job.
        with importing():
            quiet()
            from worker.engine.families import sdxl, wan
            from worker.engine.models.loader import Loader

        log.debug("imported", extra={"action": "imports", "modules": [sdxl.__name__, wan.__name__]})
        loader = Loader(
            spec,
            cuda=self._cuda,
            control=control,
            sdxl_configs=self._sdxl_configs(spec, control),
            card=device.device(cuda=True) if self._cuda else None,
            on_card=lambda name: not set_aside({name: 0}, placement.mode),
        )
        return loader.load()

    def _fetch(self, spec: ModelSpec, control: Control, *, downloads: bool) -> ModelSpec:
        """Return the spec with all its files on this machine, downloading missing hub ids."""
        entry = self._loaded.get(spec.name)
        parts = [part for part in (spec.all if entry is None else self._missing(spec)) if part.kind == "hub"]
        if entry is None or parts:
            control.report(Progress("loading", 0, 1))
        for part in parts:
            control.raise_if_stopped()
            try:
                folder = self._folder(part, control, downloads=downloads)
            except ModelUnavailable:
                if not part.optional:
                    raise
                log.warning("going on without %s", part.name, extra={"action": "download", "model": part.name})
                spec = replace(spec, vae=None)
            else:
                spec = spec.having(replace(part, kind="folder", path=folder))
        return spec

    def _folder(self, part: WeightSource, control: Control, *, downloads: bool) -> Path:
        if not downloads:
            raise ModelUnavailable("model_unavailable.no_downloads", variable=part.variable)
        folder = fetch(part.hub_id, _FETCHED_AS.get(part.role, "pipeline"), control, half=self._cuda)
        if part.role == "upscaler" and (problem := folder_problem(folder, part.role)):
            raise ModelUnavailable("model_unavailable.folder", variable=part.variable, problem=problem)
        return folder

    def _sdxl_configs(self, spec: ModelSpec, control: Control) -> Path | None:
        if spec.family == "upscaler" or all(part.kind != "file" for part in spec.all):
            return None
        if (folder := self._registry.sdxl_configs()) is not None:
            return folder
        if spec.main.kind == "folder":
            return spec.main.path
        return fetch(PINNED[SDXL_BASE], "configs", control, half=False)

    def _note(self, spec: ModelSpec, placement: Placement) -> None:
        log.info(
            "%s: %s, %s",
            spec.name,
            placement.mode,
            placement.reason,
            extra={"action": "placement", "model": spec.name, "mode": placement.mode, "evicted": placement.evicted},
        )
