"""Resolves the settings' model variables to the weights that serve each task. Imports no torch.

Reads only small JSON files beside the weights. Error messages name variables, never paths, because clients see them.
"""

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from worker.api.params import EndImage, ModelDefaults
from worker.api.request import ImageRequest, Request
from worker.api.validation_errors import not_one_of
from worker.core.config import PreviewFactors, Settings, has_cuda_driver, named_sources
from worker.core.errors import InvalidInput, ModelUnavailable
from worker.core.messages import text
from worker.core.types import ControlType, Quantized, TaskType
from worker.engine.models import control_types, few_steps, hub
from worker.engine.models.checkpoint import (
    components,
    header,
    own_words,
    read_json,
    schedule_of,
    sdxl_defaults,
    wan_defaults,
)
from worker.engine.models.controlnet_files import ControlNetFiles, controlnet_files
from worker.engine.models.identity import Identity, Options, identify
from worker.engine.models.ip_adapter_files import IpAdapterFiles, ip_adapter_files
from worker.engine.models.kept import Kept, look
from worker.engine.models.roles import Role, file_problem, folder_problem
from worker.engine.models.weight_files import is_whole

T = TypeVar("T")

_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
"""Suffixes of values that name a single file. All but `.safetensors` are refused, by their content."""

Family = Literal["sdxl", "wan", "upscaler"]
Kind = Literal["folder", "file", "hub", "demo"]

SDXL_SIDE = 1024
"""SDXL's native side, in pixels."""
SDXL_BASE = "stabilityai/stable-diffusion-xl-base-1.0"
SDXL_VAE = "madebyollin/sdxl-vae-fp16-fix"
SDXL_PROMPT_WIDTH = 2048
"""CLIP ViT-L's 768 plus OpenCLIP ViT-bigG's 1280: https://arxiv.org/abs/2307.01952, table 1."""
SAFETY = "stable-diffusion-v1-5/stable-diffusion-v1-5"
"""Its `safety_checker` folder has the weights of CompVis/stable-diffusion-safety-checker, which are pickled there."""
WAN_T2V = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
PINNED = {
    SDXL_BASE: f"{SDXL_BASE}@462165984030d82259a11f4367a4eed129e94a7b",
    SDXL_VAE: f"{SDXL_VAE}@207b116dae70ace3637169f1ddd2434b91b3a8cd",
    SAFETY: f"{SAFETY}@451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    WAN_T2V: f"{WAN_T2V}@0fad780a534b6463e45facd96134c9f345acfa5b",
}
"""The defaults, each pinned to a commit, so that changes of the repository do not reach a worker."""

_DEMO_FOLDERS: dict[Role, str] = {"sdxl": "sdxl", "refiner": "sdxl-refiner", "wan": "wan"}


