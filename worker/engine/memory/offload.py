"""A loaded model's networks, on the GPU as a whole or brought there one at a time. Knows modules, not what they do."""

from collections.abc import Mapping
from typing import Any

import torch

from worker.engine.protocol import Placement


class Offloader:
    """The networks of one loaded model and where they are.

    `modules` are in the order in which a job uses them: when one is brought to the GPU, the one before it leaves.
    """

    def __init__(self, modules: Mapping[str, torch.nn.Module], device: torch.device) -> None:
        self._modules = dict(modules)
        self._device = device
        self._hooks: list[Any] = []
        self.mode: str | None = None

    @property
    def bytes(self) -> int:
        """Bytes of all parameters and buffers."""
        return sum(module_bytes(module) for module in self._modules.values())

    @property
    def largest(self) -> int:
        """Bytes of the largest network."""
        return max(module_bytes(module) for module in self._modules.values())

    def settle(self, placement: Placement) -> None:
        """Have the networks where `placement` says; does nothing when they are there."""
        if placement.mode == self.mode:
            return
        self._unhook()
        if placement.mode == "resident":
            for module in self._modules.values():
                module.to(self._device)
        else:
            self._offload()
        self.mode = placement.mode

    def rest(self) -> None:
        """After a job: an offloaded model leaves the GPU entirely."""
        for hook in self._hooks:
            hook.offload()

    def _offload(self) -> None:
        # What diffusers' enable_model_cpu_offload does, but tied to the networks, not to one pipeline object: pipelines
        # are made per request here.
        from accelerate import cpu_offload_with_hook

        previous = None
        for module in self._modules.values():
            module.to("cpu")
            _, previous = cpu_offload_with_hook(module, self._device, prev_module_hook=previous)
            self._hooks.append(previous)

    def _unhook(self) -> None:
        from accelerate.hooks import remove_hook_from_module

        for module in self._modules.values():
            remove_hook_from_module(module)
        self._hooks.clear()


def module_bytes(module: torch.nn.Module) -> int:
    """Bytes of a network's parameters and buffers, in the dtypes they have now."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
