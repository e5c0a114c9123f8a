"""What a LoRA file is, told from its header alone: for which model, by which trainer's names, of what rank; or why not.

Reads names, types and shapes; loads no tensor and imports no torch. A file is a stranger's: whatever is odd in it ends
as a refusal in words.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from worker.api.loras import FAMILY_NAMES, LORA_FIELDS
from worker.core.errors import FieldProblem, InvalidInput
from worker.core.messages import text
from worker.core.types import LoraFile, TaskType
from worker.engine.models.checkpoint import data_bytes, header, metadata

MAX_RANK = 512
"""More is no low-rank weight of anybody's: published ones have 4 to 256."""
MAX_TENSORS = 20_000
"""SDXL with all convolutions and both text encoders has about 4,600 with their alphas, Wan 14B about 2,000."""
Part = Literal["down", "up", "mid", "alpha", "magnitude", "bias", "left"]
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
    # Whole differences of norms, embeddings and modulations beside the low-rank ones: left as they are, and said.
    (r"\.diff$|\.diff_m$|\.w_norm$|\.b_norm$", "left"),
)
_PARTS = tuple((re.compile(pattern), part) for pattern, part in _PART_NAMES)
_OTHER_KINDS = (
    (".hada_", "LoHa"),
    (".lokr_", "LoKr"),
    (".oft_", "OFT"),
    (".on_input", "IA3"),
    (".a1.weight", "GLoRA"),
    (".glora_", "GLoRA"),
    ("lora_controlnet", "Control-LoRA"),
)
"""What stands in the names of other ways to change a model -> what they are called.

https://github.com/KohakuBlueleaf/LyCORIS, "Available algorithms"."""
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
    """Of its low-rank weights, at two bytes a number."""
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
    """
    wanted = "wan" if task.is_video else "sdxl"
    problems = []
    for lora in loras:
        found = identify(lora.path)
        problem = found.problem
        if problem is None and found.family != wanted:
            problem = text("invalid_input.lora_made_for", found=FAMILY_NAMES[found.family], wanted=FAMILY_NAMES[wanted])
        if problem is not None:
            problems.append(unusable(lora, problem))
    if problems:
        raise InvalidInput(problems)


def unusable(lora: LoraFile, problem: str) -> FieldProblem:
    """A LoRA that cannot be used, by the name that its client knows it by."""
    return FieldProblem(_FIELDS[lora.expert], "invalid_input.lora_unusable", name=lora.name, problem=problem)


@lru_cache(maxsize=32)  # of one with every layer, some megabytes; a job has few and looks at each several times
def _identify(path: Path, size: int, _changed: int) -> Identity:
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
        rank = _check_shapes(layers, entries)
    except _Problem as found:
        return Identity(str(found))
    numbers = sum(
        math.prod(entries[key]["shape"]) for layer in layers for part, key in layer.keys.items() if part != "alpha"
    )
    return Identity(
        family=family,
        layers=tuple(layers),
        left=left,
        rank=rank,
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
        halves = {"down", "up"} & set(layer.keys)
        if len(halves) == 1 or (not halves and {"mid", "magnitude"} & set(layer.keys)):
            raise _Problem(text("invalid_input.lora_half", got=layer.name[:80]))
    # A bias without a low-rank weight changes the layer, too; an alpha by itself does nothing.
    layers = [layer for layer in found.values() if {"down", "bias"} & set(layer.keys)]
    if not any("down" in layer.keys for layer in layers):
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
        if layer.network == "denoiser" and "down" in layer.keys and _READS_TEXT.search(layer.name):
            width = entries[layer.keys["down"]]["shape"][1:2]
            if width and width[0] in _OF_TEXT_WIDTH:
                raise _Problem(text("invalid_input.lora_made_for", found=_OF_TEXT_WIDTH[width[0]], wanted="SDXL"))
    if any(_UNET.match(name) for name in names) or not names:
        return "sdxl"
    raise _Problem(text("invalid_input.lora_unknown_model", got=names[0][:80]))


def _check_shapes(layers: Sequence[Layer], entries: Mapping[str, Any]) -> int:
    """The highest rank.

    Raises:
        _Problem: a rank that nobody needs, or parts of a layer that do not go together.
    """
    highest = 0
    for layer in layers:
        shapes = {part: entries[key]["shape"] for part, key in layer.keys.items()}
        kinds = {entries[key]["dtype"] for part, key in layer.keys.items() if part != "alpha"}
        if not kinds <= _FLOATS:
            raise _Problem(text("invalid_input.lora_types", got=", ".join(sorted(kinds - _FLOATS))[:40]))
        if math.prod(shapes.get("alpha", ())) != 1:
            raise _Problem(text("invalid_input.lora_damaged"))
        if "down" not in shapes:
            continue
        down, up = shapes["down"], shapes["up"]
        if len(down) not in {2, 4, 5} or len(up) not in {2, 4, 5} or down[0] != up[1] or 0 in (*down, *up):
            raise _Problem(text("invalid_input.lora_damaged"))
        if down[0] > MAX_RANK:
            raise _Problem(text("invalid_input.lora_rank", most=MAX_RANK, got=down[0]))
        if "mid" in shapes and (len(shapes["mid"]) != 4 or shapes["mid"][:2] != [down[0], down[0]]):
            raise _Problem(text("invalid_input.lora_damaged"))
        if "magnitude" in shapes and (math.prod(shapes["magnitude"]) != up[0] or shapes["magnitude"][0] != up[0]):
            # LyCORIS can normalise over the inputs instead: another formula.
            raise _Problem(text("invalid_input.lora_other_kind", kind="DoRA over a layer's inputs"))
        highest = max(highest, down[0])
    return highest


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