@dataclass(frozen=True, slots=True)
class WeightSource:
    """The weights that one variable names."""

    variable: str
    role: Role
    kind: Kind
    name: str
    """Its name in responses: `demo`, the hub id, or the folder's or file's name."""
    path: Path | None
    """None: a hub id that is not on this machine yet, or a `demo` that is built when loaded."""
    revision: str | None = None
    """The pinned revision of a hub id."""
    called: str | None = None
    """The operator's name for it, if there are several."""
    optional: bool = False
    """Whether the worker may go on without it, because the operator did not name it."""

    @property
    def network(self) -> str:
        """The name of an extra among its model's networks."""
        return self.role if self.called is None else f"{self.role}_{self.called}"

    @property
    def hub_id(self) -> str:
        """The hub id, `org/name` or `org/name@revision`."""
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The weights that are loaded together for a task. Tasks with the same spec share every network."""

    family: Family
    main: WeightSource
    vae: WeightSource | None = None
    refiner: WeightSource | None = None
    scheduler: Options = ()
    """Overrides of the scheduler's config that describe how the model was trained."""
    preview_factors: PreviewFactors | None = None
    """The map from latents to colours, from its folder or the operator; None: the published one for its kind."""
    quantize: Quantized | None = None
    """The 8-bit format of the denoiser's large layers; None: not quantised."""
    extras: tuple[WeightSource, ...] = ()
    """Networks that a job uses beside the model: loaded on first use, and on the GPU only while such a job runs."""

    @property
    def name(self) -> str:
        """A short name for logs and placement, unique among the models of a worker."""
        return f"{self.family}:{self.main.called or self.main.name}" + (
            "+i2v" if self.main.variable == "WAN_I2V_MODEL" else ""
        )

    @property
    def all(self) -> tuple[WeightSource, ...]:
        """Every part, the main one first."""
        return tuple(part for part in (self.main, self.vae, self.refiner, *self.extras) if part is not None)

    def having(self, part: WeightSource) -> "ModelSpec":
        """Return this spec with `part` in place of the part of the same role."""
        match part.role:
            case "vae":
                return replace(self, vae=part)
            case "refiner":
                return replace(self, refiner=part)
            case "ip_adapter" | "controlnet" | "depth" | "preview":
                extras = (part if part.network == old.network else old for old in self.extras)
                return replace(self, extras=tuple(extras))
            case _:
                return replace(self, main=part)


