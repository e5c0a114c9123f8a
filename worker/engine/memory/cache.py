"""The loaded models: fetched, placed, loaded, evicted least recently used first. Knows bundles and bytes, not pictures.

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
from worker.engine.memory import device as machine
from worker.engine.memory.footprint import bundle_bytes
from worker.engine.memory.placement import GIB, Demand, Resident, decide
from worker.engine.models import hub as places
from worker.engine.models.registry import SDXL_BASE, Bundle, Catalog
from worker.engine.protocol import Placement
from worker.engine.vendor_errors import importing, quiet, release_memory, translated

if TYPE_CHECKING:
    from worker.engine.memory.offload import Residence
    from worker.engine.models.loader import Parts

log = logging.getLogger(__name__)

ROOM = {"sdxl": 4 * GIB, "wan": 7 * GIB}
"""Bytes a job works in beside the weights, on the card, at native size: SDXL's VAE at 1024x1024, Wan's at 81 x 480p."""
CPU_ROOM = GIB


@dataclass(slots=True)
class Loaded:
    """One bundle in memory."""

    bundle: Bundle
    parts: "Parts"
    residence: "Residence"
    last_used: int


class Shelf:
    """Holds what is loaded; one bundle's networks are there once, whichever tasks they serve."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._loaded: dict[str, Loaded] = {}
        self._clock = 0
        self._cuda = catalog.cuda

    def __getitem__(self, bundle: Bundle) -> Loaded:
        return self._loaded[bundle.name]

    def __contains__(self, bundle: Bundle) -> bool:
        return bundle.name in self._loaded

    @property
    def modes(self) -> dict[str, str]:
        """Name of each loaded bundle -> `resident` or `offloaded`."""
        return {name: str(entry.residence.mode) for name, entry in self._loaded.items()}

    def take(self, bundle: Bundle, control: Control) -> Placement:
        """Have the bundle where it will run.

        Raises:
            ModelUnavailable, OutOfMemory, GpuFault, DiskFull, or what `control.checkpoint` raises.
        """
        control.checkpoint()
        self._clock += 1
        entry = self._loaded.get(bundle.name)
        if entry is not None:
            entry.last_used = self._clock
            if entry.residence.mode == "resident":
                return Placement("resident", "already there")
            placement = self.decide(bundle)
            if placement.mode == "offloaded" or placement.evicted:
                return Placement("offloaded", "already there, one network at a time")
        else:
            bundle = self._fetch(bundle, control)
            placement = self.decide(bundle)
        self._note(bundle, placement)
        self.evict(placement.evicted)
        try:
            self._place(bundle, placement, control)
        except OutOfMemory:
            if placement.mode == "offloaded" or not self._cuda:
                raise
            self.evict(tuple(self._loaded))
            placement = Placement("offloaded", "loading it whole ran out of memory")
            self._note(bundle, placement)
            self._place(bundle, placement, control)
        return placement

    def decide(self, bundle: Bundle) -> Placement:
        """Where the bundle would go now; changes nothing.

        Raises:
            GpuFault: the card does not answer.
        """
        entry = self._loaded.get(bundle.name)
        if entry is not None:
            weights, largest = entry.residence.bytes, entry.residence.largest
        else:
            sizes = bundle_bytes(bundle, cuda=self._cuda)
            weights, largest = sum(sizes.values()), max(sizes.values(), default=0)
        demand = Demand(bundle.name, weights, largest, ROOM[bundle.family] if self._cuda else CPU_ROOM)
        residents = [
            Resident(name, other.residence.bytes, other.last_used)
            for name, other in self._loaded.items()
            if other.residence.mode == "resident"
        ]
        free, total = machine.memory(cuda=self._cuda)
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

    def shrink_to(self, bundle: Bundle) -> None:
        """After an out of memory: only this bundle, and of it only what runs, is on the card."""
        self.evict([name for name in self._loaded if name != bundle.name])
        if self._cuda:
            with translated("run"):
                self[bundle].residence.settle(Placement("offloaded", "a job ran out of memory"))
        release_memory()

    @contextmanager
    def cleanly(self) -> Iterator[None]:
        """However the body ends badly, its memory is given back, and offloaded networks leave the card."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, GpuFault):  # on a poisoned context every further call fails too
                for entry in self._loaded.values():
                    entry.residence.rest()
                release_memory()
            raise

    def _place(self, bundle: Bundle, placement: Placement, control: Control) -> None:
        with self.cleanly(), translated("load"):
            entry = self._loaded.get(bundle.name)
            if entry is not None:
                entry.residence.settle(placement)
                return
            started = time.monotonic()
            parts = self._load(bundle, placement, control)
            from worker.engine.memory.offload import Residence

            residence = Residence(parts.modules(), machine.device(cuda=self._cuda))
            residence.settle(placement)
            self._loaded[bundle.name] = Loaded(bundle, parts, residence, self._clock)
            seconds = round(time.monotonic() - started, 2)
            log.info("%s loaded", bundle.name, extra={"action": "model_loaded", "seconds": seconds})

    def _load(self, bundle: Bundle, placement: Placement, control: Control) -> "Parts":
        control.report(Progress("loading", 0, 1))
        # The slow imports belong to loading, not to the first job.
        with importing():
            quiet()
            from worker.engine.families import sdxl, wan
            from worker.engine.models.loader import Loader

        log.debug("imported", extra={"action": "imports", "modules": [sdxl.__name__, wan.__name__]})
        device = machine.device(cuda=self._cuda) if placement.mode == "resident" else None
        loader = Loader(
            bundle,
            cuda=self._cuda,
            control=control,
            sdxl_configs=self._sdxl_configs(bundle),
            # To the card one by one: the machine's memory never holds a whole model beside it.
            arrived=lambda module: module.to(device) if device is not None else module,
        )
        return loader.load()

    def _fetch(self, bundle: Bundle, control: Control) -> Bundle:
        """The bundle with all its files on this machine: what is named by a hub id and not here is downloaded."""
        control.report(Progress("loading", 0, 1))
        for part in bundle.all:
            if part.kind != "hub":
                continue
            control.checkpoint()
            log.info("downloading %s", part.name, extra={"action": "download", "model": part.name})
            what: Literal["vae", "pipeline"] = "vae" if part.role == "vae" else "pipeline"
            try:
                with translated("load"):
                    folder = places.download(part.name, what, half=self._cuda)
            except ModelUnavailable:
                if not part.optional:
                    raise
                log.warning("going on without %s", part.name, extra={"action": "download", "model": part.name})
                bundle = replace(bundle, vae=None)
            else:
                bundle = bundle.having(replace(part, kind="folder", path=folder))
        return bundle

    def _sdxl_configs(self, bundle: Bundle) -> Path | None:
        if all(part.kind != "file" for part in bundle.all):
            return None
        if (folder := self._catalog.sdxl_configs()) is not None:
            return folder
        return bundle.main.path if bundle.main.kind == "folder" else places.download(SDXL_BASE, "configs", half=False)

    def _note(self, bundle: Bundle, placement: Placement) -> None:
        log.info(
            "%s: %s, %s",
            bundle.name,
            placement.mode,
            placement.reason,
            extra={"action": "placement", "model": bundle.name, "mode": placement.mode, "evicted": placement.evicted},
        )
