"""Every model of this worker behind one door: the `Generator` that the task calls.

Knows which task runs on which model and what to try when memory runs out. Knows neither how a picture is made nor how
weights are loaded. `models`, `controlnet_types`, `describe`, `estimate` and `check` only read, in any thread; all else
runs in the one GPU thread. Importing this module imports no torch.
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
"""Of weights, from the disk to where they run: about what safetensors reads from a local one."""
READY_SECONDS = 5.0
"""Importing torch, diffusers and their pipelines, measured with warm files."""
log = logging.getLogger(__name__)


class Engine:
    """Loads models when they are needed, keeps as many as fit, runs jobs. Implements `protocol.Generator`."""

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
        """The names that a request of this task may ask for, the default first; any thread."""
        return self.registry.models(task_type)

    def controlnet_types(self) -> tuple[str, ...]:
        """The types of control picture that a request may name; any thread."""
        return self.registry.controlnet_types()

    @together()
    def describe(self, task_type: TaskType, model: str | None = None) -> ModelDefaults:
        """What a model of a task says of itself; small files only, any thread.

        Raises:
            ModelUnavailable: the task is not served, no model is configured for it, its weights would have to be
                downloaded and may not, or the safety checker that the operator asked for is not there; the message
                names the variable to set.
        """
        self.registry.safety()
        spec = self.registry.spec(task_type, model)
        self.registry.check_configs(spec)
        self._check_downloads(spec.all)
        return self.registry.describe(task_type, model)

    @together()
    def estimate(self, request: "Request", params: Params) -> Estimate | None:
        """How long a job will take, piece by piece; small files only, any thread. None: its model is not here yet.

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
        """Refuse LoRA files that no model of this task can take; their headers only, any thread.

        Raises:
            InvalidInput: naming each with what is wrong with it.
            DownloadFailed: one is not there any more.
        """
        check_loras(sources.loras, request.task_type)

    def prepare(self, request: "Request", params: Params, control: Control) -> Placement:
        """Have the weights of a job where they will run; what stands in their way is evicted, oldest use first.

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
        """Run one job; yields each image as soon as it is decoded, or one clip.

        A job that runs out of memory goes on once from where it failed, with everything else off the GPU, its own
        networks brought there one at a time, and the VAE working in tiles: what was denoised is not denoised again.

        Raises:
            InvalidInput (a LoRA that does not go with the model), DownloadFailed (its file is gone), OutOfMemory,
            GpuFault, Internal (no usable picture), or what `control.raise_if_stopped` raises, within one denoising
            step.
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
        """Load models before the first job: those of `tasks`, or all that are on this machine and fit side by side.

        Returns the tasks that are ready. A task that cannot be had is logged and left for its first job to report.

        Raises:
            GpuFault, or what `control.raise_if_stopped` raises.
        """
        ready: list[str] = []
        if self._reads_ahead:
            # Before anything imports torch.
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
        """The tasks that are configured and, as far as the disk shows, can be served; tries the GPU if there is one.

        Raises:
            ModelUnavailable: not one task can be served, or not the safety check that the operator asked for.
            GpuFault: this machine shows a GPU, and a small computation on it does not work.
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
        """Do a little of what makes later jobs faster, while none is there; whether there was anything to do."""
        return self._compiler is not None and self._compiler.piece(self._cache.entries)

    @property
    def loaded(self) -> dict[str, str]:
        """Name of each loaded model -> `resident`, `partly` or `offloaded`."""
        return self._cache.modes

    def unload(self) -> None:
        """Let go of every model."""
        self._safety, self._loras = None, None
        self._cache.clear()

    def _models(self, tasks: Sequence[TaskType] | None) -> Iterator[tuple[TaskType, str | None]]:
        """The models of `tasks` where a request names none; without `tasks` every model of every task.

        None stands for the model that the registry chooses. A task's second model might make its first one leave.
        """
        if tasks is not None:
            yield from ((task, None) for task in tasks)
            return
        for task in self.registry.tasks:
            for model in self.registry.models(task) or (None,):
                yield task, model

    def _files(self, tasks: Sequence[TaskType] | None) -> list[Path]:
        """The files that preloading these tasks will read from the disk, each once."""
        found: list[Path] = []
        for task, model in self._models(tasks):
            with suppress(JobError):  # preloading tells it
                found += spec_files(self.registry.spec(task, model), cuda=self.registry.cuda)
        return list(dict.fromkeys(found))

    def _know_card(self) -> None:
        """Tell the estimator which card this is, once: only the GPU thread may ask."""
        if self.registry.cuda and self._estimator.card is None:
            self._estimator.card = device.name()

    def _native(self, task: TaskType, model: str | None) -> Size:
        return Size.native(task, self.registry.describe(task, model))

    def _leaves_for_later(self, task: TaskType, model: str | None, spec: ModelSpec) -> str | None:
        """Why a model that PRELOAD_TASKS does not name is left for its first job; None: it is loaded now."""
        if spec in self._cache:
            return None
        if any(part.kind == "hub" and not part.optional for part in spec.all):
            return "its weights are not on this machine yet; naming it in PRELOAD_TASKS downloads them"
        placement = self._cache.decide(spec, self._native(task, model))
        beside = placement.mode in {"resident", "partly"} and not placement.evicted
        return None if beside else placement.reason

    def _adapted(self, entry: Loaded, sources: Sources, control: Control) -> AbstractContextManager[None]:
        """In the body, the job's LoRAs are on the model's networks."""
        from worker.engine.adapters.lora import LoraStore, applied_loras

        self._loras = self._loras or LoraStore()
        return applied_loras(entry.parts, entry.offloader, sources.loras, self._loras, control)

    def _compiled(self, entry: Loaded, params: Params, sources: Sources) -> AbstractContextManager[None]:
        """In the body, the networks run compiled as far as they are; with LoRAs and the like on them, as they are."""
        if self._compile == "off" or entry.spec.family == "upscaler":
            return nullcontext()
        from worker.engine.speed.compile import Compiler

        if self._compiler is None:
            card = device.name() if self.registry.cuda else "cpu"
            self._compiler = Compiler(self._compile, self._compile_folder, card=card, attention=self._attention)
        hangs = sources.loras or sources.references or sources.controls or getattr(params, "step_cache", None)
        return self._compiler.at_work(entry, plain=bool(hangs))

    def _check_downloads(self, parts: Sequence[WeightSource]) -> None:
        """Refuse weights that would have to be downloaded and may not be.

        Raises:
            ModelUnavailable: the message names their variable.
        """
        for part in () if self.registry.may_download else parts:
            if part.kind == "hub" and not part.optional:
                raise ModelUnavailable("model_unavailable.no_downloads", variable=part.variable)

    def _take(self, spec: ModelSpec, size: Size, control: Control) -> Placement:
        """`ModelCache.take` for a job, which may wait for a download only where the operator allows that."""
        return self._cache.take(spec, size, control, downloads=self.registry.may_download)

    def _spec(self, request: "Request", params: Params) -> ModelSpec:
        """What a job runs on: its model, or its upscaler alone where nothing is drawn."""
        if params.draws_nothing and (alone := self._upscaler(params)) is not None:
            return alone
        return self.registry.spec(request.task_type, request.model, request)

    def _upscaler(self, params: Params) -> ModelSpec | None:
        """The network that makes a job's pictures larger; None: it has none, or wants none.

        Raises:
            ModelUnavailable: the one that is configured cannot be had.
        """
        return self.registry.upscaler() if isinstance(params, ImageParams) and params.upscale is not None else None

    def _size(self, spec: ModelSpec, request: "Request", params: Params) -> Size:
        return self._tile(spec) if spec.family == "upscaler" else Size.of(request.task_type, params)

    def _tile(self, upscaler: ModelSpec) -> Size:
        """The largest tile that an upscaler has room for beside what is on the GPU now."""
        cuda = self.registry.cuda
        free, _ = device.memory(cuda=cuda)
        tile = upscale_tile(upscaler, free - SLACK - sum(spec_bytes(upscaler, cuda=cuda).values()), cuda=cuda)
        return Size(tile, tile)

    def _enlarged(self, picture: Generated, job: Any, params: ImageParams, control: Control) -> Generated:
        """A finished picture at its final size.

        Raises:
            OutOfMemory: not even in the smallest tiles; the job's phase says where.
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
        # Details that were drawn anew may show something else: the picture is checked again.
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
                # No for loop around the yield: an error of the picture's receiver is not to be read as the model's.
                with translated("run"):
                    picture = next(pictures, None)
                if picture is None:
                    break
                picture = self._checked(picture)
                yield picture if finish is None else finish(picture)
        entry.offloader.rest()

    def _have_safety(self, control: Control | None = None) -> None:
        """Load the safety checker, once, where the operator asked for one.

        It comes before the models, which are then placed in what it leaves free.
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