class ModelRegistry:
    """The configured models of one worker. Results are cached until the files they depend on change (`kept`)."""

    def __init__(
        self,
        settings: Settings,
        *,
        cuda: bool | None = None,
        where: tuple[hub.Place, ...] | None = None,
        kept: Kept | None = None,
    ) -> None:
        self._settings = settings
        self._cuda = has_cuda_driver() if cuda is None else cuda
        self._where = where
        self._kept = Kept() if kept is None else kept

    @property
    def cuda(self) -> bool:
        """Whether the models run on a GPU, which means half precision, and the real models by default."""
        return self._cuda

    @property
    def _quantize(self) -> Quantized | None:
        return None if self._settings.quantize == "none" else self._settings.quantize

    @functools.cached_property
    def _places(self) -> tuple[hub.Place, ...]:
        return hub.default_places(self._settings.models_dir) if self._where is None else self._where

    def spec(self, task_type: TaskType, model: str | None = None, request: Request | None = None) -> ModelSpec:
        """Return the weights of a task, with the extras of `request`; `model` None: the task's first model.

        Raises:
            ModelUnavailable: the task is not served, or its model is not configured, missing or invalid.
            InvalidInput: no model of this task has this name.
        """
        if task_type not in self.tasks:
            raise ModelUnavailable("model_unavailable.task", task=task_type, tasks=", ".join(self.tasks))
        spec = self._kept.get(("spec", task_type, model), lambda: self._spec(task_type, model))
        if request is None or spec.family == "upscaler":
            return spec
        return replace(spec, extras=self._extras(spec.main, request))

    def _spec(self, task_type: TaskType, model: str | None) -> ModelSpec:
        if task_type is TaskType.UPSCALE and (alone := self.upscaler()) is not None and not self._may_draw(model):
            return alone
        spec = self._wan(task_type, model) if task_type.is_video else self._sdxl(task_type, model)
        return replace(spec, quantize=self._quantize)

    def read(self, spec: ModelSpec, reader: Callable[[ModelSpec], T]) -> T:
        """Return what `reader` finds in a model's files; cached until they change."""

        def found() -> T:
            look(*(part.path for part in spec.all if part.path is not None))
            return reader(spec)

        return self._kept.get((reader, spec.family, spec.all), found)

    def upscaler(self) -> ModelSpec | None:
        """Return the network that enlarges finished pictures of any model; None: none is configured.

        Raises:
            ModelUnavailable: what is configured is not there or is something else.
        """
        value = self._settings.upscaler_model
        if value is None and not self._cuda and self._settings.sdxl_model in {None, "demo"}:
            value = "demo"
        if value is None:
            return None
        weights = self._weights("UPSCALER_MODEL", "upscaler", value)
        if weights.kind == "hub" and not self.may_download:
            raise ModelUnavailable("model_unavailable.no_downloads", variable=weights.variable)
        return ModelSpec("upscaler", weights)

    def _may_draw(self, model: str | None) -> bool:
        """Whether there is an image model beside the upscaler, on this machine or as an allowed download."""
        try:
            spec = self._sdxl(TaskType.UPSCALE, model)
        except ModelUnavailable:
            return False
        return self.may_download or all(part.kind != "hub" or part.optional for part in spec.all)

    def describe(self, task_type: TaskType, model: str | None = None) -> ModelDefaults:
        """Return the defaults of the task's model: native size, steps, guidance scale. Reads small files only.

        Raises:
            ModelUnavailable, InvalidInput: as `spec`.
        """

        def described() -> ModelDefaults:
            spec = self.spec(task_type, model)
            found = replace(self._described(spec, task_type), quantize=spec.quantize)
            return found if self._is_first(spec) else replace(found, is_first=False)

        return self._kept.get(("describe", task_type, model), described)

    def _is_first(self, spec: ModelSpec) -> bool:
        """Whether it is the default model of the first task that can be served."""
        for task in self.tasks:
            with contextlib.suppress(ModelUnavailable):
                return self.spec(task).name == spec.name
        return True

    def _described(self, spec: ModelSpec, task_type: TaskType) -> ModelDefaults:
        main = spec.main
        if spec.family == "upscaler":
            native = (SDXL_SIDE, SDXL_SIDE)
            return ModelDefaults(main.name, *native, 1, 1.0, size_multiple=1, upscaler=main.name, draws=False)
        name, own = main.called or main.name, self._own(main)
        if main.called is not None:
            own.pop("name", None)
        folder = main.path if main.kind == "folder" else None
        if spec.family == "sdxl":
            found = sdxl_defaults(name, folder, dict(spec.scheduler), few_steps.named(main.name), own)
            # The refiner continues the base's noise schedule, which an EDM model does not share.
            upscaler, control_types = None, None
            with contextlib.suppress(ModelUnavailable):  # reported to a request that uses it
                upscaler = self.upscaler()
            with contextlib.suppress(ModelUnavailable):  # as above
                control_types = tuple(self._controlnets(main))
            return replace(
                found,
                has_refiner=spec.refiner is not None and found.schedulers != (),
                has_ip_adapter=self._ip_adapter_value(main) is not None,
                makes_depth=self._settings.depth_model is not None,
                control_types=control_types,
                upscaler=None if upscaler is None else upscaler.main.name,
            )
        found = wan_defaults(name, folder, _wan_kind(main, task_type), own)
        if main.path is not None:
            found = replace(found, has_experts="transformer_2" in components(main.path))
        if task_type is not TaskType.IMG2VIDEO:
            return found
        end_image = _end_image(main, held=bool(own.get("hold_end_image")))
        return replace(found, end_image=end_image, most_chunks=_most_chunks(main))

    @property
    def tasks(self) -> tuple[TaskType, ...]:
        """Return the tasks that this endpoint serves."""
        return self._settings.served_tasks

    @functools.cached_property
    def may_download(self) -> bool:
        """Whether weights may be downloaded while a job waits.

        By default: yes, unless a configured model was on this machine at the first call. An operator who has put
        weights in place does not expect a client's request to download others.
        """
        if self._settings.allow_downloads is not None:
            return self._settings.allow_downloads
        named = {"SDXL_MODEL": self._settings.sdxl_model, "WAN_MODEL": self._settings.wan_model}
        named["WAN_I2V_MODEL"] = self._settings.wan_i2v_model
        for variable in (variable for variable, value in named.items() if value):
            for name in self._choices(variable):
                with contextlib.suppress(ModelUnavailable):
                    if self._main(variable, name).path is not None:
                        return False
        if self._settings.upscaler_model:
            with contextlib.suppress(ModelUnavailable):
                return self._weights("UPSCALER_MODEL", "upscaler", self._settings.upscaler_model).kind == "hub"
        return True

    def models(self, task_type: TaskType) -> tuple[str, ...]:
        """Return the model names of a task, the default first; empty if nothing is configured."""
        if task_type not in self.tasks:
            return ()
        if not task_type.is_video:
            return tuple(self._choices("SDXL_MODEL"))
        if task_type is TaskType.TEXT2VIDEO:
            return tuple(self._choices("WAN_MODEL"))
        return tuple(dict.fromkeys((*self._choices("WAN_I2V_MODEL"), *self._both())))

    def unmatched_defaults(self) -> tuple[str, ...]:
        """Return the names in MODEL_DEFAULTS that match no configured model, and so have no effect."""
        known = self._known_names()
        return tuple(name for name in self._settings.model_defaults or {} if name not in known)

    def unmatched_accelerations(self) -> tuple[str, ...]:
        """The same for ACCELERATIONS, whose names may also be a family (`sdxl`, `wan`) or a model's own name."""
        known = self._known_names() | {"sdxl", "wan"}
        for task in self.tasks:
            for model in self.models(task):
                with contextlib.suppress(ModelUnavailable):
                    known.add(self.describe(task, model).name)
        return tuple(name for name in self._settings.accelerations or {} if name not in known)

    def _known_names(self) -> set[str]:
        choices = [self._choices(variable) for variable in ("SDXL_MODEL", "WAN_MODEL", "WAN_I2V_MODEL")]
        return {word for each in choices for name, source in each.items() for word in (name, _own_name(source))}

    def safety(self) -> WeightSource | None:
        """Return the safety checker for all results; None: none is configured.

        Raises:
            ModelUnavailable: what is configured is not there or is something else.
        """
        if self._settings.safety_checker == "off":
            return None
        return self._weights("SAFETY_MODEL", "safety", self._settings.safety_model or PINNED[SAFETY])

    def ip_adapter(self, main: WeightSource) -> WeightSource | None:
        """Return the IP-Adapter of an SDXL model; None: none is configured.

        Raises:
            ModelUnavailable: the configured one is missing, invalid, or for another model.
        """
        variable = "IP_ADAPTER_MODEL"
        if (value := self._ip_adapter_value(main)) is None:
            return None
        if (value == "demo") != (main.name == "demo"):
            raise ModelUnavailable("model_unavailable.ip_adapter_demo", variable=main.variable)
        if value == "demo":
            return WeightSource(variable, "ip_adapter", "demo", "demo", None)
        found = self._weights(variable, "ip_adapter", value)
        files = None if found.path is None else ip_adapter_files(found.path)
        if isinstance(files, IpAdapterFiles):
            config = read_json(main.path / "unet" / "config.json") if main.kind == "folder" and main.path else {}
            wanted = config.get("cross_attention_dim", SDXL_PROMPT_WIDTH)
            if files.context != wanted:
                raise ModelUnavailable(
                    "model_unavailable.ip_adapter_width", variable=main.variable, got=files.context, wanted=wanted
                )
        return found

    def _extras(self, main: WeightSource, request: Request) -> tuple[WeightSource, ...]:
        extras = []
        if isinstance(request, ImageRequest) and any(entry.scale for entry in request.ip_adapters):
            extras.append(self.ip_adapter(main))
        if isinstance(request, ImageRequest) and request.controlnets:
            extras += self._asked_controlnets(main, request)
        # A blocking safety check shows no previews: see `job.preview`.
        if isinstance(request, ImageRequest) and request.preview and self._settings.safety_checker != "block":
            extras.append(self.preview())
        return tuple(extra for extra in extras if extra is not None)

    def preview(self) -> WeightSource | None:
        """Return the decoder of SDXL's previews; None: the linear map is used.

        Raises:
            ModelUnavailable: what is configured is not there or is something else.
        """
        value = self._settings.preview_model
        return None if value is None else self._weights("PREVIEW_MODEL", "preview", value)

    def depth(self) -> WeightSource | None:
        """Return the depth estimator; None: clients must send depth pictures.

        Raises:
            ModelUnavailable: what is configured is not there or is something else.
        """
        value = self._settings.depth_model
        return None if value is None else self._weights("DEPTH_MODEL", "depth", value)

    def controlnet_types(self) -> tuple[ControlType, ...]:
        """Return the types of control picture that a request may use; empty without a usable ControlNet."""
        with contextlib.suppress(ModelUnavailable):
            return tuple(self.served_controlnets())
        return ()

    def served_controlnets(self) -> dict[ControlType, WeightSource]:
        """Return type of control picture -> its network, for the worker's first SDXL model.

        Raises:
            ModelUnavailable: what is configured is not there or is something else.
        """
        if all(task.is_video for task in self.tasks):
            return {}
        return self._controlnets(self._main("SDXL_MODEL", next(iter(self._choices("SDXL_MODEL")))))

    def _asked_controlnets(self, main: WeightSource, request: ImageRequest) -> list[WeightSource]:
        """Return the networks for a request's control pictures, without duplicates.

        `resolve` has checked the types, but of a network that was not on this machine yet it could not know them.
        """
        served = self._controlnets(main)
        asked = [entry for entry in request.controlnets if entry.conditioning_scale]
        for index, entry in enumerate(request.controlnets):
            if entry.conditioning_scale and entry.type not in served:
                raise InvalidInput([not_one_of(f"controlnets.{index}.type", tuple(served), entry.type)])
        wanted = [served[entry.type] for entry in asked]
        if any(entry.type == "depth" and entry.preprocess for entry in asked) and (depth := self.depth()) is not None:
            wanted.append(depth)
        return list({network.network: network for network in wanted}.values())

    def _controlnets(self, main: WeightSource) -> dict[ControlType, WeightSource]:
        """Return type of control picture -> its network.

        Raises:
            ModelUnavailable: what is configured is not there or is something else.
        """
        is_demo = main.name == "demo"
        value = self._settings.controlnet_model or ("demo" if is_demo and not self._cuda else "")
        found: dict[ControlType, WeightSource] = {}
        for kind, source in named_sources(value).items():
            if (source == "demo") != is_demo:
                raise ModelUnavailable("model_unavailable.controlnet_demo")
            if source == "demo":
                weights = WeightSource("CONTROLNET_MODEL", "controlnet", "demo", "demo", None)
            else:
                weights = self._weights("CONTROLNET_MODEL", "controlnet", source)
            if kind:
                found[cast("ControlType", kind)] = replace(weights, called=kind)
                continue
            files = None if weights.path is None else controlnet_files(weights.path)
            config = files.config if isinstance(files, ControlNetFiles) else {}
            if config and not control_types.is_union(config):
                raise ModelUnavailable("model_unavailable.controlnet_type")
            found |= dict.fromkeys(control_types.of_union(config), weights)
        return found

    def _ip_adapter_value(self, main: WeightSource) -> str | None:
        demo = main.name == "demo" and not self._cuda
        return self._settings.ip_adapter_model or ("demo" if demo else None)

    def sdxl_configs(self) -> Path | None:
        """Return a folder with SDXL's configs and tokenizers, which a single file lacks; None: not on this machine."""
        return hub.find(SDXL_BASE, self._places, lambda folder: (folder / "tokenizer" / "vocab.json").is_file())

    def check_configs(self, spec: ModelSpec) -> None:
        """Refuse a single file whose configs (1 MB) are missing and may not be downloaded.

        Raises:
            ModelUnavailable: they are not on this machine.
        """
        if self._settings.allow_downloads is False and self.lacks_configs(spec):
            raise ModelUnavailable("model_unavailable.no_configs", variable=spec.main.variable, configs=SDXL_BASE)

    def lacks_configs(self, spec: ModelSpec) -> bool:
        """Whether a model is a single file whose configs are not on this machine."""
        return spec.family == "sdxl" and spec.main.kind == "file" and self.sdxl_configs() is None

    def _choices(self, variable: str) -> dict[str, str]:
        """Return the models of a variable, in order: name in requests -> configured source."""
        settings, cuda = self._settings, self._cuda
        value = {
            "SDXL_MODEL": settings.sdxl_model or (PINNED[SDXL_BASE] if cuda else "demo"),
            "WAN_MODEL": settings.wan_model or (PINNED[WAN_T2V] if cuda else "demo"),
            "WAN_I2V_MODEL": settings.wan_i2v_model or "",
        }[variable]
        return {name or _own_name(source): source for name, source in named_sources(value).items()}

    def _main(self, variable: str, name: str) -> WeightSource:
        source = self._choices(variable)[name]
        weights = self._weights(variable, "sdxl" if variable == "SDXL_MODEL" else "wan", source)
        return weights if name == _own_name(source) else replace(weights, called=name)

    def _chosen(self, task_type: TaskType, model: str | None) -> str | None:
        """Return the name of the model that a request means; None: no model is configured for its task.

        Raises:
            InvalidInput: no model has this name.
        """
        names = self.models(task_type)
        if model is not None and model not in names:
            raise InvalidInput([not_one_of("model", names or ("null",), model)])
        return model or next(iter(names), None)

    def _both(self) -> tuple[str, ...]:
        """Return the names in WAN_MODEL that serve both video tasks."""
        names = []
        for name in self._choices("WAN_MODEL"):
            with contextlib.suppress(ModelUnavailable):
                if wan_layout(self._main("WAN_MODEL", name)) == "ti2v":
                    names.append(name)
        return tuple(names)

    def _own(self, main: WeightSource) -> dict[str, Any]:
        """Return the operator's settings for a model: beside its files, overridden by MODEL_DEFAULTS."""
        said, said_here = self._settings.model_defaults or {}, own_words(main.path)
        for name in (main.name, main.called):
            if name is not None and name in said:
                said_here |= said[name].given()
        return said_here

    def _schedule(self, main: WeightSource) -> Options:
        named = schedule_of(few_steps.named(main.name)) if main.kind == "file" else {}
        told = dict(_identity(main).scheduler)
        return tuple({**named, **told, **schedule_of(self._own(main))}.items())

    def _sdxl(self, task_type: TaskType, model: str | None) -> ModelSpec:
        settings = self._settings
        name = self._chosen(task_type, model) or ""
        value = self._choices("SDXL_MODEL")[name]
        main = self._main("SDXL_MODEL", name)
        vae = refiner = None
        if settings.sdxl_vae and settings.sdxl_vae != "demo":
            vae = self._weights("SDXL_VAE", "vae", settings.sdxl_vae)
        elif hub.parts(value)[0] == SDXL_BASE and self._cuda and not settings.sdxl_vae:
            vae = replace(self._weights("SDXL_VAE", "vae", PINNED[SDXL_VAE]), optional=True)
        elif main.kind == "file" and not _identity(main).has_vae:
            vae = self._weights("SDXL_VAE", "vae", PINNED[SDXL_VAE])
            if vae.path is None:
                problem = text("model_unavailable.is_without_vae")
                raise ModelUnavailable("model_unavailable.file", variable="SDXL_MODEL", problem=problem)
        if settings.sdxl_refiner:
            refiner = self._weights("SDXL_REFINER", "refiner", settings.sdxl_refiner)
        elif main.name == "demo" and not self._cuda:
            refiner = self._weights("SDXL_REFINER", "refiner", "demo")
        if refiner is not None and (refiner.name == "demo") != (main.name == "demo"):
            raise ModelUnavailable("model_unavailable.refiner_demo")
        return ModelSpec("sdxl", main, vae, refiner, self._schedule(main), self._own(main).get("preview_factors"))

    def _wan(self, task_type: TaskType, model: str | None) -> ModelSpec:
        name = self._chosen(task_type, model)
        main = self._image_to_video(name) if task_type is TaskType.IMG2VIDEO else self._main("WAN_MODEL", name or "")
        layout = wan_layout(main)
        if layout is not None and task_type not in _SERVES[layout]:
            raise ModelUnavailable(
                "model_unavailable.not_image_to_video"
                if task_type is TaskType.IMG2VIDEO
                else "model_unavailable.not_text_to_video",
                variable=main.variable,
                task=task_type,
            )
        return ModelSpec("wan", main, preview_factors=self._own(main).get("preview_factors"))

    def _image_to_video(self, name: str | None) -> WeightSource:
        first, shared = self._choices("WAN_I2V_MODEL"), self._choices("WAN_MODEL")
        if name in first:
            main = self._main("WAN_I2V_MODEL", name)
            # A checkpoint that serves both tasks is loaded once.
            return replace(main, variable="WAN_MODEL") if shared.get(name) == first[name] else main
        if name is not None:
            return self._main("WAN_MODEL", name)
        for each in shared:
            self._main("WAN_MODEL", each)  # its own problem is reported first
        if self._cuda:
            raise ModelUnavailable("model_unavailable.img2video")
        return self._weights("WAN_I2V_MODEL", "wan", "demo")

    def _weights(self, variable: str, role: Role, value: str) -> WeightSource:
        return self._kept.get(("weights", variable, role, value), lambda: self._found(variable, role, value))

    def closed(self, weights: WeightSource) -> Path | None:
        """Return a folder that this process may not read and that may contain the missing model; None: none."""
        return hub.closed(weights.name, self._places) if weights.kind == "hub" else None

    def _found(self, variable: str, role: Role, value: str) -> WeightSource:
        try:
            return self._named(variable, role, value)
        except PermissionError:
            raise ModelUnavailable("model_unavailable.closed", variable=variable) from None

    def _named(self, variable: str, role: Role, value: str) -> WeightSource:
        if value == "demo":
            return _demo(variable, role)
        if "://" in value:
            raise ModelUnavailable("model_unavailable.value", variable=variable)
        path = Path(value).expanduser()
        look(path)
        if value.endswith(_FILES):
            look(path.with_suffix(".json"))
            return _file(variable, role, path)
        if path.is_dir():
            if problem := folder_problem(path, role):
                if hub.is_closed(path):
                    raise PermissionError
                raise ModelUnavailable("model_unavailable.folder", variable=variable, problem=problem)
            return WeightSource(variable, role, "folder", hub.folder_name(path), path)
        if path.is_absolute() or value.startswith((".", "~")):
            raise ModelUnavailable("model_unavailable.folder_missing", variable=variable)
        if not hub.HUB_ID.match(value):
            raise ModelUnavailable("model_unavailable.value", variable=variable)
        look(*(path for place in self._places for path in place.holds(value)))
        found = hub.find(value, self._places, lambda folder: not folder_problem(folder, role))
        name, revision = hub.parts(value)
        return WeightSource(variable, role, "hub" if found is None else "folder", name, found, revision)


