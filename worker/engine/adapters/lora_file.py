"""Identifies a LoRA file by its header: its model, its trainer's names, its rank; or why it cannot be used.

Reads names, types and shapes; loads no tensor and imports no torch. A file is a stranger's: anything odd in it leads
to a clear refusal.
"""

import errno
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from worker.api.loras import FAMILY_NAMES, LORA_FIELDS
from worker.core.errors import DownloadFailed, FieldProblem, InvalidInput
from worker.core.lora_source import MAX_HEADER_BYTES
from worker.core.messages import text
from worker.core.types import LoraFile, TaskType
from worker.engine.models.checkpoint import data_bytes, header, metadata

MAX_RANK = 512
"""Published LoRAs have 4 to 256."""
MAX_TENSORS = 20_000
"""SDXL with all convolutions and both text encoders has about 4,600 with their alphas, Wan 14B about 2,000."""
Part = Literal[
    "down", "up", "mid", "alpha", "magnitude", "bias", "left",
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
    "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
]  # fmt: skip
Network = Literal["denoiser", "text_encoder", "text_encoder_2"]

_ADAPTER = r"(?:\.(?!weight$|bias$)[A-Za-z0-9_-]+)?"  # PEFT may include the adapter's name: lora_A.default.weight
_PART_NAMES: tuple[tuple[str, Part], ...] = (
    (r"[._]lora[._]down\.weight$|\.lora_linear_layer\.down\.weight$", "down"),
    (r"[._]lora[._]up\.weight$|\.lora_linear_layer\.up\.weight$", "up"),
    (rf"\.lora_A{_ADAPTER}\.weight$", "down"),
    (rf"\.lora_B{_ADAPTER}\.weight$", "up"),
    (rf"\.lora_B{_ADAPTER}\.bias$|\.diff_b$", "bias"),
    (r"\.lora_mid\.weight$", "mid"),
    (r"\.alpha$", "alpha"),
    (rf"\.dora_scale$|\.lora_magnitude_vector{_ADAPTER}(?:\.weight)?$", "magnitude"),
    # Full differences of norms, embeddings and modulations beside the low-rank ones: left out, with a warning.
    (r"\.diff$|\.diff_m$|\.w_norm$|\.b_norm$", "left"),
    *((rf"\.{part}$", part) for part in get_args(Part) if part.startswith(("lokr_", "hada_"))),
)
_PARTS = tuple((re.compile(pattern), part) for pattern, part in _PART_NAMES)
_OTHER_KINDS = (
    (".oft_", "OFT"),
    (".on_input", "IA3"),
    (".a1.weight", "GLoRA"),
    (".glora_", "GLoRA"),
    ("lora_controlnet", "Control-LoRA"),
)
"""Parts of tensor names of unsupported methods -> their names.

https://github.com/KohakuBlueleaf/LyCORIS, "Available algorithms"."""
_LOKR_FIRST: tuple[set[str], ...] = ({"lokr_w1"}, {"lokr_w1_a", "lokr_w1_b"})
_LOKR_SECOND: tuple[set[str], ...] = ({"lokr_w2"}, {"lokr_w2_a", "lokr_w2_b"}, {"lokr_w2_a", "lokr_w2_b", "lokr_t2"})
_HADA: set[str] = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}
_WHOLE: tuple[frozenset[str], ...] = tuple(
    frozenset(parts)
    for parts in (
        {"down", "up"},
        {"down", "up", "mid"},
        {"down", "up", "magnitude"},
        {"down", "up", "mid", "magnitude"},
        _HADA,
        _HADA | {"hada_t1", "hada_t2"},
        *({*first, *second} for first in _LOKR_FIRST for second in _LOKR_SECOND),
    )
)
"""The sets of parts that form a change, beside alpha and bias: LoRA, LoHa, LoKr."""
_PREFIXES: tuple[tuple[str, Network], ...] = (
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
    ("lora_te_", "text_encoder"),
    ("lora_unet_", "denoiser"),
    ("lora_transformer_", "denoiser"),
    ("lycoris_text_encoder_2_", "text_encoder_2"),
    ("lycoris_text_encoder_", "text_encoder"),
    ("lycoris_", "denoiser"),
    ("text_encoder_2.", "text_encoder_2"),
    ("text_encoder.", "text_encoder"),
    ("model.diffusion_model.", "denoiser"),
    ("diffusion_model.", "denoiser"),
    ("transformer.", "denoiser"),
    ("unet.", "denoiser"),
    ("", "denoiser"),
)
_FOREIGN: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"single_(transformer_)?blocks[._]\d", "Flux"),
        (r"double_blocks[._]\d", "Flux or HunyuanVideo"),
        (r"joint_blocks[._]\d", "Stable Diffusion 3"),
        (r"(^|[._])transformer_blocks[._]\d+[._](img_mod|txt_mod|img_mlp|txt_mlp)", "Qwen-Image"),
        (r"^transformer_blocks[._]\d", "Stable Diffusion 3, Flux or LTX-Video"),
        (r"^layers[._]\d+[._](attention|feed_forward|adaLN)", "Z-Image or Lumina"),
        (r"^model[._]layers[._]\d", "a language model"),
    )
)
"""Layer names of models that this worker does not serve -> the model."""
_UNET = re.compile(r"(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)[._]")
_WAN = re.compile(r"blocks[._]\d+[._](self_attn|cross_attn|attn1|attn2|ffn)[._]")
_OF_TEXT_WIDTH = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 1280: "SDXL's refiner"}
"""Text width of a UNet -> its model; SDXL has 2048."""
_READS_TEXT = re.compile(r"attn2[._](processor[._])?to_[kv]$")
_FIELDS = {expert: field for field, expert in LORA_FIELDS.items()}
_FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}


