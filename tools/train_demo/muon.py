"""Muon (Jordan et al. 2024) in float32, for matrices and kernels. Knows gradients; knows no networks.

`torch.optim.Muon` takes its matrices one after the other and in bfloat16, which processors without such units emulate:
there it takes a quarter of a whole training step. Here all matrices of one shape go together.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch

_ENDS = {
    *("conv_in", "conv_out"),
    *("token_embedding", "position_embedding", "shared", "embed_tokens", "relative_attention_bias", "head"),
}
_MOMENTUM = 0.95
_ITERATIONS = 5
_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Jordan's coefficients: singular values come near to 1, which is enough, in the fewest iterations."""


def kernels(network: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The matrices and kernels of a network, but for those that it begins and ends with.

    Those, with a row or a column for each colour, word or position, and all vectors are left to AdamW, as in Jordan et
    al.
    """
    return [
        weight
        for name, weight in network.named_parameters()
        if min(weight.flatten(1).shape if weight.ndim > 1 else [1]) > 1 and _ENDS.isdisjoint(name.split("."))
    ]


class Muon(torch.optim.Optimizer):
    """Steps along the nearest orthogonal matrix of the gradients' running mean, with Nesterov's look ahead.

    A convolution's kernel counts as a matrix of one row for each channel that comes out; what a step did not reach
    stays as it is. An update has the root mean square of AdamW's, 0.2 times the rate (Liu et al. 2025,
    arXiv:2502.16982).
    """

    def __init__(self, matrices: Sequence[torch.nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]  # torch's has overloads
        """Take one step; there is no use for a closure."""
        for group in self.param_groups:
            alike: defaultdict[torch.Size, list[tuple[torch.nn.Parameter, torch.Tensor]]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike[matrix.flatten(1).shape].append((matrix, matrix.grad))
            for shape, pairs in alike.items():
                updates = orthogonal(torch.stack([self._ahead(*pair).flatten(1) for pair in pairs]))
                rate = group["lr"] * 0.2 * math.sqrt(max(shape))
                for (matrix, _), update in zip(pairs, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.view_as(matrix), alpha=-rate)

    def _ahead(self, matrix: torch.nn.Parameter, gradient: torch.Tensor) -> torch.Tensor:
        mean = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix))
        mean.lerp_(gradient, 1 - _MOMENTUM)
        return gradient.lerp(mean, _MOMENTUM)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """About the nearest orthogonal matrices, (count, rows, columns), by Newton-Schulz iterations.

    Each multiplies by a polynomial of the gram matrix. Of matrices that are far from square, as kernels are, only the
    small gram matrices are iterated, and what they came to is multiplied once.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x: torch.Tensor = matrices if wide else matrices.mT
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    a, b, c = _QUINTIC
    rows, columns = x.shape[1:]
    if columns < 1.5 * rows:
        for _ in range(_ITERATIONS):
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
    else:
        gram, one = x @ x.mT, torch.eye(rows, dtype=x.dtype, device=x.device)
        whole = one
        for _ in range(_ITERATIONS):
            factor = a * one + b * gram + c * gram @ gram
            gram, whole = factor @ (factor @ gram), factor @ whole
        x = whole @ x
    return x if wide else x.mT
