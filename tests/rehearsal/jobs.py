"""The engine on an imaginary card, with its own registry, cache, placement, loader, offloader and jobs."""

from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils.weak import WeakIdKeyDictionary

from tests.engine.conftest import request_of
from tests.rehearsal.card import GIB, Card
from tests.rehearsal.mode import pretended
from tests.rehearsal.models import Model, read_no_numbers
from tests.support.engine_jobs import Recorder, image_params, picture, stripe_mask, video_params
from worker.api.params import Params
from worker.api.request import ControlNet, IpAdapter, Request
from worker.core.config import Settings, load_settings
from worker.core.types import LoraFile, Preview, Progress, Sources, TaskType
from worker.engine.engine import Engine
from worker.engine.memory import device, offload
from worker.engine.memory.room import Room, Size, room
from worker.engine.models.loader import Loader
from worker.engine.models.registry import ModelRegistry, ModelSpec, WeightSource
from worker.engine.protocol import GeneratedImage, Placement

MACHINE = 128 * GIB
"""Memory of the machine that the card is assumed to be in."""


@dataclass
class Run:
    """The observations of one job."""

    placement: Placement
    weights: int
    """Bytes on the card before the job."""
    shapes: list[tuple[int, ...]]
    calls: Counter[str]
    """Network -> how often it ran."""
    step: Counter[str]
    """The host's waits in one denoising step; empty for a job of fewer than three."""
    warnings: list[str]
    card: Card
    previews: list[Preview] = field(default_factory=list)
    """The previews that a viewer got."""

    def beside_weights(self, phase: str) -> int:
        """Return the peak bytes of a phase, without the weights that were there from the beginning."""
        return self.card.peaks[phase] - self.weights


class Watch(Recorder):
    """A job's control that also notes the host's waits by each step."""

    def __init__(self, card: Card, *, looked_at: bool = False) -> None:
        super().__init__()
        self._card = card
        self._looked_at = looked_at
        self.previews: list[Preview] = []
        self._by_step: dict[int, Counter[str]] = {}

    def report(self, progress: Progress) -> None:
        super().report(progress)
        if progress.stage == "generating" and progress.step:  # before the first step the picture is encoded
            self._by_step.setdefault(progress.step, Counter(self._card.syncs))

    def viewer(self) -> Callable[[Preview], None] | None:
        return self.previews.append if self._looked_at else None

    @property
    def step(self) -> Counter[str]:
        """The waits of the second step: the first one warms up, the last one may be different."""
        seen = list(self._by_step.values())
        return seen[1] - seen[0] if len(seen) > 2 else Counter()


@dataclass
class Rehearsal:
    """One worker's engine, and the card that it believes it has."""

    engine: Engine
    card: Card
    calls: Counter[str] = field(default_factory=Counter)
    read: list[str] = field(default_factory=list)
    """The networks that were read from the disk, one entry for each read."""

    def prepare(self, task: TaskType, **changes: Any) -> Placement:
        """Load the weights of a job to where they will run.

        Raises:
            What the engine raises.
        """
        return self.engine.prepare(request_for(task, **changes), params_of(task, **changes), Recorder())

    def run(self, task: TaskType, **changes: Any) -> Run:
        """Prepare and run one job of a task on the card; keywords change its parameters.

        Two keywords differ: `loras` are the files, and `looked_at` lets somebody watch its previews.

        Raises:
            What the engine raises.
        """
        loras: tuple[LoraFile, ...] = changes.pop("loras", ())
        looked_at: bool = changes.pop("looked_at", False)
        params, sources = params_of(task, **changes), replace(sources_for(task, **changes), loras=loras)
        watch, request = Watch(self.card, looked_at=looked_at), request_for(task, **changes)
        placement = self.engine.prepare(request, params, watch)
        self.card.forget()
        self.calls.clear()
        weights = self.card.now
        made = list(self.engine.generate(request, params, sources, watch))
        shapes = [one.pixels.shape if isinstance(one, GeneratedImage) else one.frames.shape for one in made]
        calls = Counter(self.calls)
        return Run(placement, weights, shapes, calls, watch.step, watch.warnings, self.card, watch.previews)

    def spec(self, task: TaskType) -> ModelSpec:
        """Return the weights that serve a task."""
        return self.engine.registry.spec(task)


@contextmanager
def rehearsal(
    folder: Path,
    *models: Model,
    gib: float = 80,
    missing: float = 0,
    ip_adapter: Path | None = None,
    controlnet: Path | None = None,
    quantize: str = "none",
) -> Iterator[Rehearsal]:
    """Yield an engine with these models on a card of so many GiB, of which `missing` less are free than it reports.

    `folder` keeps the models' files, `ip_adapter` and `controlnet` the files of the adapters beside SDXL.
    """
    said = round(gib * GIB)
    card = Card(said - round(missing * GIB))
    settings = settings_for(folder, *models).model_copy(update={"quantize": quantize})
    extras = {"ip_adapter_model": ip_adapter, "controlnet_model": controlnet}
    settings = settings.model_copy(update={name: str(path) for name, path in extras.items() if path is not None})
    stage = Rehearsal(Engine(settings, registry=ModelRegistry(settings, cuda=True, where=())), card)

    def memory(*, cuda: bool) -> tuple[int, int]:
        return (said - card.now, said) if cuda else (MACHINE, MACHINE)

    def read(loader: Loader, kind: Any, where: Path, dtype: torch.dtype, _: WeightSource, name: str) -> Any:
        stage.read.append(f"{where.parent.name}/{where.name}")
        return _watched(read_no_numbers(kind, where, dtype, loader._place(name)), name, stage)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(device, "memory", memory))
        stack.enter_context(mock.patch.object(device, "name", return_value="a card that is not there"))
        stack.enter_context(mock.patch.object(Loader, "_read", read))
        stack.enter_context(mock.patch.object(offload, "put", _put))
        stack.enter_context(pretended(card))
        yield stage


