"""Applies LoRAs to loaded networks while a job runs, and leaves no trace of them afterwards.

A layer computes W x; with LoRA W x + scale (alpha / rank) B A x (Hu et al. 2021, arXiv:2106.09685, section 4.1). The
second term is a forward hook on the layer: no weight, module or name of the network changes, so without its hooks the
network is what it was, bit for bit, wherever its weights are. All LoRAs of a job form one pair of matrices per layer.
DoRA (Liu et al. 2024, arXiv:2402.09353) also scales the layer's own output. Of LyCORIS (Yeh et al. 2023,
arXiv:2309.14859), LoKr is a Kronecker product, whose factors are applied in turn; LoHa is an elementwise product of two
low-rank matrices, which has at most the product of their ranks, and is kept as one such matrix if that is smaller.
"""

import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from worker.core.errors import InvalidInput
from worker.core.messages import text
from worker.core.types import Control, LoraFile
from worker.engine.adapters.lora_file import Layer, identify, is_smaller_as_lora, still_there, unusable
from worker.engine.adapters.lora_names import flat, layers_by_name
from worker.engine.memory.offload import Offloader
from worker.engine.memory.placement import phase_of
from worker.engine.models.loader import Parts, SdxlParts, WanParts
from worker.engine.vendor_errors import translated

log = logging.getLogger(__name__)

KEPT_BYTES = 2 << 30
"""Limit of LoRAs cached in host memory for the next job: eight large ones of SDXL."""

Tensors = Mapping[str, torch.Tensor]


class LoraStore:
    """Caches the most recently used LoRAs in host memory; a changed file is read again."""

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[tuple[Path, int, int], Tensors] = OrderedDict()

    @property
    def bytes(self) -> int:
        """Bytes of all cached tensors."""
        return sum(_bytes(tensors) for tensors in self._kept.values())

    def __getitem__(self, path: Path) -> Tensors:
        """Return the tensors of a file, by name.

        Raises:
            OSError, SafetensorError: it cannot be read.
        """
        state = path.stat()
        key = path, state.st_size, state.st_mtime_ns
        if key not in self._kept:
            with safe_open(path, "pt") as file:
                self._kept[key] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        self._kept.move_to_end(key)
        found = self._kept[key]
        while self.bytes > self._most_bytes:
            self._kept.popitem(last=False)
        return found

    def clear(self) -> None:
        """Empty the cache."""
        self._kept.clear()


@contextmanager
def applied_loras(
    parts: Parts, offloader: Offloader, loras: Sequence[LoraFile], store: LoraStore, control: Control
) -> Iterator[None]:
    """Apply these LoRAs to the networks in the body; the refiner gets none.

    Raises:
        InvalidInput: a LoRA does not fit this model.
        DownloadFailed: a file no longer exists.
        ModelUnavailable, OutOfMemory: a file cannot be read.
    """
    # A scale of 0 is left out: 0 times a non-finite number is NaN.
    used = [lora for lora in loras if lora.scale]
    with ExitStack() as stack:
        if used:
            with translated("load"):
                hanging = _gathered(parts, used, store, control)
            stack.enter_context(offloader.followed(lambda name: _make_way(hanging, name)))
            for one in hanging.values():
                stack.enter_context(one.attached(offloader.device))
        yield


@contextmanager
def without_loras(network: torch.nn.Module) -> Iterator[None]:
    """Run a network without its attached LoRAs in the body."""
    one = _ATTACHED.get(network)
    if one is None:
        yield
        return
    one.on = False
    try:
        yield
    finally:
        one.on = True