@dataclass(slots=True)
class Layer:
    """A file's tensors for one layer: part -> name in the file."""

    network: Network
    name: str
    """The layer's name by the trainer, without prefix."""
    keys: dict[Part, str] = field(default_factory=dict)

    @property
    def parts(self) -> frozenset[str]:
        """The parts of its weight's change."""
        return frozenset(self.keys) - {"alpha", "bias"}

    @property
    def kind(self) -> Literal["LoRA", "LoKr", "LoHa"] | None:
        """The method of the change; None: only a bias."""
        if any(part.startswith("lokr_") for part in self.keys):
            return "LoKr"
        if any(part.startswith("hada_") for part in self.keys):
            return "LoHa"
        return "LoRA" if self.parts else None


@dataclass(frozen=True, slots=True)
class Identity:
    """One file. If it has a `problem`, nothing else is known."""

    problem: str | None = None
    """Why it cannot be used, as the rest of a sentence that begins with its name."""
    family: Literal["sdxl", "wan"] = "sdxl"
    layers: tuple[Layer, ...] = ()
    left: int = 0
    """Layers that it changes in an unsupported way."""
    rank: int = 0
    """The highest rank of its layers."""
    bytes: int = 0
    """Of its weights as they are kept beside a network, at two bytes a number, and of what the largest layer's pass by
    in while it runs."""
    text_encoders: bool = False
    scales: tuple[tuple[str, float], ...] = ()
    """Network, by diffusers' name -> scale of its weights if the file has no alphas (PEFT's metadata)."""


def identify(path: Path) -> Identity:
    """What the file says; read again only after it has changed.

    Raises:
        OSError: there is no such file.
    """
    state = path.stat()
    return _identify(path, state.st_size, state.st_mtime_ns)


def check_loras(loras: Iterable[LoraFile], task: TaskType) -> None:
    """Refuse files that cannot be applied to a model of this task, before any model is touched.

    Raises:
        InvalidInput: naming each file with what is wrong with it.
        DownloadFailed: one is not there any more.
    """
    wanted = "wan" if task.is_video else "sdxl"
    problems = []
    for lora in loras:
        with still_there(lora):
            found = identify(lora.path)
        problem = found.problem
        if problem is None and found.family != wanted:
            problem = text("invalid_input.lora_made_for", found=FAMILY_NAMES[found.family], wanted=FAMILY_NAMES[wanted])
        if problem is not None:
            problems.append(unusable(lora, problem))
    if problems:
        raise InvalidInput(problems)


