"""What a LoRA file is, told from its header alone: for which model, by which trainer's names, of what rank; or why not.

Reads names, types and shapes; loads no tensor and imports no torch. A file is a stranger's: whatever is odd in it ends
as a refusal in words.
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

_ADAPTER = r"(?:\.(?!weight$|bias$)[A-Za-z0-9_-]+)?"  # PEFT may keep the adapter's name: lora_A.default.weight
_PART_NAMES: tuple[tuple[str, Part], ...] = (
    (r"[._]lora[._]down\.weight$|\.lora_linear_layer\.down\.weight$", "down"),
    (r"[._]lora[._]up\.weight$|\.lora_linear_layer\.up\.weight$", "up"),
    (rf"\.lora_A{_ADAPTER}\.weight$", "down"),
    (rf"\.lora_B{_ADAPTER}\.weight$", "up"),
    (rf"\.lora_B{_ADAPTER}\.bias$|\.diff_b$", "bias"),
    (r"\.lora_mid\.weight$", "mid"),
    (r"\.alpha$", "alpha"),
    (rf"\.dora_scale$|\.lora_magnitude_vector{_ADAPTER}(?:\.weight)?$", "magnitude"),
    # Whole differences of norms, embeddings and modulations beside the low-rank ones: left out, as a warning says.
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
"""What stands in the names of other ways to change a model -> what they are called.

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
"""What a layer's change may consist of, beside an alpha and a bias: LoRA, LoHa, LoKr."""
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
"""How the layers of models are called that this worker does not serve."""
_UNET = re.compile(r"(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)[._]")
_WAN = re.compile(r"blocks[._]\d+[._](self_attn|cross_attn|attn1|attn2|ffn)[._]")
_OF_TEXT_WIDTH = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 1280: "SDXL's refiner"}
"""Width of the text that a UNet reads -> its model; SDXL reads 2048."""
_READS_TEXT = re.compile(r"attn2[._](processor[._])?to_[kv]$")
_FIELDS = {expert: field for field, expert in LORA_FIELDS.items()}
_FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}


@dataclass(slots=True)
class Layer:
    """What a file says of one layer: part -> name of the tensor in the file."""

    network: Network
    name: str
    """As the trainer calls it, without the prefix."""
    keys: dict[Part, str] = field(default_factory=dict)

    @property
    def parts(self) -> frozenset[str]:
        """What its weight's change is made of."""
        return frozenset(self.keys) - {"alpha", "bias"}

    @property
    def kind(self) -> Literal["LoRA", "LoKr", "LoHa"] | None:
        """How the change is made of them; None where there is none, but a bias."""
        if any(part.startswith("lokr_") for part in self.keys):
            return "LoKr"
        if any(part.startswith("hada_") for part in self.keys):
            return "LoHa"
        return "LoRA" if self.parts else None


@dataclass(frozen=True, slots=True)
class Identity:
    """One file. Of one with a `problem`, nothing else is known."""

    problem: str | None = None
    """Why it cannot be used, as the rest of a sentence that begins with its name."""
    family: Literal["sdxl", "wan"] = "sdxl"
    layers: tuple[Layer, ...] = ()
    left: int = 0
    """How many layers it changes in a way that is not added to a model here."""
    rank: int = 0
    """The highest of its layers."""
    bytes: int = 0
    """Of its weights as they are kept beside a network, at two bytes a number, and of what the largest layer's pass by
    in while it runs."""
    text_encoders: bool = False
    scales: tuple[tuple[str, float], ...] = ()
    """Network as diffusers calls it -> by how much its weights count where the file has no alphas (PEFT's metadata)."""


def identify(path: Path) -> Identity:
    """What the file says; read again only after it has changed.

    Raises:
        OSError: there is no such file.
    """
    state = path.stat()
    return _identify(path, state.st_size, state.st_mtime_ns)


def check_loras(loras: Iterable[LoraFile], task: TaskType) -> None:
    """Refuse what cannot be added to a model of this task, before any model is touched.

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
    """In the body, a LoRA's file is read, which another worker with the same folder may remove at any moment.

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
    """Bytes that they take beside a model's weights while a job runs.

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
    """A LoRA that cannot be used, by the name that its client knows it by."""
    return FieldProblem(_FIELDS[lora.expert], "invalid_input.lora_unusable", name=lora.name, problem=problem)


@lru_cache(maxsize=32)  # of one with every layer, some megabytes; a job has few and looks at each several times
def _identify(path: Path, size: int, _changed: int) -> Identity:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if MAX_HEADER_BYTES < length < size:
        return Identity(text("invalid_input.lora_header", most=MAX_HEADER_BYTES, got=length))
    try:
        entries = header(path)
    except RecursionError:  # JSON that is nothing but brackets
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
    # A pickle by itself, and the archive that PyTorch wraps around one.
    if start.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")):
        return text("invalid_input.lora_pickle")
    return text("invalid_input.lora_no_safetensors")


def _is_sound(entry: object) -> bool:
    """Whether a header's entry has a type, a shape and a place in the file."""
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
    """The layers that a file changes, and how many it changes otherwise.

    Raises:
        _Problem: these are not the names of a LoRA.
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
    # A bias without a low-rank weight changes the layer, too; an alpha by itself does nothing.
    layers = [layer for layer in found.values() if layer.parts or "bias" in layer.keys]
    if not any(layer.parts for layer in layers):
        raise _Problem(text("invalid_input.lora_none"))
    return layers, left


def _part(key: str) -> tuple[Part, str]:
    """Which part of a layer a tensor is, and what is in front of that in its name."""
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
    """For which of the models that are served here it was made.

    Raises:
        _Problem: for none of them, and which it is for, as far as it can be told.
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
    """How large each layer's change is.

    Raises:
        _Problem: a rank that nobody needs, or parts of a layer that do not go together.
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
    """Of a layer's change. Numbers are counted as `lora.py` keeps them."""

    rank: int = 0
    """The highest of its matrices; 0 where none is of a low rank."""
    inputs: int = 0
    """Channels that the layer reads, times the places of its kernel where they are one side of a matrix."""
    kept: int = 0
    passing: int = 0
    """Numbers that are there only while the layer runs."""


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
        # LyCORIS can normalise over the inputs instead: another formula.
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
    """Whether the elementwise product of two matrices of this rank is kept as one low-rank matrix, of its square."""
    return rank * rank * (outputs + inputs) <= outputs * inputs


def _scales(said: Mapping[str, str]) -> dict[str, float]:
    """What diffusers writes of PEFT's configs beside the weights: `<network>.lora_alpha`, `.r`, `.use_rslora`."""
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
