"""The loaded models: fetched, placed, loaded, evicted least recently used first. Knows models and bytes, not pictures.

Importing this module imports no torch.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from worker.core.errors import GpuFault, ModelUnavailable, OutOfMemory
from worker.core.types import Control, Progress
from worker.engine.memory import device
from worker.engine.memory.footprint import spec_bytes
from worker.engine.memory.placement import GIB, Demand, Resident, decide
from worker.engine.models import hub
from worker.engine.models.registry import SDXL_BASE, ModelRegistry, ModelSpec
from worker.engine.protocol import Placement
from worker.engine.vendor_errors import importing, quiet, release_memory, translated

if TYPE_CHECKING:
    from worker.engine.memory.offload import Offloader
    from worker.engine.models.loader import Parts

log = logging.getLogger(__name__)

ROOM = {"sdxl": 4 * GIB, "wan": 7 * GIB}
"""Bytes a job works in beside the weights, on the GPU, at native size: SDXL's VAE at 1024x1024, Wan's at 81 x 480p."""
CPU_ROOM = GIB


@dataclass(slots=True)
class Loaded:
    """One model in memory."""

    spec: ModelSpec
    parts: "Parts"
    offloader: "Offloader"
    last_used: int


class ModelCache:
    """Holds what is loaded; one model's networks are there once, whichever tasks they serve."""

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry
        self._loaded: dict[str, Loaded] = {}
        self._clock = 0
        self._cuda = registry.cuda

    def __getitem__(self, spec: ModelSpec) -> Loaded:
        return self._loaded[spec.name]

    def __contains__(self, spec: ModelSpec) -> bool:
        return spec.name in self._loaded

    @property
    def modes(self) -> dict[str, str]:
        """Name of each loaded model -> `resident` or `offloaded`."""
        return {name: str(entry.offloader.mode) for name, entry in self._loaded.items()}

    def take(self, spec: ModelSpec, control: Control) -> Placement:
        """Have the model where it will run.

        Raises:
            ModelUnavailable, OutOfMemory, GpuFault, DiskFull, or what `control.raise_if_stopped` raises.
        """
        control.raise_if_stopped()
        self._clock += 1
        entry = self._loaded.get(spec.name)
        if entry is not None:
            entry.last_used = self._clock
            if entry.offloader.mode == "resident":
                return Placement("resident", "already there")
            placement = self.decide(spec)
            if placement.mode == "offloaded" or placement.evicted:
                return Placement("offloaded", "already there, one network at a time")
        else:
            spec = self._fetch(spec, control)
            placement = self.decide(spec)
        self._note(spec, placement)
        self.evict(placement.evicted)
        try:
            self._place(spec, placement, control)
        except OutOfMemory:
            if placement.mode == "offloaded" or not self._cuda:
                raise
            self.evict(tuple(self._loaded))
            placement = Placement("offloaded", "loading it whole ran out of memory")
            self._note(spec, placement)
            self._place(spec, placement, control)
        return placement

    def decide(self, spec: ModelSpec) -> Placement:
        """Where the model would go now; changes nothing.

        Raises:
            GpuFault: the GPU does not answer.
        """
        entry = self._loaded.get(spec.name)
        if entry is not None:
            weights, largest = entry.offloader.bytes, entry.offloader.largest
        else:
            sizes = spec_bytes(spec, cuda=self._cuda)
            weights, largest = sum(sizes.values()), max(sizes.values(), default=0)
        demand = Demand(spec.name, weights, largest, ROOM[spec.family] if self._cuda else CPU_ROOM)
        residents = [
            Resident(name, other.offloader.bytes, other.last_used)
            for name, other in self._loaded.items()
            if other.offloader.mode == "resident"
        ]
        free, total = device.memory(cuda=self._cuda)
        return decide(demand, residents, free=free, total=total, can_offload=self._cuda)

    def evict(self, names: Sequence[str]) -> None:
        """Let go of these models and of their memory."""
        gone = [name for name in names if self._loaded.pop(name, None) is not None]
        if gone:
            release_memory()
            log.info("evicted %s", ", ".join(gone), extra={"action": "evict", "models": gone})

    def clear(self) -> None:
        """Let go of every model."""
        self.evict(tuple(self._loaded))

    def shrink_to(self, spec: ModelSpec) -> None:
        """After an out of memory: only this model, and of it only what runs, is on the GPU."""
        self.evict([name for name in self._loaded if name != spec.name])
        if self._cuda:
            with translated("run"):
                self[spec].offloader.settle(Placement("offloaded", "a job ran out of memory"))
        release_memory()

    @contextmanager
    def cleanly(self) -> Iterator[None]:
        """However the body ends badly, its memory is given back, and offloaded networks leave the GPU."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, GpuFault):  # on a poisoned context every further call fails too
                for entry in self._loaded.values():
                    entry.offloader.rest()
                release_memory()
            raise

    def _place(self, spec: ModelSpec, placement: Placement, control: Control) -> None:
        with self.cleanly(), translated("load"):
            entry = self._loaded.get(spec.name)
            if entry is not None:
                entry.offloader.settle(placement)
                return
            started = time.monotonic()
            parts = self._load(spec, placement, control)
            from worker.engine.memory.offload import Offloader

            offloader = Offloader(parts.modules(), device.device(cuda=self._cuda))
            offloader.settle(placement)
            self._loaded[spec.name] = Loaded(spec, parts, offloader, self._clock)
            seconds = round(time.monotonic() - started, 2)
            log.info("%s loaded", spec.name, extra={"action": "model_loaded", "seconds": seconds})

    def _load(self, spec: ModelSpec, placement: Placement, control: Control) -> "Parts":
        control.report(Progress("loading", 0, 1))
        # The slow imports belong to loading, not to the first job.
        with importing():
            quiet()
            from worker.engine.families import sdxl, wan
            from worker.engine.models.loader import Loader

        log.debug("imported", extra={"action": "imports", "modules": [sdxl.__name__, wan.__name__]})
        target = device.device(cuda=self._cuda) if placement.mode == "resident" else None
        loader = Loader(
            spec,
            cuda=self._cuda,
            control=control,
            sdxl_configs=self._sdxl_configs(spec),
            # To the GPU one by one: the machine's memory never holds a whole model beside it.
            arrived=lambda module: module.to(target) if target is not None else module,
        )
        return loader.load()

    def _fetch(self, spec: ModelSpec, control: Control) -> ModelSpec:
        """The spec with all its files on this machine: what is named by a hub id and not here is downloaded."""
        control.report(Progress("loading", 0, 1))
        for part in spec.all:
            if part.kind != "hub":
                continue
            control.raise_if_stopped()
            log.info("downloading %s", part.name, extra={"action": "download", "model": part.name})
            what: Literal["vae", "pipeline"] = "vae" if part.role == "vae" else "pipeline"
            try:
                with translated("load"):
                    folder = hub.download(part.name, what, half=self._cuda)
            except ModelUnavailable:
                if not part.optional:
                    raise
                log.warning("going on without %s", part.name, extra={"action": "download", "model": part.name})
                spec = replace(spec, vae=None)
            else:
                spec = spec.having(replace(part, kind="folder", path=folder))
        return spec

    def _sdxl_configs(self, spec: ModelSpec) -> Path | None:
        if all(part.kind != "file" for part in spec.all):
            return None
        if (folder := self._registry.sdxl_configs()) is not None:
            return folder
        return spec.main.path if spec.main.kind == "folder" else hub.download(SDXL_BASE, "configs", half=False)

    def _note(self, spec: ModelSpec, placement: Placement) -> None:
        log.info(
            "%s: %s, %s",
            spec.name,
            placement.mode,
            placement.reason,
            extra={"action": "placement", "model": spec.name, "mode": placement.mode, "evicted": placement.evicted},
        )
