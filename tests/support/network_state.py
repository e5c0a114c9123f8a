"""A snapshot of everything that a job could leave changed in a set of networks."""

from collections.abc import Mapping
from typing import Any

import torch

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")


class NetworkState:
    """The networks as they are now: the objects they consist of, and every bit of their tensors."""

    def __init__(self, networks: Mapping[str, torch.nn.Module]) -> None:
        self._networks = dict(networks)
        self._before = self._look()
        self._values = {key: tensor.detach().clone() for key, tensor in self._tensors().items()}

    def differences(self) -> list[str]:
        """Describe what has changed since; empty if nothing has."""
        now = self._look()
        found = [f"{key} is new" for key in now.keys() - self._before.keys()]
        found += [f"{key} is gone" for key in self._before.keys() - now.keys()]
        found += [f"{key} was {was} and is {now[key]}" for key, was in self._before.items() if now.get(key, was) != was]
        tensors = self._tensors()
        found += [
            f"{key} has other numbers"
            for key, was in self._values.items()
            if key in tensors and not torch.equal(tensors[key], was)
        ]
        return sorted(found)

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {
            f"{network}.{name}": tensor
            for network, module in self._networks.items()
            for name, tensor in (*module.named_parameters(), *module.named_buffers())
        }

    def _look(self) -> dict[str, object]:
        found: dict[str, object] = {}
        for network, whole in self._networks.items():
            for name, module in whole.named_modules(remove_duplicate=False):
                found |= {f"{network}.{name}: {what}": value for what, value in _facts(module)}
        for key, tensor in self._tensors().items():
            found[key] = (id(tensor), tensor.dtype, tensor.device, tensor.requires_grad, tuple(tensor.shape))
        return found


def _facts(module: torch.nn.Module) -> list[tuple[str, object]]:
    inside: dict[str, Any] = vars(module)
    facts: list[tuple[str, object]] = [("object", id(module)), ("training", module.training)]
    facts += [(name, len(inside[name])) for name in _HOOKS]
    facts.append(("attributes", tuple(sorted(inside))))
    facts += [(name, id(inside[name])) for name in ("forward", "processor") if name in inside]
    if "_internal_dict" in inside:
        facts.append(("config", str(inside["_internal_dict"])))
    return facts
