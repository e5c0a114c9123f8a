"""Moves a loaded model's networks to the GPU permanently, or only while they run. Knows modules, not their purpose.

Weights do not change, so they are copied in one direction only: a network that leaves the GPU points back to its copy
in host memory, which is made once and pinned (copying from pinned memory is about twice as fast and does not block the
CPU: https://docs.pytorch.org/tutorials/intermediate/pinmem_nonblock.html).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from accelerate.utils import send_to_device

from worker.engine.memory.pinned import copies
from worker.engine.memory.placement import PREVIEW, set_aside, stays_beside
from worker.engine.protocol import Placement

Place = tuple[torch.nn.Module, str]
"""The module that holds a tensor, and the tensor's name in it."""


class Offloader:
    """The networks of one loaded model, and where they are."""

    def __init__(self, modules: Mapping[str, torch.nn.Module], device: torch.device) -> None:
        self._modules = dict(modules)
        self._bytes: dict[str, int] = {}
        self.device = device
        self._followers: list[Callable[[str], None]] = []
        self._host: dict[str, list[tuple[list[Place], torch.Tensor]]] = {}
        self._aside: frozenset[str] = frozenset()
        self._visiting: set[str] = set()
        self.mode: str | None = None

    def add(self, name: str, module: torch.nn.Module) -> None:
        """Add an extra network; the next `settle` places it."""
        self._modules[name] = module
        self._bytes.pop(name, None)
        self.mode = None

    @property
    def networks(self) -> dict[str, int]:
        """Network -> bytes of its parameters and buffers.

        Computed once: walking thousands of modules takes tens of milliseconds, during which the GPU would be idle.
        """
        for name, module in self._modules.items():
            if name not in self._bytes:
                self._bytes[name] = module_bytes(module)
        return dict(self._bytes)

    @property
    def bytes(self) -> int:
        """Bytes of all of them."""
        return sum(self.networks.values())

    @property
    def resting_bytes(self) -> int:
        """Bytes on the GPU between jobs."""
        return sum(size for name, size in self.networks.items() if name not in self._aside)

    @property
    def host_bytes(self) -> int:
        """Bytes of the networks with a copy in host memory, on the GPU or not."""
        networks = self.networks
        return sum(networks[name] for name in self._host)

    def settle(self, placement: Placement) -> None:
        """Move the networks to where `placement` says; no effect if they are there."""
        if placement.mode == self.mode:
            return
        self.mode = None  # until finished: the next call repeats a move that ran out of memory
        self.rest()
        aside = set_aside(self._modules, placement.mode)
        for name in self._modules:
            remove_hook_from_module(self._modules[name])
            if name in aside:
                self._leave(name)
        for name, module in self._modules.items():
            if name not in aside:
                self._come(name)
            if aside:
                # diffusers also calls a VAE's encode and decode through this hook.
                add_hook_to_module(module, _Arrival(self, name, self.device))
        self._aside = aside
        self.mode = placement.mode

    def rest(self) -> None:
        """Move networks that are on the GPU only while they run off it, after a job."""
        for name in tuple(self._visiting):
            self._leave(name)

    def arrive(self, name: str) -> None:
        """Bring a network that is about to run to the GPU, and move those of another phase off it.

        The preview decoder runs during other phases, so nothing leaves for it.
        """
        for follower in self._followers if name != PREVIEW else ():
            follower(name)
        for other in tuple(self._visiting) if name != PREVIEW else ():
            if not stays_beside(other, name):
                self._leave(other)
        if name in self._aside and name not in self._visiting:
            self._visiting.add(name)  # first, so that a partly moved network leaves, too
            self._come(name)

    @contextmanager
    def followed(self, follower: Callable[[str], None]) -> Iterator[None]:
        """Call `follower` in the body with the name of each offloaded network that is about to run."""
        self._followers.append(follower)
        try:
            yield
        finally:
            self._followers.remove(follower)

    def _come(self, name: str) -> None:
        if name not in self._host:
            self._modules[name].to(self.device)
            return
        for places, host in self._host[name]:
            tensor = host.to(self.device, non_blocking=True)
            for owner, key in places:
                put(owner, key, tensor)

    def _leave(self, name: str) -> None:
        self._visiting.discard(name)
        if name not in self._host:
            self._host[name] = _brought_home(self._modules[name])
            return
        for places, host in self._host[name]:
            for owner, key in places:
                put(owner, key, host)


class _Arrival(ModelHook):  # type: ignore[misc]  # accelerate has no types
    """Notifies the offloader that a network is about to run, and moves its inputs to the device."""

    def __init__(self, offloader: Offloader, name: str, device: torch.device) -> None:
        self._offloader, self._name = offloader, name
        self.execution_device = device  # diffusers asks the first network's hook for the pipeline's device

    def pre_forward(self, _module: torch.nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self._offloader.arrive(self._name)
        return send_to_device(args, self.execution_device), send_to_device(kwargs, self.execution_device)


def put(owner: torch.nn.Module, key: str, value: torch.Tensor) -> None:
    """Point a module's tensor to other memory; the parameter stays the same object."""
    getattr(owner, key).data = value


def module_bytes(module: torch.nn.Module) -> int:
    """Return the bytes of a network's parameters and buffers in their current dtypes."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _tensors(module: torch.nn.Module) -> Iterator[tuple[list[Place], torch.Tensor]]:
    """Yield each tensor of a network once, with all places that share it (tied embeddings)."""
    places: dict[int, tuple[list[Place], torch.Tensor]] = {}
    for owner in module.modules():
        own = [*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False)]
        for key, tensor in own:
            places.setdefault(id(tensor), ([], tensor))[0].append((owner, key))
    yield from places.values()


def _brought_home(module: torch.nn.Module) -> list[tuple[list[Place], torch.Tensor]]:
    """Copy a network's tensors to host memory permanently, freeing each original as its copy is made."""
    found, made = list(_tensors(module)), []
    for index, host in _in_memory([tensor for _, tensor in found]):
        places = found[index][0]
        for owner, key in places:
            put(owner, key, host)
        made.append((places, host))
    return made


def _in_memory(tensors: Sequence[torch.Tensor]) -> Iterable[tuple[int, torch.Tensor]]:
    """Return pinned copies; without a GPU, the tensors themselves."""
    if torch.cuda.is_available():
        return copies(tensors)
    return ((index, tensor.detach().to("cpu")) for index, tensor in enumerate(tensors))
