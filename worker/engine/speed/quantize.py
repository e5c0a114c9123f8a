"""Quantises a denoiser's large layers to 8 bits: half the memory, with rounded weights.

Each output channel has its own scale. `int8` only stores the weights in 8 bits; `fp8` (e4m3) also rounds the inputs per
row, and multiplies in 8 bits if the card can (Ada, Hopper and later) and the network runs in bfloat16. Small layers and
those that affect every step (norms, time, text, first and last layer) stay unchanged.

A layer has plain buffers, which are moved, counted and offloaded like all others; torchao's tensor subclasses are not.
It also has a `weight`, which LoRAs need.
"""

import functools
import logging
from typing import Any

import torch
from torch.nn import functional

from worker.core.types import Quantized
from worker.engine.models.checkpoint import is_quantized

log = logging.getLogger(__name__)

_KEPT_AS = {"int8": (torch.int8, 127.0), "fp8": (torch.float8_e4m3fn, 448.0)}
"""The dtype, and its largest value."""
_SMALLEST = torch.finfo(torch.float32).tiny


class QuantizedLinear(torch.nn.Linear):
    """An 8-bit linear layer, which still offers a `weight`."""

    small: torch.Tensor
    """(out, in), 8 bits."""
    scale: torch.Tensor
    """(out, 1), float32: the scale of each row."""

    def __init__(self, layer: torch.nn.Linear, kind: Quantized) -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.register_parameter("bias", layer.bias)
        weight, (dtype, largest) = layer.weight.detach(), _KEPT_AS[kind]
        self.runs_in = weight.dtype
        scale = torch.linalg.vector_norm(weight, torch.inf, 1, keepdim=True).float().clamp_(min=_SMALLEST) / largest
        scaled = weight.float() / scale
        self.register_buffer("small", (scaled.round_() if kind == "int8" else scaled).to(dtype), persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        sixteens = self.in_features % 16 == self.out_features % 16 == 0
        self._rounds_inputs = kind == "fp8" and self.runs_in == torch.bfloat16 and sixteens

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]  # torch has an attribute here
        """(out, in), dequantised on each access."""
        return self.small.to(self.runs_in).mul_(self.scale)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name for it
        """(..., in) -> (..., out)."""
        if not (self._rounds_inputs and multiplies_fp8(input.device)):
            return functional.linear(input, self.weight, self.bias)
        rows = input.reshape(-1, self.in_features)
        largest = torch.linalg.vector_norm(rows, torch.inf, 1, keepdim=True)
        scale = (largest / _KEPT_AS["fp8"][1]).clamp_(min=_SMALLEST)
        made = _product((rows / scale).to(self.small.dtype), scale.float(), self.small, self.scale)
        made = made if self.bias is None else made.add_(self.bias)
        return made.reshape(*input.shape[:-1], self.out_features)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.weight


def quantize(network: torch.nn.Module, kind: Quantized, place: torch.device | None) -> None:
    """Quantise a network's large layers and move all of it to `place` (None: leave it where it is).

    Layers are moved and quantised one by one, so the unquantised network never has to fit there.
    """
    large = [name for name, layer in network.named_modules() if type(layer) is torch.nn.Linear]
    for name in filter(lambda name: is_quantized(f"{name}.weight"), large):
        parent, _, key = name.rpartition(".")
        layer: Any = network.get_submodule(name).to(place)
        setattr(network.get_submodule(parent), key, QuantizedLinear(layer, kind))
    network.to(place)


@functools.cache
def multiplies_fp8(device: torch.device) -> bool:
    """Whether 8-bit products work here, checked with a small one."""
    one = torch.eye(16, device=device).to(torch.float8_e4m3fn)
    scale = torch.full((16, 1), 2.0, device=device)
    try:
        works = bool(torch.equal(_product(one, scale, one, scale), 4 * torch.eye(16, device=device).bfloat16()))
    except RuntimeError:
        works = False
    if not works:
        said = "QUANTIZE: this card multiplies no fp8; weights are kept in it, and made wide for each product"
        log.warning(said, extra={"action": "quantize"})
    return works


def _product(rows: torch.Tensor, scales: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """(n, in) x (out, in), each row with its scale -> (n, out) in bfloat16."""
    by_row = functional.ScalingType.RowWise
    made: torch.Tensor = functional.scaled_mm(
        rows, weight.t(), scales, by_row, scale.t(), by_row, output_dtype=torch.bfloat16
    )
    return made
