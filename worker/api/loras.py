"""The LoRAs that a request names -> where each comes from and by how much it counts, or why it may not be had.

Pure: knows the operator's list and the sources that are allowed beyond it; asks no server and opens no file.
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
"""As many names as a refusal lists."""


@dataclass(frozen=True, slots=True)
class WantedLora:
    """One LoRA of a request, before its file is here."""

    field: str
    """What names it in the request, such as `loras.0.path`."""
    name: str
    """What it is called towards anybody: the operator's name, or what is public of its source."""
    source: LoraSource
    scale: float
    expert: Expert = "both"
    sha256: str | None = None
    """What its file must be; None: whatever the source gives."""
    listed: bool = False
    """Whether the operator chose it, and not the client."""


@dataclass(frozen=True, slots=True)
class _Offer:
    """What a client may name: the operator's list, and sources beyond it."""

    listed: Mapping[str, ListedLora]
    allowed: tuple[str, ...]

    @property
    def words(self) -> str:
        """All of it, for a refusal."""
        said = {"hub": "hub ids", "civitai": "URLs of Civitai"}
        places = [said.get(one, f"https:// URLs of {one}") for one in self.allowed]
        more = [f"{len(self.listed) - _NAMED} more names"] if len(self.listed) > _NAMED else []
        return ", ".join([*list(self.listed)[:_NAMED], *more, *places]) or "none"


def wanted_loras(
    request: Request, listed: Mapping[str, ListedLora], allowed: tuple[str, ...]
) -> tuple[WantedLora, ...]:
    """Every LoRA of a request, in its order.

    Args:
        request: what names them, by a name of the list, as a hub id or as a URL.
        listed: the operator's.
        allowed: what clients may name beside them: see `lora_source.is_allowed`.

    Raises:
        InvalidInput: naming each one that is not to be had.
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
    """What `params` says of them: the field for the expert that each is for -> names and scales."""
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
    """One of the operator's."""
    source = lora_source(own.source, own.weight_name)
    return WantedLora(field, name, source, own.scale * scale, expert, own.sha256, listed=True)


def _unknown(field: str, path: str, offer: _Offer) -> FieldProblem:
    if close := nearest(path, offer.listed):
        return FieldProblem(field, "invalid_input.no_lora_but_close", close=close, choices=offer.words, got=short(path))
    return FieldProblem(field, "invalid_input.no_lora", choices=offer.words, got=short(path))


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that `name` is with a slip in it, or in other case; None: there is none."""
    plain = {one.casefold(): one for one in names}
    found = difflib.get_close_matches(name[:200].casefold(), plain, 1, cutoff=0.75)
    return plain[found[0]] if found else None
