"""The `Generator` of this worker: loads and runs all of its models.

`models`, `controlnet_types`, `describe`, `estimate` and `check` only read, and are thread-safe; everything else runs in
the GPU thread. Importing this module does not import torch. Knows which model serves a task and what to try when memory
runs out; knows neither how a picture is made nor how weights are loaded.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.api.params import ImageParams, ModelDefaults, Params
from worker.core.config import Settings
from worker.core.errors import GpuFault, JobError, ModelUnavailable, OutOfMemory
from worker.core.types import Control, Progress, Sources, TaskType
from worker.engine.adapters.lora_file import bytes_of, check_loras
from worker.engine.estimate import Estimate, Estimator, Stopwatch
from worker.engine.memory import device
from worker.engine.memory.cache import Loaded, ModelCache
from worker.engine.memory.footprint import spec_bytes, spec_files
from worker.engine.memory.placement import SLACK
from worker.engine.memory.read_ahead import read_ahead
from worker.engine.memory.room import Phase, Size, upscale_tile, upscaler_layout
from worker.engine.models.kept import together
from worker.engine.models.registry import ModelRegistry, ModelSpec, WeightSource
from worker.engine.protocol import Generated, GeneratedImage, Placement
from worker.engine.safety import SafetyChecker
from worker.engine.speed.attention import missing
from worker.engine.vendor_errors import translated
from worker.engine.work import Networks

if TYPE_CHECKING:
    from worker.api.request import Request
    from worker.engine.adapters.lora import LoraStore
    from worker.engine.speed.compile import Compiler

BYTES_A_SECOND = 1.5e9
"""Loading speed of weights from a local disk, about that of safetensors."""
READY_SECONDS = 5.0
"""Time to import torch, diffusers and the pipelines, measured with a warm page cache."""
log = logging.getLogger(__name__)


class Engine:
    """Implements `protocol.Generator`: loads models on demand, keeps as many as fit, and runs jobs."""

    def __init__(self, settings: Settings, *, registry: ModelRegistry | None = None) -> None:
        self.registry = registry or ModelRegistry(settings)
        self._cache = ModelCache(self.registry)
        self._safety: SafetyChecker | None = None
        self._loras: LoraStore | None = None
        self._estimator = Estimator()
        self._compile, self._compile_folder = settings.compile, settings.compile_cache_dir
        self._compiler: Compiler | None = None
        self._attention = settings.attention
        self._reads_ahead = settings.read_ahead

    def models(self, task_type: TaskType) -> tuple[str, ...]:
        """As `Generator.models`."""
        return self.registry.models(task_type)

    def controlnet_types(self) -> tuple[str, ...]:
        """As `Generator.controlnet_types`."""
        return self.registry.controlnet_types()

    @together()
    def describe(self, task_type: TaskType, model: str | None = None) -> ModelDefaults:
        """As `Generator.describe`.

        Raises:
            ModelUnavailable: the task is not served or has no model, its weights may not be downloaded, or the
                configured safety checker is missing; the message names the variable to set.
        """
        self.registry.safety()
        spec = self.registry.spec(task_type, model)
        self.registry.check_configs(spec)
        self._check_downloads(spec.all)
        return self.registry.describe(task_type, model)

    @together()
    def estimate(self, request: "Request", params: Params) -> Estimate | None:
        """As `Generator.estimate`; None if the model's weights are not on this machine yet.

        Raises:
            ModelUnavailable: as `describe`.
        """
        spec, upscaler = self._spec(request, params), self._upscaler(params)
        self._check_downloads(spec.extras)
        networks = self.registry.read(spec, Networks.of)
        if networks is None:
            return None
        if upscaler is not None:
            networks = replace(networks, upscaler=upscaler_layout(upscaler))
        loading = 0.0
        if spec not in self._cache:
            loading = READY_SECONDS
        loading += self._cache.bytes_to_load(spec) / BYTES_A_SECOND
        from_image = request.task_type not in {TaskType.TEXT2IMG, TaskType.TEXT2VIDEO}
        return self._estimator.estimate(networks, params, from_image=from_image, load_seconds=loading)

    def check(self, request: "Request", sources: Sources) -> None:
        """As `Generator.check`.

        Raises:
            InvalidInput: naming each file and its problem.
            DownloadFailed: a file no longer exists.
        """
        check_loras(sources.loras, request.task_type)

    def prepare(self, request: "Request", params: Params, control: Control) -> Placement:
        """As `Generator.prepare`; evicts the least recently used models if necessary.

        Raises:
            ModelUnavailable, OutOfMemory, GpuFault, DiskFull, or what `control.raise_if_stopped` raises.
        """
        self._know_card()
        self._have_safety(control)
        spec, upscaler = self._spec(request, params), self._upscaler(params)
        if upscaler is not None and upscaler not in self._cache:
            self._take(upscaler, self._tile(upscaler), control)
        return self._take(spec, self._size(spec, request, params), control)

    def generate(self, request: "Request", params: Params, sources: Sources, control: Control) -> Iterator[Generated]:
        """As `Generator.generate`.

        A job that runs out of memory continues once from where it failed, with all other models off the GPU, its own
        networks loaded one at a time, and a tiled VAE. Finished denoising is not repeated.

        Raises:
            InvalidInput (a LoRA does not fit the model), DownloadFailed (its file is gone), OutOfMemory, GpuFault,
            Internal (no usable picture), or within one denoising step what `control.raise_if_stopped` raises.
        """
        spec = self._spec(request, params)
        self.check(request, sources)
        size = replace(self._size(spec, request, params), beside=bytes_of(sources.loras))
        self._have_safety(control)
        placement = self._take(spec, size, control)
        estimate = self.estimate(request, params)
        control = watch = Stopwatch(control, estimate)
        free, _ = device.memory(cuda=self.registry.cuda)
        entry, done = self._cache[spec], 0
        with self._adapted(entry, sources, control):
            with translated("run"):
                job = self._job(entry, params, sources, control)
            finish: Callable[[Generated], Generated] | None = None
            if isinstance(params, ImageParams) and params.upscale is not None:
                finish = functools.partial(self._enlarged, job=job, params=params, control=control)
            try:
                with self._compiled(entry, params, sources):
                    for picture in self._run(entry, job, first=0, tiles=placement.tiles, finish=finish):
                        done += 1
                        yield picture
            except OutOfMemory:
                facts = {"action": "out_of_memory", "phase": job.phase, "tiles": placement.tiles}
                log.warning("out of memory: going on in less", extra=facts)
            else:
                self._estimator.learn(spec.family, watch.measured, params)
                return
            phase: Phase = "decode_in_tiles" if placement.tiles and job.phase == "decode" else job.phase
            self._cache.ran_out(spec, size, phase, free)
            yield from self._run(entry, job, first=done, tiles=True, finish=finish)
        control.warn("the GPU ran short of memory, so this was made the slow way; a smaller size would be faster")

    def preload(self, tasks: Sequence[TaskType] | None, control: Control) -> tuple[str, ...]:
        """Load the models of `tasks`, or all models on this machine that fit side by side.

        Returns:
            The tasks that are ready. A task that cannot be loaded is logged; its first job reports the error.

        Raises:
            GpuFault, or what `control.raise_if_stopped` raises.
        """
        ready: list[str] = []
        if self._reads_ahead:
            # Before torch is imported.
            read_ahead(self._files(tasks), device.memory(cuda=False)[0] // 2)
        if self.registry.cuda:
            log.info("%s", device.describe_gpu(), extra={"action": "gpu"})
        try:
            self._know_card()
            self._have_safety(control)
        except GpuFault:
            raise
        except JobError as error:
            log.warning("no task is preloaded: %s", error, extra={"action": "preload"})
            return ()
        for task, model in self._models(tasks):
            try:
                spec = self.registry.spec(task, model)
                if tasks is None and (reason := self._leaves_for_later(task, model, spec)):
                    log.info("%s is not preloaded: %s", task, reason, extra={"action": "preload", "task_type": task})
                    continue
                self._cache.take(spec, self._native(task, model), control)
                ready.append(task)
            except GpuFault:
                raise
            except JobError as error:
                log.warning("%s is not preloaded: %s", task, error, extra={"action": "preload", "task_type": task})
        return tuple(dict.fromkeys(ready))

    def health(self) -> tuple[str, ...]:
        """Return the tasks that can be served, as far as the disk shows; also tests the GPU, if there is one.

        Raises:
            ModelUnavailable: no task can be served, or the configured safety checker is missing.
            GpuFault: this machine has a GPU on which a small computation fails.
        """
        if self.registry.cuda:
            device.try_gpu()
        self._know_card()
        self._have_safety()
        if (lacks := missing(self._attention, cuda=self.registry.cuda)) is not None:
            log.warning("%s", lacks, extra={"action": "health"})
        for name in self.registry.unmatched_defaults():
            log.warning("MODEL_DEFAULTS: no model is called %r", name, extra={"action": "health"})
        for name in self.registry.unmatched_accelerations():
            log.warning("ACCELERATIONS: no model is called %r", name, extra={"action": "health"})
        served: list[str] = []
        problem: JobError | None = None
        for task, model in self._models(None):
            try:
                self.registry.describe(task, model)
                served.append(task)
            except JobError as error:
                log.warning("%s is not served: %s", task, error, extra={"action": "health", "task_type": task})
                problem = problem or error
        if not served:
            raise problem or ModelUnavailable()
        return tuple(dict.fromkeys(served))

    def use_idle_moment(self) -> bool:
        """As `Generator.use_idle_moment`."""
        return self._compiler is not None and self._compiler.piece(self._cache.entries)

    @property
    def loaded(self) -> dict[str, str]:
        """Return the loaded models: name -> `resident`, `partly` or `offloaded`."""
        return self._cache.modes

    def unload(self) -> None:
        """Unload every model."""
        self._safety, self._loras = None, None
        self._cache.clear()

    def _models(self, tasks: Sequence[TaskType] | None) -> Iterator[tuple[TaskType, str | None]]:
        """Yield the default models of `tasks`; without `tasks`, every model of every task.

        A model of None is the registry's choice. Only defaults, because a task's second model might evict its first.
        """
        if tasks is not None:
            yield from ((task, None) for task in tasks)
            return
        for task in self.registry.tasks:
            for model in self.registry.models(task) or (None,):
                yield task, model

    def _files(self, tasks: Sequence[TaskType] | None) -> list[Path]:
        """Return the files that preloading these tasks reads, without duplicates."""
        found: list[Path] = []
        for task, model in self._models(tasks):
            with suppress(JobError):  # preloading reports it
                found += spec_files(self.registry.spec(task, model), cuda=self.registry.cuda)
        return list(dict.fromkeys(found))

    def _know_card(self) -> None:
        """Tell the estimator the card's name, once: only the GPU thread may query it."""
        if self.registry.cuda and self._estimator.card is None:
            self._estimator.card = device.name()

    def _native(self, task: TaskType, model: str | None) -> Size:
        return Size.native(task, self.registry.describe(task, model))

    def _leaves_for_later(self, task: TaskType, model: str | None, spec: ModelSpec) -> str | None:
        """Return why a model is left for its first job instead of being preloaded; None: it is loaded now."""
        if spec in self._cache:
            return None
        if any(part.kind == "hub" and not part.optional for part in spec.all):
            return "its weights are not on this machine yet; naming it in PRELOAD_TASKS downloads them"
        placement = self._cache.decide(spec, self._native(task, model))
        beside = placement.mode in {"resident", "partly"} and not placement.evicted
        return None if beside else placement.reason

    def _adapted(self, entry: Loaded, sources: Sources, control: Control) -> AbstractContextManager[None]:
        """Apply the job's LoRAs to the model's networks for the body."""
        from worker.engine.adapters.lora import LoraStore, applied_loras

        self._loras = self._loras or LoraStore()
        return applied_loras(entry.parts, entry.offloader, sources.loras, self._loras, control)

    def _compiled(self, entry: Loaded, params: Params, sources: Sources) -> AbstractContextManager[None]:
        """Run the compiled networks in the body, unless the job adds LoRAs or other adapters to them."""
        if self._compile == "off" or entry.spec.family == "upscaler":
            return nullcontext()
        from worker.engine.speed.compile import Compiler

        if self._compiler is None:
            card = device.name() if self.registry.cuda else "cpu"
            self._compiler = Compiler(self._compile, self._compile_folder, card=card, attention=self._attention)
        hangs = sources.loras or sources.references or sources.controls or getattr(params, "step_cache", None)
        return self._compiler.at_work(entry, plain=bool(hangs))

    def _check_downloads(self, parts: Sequence[WeightSource]) -> None:
        """Refuse weights that need a download which is not allowed.

        Raises:
            ModelUnavailable: the message names their variable.
        """
        for part in () if self.registry.may_download else parts:
            if part.kind == "hub" and not part.optional:
                raise ModelUnavailable("model_unavailable.no_downloads", variable=part.variable)

    def _take(self, spec: ModelSpec, size: Size, control: Control) -> Placement:
        """As `ModelCache.take`; a job waits for a download only if the operator allows it."""
        return self._cache.take(spec, size, control, downloads=self.registry.may_download)

    def _spec(self, request: "Request", params: Params) -> ModelSpec:
        """Return the weights of a job: its model, or only its upscaler if nothing is drawn."""
        if params.draws_nothing and (alone := self._upscaler(params)) is not None:
            return alone
        return self.registry.spec(request.task_type, request.model, request)

    def _upscaler(self, params: Params) -> ModelSpec | None:
        """Return the network that enlarges a job's pictures; None: none is configured, or none is needed.

        Raises:
            ModelUnavailable: the configured one is missing or invalid.
        """
        return self.registry.upscaler() if isinstance(params, ImageParams) and params.upscale is not None else None

    def _size(self, spec: ModelSpec, request: "Request", params: Params) -> Size:
        return self._tile(spec) if spec.family == "upscaler" else Size.of(request.task_type, params)

    def _tile(self, upscaler: ModelSpec) -> Size:
        """Return the largest tile for which the GPU has room now."""
        cuda = self.registry.cuda
        free, _ = device.memory(cuda=cuda)
        tile = upscale_tile(upscaler, free - SLACK - sum(spec_bytes(upscaler, cuda=cuda).values()), cuda=cuda)
        return Size(tile, tile)

    def _enlarged(self, picture: Generated, job: Any, params: ImageParams, control: Control) -> Generated:
        """Enlarge a finished picture to its final size.

        Raises:
            OutOfMemory: even with the smallest tiles; the job's phase says where.
        """
        upscale, upscaler = params.upscale, self._upscaler(params)
        if upscale is None or not isinstance(picture, GeneratedImage):
            return picture
        from worker.engine.upscale import resized, upscaled

        if upscaler is None:
            pixels = resized(picture.pixels, upscale.width, upscale.height)
        else:
            size = self._tile(upscaler)
            self._take(upscaler, size, control)
            entry, job.phase = self._cache[upscaler], "upscale"

            def tell(share: float) -> None:
                control.report(job.moment("upscale", share))
                control.raise_if_stopped()

            tell(0.0)
            network: Any = entry.parts.modules()["upscaler"]
            where = device.device(cuda=self.registry.cuda)
            pixels = upscaled(network, picture.pixels, upscale.factor, tile=size.width, device=where, tell=tell)
            entry.offloader.rest()
        if not upscale.creativity:
            return replace(picture, pixels=pixels)
        with translated("run"):
            drawn = replace(picture, pixels=job.drawn_anew(pixels, picture.seed))
        # Newly drawn details may change what the picture shows, so it is checked again.
        checked = self._checked(drawn)
        return replace(checked, nsfw=True) if picture.nsfw else checked

    def _run(
        self,
        entry: Loaded,
        job: Any,
        *,
        first: int,
        tiles: bool,
        finish: Callable[[Generated], Generated] | None = None,
    ) -> Iterator[Generated]:
        """The job's pictures from `first` on, each checked, then `finish`ed, before it is handed out."""
        from worker.engine.vae import in_tiles

        with self._cache.cleanly(), in_tiles(entry.parts.vae, tiles=tiles):
            with translated("run"):
                pictures = job.run(first)
            while True:
                # No for loop around the yield: an error of the receiver must not be taken for the model's.
                with translated("run"):
                    picture = next(pictures, None)
                if picture is None:
                    break
                picture = self._checked(picture)
                yield picture if finish is None else finish(picture)
        entry.offloader.rest()

    def _have_safety(self, control: Control | None = None) -> None:
        """Load the configured safety checker, once.

        It is loaded before the models, which are placed in the memory that it leaves free.
        """
        weights = self.registry.safety()
        if weights is not None and self._safety is None:
            if control is not None:
                control.raise_if_stopped()
                control.report(Progress("loading", 0, 1))
            self._safety = SafetyChecker(weights, cuda=self.registry.cuda, control=control)

    def _checked(self, generated: Generated) -> Generated:
        return generated if self._safety is None else replace(generated, nsfw=self._safety.objects_to(generated))

    def _job(self, entry: Loaded, params: Params, sources: Sources, control: Control) -> Any:
        from worker.engine.families.sdxl import SdxlJob
        from worker.engine.families.upscale import UpscaleJob
        from worker.engine.families.wan import WanJob

        job: Any = {"sdxl": SdxlJob, "wan": WanJob, "upscaler": UpscaleJob}[entry.spec.family]
        where = device.device(cuda=self.registry.cuda)
        return job(entry.parts, where, params, sources, control, attention=self._attention)