@dataclass(slots=True)
class _Addition:
    """The change of one layer's output by all LoRAs of the job."""

    layer: torch.nn.Module
    host: dict[str, torch.Tensor]
    """Those that exist of `down` (rank, in, ...), `scales` (rank,), `up` (out, rank, ...), `bias`, `gain` (out,), and
    by number the arguments of `_kronecker` and `_hadamard` for each LoKr and LoHa."""
    here: dict[str, torch.Tensor] | None = None
    """The tensors on the network's device."""

    def __call__(self, layer: Any, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        """The forward hook."""
        if self.here is None:
            raise AssertionError("a network's LoRAs come before it runs")
        own, inputs = self.here, args[0]
        result = output
        if "gain" in own:
            plain = output if layer.bias is None else output - _wide(layer.bias, output, layer)
            result = result + plain * _wide(own["gain"], output, layer)
        if "down" in own and isinstance(layer, torch.nn.Linear):
            inside = torch.nn.functional.linear(inputs, own["down"]) * own["scales"]
            # In place: a third copy of the output of Wan's widest layer would be a step's peak.
            result = torch.nn.functional.linear(inside, own["up"]).add_(result)
        elif "down" in own:
            convolve = torch.nn.functional.conv2d if own["down"].ndim == 4 else torch.nn.functional.conv3d
            inside = convolve(inputs, own["down"], None, layer.stride, layer.padding, layer.dilation)
            result = convolve(inside * _wide(own["scales"], inside, layer), own["up"]).add_(result)
        for name in own:
            kind, _, number = name.partition(".")
            if kind == "first":
                result = result + _kronecker(
                    layer, inputs, own[name], own[f"second.{number}"], own.get(f"out.{number}")
                )
            elif kind == "scale":
                one, other = ((own[f"up_{n}.{number}"], own[f"down_{n}.{number}"]) for n in (1, 2))
                result = result + _hadamard(layer, inputs, one, other) * own[name]
        if "bias" in own:
            result = result + _wide(own["bias"], output, layer)
        return result


@dataclass(slots=True)
class _Hanging:
    """The LoRAs of one network."""

    name: str
    network: torch.nn.Module
    additions: list[_Addition] = field(default_factory=list)
    on: bool = True

    @contextmanager
    def attached(self, device: torch.device) -> Iterator[None]:
        """Attach the hooks in the body; the tensors move to the device when the network begins to run."""
        with ExitStack() as stack:
            come: Callable[[Any, Any], None] = lambda _network, _args: self.come(device)  # noqa: E731
            stack.callback(self.network.register_forward_pre_hook(come).remove)
            for addition in self.additions:
                stack.callback(addition.layer.register_forward_hook(self._hook(addition)).remove)
            stack.callback(_ATTACHED.pop, self.network, None)
            _ATTACHED[self.network] = self
            stack.callback(self.leave)
            yield

    def _hook(self, addition: _Addition) -> Callable[..., torch.Tensor]:
        return lambda layer, args, output: addition(layer, args, output) if self.on else output

    def come(self, device: torch.device) -> None:
        """Move the tensors to the network's device."""
        for addition in self.additions if self.on else ():
            if addition.here is None:
                addition.here = {name: one.to(device, non_blocking=True) for name, one in addition.host.items()}

    def leave(self) -> None:
        """Keep the tensors in host memory only."""
        for addition in self.additions:
            addition.here = None


_ATTACHED: "weakref.WeakKeyDictionary[torch.nn.Module, _Hanging]" = weakref.WeakKeyDictionary()
"""Network -> its attached LoRAs."""


def _make_way(hanging: Mapping[str, _Hanging], name: str) -> None:
    """Move LoRAs of other phases off the GPU, before an offloaded network of this name runs."""
    for one in hanging.values():
        if phase_of(one.name) != phase_of(name):
            one.leave()


class _Unfit(Exception):
    """Why a LoRA does not fit this model."""


class _Gathering:
    """Collects the changes of a job's files per network, checked against its layers."""

    def __init__(self, parts: Parts, store: LoraStore, control: Control) -> None:
        self._parts, self._store, self._control = parts, store, control
        names = ("text_encoder", "text_encoder_2", "unet", "transformer", "transformer_2")
        self._networks = {name: module for name, module in parts.modules().items() if name in names}
        self._tables = {name: layers_by_name(network) for name, network in self._networks.items()}
        self._added: dict[tuple[str, str], list[Mapping[str, torch.Tensor]]] = {}

    def add(self, lora: LoraFile) -> None:
        """Add one file.

        Raises:
            _Unfit: it is made for another model.
        """
        with still_there(lora):
            found, tensors = identify(lora.path), self._store[lora.path]
        scales, left = dict(found.scales), found.left
        targets = self._targets(lora)
        new: list[tuple[tuple[str, str], Mapping[str, torch.Tensor]]] = []
        for layer in found.layers:
            known = False
            for network in targets.get(layer.network, ()):
                if (place := self._tables[network].get(flat(layer.name))) is not None:
                    known = True
                    name, module = place
                    default = scales.get(network.replace("transformer_2", "transformer"), 1.0)
                    new.append(((network, name), _addition(layer, tensors, module, lora.scale, default)))
            left += not known
        if not new:
            raise _Unfit(text("invalid_input.lora_no_layer"))
        for where, addition in new:
            self._added.setdefault(where, []).append(addition)
        if left:
            self._control.warn(
                f"{lora.name}: {left} of its weights are for nothing that this model has, and do nothing"
            )

    def hanging(self) -> dict[str, "_Hanging"]:
        """Return the changes per network, ready to attach."""
        found: dict[str, _Hanging] = {}
        for (network, name), additions in self._added.items():
            one = found.setdefault(network, _Hanging(network, self._networks[network]))
            one.additions.append(_summed(one.network.get_submodule(name), additions))
        return found

    def _targets(self, lora: LoraFile) -> dict[str, tuple[str, ...]]:
        """The names that a file has for networks -> those of the networks here.

        Raises:
            _Unfit: it is for one of two experts, and there is one network.
        """
        if isinstance(self._parts, SdxlParts):
            return {"denoiser": ("unet",), "text_encoder": ("text_encoder",), "text_encoder_2": ("text_encoder_2",)}
        if not isinstance(self._parts, WanParts) or self._parts.transformer_2 is None:
            if lora.expert != "both":
                raise _Unfit(text("invalid_input.lora_no_expert", expert=lora.expert))
            return {"denoiser": ("transformer",)}
        experts = {"both": ("transformer", "transformer_2"), "high": ("transformer",), "low": ("transformer_2",)}
        return {"denoiser": experts[lora.expert]}


def _gathered(parts: Parts, loras: Sequence[LoraFile], store: LoraStore, control: Control) -> dict[str, _Hanging]:
    gathering, problems = _Gathering(parts, store, control), []
    for lora in loras:
        control.raise_if_stopped()
        try:
            gathering.add(lora)
        except _Unfit as problem:
            problems.append(unusable(lora, str(problem)))
    if problems:
        raise InvalidInput(problems)
    return gathering.hanging()


def _addition(
    layer: Layer, tensors: Tensors, module: torch.nn.Module, scale: float, default: float
) -> dict[str, torch.Tensor]:
    """Return one file's change of one layer, in the layer's dtype.

    Raises:
        _Unfit: its shape differs, or its numbers are not finite.
    """
    weight: torch.Tensor = module.weight  # type: ignore[assignment]  # a Linear or a convolution
    parts: dict[str, torch.Tensor] = {part: tensors[key].float() for part, key in layer.keys.items()}
    made: dict[str, torch.Tensor] = {}
    try:
        if layer.kind is not None:
            made = _MADE[layer.kind](parts, weight, scale, default)
        if "bias" in parts:
            made["bias"] = scale * _bias(parts["bias"], weight)
    except _OtherShape as found:
        raise _Unfit(text("invalid_input.lora_shape", layer=layer.name[:80], got=found.got, want=found.want)) from None
    cast = {name: tensor.to(weight.dtype).contiguous() for name, tensor in made.items()}
    if not all(torch.isfinite(tensor).all() for tensor in cast.values()):
        raise _Unfit(text("invalid_input.lora_numbers"))
    return cast


class _OtherShape(Exception):
    """Return the error for a change whose shape does not fit its layer."""

    def __init__(self, got: str, want: str) -> None:
        super().__init__()
        self.got, self.want = got, want


_Parts = Mapping[str, torch.Tensor]


def _bias(bias: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    if bias.shape != weight.shape[:1]:
        raise _OtherShape(str(bias.numel()), str(weight.shape[0]))
    return bias


def _lora(parts: _Parts, weight: torch.Tensor, scale: float, default: float) -> dict[str, torch.Tensor]:
    rank = parts["down"].shape[0]
    own = float(parts["alpha"]) / rank if "alpha" in parts else default
    down, up = parts["down"], parts["up"]
    if "mid" in parts:
        # LyCORIS's Tucker form: a k x k convolution between two 1 x 1 ones. The first two are merged.
        down = torch.einsum("rmhw,mi->rihw", parts["mid"], down.flatten(1))
    down, up = _of_rank(down, weight.ndim), _of_rank(up, weight.ndim)
    if down.shape[1:] != weight.shape[1:] or up.shape != (weight.shape[0], rank, *(1,) * (weight.ndim - 2)):
        raise _OtherShape(f"{down.shape[1]} to {up.shape[0]}", f"{weight.shape[1]} to {weight.shape[0]}")
    made = {"scales": torch.full((rank,), scale * own)}
    if "magnitude" in parts:
        whole = weight.detach().float().flatten(1).cpu() + own * (up.flatten(1) @ down.flatten(1))
        ratio = parts["magnitude"].flatten() / whole.norm(dim=1)
        up = up * ratio.reshape(-1, *(1,) * (up.ndim - 1))
        made["gain"] = scale * (ratio - 1)
    return made | {"down": down, "up": up}


def _loha(parts: _Parts, weight: torch.Tensor, scale: float, default: float) -> dict[str, torch.Tensor]:
    """Return (U1 D1) * (U2 D2) as a low-rank pair if that is smaller, else as its four factors."""
    up_1, down_1 = _factors(parts["hada_w1_a"], parts["hada_w1_b"], parts.get("hada_t1"))
    up_2, down_2 = _factors(parts["hada_w2_a"], parts["hada_w2_b"], parts.get("hada_t2"))
    rank, inputs = down_1.shape
    own = scale * (float(parts["alpha"]) / rank if "alpha" in parts else default)
    if (up_1.shape[0], inputs) != (weight.shape[0], weight[0].numel()):
        raise _OtherShape(f"{inputs} to {up_1.shape[0]}", f"{weight[0].numel()} to {weight.shape[0]}")
    point, kernel = (1,) * (weight.ndim - 2), weight.shape[1:]
    if is_smaller_as_lora(rank, *weight.flatten(1).shape):
        # Each column of one with each of the other, rescaled so that products of small numbers fit half precision.
        up = torch.einsum("or,os->ors", up_1, up_2).flatten(1)
        down = torch.einsum("ri,si->rsi", down_1, down_2).flatten(0, 1)
        up, ups = _brought_to_one(up, 0)
        down, downs = _brought_to_one(down, 1)
        scales = own * ups.flatten() * downs.flatten()
        return {"up": up.reshape(*up.shape, *point), "down": down.reshape(-1, *kernel), "scales": scales}
    made = {"scale.0": torch.tensor(own)}
    for name, factor in {"up_1": up_1, "down_1": down_1, "up_2": up_2, "down_2": down_2}.items():
        made[f"{name}.0"], size = _brought_to_one(factor, None)
        made["scale.0"] = made["scale.0"] * size
    return made


def _lokr(parts: _Parts, weight: torch.Tensor, scale: float, default: float) -> dict[str, torch.Tensor]:
    """Return W1 x W2 (Kronecker), with W2 as two factors if that is smaller."""
    own, out = default, None
    if (first := parts.get("lokr_w1")) is None:
        first, rank = parts["lokr_w1_a"] @ parts["lokr_w1_b"], parts["lokr_w1_b"].shape[0]
        own = float(parts["alpha"]) / rank if "alpha" in parts else default
    if (second := parts.get("lokr_w2")) is None:
        out, second = _factors(parts["lokr_w2_a"], parts["lokr_w2_b"], parts.get("lokr_t2"))
        rank = second.shape[0]
        own = float(parts["alpha"]) / rank if "alpha" in parts else default
        if out.numel() + second.numel() >= out.shape[0] * second.shape[1]:
            second, out = out @ second, None
    outputs = first.shape[0] * (second if out is None else out).shape[0]
    inputs = first.shape[1] * second.flatten(1).shape[1]
    if (outputs, inputs) != (weight.shape[0], weight[0].numel()) or weight.shape[1] % first.shape[1]:
        raise _OtherShape(f"{inputs} to {outputs}", f"{weight[0].numel()} to {weight.shape[0]}")
    second = second.reshape(second.shape[0], weight.shape[1] // first.shape[1], *weight.shape[2:])
    made = {"first.0": first * scale * own, "second.0": second}
    return made if out is None else made | {"out.0": out.reshape(*out.shape, *(1,) * (weight.ndim - 2))}


_MADE: Mapping[str, Callable[[_Parts, torch.Tensor, float, float], dict[str, torch.Tensor]]] = {
    "LoRA": _lora,
    "LoKr": _lokr,
    "LoHa": _loha,
}


def _factors(a: torch.Tensor, b: torch.Tensor, core: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (out, rank) and (rank, in x kernel), whose product is the weight as a matrix; also for Tucker's form."""
    if core is None:
        return a, b
    return a.T, torch.einsum("rs...,si->ri...", core, b).flatten(1)


def _brought_to_one(matrix: torch.Tensor, side: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalise a matrix by its largest magnitude, overall or along `side`; returns it and the factor."""
    largest = matrix.abs().amax() if side is None else matrix.abs().amax(side, keepdim=True)
    largest = torch.where(largest == 0, 1.0, largest)
    return matrix / largest, largest


def _kronecker(
    layer: Any, inputs: torch.Tensor, first: torch.Tensor, second: torch.Tensor, out: torch.Tensor | None
) -> torch.Tensor:
    """Compute a layer with the weight first x second, in the order that needs less memory."""
    outputs = second.shape[0] if out is None else out.shape[0]
    is_linear = isinstance(layer, torch.nn.Linear)

    def by_second(pieces: torch.Tensor) -> torch.Tensor:
        if is_linear:
            pieces = torch.nn.functional.linear(pieces, second)
            return pieces if out is None else torch.nn.functional.linear(pieces, out)
        convolve = torch.nn.functional.conv2d if second.ndim == 4 else torch.nn.functional.conv3d
        made = convolve(pieces.flatten(0, 1), second, None, layer.stride, layer.padding, layer.dilation)
        made = made if out is None else convolve(made, out)
        return made.reshape(*pieces.shape[:2], *made.shape[1:])

    def by_first(pieces: torch.Tensor) -> torch.Tensor:
        if is_linear:
            return torch.nn.functional.linear(pieces.mT, first).mT
        return torch.einsum("om,bm...->bo...", first, pieces)

    cut, side = (first.shape[1], second.shape[1]), inputs.ndim - 1 if is_linear else 1
    pieces = inputs.reshape(*inputs.shape[:side], *cut, *inputs.shape[side + 1 :])
    if first.shape[1] * outputs <= first.shape[0] * second.shape[1]:
        made = by_first(by_second(pieces))
    else:
        made = by_second(by_first(pieces))
    return made.flatten(-2) if is_linear else made.flatten(1, 2)


_Factors = tuple[torch.Tensor, torch.Tensor]


def _hadamard(layer: Any, inputs: torch.Tensor, one: _Factors, other: _Factors) -> torch.Tensor:
    """Compute a layer with the weight (U1 D1) * (U2 D2), which exists only during the call."""
    weight = (one[0] @ one[1]).mul_(other[0] @ other[1]).reshape(layer.weight.shape)
    if isinstance(layer, torch.nn.Linear):
        return torch.nn.functional.linear(inputs, weight)
    convolve = torch.nn.functional.conv2d if weight.ndim == 4 else torch.nn.functional.conv3d
    return convolve(inputs, weight, None, layer.stride, layer.padding, layer.dilation)


def _of_rank(tensor: torch.Tensor, dimensions: int) -> torch.Tensor:
    """Convert between a matrix and a 1 x 1 convolution: trainers store either form."""
    if tensor.ndim < dimensions:
        return tensor.reshape(*tensor.shape, *(1,) * (dimensions - tensor.ndim))
    if tensor.ndim > dimensions and tensor.shape[dimensions:].numel() == 1:
        return tensor.reshape(tensor.shape[:dimensions])
    return tensor


def _summed(layer: torch.nn.Module, all_: Sequence[Mapping[str, torch.Tensor]]) -> _Addition:
    """Combine the changes of several files: ranks concatenated, LoKrs and LoHas by number."""
    made = {}
    for name, join in _JOINED.items():
        if found := [one[name] for one in all_ if name in one]:
            made[name] = join(found)
    for number, one in enumerate(all_):
        made |= {name.replace(".0", f".{number}"): tensor for name, tensor in one.items() if name.endswith(".0")}
    return _Addition(layer, made)


_JOINED: Mapping[str, Callable[[list[torch.Tensor]], torch.Tensor]] = {
    "down": lambda found: torch.cat(found, 0),
    "scales": lambda found: torch.cat(found, 0),
    "up": lambda found: torch.cat(found, 1),
    "bias": lambda found: torch.stack(found).sum(0),
    "gain": lambda found: torch.stack(found).sum(0),
}


def _wide(vector: torch.Tensor, output: torch.Tensor, layer: torch.nn.Module) -> torch.Tensor:
    """Reshape one number per channel to broadcast over a layer's output."""
    return vector if isinstance(layer, torch.nn.Linear) else vector.reshape(1, -1, *(1,) * (output.ndim - 2))


def _bytes(tensors: Tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
