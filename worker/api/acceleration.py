"""Applies a request's `acceleration`: the steps, guidance and LoRAs that the operator configured for that level.

Pure. `acceleration` permits a trade of quality for speed; it does not demand one. If nothing is configured for a model,
nothing is traded and the result has a warning. Steps, guidance and scheduler of the request take precedence, as with
any model distilled to few steps.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from worker.api.loras import LORA_FIELDS, WantedLora, listed_lora
from worker.api.params import ModelDefaults, StepCache
from worker.api.request import Request, UpscaleRequest
from worker.core.config import Acceleration, ListedLora
from worker.core.lora_source import is_same
from worker.core.types import Expert, Level

Accelerations = Mapping[str, Mapping[Level, Acceleration]]
"""Name of a model, or `sdxl` or `wan` for all of that family -> the acceleration of each level."""

_EXPERTS: Mapping[Expert, frozenset[Expert]] = {
    "both": frozenset({"high", "low"}),
    "high": frozenset({"high"}),
    "low": frozenset({"low"}),
}
_TWICE = "comes with acceleration, too; it is applied once, by its scale"
_OF_MODEL = {field.name for field in fields(ModelDefaults)} & set(Acceleration.model_fields)


@dataclass(frozen=True, slots=True)
class Accelerated:
    """A model as configured for one request."""

    defaults: ModelDefaults
    loras: tuple[WantedLora, ...] = ()
    """All LoRAs to apply, the request's own first."""
    level: Level | None = None
    """The level that is applied; None: none."""
    step_cache: StepCache | None = None
    """None: every step is computed in full."""
    warnings: tuple[str, ...] = ()

    @property
    def params(self) -> dict[str, Any]:
        """Its entries in the job's parameters."""
        if self.level is None:
            return {}
        cached = {} if self.step_cache is None else {"step_cache": self.step_cache}
        return {"acceleration": self.level, **cached}


def accelerated(
    request: Request,
    own: tuple[WantedLora, ...],
    defaults: ModelDefaults,
    accelerations: Accelerations,
    listed: Mapping[str, ListedLora],
    *,
    usual: Level | None,
) -> Accelerated:
    """Return the model of a request at the level that the request allows and the operator configured.

    A LoRA that both the request and the level name is applied once, at the level's scale, for which the level's steps
    and guidance were chosen.

    Args:
        request: its `acceleration` is `none`, a level, or absent.
        own: the LoRAs that the request names.
        defaults: the model's, without acceleration.
        accelerations: the configured accelerations.
        listed: the operator's LoRAs.
        usual: the level of a request without `acceleration`.
    """
    asked = usual if request.acceleration is None else request.acceleration
    if asked is None or asked == "none":
        return Accelerated(defaults, own)
    if isinstance(request, UpscaleRequest):
        said = "acceleration: has no effect on a picture that is made larger"
        return Accelerated(defaults, own, warnings=(said,) if request.acceleration else ())
    level, found = _entry(asked, levels(defaults, accelerations, video=request.task_type.is_video))
    if found is None:
        said = f"acceleration: has no effect; {defaults.name} is not set up for {asked} here"
        return Accelerated(defaults, own, warnings=(said,) if request.acceleration else ())
    given = {name: value for name, value in found.given().items() if name in _OF_MODEL}
    cached = found.step_cache if request.task_type.is_video else None
    brought = tuple(_loras(request, found, listed))
    left = [(one, _left(one, brought)) for one in own]
    twice = [one for one, rest in left if rest is not one]
    return Accelerated(
        replace(defaults, few_steps=bool(found.lora_names()), **given),
        (*(rest for _, rest in left if rest is not None), *brought),
        level,
        None if cached is None else StepCache(cached.kind, cached.threshold),
        tuple(f"{one.field}: {one.name} {_TWICE}" for one in twice),
    )


def levels(defaults: ModelDefaults, accelerations: Accelerations, *, video: bool) -> Mapping[Level, Acceleration]:
    """Return the levels that a model has; none if it is itself distilled to few steps."""
    if defaults.few_steps:
        return {}
    found = accelerations.get(defaults.name) or accelerations.get("wan" if video else "sdxl") or {}
    if video and defaults.has_experts is not False:
        return found
    # A model with one network has no use for LoRAs for two experts.
    return {level: one for level, one in found.items() if not one.high_noise_loras and not one.low_noise_loras}


def _entry(asked: Level, found: Mapping[Level, Acceleration]) -> tuple[Level, Acceleration | None]:
    """Return the entry for a level. If there is no `high`, `regular` replaces it, since it gives up less quality."""
    if asked == "high" and "high" not in found:
        asked = "regular"
    return asked, found.get(asked)


def _left(own: WantedLora, brought: tuple[WantedLora, ...]) -> WantedLora | None:
    """Restrict a request's LoRA to the experts that do not get it from the level; None: all of them do."""
    wanted = _EXPERTS[own.expert]
    left = wanted.difference(*(_EXPERTS[one.expert] for one in brought if is_same(one.source, own.source)))
    if left == wanted:
        return own
    return replace(own, expert=next(iter(left))) if left else None


def _loras(request: Request, found: Acceleration, listed: Mapping[str, ListedLora]) -> Iterator[WantedLora]:
    for field, expert in LORA_FIELDS.items():
        first = len(getattr(request, field, ()))
        for index, entry in enumerate(getattr(found, field), first):
            # `Settings` has checked that it is listed.
            yield listed_lora(f"{field}.{index}.path", entry.path, listed[entry.path], entry.scale, expert)