@contextmanager
def still_there(lora: LoraFile) -> Iterator[None]:
    """Translate the error if another worker with the same cache removes a LoRA's file during the body.

    Raises:
        DownloadFailed: it has.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ESTALE}:
            raise
        raise DownloadFailed("download_failed.lora_gone", field=_FIELDS[lora.expert], name=lora.name) from error


def bytes_of(loras: Iterable[LoraFile]) -> int:
    """Return the memory that they take beside a model's weights while a job runs.

    Raises:
        DownloadFailed: one is not there any more.
    """
    total = 0
    for lora in loras:
        if lora.scale:
            with still_there(lora):
                total += identify(lora.path).bytes
    return total


def unusable(lora: LoraFile, problem: str) -> FieldProblem:
    """Return the problem of a LoRA that cannot be used, by its public name."""
    return FieldProblem(_FIELDS[lora.expert], "invalid_input.lora_unusable", name=lora.name, problem=problem)


@lru_cache(maxsize=32)  # some megabytes for a file with every layer; a job has few files and uses each several times
def _identify(path: Path, size: int, _changed: int) -> Identity:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if MAX_HEADER_BYTES < length < size:
        return Identity(text("invalid_input.lora_header", most=MAX_HEADER_BYTES, got=length))
    try:
        entries = header(path)
    except RecursionError:  # JSON of deeply nested brackets
        entries = {}
    if not entries:
        return Identity(_no_header(path))
    if not all(_is_sound(entry) for entry in entries.values()):
        return Identity(text("invalid_input.lora_damaged"))
    whole = data_bytes(path) or 0
    if whole > size:
        return Identity(text("invalid_input.lora_incomplete", size=size, whole=whole))
    if len(entries) > MAX_TENSORS:
        return Identity(text("invalid_input.lora_tensors", most=MAX_TENSORS, got=len(entries)))
    try:
        layers, left = _layers(entries)
        family = _family([layer.name for layer in layers if layer.network == "denoiser"], layers, entries)
        sizes = _check_shapes(layers, entries)
    except _Problem as found:
        return Identity(str(found))
    numbers = sum(size.kept for size in sizes) + max(size.passing for size in sizes)
    return Identity(
        family=family,
        layers=tuple(layers),
        left=left,
        rank=max(size.rank for size in sizes),
        bytes=2 * numbers,
        text_encoders=any(layer.network != "denoiser" for layer in layers),
        scales=tuple(_scales(metadata(path)).items()),
    )


class _Problem(Exception):
    """Why a file cannot be used."""


def _no_header(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(8)
    # A bare pickle, and PyTorch's archive of one.
    if start.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")):
        return text("invalid_input.lora_pickle")
    return text("invalid_input.lora_no_safetensors")


def _is_sound(entry: object) -> bool:
    """Whether a header entry has a valid type, shape and offsets."""
    if not isinstance(entry, dict):
        return False
    shape, place = entry.get("shape"), entry.get("data_offsets")
    return (
        isinstance(entry.get("dtype"), str)
        and isinstance(shape, list)
        and all(type(side) is int and 0 <= side < 2**40 for side in shape)
        and isinstance(place, list)
        and len(place) == 2
        and all(type(at) is int and at >= 0 for at in place)
    )


def _layers(entries: Mapping[str, Any]) -> tuple[list[Layer], int]:
    """Return the layers that a file changes, and the number of unsupported changes.

    Raises:
        _Problem: the names are not those of a LoRA.
    """
    for key in entries:
        for mark, kind in _OTHER_KINDS:
            if mark in key:
                raise _Problem(text("invalid_input.lora_other_kind", kind=kind))
    found: dict[tuple[Network, str], Layer] = {}
    left = 0
    for key in entries:
        part, stem = _part(key)
        network, name = _of_network(stem)
        if part == "left":
            left += 1
        else:
            found.setdefault((network, name), Layer(network, name)).keys[part] = key
    for layer in found.values():
        if "magnitude" in layer.keys and layer.kind in {"LoKr", "LoHa"}:
            raise _Problem(text("invalid_input.lora_other_kind", kind=f"{layer.kind} with DoRA"))
        if layer.parts and layer.parts not in _WHOLE:
            raise _Problem(text("invalid_input.lora_half", got=layer.name[:80]))
    # A bias alone changes its layer; an alpha alone does nothing.
    layers = [layer for layer in found.values() if layer.parts or "bias" in layer.keys]
    if not any(layer.parts for layer in layers):
        raise _Problem(text("invalid_input.lora_none"))
    return layers, left


def _part(key: str) -> tuple[Part, str]:
    """Split a tensor's name into its layer and the part of the change."""
    for pattern, part in _PARTS:
        if found := pattern.search(key):
            return part, key[: found.start()]
    raise _Problem(text("invalid_input.lora_names", got=key[:80]))


