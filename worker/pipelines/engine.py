"""Every model of this worker behind one door: the `Generator` that the task calls.

Knows which models are loaded and which were used last; it has weights found, placed and loaded, jobs run, and what goes
wrong translated. Knows nothing of how a picture is made. All but `describe` run in the one GPU thread. Importing this
module imports no torch.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from worker.config import TASK_TYPES, Settings
from worker.errors import GpuFault, JobError, ModelUnavailable, OutOfMemory
from worker.generation import Control, Generated, Placement, Progress, Sources
from worker.params import ModelDefaults, Params
from worker.pipelines import demo, places
from worker.pipelines.catalog import SDXL_BASE, Bundle, Catalog, Weights
from worker.pipelines.placement import GIB, Demand, Resident, decide
from worker.pipelines.vendor import quiet, release_memory, translated
from worker.pipelines.weigh import bundle_bytes

if TYPE_CHECKING:
    import torch

    from worker.pipelines.loading import Parts
    from worker.pipelines.residence import Residence
    from worker.request import Request

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


class Engine:
    """Loads models when they are needed, keeps as many as fit, runs jobs. Implements `worker.generation.Generator`."""

    def __init__(self, settings: Settings, *, catalog: Catalog | None = None) -> None:
        self._settings = settings
        self.catalog = catalog or Catalog(settings)
        self._loaded: dict[str, Loaded] = {}
        self._clock = 0
        self._quiet = False

    def describe(self, task_type: str) -> ModelDefaults:
        """What the model of a task says of itself; small files only, any thread.

        Raises:
            ModelUnavailable: no model is configured for the task; the message names the variable to set.
        """
        return self.catalog.describe(task_type)

    def prepare(self, task_type: str, control: Control) -> Placement:
        """Have the weights of a task where they will run; what stands in their way is evicted, oldest use first.

        Raises:
            ModelUnavailable, OutOfMemory, GpuFault, or what `control.checkpoint` raises.
        """
        return self._prepare(self.catalog.bundle(task_type), control)

    def generate(self, request: "Request", params: Params, sources: Sources, control: Control) -> Iterator[Generated]:
        """Run one job; yields each image as soon as it is decoded, or one clip.

        A job that runs out of memory is tried once more from the picture it had come to, with everything else off the
        card, its own networks brought there one at a time, and the VAE working in tiles.

        Raises:
            OutOfMemory, GpuFault, Internal (no usable picture), or what `control.checkpoint` raises, within one
            denoising step.
        """
        bundle = self.catalog.bundle(request.task_type)
        self._prepare(bundle, control)
        done = 0
        try:
            for picture in self._run(bundle, params, sources, control, first=0):
                done += 1
                yield picture
        except OutOfMemory:
            log.warning("out of memory: one more try in less", extra={"action": "out_of_memory"})
        else:
            return
        self._shrink(bundle)
        with self._in_tiles(bundle):
            yield from self._run(bundle, params, sources, control, first=done)
        control.warn("the card ran short of memory, so this was made the slow way; a smaller size would be faster")

    def preload(self, tasks: Sequence[str] | None, control: Control) -> tuple[str, ...]:
        """Load models before the first job: those of `tasks`, or of all that are configured and fit side by side.

        Returns the tasks that are ready. A task that cannot be had is logged and left for its first job to report.
        """
        ready: list[str] = []
        for task in TASK_TYPES if tasks is None else tasks:
            try:
                bundle = self.catalog.bundle(task)
                if tasks is None and bundle.name not in self._loaded:
                    self._fetch(bundle, control)
                    bundle = self.catalog.bundle(task)
                    placement = self._decide(bundle)
                    if placement.evicted or placement.mode != "resident":
                        log.info("%s is not preloaded: %s", task, placement.reason, extra={"action": "preload"})
                        continue
                self._prepare(bundle, control)
                ready.append(task)
            except (ModelUnavailable, OutOfMemory) as error:
                log.warning("%s is not preloaded: %s", task, error, extra={"action": "preload", "task_type": task})
        return tuple(ready)

    def health(self) -> tuple[str, ...]:
        """The tasks whose models are configured and, as far as the disk shows, there; tries the card where there is one.

        Raises:
            ModelUnavailable: not one task can be served.
            GpuFault: this machine shows a card, and a small computation on it does not work.
        """
        if self.catalog.cuda:
            self._try_card()
        served: list[str] = []
        problem: JobError | None = None
        for task in TASK_TYPES:
            try:
                self.catalog.describe(task)
                served.append(task)
            except JobError as error:
                problem = error
        if not served:
            raise problem or ModelUnavailable()
        return tuple(served)

    @property
    def loaded(self) -> dict[str, str]:
        """Name of each loaded bundle -> `resident` or `offloaded`."""
        return {name: str(entry.residence.mode) for name, entry in self._loaded.items()}

    def unload(self) -> None:
        """Let go of every model."""
        self._evict(tuple(self._loaded))

    # -- having weights where they run

    def _prepare(self, bundle: Bundle, control: Control) -> Placement:
        control.checkpoint()
        self._clock += 1
        entry = self._loaded.get(bundle.name)
        if entry is not None and entry.bundle == bundle:
            entry.last_used = self._clock
            if entry.residence.mode == "resident":
                return Placement("resident", "already there")
            placement = self._decide(bundle)
            if placement.mode == "offloaded" or placement.evicted:
                return Placement("offloaded", "already there, one network at a time")
        else:
            self._evict((bundle.name,))
            bundle = self._fetch(bundle, control)
            placement = self._decide(bundle)
        log.info(
            "%s: %s, %s",
            bundle.name,
            placement.mode,
            placement.reason,
            extra={"action": "placement", "model": bundle.name, "mode": placement.mode, "evicted": placement.evicted},
        )
        self._evict(placement.evicted)
        try:
            self._place(bundle, placement, control)
        except OutOfMemory:
            if placement.mode == "offloaded" or not self.catalog.cuda:
                raise
            self._evict(tuple(self._loaded))
            placement = Placement("offloaded", "loading it whole ran out of memory")
            log.warning("%s: %s", bundle.name, placement.reason, extra={"action": "placement", "model": bundle.name})
            self._place(bundle, placement, control)
        return placement

    def _place(self, bundle: Bundle, placement: Placement, control: Control) -> None:
        with self._cleanly(), translated("load"):
            from worker.pipelines.residence import Residence

            entry = self._loaded.get(bundle.name)
            if entry is None:
                started = time.monotonic()
                parts = self._load(bundle, placement, control)
                residence = Residence(parts.modules(), self._device)
                residence.settle(placement)
                self._loaded[bundle.name] = Loaded(bundle, parts, residence, self._clock)
                seconds = round(time.monotonic() - started, 2)
                log.info("%s loaded", bundle.name, extra={"action": "model_loaded", "seconds": seconds})
            else:
                entry.residence.settle(placement)

    def _load(self, bundle: Bundle, placement: Placement, control: Control) -> "Parts":
        from worker.pipelines.loading import Loader

        if not self._quiet:
            quiet()
            self._quiet = True
        device = self._device if placement.mode == "resident" else None
        loader = Loader(
            bundle,
            cuda=self.catalog.cuda,
            control=control,
            sdxl_configs=self._configs(bundle),
            # To the card one by one: the machine's memory never holds a whole model beside it.
            arrived=lambda module: module.to(device) if device is not None else module,
        )
        control.report(Progress("loading", 0, 1))
        return loader.load()

    def _fetch(self, bundle: Bundle, control: Control) -> Bundle:
        """The bundle with all its files on this machine: demo models are made, hub ids are downloaded."""
        control.report(Progress("loading", 0, 1))
        with translated("load"):
            if any(part.name == "demo" and part.path == self._demo_path(part) for part in bundle.all):
                demo.ensure(self._settings.demo_models_dir)
            for part in bundle.all:
                if part.kind != "hub":
                    continue
                control.checkpoint()
                log.info("downloading %s", part.name, extra={"action": "download", "model": part.name})
                try:
                    folder = places.download(
                        part.name, "vae" if part.role == "vae" else "pipeline", half=self.catalog.cuda
                    )
                except Exception as error:
                    if not part.optional or not isinstance(error, OSError | ValueError | RuntimeError):
                        raise
                    log.warning("going on without %s", part.name, extra={"action": "download", "model": part.name})
                    bundle = replace(bundle, vae=None)
                else:
                    bundle = _with_path(bundle, replace(part, kind="folder", path=folder))
        return bundle

    def _demo_path(self, part: Weights) -> Any:
        return self._settings.demo_models_dir / ("sdxl-refiner" if part.role == "refiner" else part.role)

    def _configs(self, bundle: Bundle) -> Any:
        if all(part.kind != "file" for part in bundle.all):
            return None
        if (folder := self.catalog.sdxl_configs()) is not None:
            return folder
        if bundle.main.kind == "folder":
            return bundle.main.path
        return places.download(SDXL_BASE, "configs", half=False)

    def _decide(self, bundle: Bundle) -> Placement:
        entry = self._loaded.get(bundle.name)
        if entry is not None:
            weights, largest = entry.residence.bytes, entry.residence.largest
        else:
            sizes = bundle_bytes(bundle, cuda=self.catalog.cuda)
            weights, largest = sum(sizes.values()), max(sizes.values(), default=0)
        room = ROOM[bundle.family] if self.catalog.cuda else CPU_ROOM
        residents = [
            Resident(name, other.residence.bytes, other.last_used)
            for name, other in self._loaded.items()
            if other.residence.mode == "resident" or not self.catalog.cuda
        ]
        free, total = self._memory()
        demand = Demand(bundle.name, weights, largest, room)
        return decide(demand, residents, free=free, total=total, can_offload=self.catalog.cuda)

    def _evict(self, names: Sequence[str]) -> None:
        gone = [name for name in names if self._loaded.pop(name, None) is not None]
        if gone:
            release_memory()
            log.info("evicted %s", ", ".join(gone), extra={"action": "evict", "models": gone})

    # -- running

    def _run(
        self, bundle: Bundle, params: Params, sources: Sources, control: Control, *, first: int
    ) -> Iterator[Generated]:
        entry = self._loaded[bundle.name]
        with self._cleanly():
            with translated("run"):
                pictures = self._job(entry, params, sources, control).run(first)
            while True:
                # Not a for loop around a yield: what the receiver of a picture raises is none of the model's errors.
                with translated("run"):
                    picture = next(pictures, None)
                if picture is None:
                    break
                yield picture
        entry.residence.rest()

    def _job(self, entry: Loaded, params: Params, sources: Sources, control: Control) -> Any:
        from worker.pipelines.loading import SdxlParts
        from worker.pipelines.sdxl import SdxlJob
        from worker.pipelines.wan import WanJob

        job = SdxlJob if isinstance(entry.parts, SdxlParts) else WanJob
        return job(entry.parts, self._device, params, sources, control)  # type: ignore[arg-type]  # parts and params of one family

    def _shrink(self, bundle: Bundle) -> None:
        self._evict([name for name in self._loaded if name != bundle.name])
        if self.catalog.cuda:
            with translated("run"):
                self._loaded[bundle.name].residence.settle(Placement("offloaded", "out of memory"))
        release_memory()

    @contextmanager
    def _in_tiles(self, bundle: Bundle) -> Iterator[None]:
        vae = self._loaded[bundle.name].parts.vae
        vae.enable_tiling()
        try:
            yield
        finally:
            vae.disable_tiling()

    @contextmanager
    def _cleanly(self) -> Iterator[None]:
        """However the body ends badly, its memory is given back, and offloaded networks leave the card."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, GpuFault):  # on a poisoned context every further call fails too
                for entry in self._loaded.values():
                    entry.residence.rest()
                release_memory()
            raise

    # -- the machine

    @property
    def _device(self) -> "torch.device":
        import torch

        return torch.device("cuda" if self.catalog.cuda else "cpu")

    def _memory(self) -> tuple[int, int]:
        """Bytes free and in all: of the card, or of the machine where there is none."""
        if not self.catalog.cuda:
            return machine_memory()
        import torch

        with translated("run"):
            free, total = torch.cuda.mem_get_info()
            # What the allocator holds but does not use is as good as free.
            return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated(), total

    def _try_card(self) -> None:
        import torch

        try:
            with translated("run"):
                square = torch.ones(64, 64, device="cuda", dtype=torch.float16)
                result = float((square @ square).sum())
        except (GpuFault, OutOfMemory):
            raise
        except Exception as error:
            raise GpuFault from error
        if result != 64.0**3:
            raise GpuFault


def machine_memory() -> tuple[int, int]:
    """Bytes of this machine's memory: available to a new program, and in all (Linux; elsewhere taken as plenty)."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return (int(lines["MemAvailable"].split()[0]) * 1024, int(lines["MemTotal"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        return 64 * GIB, 64 * GIB


def _with_path(bundle: Bundle, part: Weights) -> Bundle:
    field = {"vae": "vae", "refiner": "refiner"}.get(part.role, "main")
    return replace(bundle, **{field: part})