def _demo(variable: str, role: Role) -> WeightSource:
    if role == "upscaler":
        return WeightSource(variable, role, "demo", "demo", None)
    if role not in _DEMO_FOLDERS:
        raise ModelUnavailable("model_unavailable.no_demo", variable=variable)
    folder = hub.DEMO_MODELS / _DEMO_FOLDERS[role]
    look(folder)
    if problem := folder_problem(folder, role):
        raise ModelUnavailable("model_unavailable.demo_folder", variable=variable, problem=problem)
    return WeightSource(variable, role, "folder", "demo", folder)


def _file(variable: str, role: Role, path: Path) -> WeightSource:
    if role not in {"sdxl", "vae", "controlnet", "preview", "upscaler"}:
        raise ModelUnavailable("model_unavailable.no_file", variable=variable)
    if not path.is_file():
        raise ModelUnavailable("model_unavailable.file_missing", variable=variable)
    if hub.is_closed(path):
        raise PermissionError
    if header(path) and not is_whole(path):
        raise ModelUnavailable("model_unavailable.file_cut_off", variable=variable)
    if problem := file_problem(path, role):
        raise ModelUnavailable("model_unavailable.file", variable=variable, problem=problem)
    return WeightSource(variable, role, "file", path.name, path)


def _own_name(source: str) -> str:
    """Return the default name of a source: `demo`, a hub id, or a folder's or file's name."""
    path = Path(source).expanduser()
    with contextlib.suppress(PermissionError):  # reported when it is read
        if path.is_dir():
            return hub.folder_name(path)
    return path.name if source.endswith(_FILES) else hub.parts(source)[0]