def settings_for(folder: Path, *models: Model) -> Settings:
    """Return settings that name these models, written into `folder`."""
    values: dict[str, Any] = {"sdxl_model": "/none", "wan_model": "/none"}
    for model in models:
        where = str(model.write(folder))
        if model.family == "sdxl":
            values["sdxl_model"] = where
        else:
            values["wan_model" if TaskType.TEXT2VIDEO in model.tasks else "wan_i2v_model"] = where
        if model.refiner is not None:
            values["sdxl_refiner"] = str(model.refiner.write(folder))
    return load_settings(**values)


def request_for(task: TaskType, **changes: Any) -> Request:
    """Return the request of a job, as far as the engine reads it."""
    url = "https://example.com/a.png"
    entries: dict[str, Any] = {
        "ip_adapters": tuple(
            IpAdapter(image_url=url, scale=one.scale, type=one.type) for one in changes.get("ip_adapters") or ()
        ),
        "controlnets": tuple(
            ControlNet(image_url=url, type=one.type, conditioning_scale=one.conditioning_scale)
            for one in changes.get("controlnets") or ()
        ),
    }
    return request_of(task).model_copy(update={name: some for name, some in entries.items() if some})


def params_of(task: TaskType, **changes: Any) -> Params:
    """Return a job's parameters, small unless `changes` says otherwise."""
    if task.is_video:
        return video_params(**changes)
    return image_params(**({"strength": 0.9} if task is not TaskType.TEXT2IMG else {}) | changes)


def sources_for(task: TaskType, *, width: int = 64, height: int = 64, **changes: Any) -> Sources:
    """Return the source pictures of a job, at its own size."""
    return Sources(
        image=picture(width, height) if task not in {TaskType.TEXT2IMG, TaskType.TEXT2VIDEO} else None,
        mask=stripe_mask(width, height) if task is TaskType.INPAINT else None,
        references=tuple(picture() for _ in changes.get("ip_adapters") or ()),
        controls=tuple(picture(width, height) for _ in changes.get("controlnets") or ()),
        end=picture(width, height) if changes.get("ends") else None,
    )


def _watched(module: Any, name: str, stage: Rehearsal) -> Any:
    """Return the network with its calls counted, and let it tell the card which phase of a job it belongs to."""

    tells = "encoder" in name or name == "ip_adapter"

    def entered(phase: str) -> Any:
        def hook(*_: Any) -> None:
            stage.card.enter(phase)
            stage.calls[phase if name == "vae" else name] += 1

        return hook

    def left(*_: Any) -> None:
        stage.card.enter("between")

    if name == "vae":
        module.encoder.register_forward_pre_hook(entered("encode"))
        module.decoder.register_forward_pre_hook(entered("decode"))
    else:
        module.register_forward_pre_hook(entered("text" if tells else "denoise"))
    if tells:
        module.register_forward_hook(left)
    return module


_parameters: MutableMapping[torch.Tensor, torch.nn.Parameter] = WeakIdKeyDictionary()
"""The parameter made from a tensor: places that share the tensor share the parameter, so tied weights stay tied."""


def _put(owner: torch.nn.Module, key: str, value: torch.Tensor) -> None:
    """Do as `offload.put`, but with a new parameter: a real one's data cannot be on an imaginary card."""
    if key in owner._parameters:
        owner._parameters[key] = _parameters.setdefault(value, torch.nn.Parameter(value, requires_grad=False))
    else:
        owner._buffers[key] = value


def room_of(stage: Rehearsal, task: TaskType, **changes: Any) -> Room:
    """Return the engine's estimate of a job's working memory, phase by phase."""
    return room(stage.spec(task), Size.of(task, params_of(task, **changes)), cuda=True)


@dataclass(frozen=True)
class Row:
    """One phase of a job: bytes beside the weights, counted and estimated."""

    job: str
    phase: str
    counted: int
    estimated: int
    flops: int

    @property
    def right(self) -> bool:
        """Whether the estimate is within a tenth, or, for a phase that is small beside the others, not exceeded."""
        if self.phase == "text":
            return self.counted <= self.estimated
        return abs(self.counted - self.estimated) <= self.counted / 10

    def __str__(self) -> str:
        counted, estimated = self.counted / GIB, self.estimated / GIB
        return f"{self.job:<40} {self.phase:<8} {counted:7.3f} {estimated:7.3f} {self.flops / 1e12:9.1f} TFLOP"


def rows_of(stage: Rehearsal, run: Run, name: str, task: TaskType, **size: Any) -> list[Row]:
    """Return the phases of a run beside their estimates."""
    estimate = room_of(stage, task, **size)
    phases = [phase for phase in ("text", "encode", "denoise", "decode") if phase in run.card.peaks]
    return [
        Row(name, phase, run.beside_weights(phase), getattr(estimate, phase), run.card.flops[phase]) for phase in phases
    ]
