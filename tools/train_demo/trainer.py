"""One training loop for every part: seeded per step, resumable, weights averaged. Knows parameters; knows no data."""

import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from tools.train_demo.device import kept
from tools.train_demo.muon import Muon

AVERAGE_OVER = 0.998
"""The decay of the weights' running average: what is shipped is the average, not the last step."""
_SAVE_EVERY = 120.0  # seconds
_SAY_EVERY = 100  # steps


def fit(
    name: str,
    model: torch.nn.Module,
    loss_of: Callable[[random.Random, int], torch.Tensor],
    *,
    steps: int,
    rate: float,
    work: Path,
    warmup: int = 100,
    decay: float = 0.01,
    matrices: Sequence[torch.nn.Parameter] = (),
) -> None:
    """Train `model` in place for `steps`, and leave it with its averaged weights.

    `matrices`, kernels too, are stepped by Muon (Jordan et al. 2024) at twice the rate, all others by AdamW.
    `loss_of(rng, step)` draws from `rng` and from torch's generator, both seeded by the step: a run that was
    interrupted goes on from `work/<name>.pt`. The learning rate rises for `warmup` steps and falls to a fiftieth along
    a cosine. Raises RuntimeError where a loss is not finite.
    """
    path = work / f"{name}.pt"
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    turned = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in parameters if id(parameter) not in turned]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=decay, fused=True)
    ]
    rates = [rate]
    if matrices:
        optimizers.append(Muon(matrices, lr=rate, weight_decay=decay))
        rates.append(2 * rate)
    average = [parameter.detach().clone() for parameter in parameters]
    start = 0
    if path.exists():
        saved = kept(path)
        start = saved["step"]
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        average = saved["average"]
    elif path.with_suffix(".done").exists():
        model.load_state_dict(kept(path.with_suffix(".done")))
        model.requires_grad_(False).eval()
        return
    model.train()
    saved_at = begun = time.monotonic()
    recent = 0.0
    for step in range(start, steps):
        torch.manual_seed(step)
        rng = random.Random(f"{name} {step}")
        _pace(optimizers, [full * min(1.0, (step + 1) / warmup) * _cosine(step / steps) for full in rates])
        loss = loss_of(rng, step)
        value = loss.item()
        if not math.isfinite(value):
            raise RuntimeError(f"{name}: the loss of step {step} is not finite")
        for parameter in parameters:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it out
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        keep = min(AVERAGE_OVER, (step + 1) / (step + 10))
        torch._foreach_lerp_(average, [parameter.detach() for parameter in parameters], 1 - keep)
        recent += value
        if (step + 1) % _SAY_EVERY == 0:
            pace = (time.monotonic() - begun) / (step + 1 - start)
            print(f"{name}: step {step + 1}/{steps}, loss {recent / _SAY_EVERY:.4f}, {pace:.2f} s a step", flush=True)
            recent = 0.0
        if time.monotonic() - saved_at > _SAVE_EVERY:
            _save(path, model, optimizers, average, step + 1)
            saved_at = time.monotonic()
    with torch.no_grad():
        for parameter, mean in zip(parameters, average, strict=True):
            parameter.copy_(mean)
    model.requires_grad_(False).eval()
    torch.save(model.state_dict(), path.with_suffix(".done"))
    path.unlink(missing_ok=True)


def _save(
    path: Path,
    model: torch.nn.Module,
    optimizers: list[torch.optim.Optimizer],
    average: list[torch.Tensor],
    step: int,
) -> None:
    scratch = path.with_suffix(".part")
    states = [optimizer.state_dict() for optimizer in optimizers]
    state = {"model": model.state_dict(), "optimizers": states, "average": average, "step": step}
    torch.save(state, scratch)
    scratch.replace(path)


def _pace(optimizers: list[torch.optim.Optimizer], rates: list[float]) -> None:
    for optimizer, rate in zip(optimizers, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate


def _cosine(part: float) -> float:
    return 0.02 + 0.98 * (1 + math.cos(math.pi * part)) / 2
