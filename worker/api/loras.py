"""Resolves the LoRAs that a request names to their sources and scales, or refuses them.

Pure: knows the operator's list and the additionally allowed sources; asks no server and opens no file.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from worker.api.params import LoraParams
from worker.api.request import Lora, Request
from worker.api.validation_errors import short
from worker.core.config import ListedLora
from worker.core.errors import FieldProblem, InvalidInput
from worker.core.lora_source import CIVITAI_HOSTS, LocalFile, LoraSource, WebFile, is_allowed, lora_source
from worker.core.types import Expert, TaskType

LORA_FIELDS: Mapping[str, Expert] = {"loras": "both", "high_noise_loras": "high", "low_noise_loras": "low"}
"""Field of a request -> the expert that its LoRAs are for."""
FAMILY_NAMES = {"sdxl": "SDXL", "wan": "Wan"}
_NAMED = 20
"""Names that an error message lists."""


@dataclass(frozen=True, slots=True)
class WantedLora:
    """One LoRA of a request, before its file is fetched."""

    field: str
    """Its field in the request, such as `loras.0.path`."""
    name: str
    """Its public name: the operator's name, or the public part of its source."""
    source: LoraSource
    scale: float
    expert: Expert = "both"
    sha256: str | None = None
    """The required digest of its file; None: any."""
    listed: bool = False
    """Whether it is on the operator's list, not chosen by the client."""


@dataclass(frozen=True, slots=True)
class _Offer:
    """What a client may name: the operator's list, and allowed sources."""

    listed: Mapping[str, ListedLora]
    allowed: tuple[str, ...]

    @property
    def words(self) -> str:
        """Everything on offer, for an error message."""
        said = {"hub": "hub ids", "civitai": "URLs of Civitai"}
        places = [said.get(one, f"https:// URLs of {one}") for one in self.allowed]
        more = [f"{len(self.listed) - _NAMED} more names"] if len(self.listed) > _NAMED else []
        return ", ".join([*list(self.listed)[:_NAMED], *more, *places]) or "none"


def wanted_loras(
    request: Request, listed: Mapping[str, ListedLora], allowed: tuple[str, ...]
) -> tuple[WantedLora, ...]:
    """Return the LoRAs of a request, in order.

    Args:
        request: names them by a listed name, a hub id or a URL.
        listed: the operator's list.
        allowed: further sources that clients may use: see `lora_source.is_allowed`.

    Raises:
        InvalidInput: naming each LoRA that is not available.
    """
    offer = _Offer(listed, allowed)
    found: list[WantedLora] = []
    problems: list[FieldProblem] = []
    for field, entry, expert in _entries(request):
        one = _wanted(f"{field}.path", entry, expert, request.task_type, offer)
        if isinstance(one, FieldProblem):
            problems.append(one)
        else:
            found.append(one)
    if problems:
        raise InvalidInput(problems)
    return tuple(found)


def lora_params(wanted: Iterable[WantedLora]) -> dict[str, Any]:
    """Return their entries in `params`: the field for each expert -> names and scales."""
    fields = {expert: field for field, expert in LORA_FIELDS.items()}
    found: dict[str, tuple[LoraParams, ...]] = {}
    for one in wanted:
        field = fields[one.expert]
        found[field] = (*found.get(field, ()), LoraParams(one.name, one.scale))
    return found


def _entries(request: Request) -> Iterator[tuple[str, Lora, Expert]]:
    for field, expert in LORA_FIELDS.items():
        for index, entry in enumerate(getattr(request, field, ())):
            yield f"{field}.{index}", entry, expert


def _wanted(field: str, entry: Lora, expert: Expert, task: TaskType, offer: _Offer) -> WantedLora | FieldProblem:
    got, own = short(entry.path), offer.listed.get(entry.path)
    if own is not None:
        if entry.weight_name is not None:
            return FieldProblem(field.replace(".path", ".weight_name"), "invalid_input.lora_weight_name", got=got)
        if own.family is not None and (own.family == "wan") != task.is_video:
            family = FAMILY_NAMES[own.family]
            return FieldProblem(field, "invalid_input.lora_family", family=family, task=task, got=got)
        return listed_lora(field, entry.path, own, entry.scale, expert)
    try:
        source = lora_source(entry.path, entry.weight_name)
    except ValueError:
        if entry.weight_name is not None and _is_url(entry.path):
            field = field.replace(".path", ".weight_name")
            return FieldProblem(field, "invalid_input.lora_url_weight_name", got=short(entry.weight_name))
        return _unknown(field, entry.path, offer)
    if isinstance(source, LocalFile):
        return _unknown(field, entry.path, offer)
    if not is_allowed(source, offer.allowed):
        if isinstance(source, WebFile) and source.host in CIVITAI_HOSTS:
            place = "civitai"
        else:
            place = source.host if isinstance(source, WebFile) else "hub"
        return FieldProblem(field, "invalid_input.lora_source", place=short(place), choices=offer.words)
    return WantedLora(field, source.label, source, entry.scale, expert)


def _is_url(path: str) -> bool:
    try:
        return isinstance(lora_source(path), WebFile)
    except ValueError:
        return False


def listed_lora(field: str, name: str, own: ListedLora, scale: float, expert: Expert) -> WantedLora:
    """Return a LoRA of the operator's list."""
    source = lora_source(own.source, own.weight_name)
    return WantedLora(field, name, source, own.scale * scale, expert, own.sha256, listed=True)


def _unknown(field: str, path: str, offer: _Offer) -> FieldProblem:
    if close := nearest(path, offer.listed):
        return FieldProblem(field, "invalid_input.no_lora_but_close", close=close, choices=offer.words, got=short(path))
    return FieldProblem(field, "invalid_input.no_lora", choices=offer.words, got=short(path))


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` of which `name` is a typo, or which differs only in case, or None."""
    plain = {one.casefold(): one for one in names}
    found = difflib.get_close_matches(name[:200].casefold(), plain, 1, cutoff=0.75)
    return plain[found[0]] if found else None