def _of_network(stem: str) -> tuple[Network, str]:
    stem = stem.removeprefix("base_model.model.")
    for prefix, network in _PREFIXES:
        if stem.startswith(prefix):
            return network, stem.removeprefix(prefix)
    raise AssertionError("the last prefix is empty")


def _family(names: Sequence[str], layers: Sequence[Layer], entries: Mapping[str, Any]) -> Literal["sdxl", "wan"]:
    """Return the family that a file was made for.

    Raises:
        _Problem: for none that is served here; names the model, if it is known.
    """
    for pattern, model in _FOREIGN:
        if any(pattern.search(name) for name in names):
            raise _Problem(text("invalid_input.lora_made_for", found=model, wanted="SDXL or Wan"))
    if any(_WAN.match(name) for name in names):
        return "wan"
    for layer in layers:
        if layer.network == "denoiser" and layer.parts and _READS_TEXT.search(layer.name):
            width = _size(layer, entries).inputs
            if width in _OF_TEXT_WIDTH:
                raise _Problem(text("invalid_input.lora_made_for", found=_OF_TEXT_WIDTH[width], wanted="SDXL"))
    if any(_UNET.match(name) for name in names) or not names:
        return "sdxl"
    raise _Problem(text("invalid_input.lora_unknown_model", got=names[0][:80]))


def _check_shapes(layers: Sequence[Layer], entries: Mapping[str, Any]) -> "list[_Size]":
    """Return the size of each layer's change.

    Raises:
        _Problem: an excessive rank, or inconsistent parts of a layer.
    """
    sizes = []
    for layer in layers:
        kinds = {entries[key]["dtype"] for part, key in layer.keys.items() if part != "alpha"}
        if not kinds <= _FLOATS:
            raise _Problem(text("invalid_input.lora_types", got=", ".join(sorted(kinds - _FLOATS))[:40]))
        if "alpha" in layer.keys and math.prod(entries[layer.keys["alpha"]]["shape"]) != 1:
            raise _Problem(text("invalid_input.lora_damaged"))
        size = _size(layer, entries)
        if size.rank > MAX_RANK:
            raise _Problem(text("invalid_input.lora_rank", most=MAX_RANK, got=size.rank))
        bias = math.prod(entries[layer.keys["bias"]]["shape"]) if "bias" in layer.keys else 0
        sizes.append(size._replace(kept=size.kept + bias))
    return sizes


class _Size(NamedTuple):
    """The size of a layer's change, in numbers as `lora.py` stores them."""

    rank: int = 0
    """The highest rank of its matrices; 0 if none is low-rank."""
    inputs: int = 0
    """Input channels of the layer, times its kernel size if both are flattened."""
    kept: int = 0
    passing: int = 0
    """Numbers that exist only while the layer runs."""


def _size(layer: Layer, entries: Mapping[str, Any]) -> _Size:
    """How large a layer's change is, by the shapes of its parts.

    Raises:
        _Problem: they do not go together.
    """
    shapes: dict[str, tuple[int, ...]] = {
        part: tuple(entries[key]["shape"]) for part, key in layer.keys.items() if part in layer.parts
    }
    if any(0 in shape for shape in shapes.values()):
        raise _Problem(text("invalid_input.lora_damaged"))
    match layer.kind:
        case "LoRA":
            return _size_of_lora(shapes)
        case "LoKr":
            return _size_of_lokr(shapes)
        case "LoHa":
            return _size_of_loha(shapes)
    return _Size()


_Shapes = Mapping[str, tuple[int, ...]]


