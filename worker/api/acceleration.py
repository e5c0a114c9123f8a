"""What a request lets the worker trade for speed -> the steps, the guidance and the LoRAs of the operator's for it.

Pure. `acceleration` is a permission, not an order: what is not configured for a model is not done, and said. What the
client asks for in so many words (steps, guidance, scheduler) counts, as with any model that was distilled to few steps.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from worker.api.loras import LORA_FIELDS, WantedLora, listed_lora
from worker.api.params import ModelDefaults, StepCache
from worker.api.request import Request, UpscaleRequest
from worker.core.config import Acceleration, ListedLora
from worker.core.types import Level

Accelerations = Mapping[str, Mapping[Level, Acceleration]]
"""Name of a model, or `sdxl` or `wan` for all of that kind -> what each level stands for."""

_OF_MODEL = {field.name for field in fields(ModelDefaults)} & set(Acceleration.model_fields)


@dataclass(frozen=True, slots=True)
class Accelerated:
    """A model as it runs for one request."""

    defaults: ModelDefaults
    loras: tuple[WantedLora, ...] = ()
    """What it takes beside the request's own."""
    level: Level | None = None
    """None: it runs as ever."""
    step_cache: StepCache | None = None
    """Of a clip: see there."""
    warnings: tuple[str, ...] = ()

    @property
    def params(self) -> dict[str, Any]:
        """What `params` says of it."""
        if self.level is None:
            return {}
        cached = {} if self.step_cache is None else {"step_cache": self.step_cache}
        return {"acceleration": self.level, **cached}


def accelerated(
    request: Request,
    defaults: ModelDefaults,
    accelerations: Accelerations,
    listed: Mapping[str, ListedLora],
    usual: Level | None,
) -> Accelerated:
    """The model of a request, as fast as the request allows and the operator has set it up.

    Args:
        request: says `none`, a level, or nothing.
        defaults: the model's, as it runs without.
        accelerations: what is set up.
        listed: the operator's LoRAs.
        usual: the level of a request that says nothing.
    """
    asked = usual if request.acceleration is None else request.acceleration
    if asked is None or asked == "none":
        return Accelerated(defaults)
    if isinstance(request, UpscaleRequest):
        said = "acceleration: has no effect on a picture that is made larger"
        return Accelerated(defaults, warnings=(said,) if request.acceleration else ())
    level, found = _entry(asked, levels(defaults, accelerations, video=request.task_type.is_video))
    if found is None:
        said = f"acceleration: has no effect; {defaults.name} has no {asked} one here"
        return Accelerated(defaults, warnings=(said,) if request.acceleration else ())
    given = {name: value for name, value in found.given().items() if name in _OF_MODEL}
    cached = found.step_cache if request.task_type.is_video else None
    return Accelerated(
        replace(defaults, few_steps=bool(found.lora_names()), **given),
        tuple(_loras(request, found, listed)),
        level,
        None if cached is None else StepCache(cached.kind, cached.threshold),
    )


def levels(defaults: ModelDefaults, accelerations: Accelerations, *, video: bool) -> Mapping[Level, Acceleration]:
    """What a model can be asked for; nothing where it was made for a few steps already."""
    if defaults.few_steps:
        return {}
    found = accelerations.get(defaults.name) or accelerations.get("wan" if video else "sdxl") or {}
    if video:
        return found
    # What is for two experts is for no model that has one.
    return {level: one for level, one in found.items() if not one.high_noise_loras and not one.low_noise_loras}


def _entry(asked: Level, found: Mapping[Level, Acceleration]) -> tuple[Level, Acceleration | None]:
    """Who lets much go lets less go, too."""
    if asked == "high" and "high" not in found:
        asked = "regular"
    return asked, found.get(asked)


def _loras(request: Request, found: Acceleration, listed: Mapping[str, ListedLora]) -> Iterator[WantedLora]:
    for field, expert in LORA_FIELDS.items():
        first = len(getattr(request, field, ()))
        for index, entry in enumerate(getattr(found, field), first):
            # Settings have seen that it is listed.
            yield listed_lora(f"{field}.{index}.path", entry.path, listed[entry.path], entry.scale, expert)