def _wan_kind(main: WeightSource, task_type: TaskType) -> str:
    """Return the `WAN_KINDS` of a checkpoint, by its files, or by its name until it is downloaded."""
    layout = wan_layout(main) or ("i2v" if task_type is TaskType.IMG2VIDEO else "t2v")
    if layout == "ti2v":
        return layout
    experts = "A14B" in main.name.upper() if main.path is None else "transformer_2" in components(main.path)
    return f"{layout}-experts" if experts else layout


def _identity(weights: WeightSource) -> Identity:
    return identify(weights.path) if weights.kind == "file" and weights.path is not None else Identity()


WanLayout = Literal["t2v", "i2v", "ti2v"]
_SERVES: dict[WanLayout, frozenset[TaskType]] = {
    "t2v": frozenset({TaskType.TEXT2VIDEO}),
    "i2v": frozenset({TaskType.IMG2VIDEO}),
    "ti2v": frozenset({TaskType.TEXT2VIDEO, TaskType.IMG2VIDEO}),
}


def wan_layout(weights: WeightSource) -> WanLayout | None:
    """Return what a Wan checkpoint does: text to video, image to video, or both (Wan 2.2 TI2V); None: not known yet.

    An image-to-video transformer has more input than output channels: latents, mask and first frame.
    """
    if weights.path is None:
        return "ti2v" if "TI2V" in weights.name.upper() else None
    if read_json(weights.path / "model_index.json").get("expand_timesteps"):
        return "ti2v"
    config = read_json(weights.path / "transformer" / "config.json")
    return "t2v" if config.get("in_channels", 16) == config.get("out_channels", 16) else "i2v"


def _most_chunks(weights: WeightSource) -> int | None:
    """1 for Wan 2.1 from an image, which takes a picture through an image encoder, and exactly one chunk; None: all."""
    if weights.path is None:
        return 1 if _wan_kind(weights, TaskType.IMG2VIDEO) == "i2v" else None
    return 1 if "image_encoder" in components(weights.path) else None


def _end_image(weights: WeightSource, *, held: bool) -> EndImage:
    """Whether an image-to-video Wan takes a last frame, by its files, or by its name until it is downloaded.

    Wan 2.2's two experts take it as one of the frames. Wan 2.1 also passes it through an image encoder, where only the
    model trained for it (FLF2V) has positions for two pictures. A TI2V takes one if it may be `held`.
    """
    if wan_layout(weights) == "ti2v":
        return "optional" if held else "no"
    if weights.path is None:
        name = weights.name.upper()
        return "required" if "FLF2V" in name else "optional" if "I2V-A14B" in name else "no"
    if wan_layout(weights) != "i2v":
        return "no"
    config = read_json(weights.path / "transformer" / "config.json")
    if config.get("pos_embed_seq_len"):
        return "required"
    return "no" if config.get("image_dim") else "optional"