def _size_of_lora(shapes: _Shapes) -> _Size:
    down, up = shapes["down"], shapes["up"]
    if len(down) not in {2, 4, 5} or len(up) not in {2, 4, 5} or down[0] != up[1]:
        raise _Problem(text("invalid_input.lora_damaged"))
    if "mid" in shapes and (len(shapes["mid"]) != 4 or shapes["mid"][:2] != (down[0], down[0])):
        raise _Problem(text("invalid_input.lora_damaged"))
    if "magnitude" in shapes and (math.prod(shapes["magnitude"]) != up[0] or shapes["magnitude"][0] != up[0]):
        # LyCORIS may normalise over the inputs instead, which is another formula.
        raise _Problem(text("invalid_input.lora_other_kind", kind="DoRA over a layer's inputs"))
    return _Size(down[0], down[1], sum(math.prod(shape) for shape in shapes.values()))


def _size_of_loha(shapes: _Shapes) -> _Size:
    one, other = (
        _product(shapes[a], shapes[b], shapes.get(t))
        for a, b, t in (("hada_w1_a", "hada_w1_b", "hada_t1"), ("hada_w2_a", "hada_w2_b", "hada_t2"))
    )
    if one != other:
        raise _Problem(text("invalid_input.lora_damaged"))
    rank, outputs, inputs = one
    if is_smaller_as_lora(rank, outputs, inputs):
        return _Size(rank, inputs, rank * rank * (outputs + inputs))
    return _Size(rank, inputs, 2 * rank * (outputs + inputs), 2 * outputs * inputs)


def _size_of_lokr(shapes: _Shapes) -> _Size:
    first, second = shapes.get("lokr_w1"), shapes.get("lokr_w2")
    ranks = [0]
    if first is None:
        rank, *sides = _product(shapes["lokr_w1_a"], shapes["lokr_w1_b"], None)
        first = tuple(sides)
        ranks.append(rank)
    if second is None:
        rank, outputs, inputs = _product(shapes["lokr_w2_a"], shapes["lokr_w2_b"], shapes.get("lokr_t2"))
        ranks.append(rank)
        kept = min(outputs * inputs, rank * (outputs + inputs))
    else:
        inputs, kept = math.prod(second[1:]), math.prod(second)
    if len(first) != 2 or (second is not None and len(second) not in {2, 4, 5}):
        raise _Problem(text("invalid_input.lora_damaged"))
    return _Size(max(ranks), first[1] * inputs, math.prod(first) + kept)


def _product(a: tuple[int, ...], b: tuple[int, ...], core: tuple[int, ...] | None) -> tuple[int, int, int]:
    """Rank, outputs and inputs of a matrix that is a product of two, or of a kernel in Tucker's form.

    Raises:
        _Problem: they do not go together.
    """
    if len(a) != 2 or len(b) != 2:
        raise _Problem(text("invalid_input.lora_damaged"))
    if core is None:
        if a[1] != b[0]:
            raise _Problem(text("invalid_input.lora_damaged"))
        return b[0], a[0], b[1]
    if len(core) not in {4, 5} or (a[0], b[0]) != core[:2] or a[0] != b[0]:
        raise _Problem(text("invalid_input.lora_damaged"))
    return b[0], a[1], b[1] * math.prod(core[2:])


def is_smaller_as_lora(rank: int, outputs: int, inputs: int) -> bool:
    """Whether a LoHa of this rank is stored as one low-rank pair of the squared rank."""
    return rank * rank * (outputs + inputs) <= outputs * inputs


def _scales(said: Mapping[str, str]) -> dict[str, float]:
    """Read PEFT's settings from diffusers' metadata: `<network>.lora_alpha`, `.r`, `.use_rslora`."""
    try:
        config = json.loads(said["lora_adapter_metadata"])
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    if not isinstance(config, dict):
        return {}
    scales = {}
    for name in ("unet", "transformer", "text_encoder", "text_encoder_2"):
        alpha, rank = config.get(f"{name}.lora_alpha"), config.get(f"{name}.r")
        if isinstance(alpha, int | float) and isinstance(rank, int) and 0 < rank <= MAX_RANK and math.isfinite(alpha):
            scales[name] = alpha / (math.sqrt(rank) if config.get(f"{name}.use_rslora") else rank)
    return scales
