"""Compiles the denoisers' blocks while no job waits, for use by later jobs.

A job never compiles. A model's first job runs eagerly, and only the shapes of its blocks' arguments are recorded.
Later, while no job is present, each kind of block is compiled separately, so a job that arrives meanwhile waits for one
block at most. From then on a matching call runs compiled and any other runs eagerly, because torch is told not to
compile during jobs. A job with adapters on a network (LoRA, IP-Adapter, ControlNet, a step cache) runs eagerly, bit for
bit. Any failure leaves the network as it is: slower, not broken.
"""

import logging
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch._dynamo.utils import counters
from torch.utils._pytree import tree_map_only

from worker.core.errors import GpuFault, OutOfMemory
from worker.core.logs import where
from worker.core.types import Attention
from worker.engine.speed.artifacts import Artifacts, one_piece
from worker.engine.speed.attention import attention
from worker.engine.vendor_errors import release_memory, translate

if TYPE_CHECKING:
    from worker.engine.memory.cache import Loaded

log = logging.getLogger(__name__)

Mode = Literal["regional", "full"]
Call = Callable[..., Any]

UNETS = ("unet", "refiner_unet")
NETWORKS = (*UNETS, "transformer", "transformer_2")
"""The denoisers, by name among a model's parts."""
MOST_GRAPHS = 64
"""Graphs of one function: all blocks of all models share it, and each kind needs one graph per batch size."""
MOST_OFF = 0.05
"""Tolerance of a compiled block's output, relative to its norm: ten times bfloat16's error."""


class CompiledWrong(Exception):
    """A compiled block's output differs from the eager one."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A tensor's shape, dtype and device."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: torch.Tensor) -> "Shape":
        """Return the description of a tensor."""
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)

    def filled(self, batch: dict[int, int]) -> torch.Tensor:
        """Make a tensor like it; `batch` maps the size of the first dimension."""
        size = self.size and (batch.get(self.size[0], self.size[0]), *self.size[1:])
        made = torch.empty_strided(size, self.stride, dtype=self.dtype, device=self.device)
        if not self.dtype.is_floating_point:
            return made.fill_(1)
        return made.normal_(generator=torch.Generator(self.device).manual_seed(0))


@dataclass(frozen=True, slots=True)
class Piece:
    """One thing to compile: a block, its arguments, and the batch size."""

    module: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    batch: dict[int, int]

    def inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return random arguments of such a call."""
        made: tuple[tuple[Any, ...], dict[str, Any]] = tree_map_only(
            Shape, lambda shape: shape.filled(self.batch), (self.args, self.kwargs)
        )
        return made


@dataclass(slots=True)
class Compiled:
    """One network's compiled parts, and those to come."""

    name: str
    network: Any
    whole: bool
    """Whether it is compiled as one graph, not per kind of block."""
    placed: str | None
    """The model's placement, for which it is compiled."""
    state: Literal["new", "seen", "ready", "off"] = "new"
    pieces: deque[Piece] = field(default_factory=deque)
    calls: dict[torch.nn.Module, Call] = field(default_factory=dict)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Record the arguments of each kind of block in the body, the first time."""
        seen: dict[torch.nn.Module, tuple[Any, Any]] = {}

        def note(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if module not in seen:
                seen[module] = tree_map_only(torch.Tensor, Shape.of, (args, kwargs))

        with ExitStack() as stack:
            for module in self._kinds():
                stack.callback(module.register_forward_pre_hook(note, with_kwargs=True).remove)
            yield
        for module, call in seen.items():
            self.pieces.extend(Piece(module, *call, batch) for batch in self._batches(call))
        self.state = "seen" if self.pieces else "new"

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Run matching calls compiled in the body."""
        for module, call in self.calls.items():
            module._compiled_call_impl = call
        try:
            yield
        finally:
            for module in self.calls:
                module._compiled_call_impl = None

    def compile(self, backend: str | Call) -> None:
        """Wrap the calls; nothing is compiled before the first one."""
        if self.whole:
            self.network.compile(backend=backend, fullgraph=True, dynamic=True)
        else:
            self.network.compile_repeated_blocks(backend=backend, fullgraph=True, dynamic=True)
        for module in self.network.modules():
            if (call := module._compiled_call_impl) is not None:
                self.calls[module] = self._or_eager(module, call)
                module._compiled_call_impl = None

    def _or_eager(self, module: torch.nn.Module, call: Call) -> Call:
        plain: Call = module._call_impl

        def run(*args: Any, **kwargs: Any) -> Any:
            if self.state == "off":
                return plain(*args, **kwargs)
            try:
                return call(*args, **kwargs)
            except Exception as error:
                if self.state != "ready" or isinstance(translate(error, "run"), OutOfMemory | GpuFault):
                    raise
                self.give_up(error)
                return plain(*args, **kwargs)

        return run

    def give_up(self, error: Exception) -> None:
        """Run the network eagerly from now on."""
        self.state = "off"
        self.pieces.clear()
        said = {"action": "compile_failed", "network": self.name}
        log.warning("%s runs as it is, not compiled: %s", self.name, where(error), extra=said)

    def _kinds(self) -> Iterable[torch.nn.Module]:
        """Return one block of each kind: blocks with the same class and weight shapes share a graph."""
        if self.whole:
            return [self.network]
        blocks = self.network._repeated_blocks
        kinds: dict[Any, torch.nn.Module] = {}
        for module in self.network.modules():
            if type(module).__name__ in blocks:
                shapes = tuple(tensor.shape for tensor in (*module.parameters(), *module.buffers()))
                kinds.setdefault((type(module), shapes), module)
        return kinds.values()

    def _batches(self, call: tuple[Any, Any]) -> Iterable[dict[int, int]]:
        """Return the batch sizes: a UNet has two with guidance and one without, which needs its own graph."""
        if self.name not in UNETS:
            return ({},)
        first = next(value for value in (*call[0], *call[1].values()) if isinstance(value, Shape))
        return ({}, {first.size[0]: 3 - first.size[0]})


class Compiler:
    """Compiles a worker's models piece by piece; used in the GPU thread."""

    def __init__(
        self, mode: Mode, folder: Path, *, card: str, backend: str | Call = "inductor", attention: Attention = "auto"
    ) -> None:
        self._mode, self._folder, self._card, self._backend = mode, folder, card, backend
        self._attention = attention

    @contextmanager
    def at_work(self, entry: "Loaded", *, plain: bool) -> Iterator[None]:
        """Run one job of a model in the body. `plain`: it has adapters, so its networks run eagerly."""
        with ExitStack() as stack:
            for one in () if plain else self._all_of(entry):
                if one.state == "new":
                    one.placed = entry.offloader.mode
                    stack.enter_context(one.watched())
                elif one.state == "ready" and not (one.whole and entry.offloader.mode != "resident"):
                    stack.enter_context(torch.compiler.set_stance("eager_on_recompile"))
                    stack.enter_context(one.at_work())
            yield

    def piece(self, entries: Iterable["Loaded"]) -> bool:
        """Compile one recorded piece; returns whether there was one."""
        for entry in entries:
            for one in entry.compiled.values():
                if one.pieces and one.placed == entry.offloader.mode:
                    self._compile(entry, one)
                    return True
        return False

    def _all_of(self, entry: "Loaded") -> Iterator[Compiled]:
        for name, network in entry.parts.modules().items():
            if name not in NETWORKS:
                continue
            if name not in entry.compiled:
                whole = self._mode == "full" and name in UNETS and entry.offloader.mode == "resident"
                entry.compiled[name] = Compiled(name, network, whole, entry.offloader.mode)
            yield entry.compiled[name]

    def _compile(self, entry: "Loaded", one: Compiled) -> None:
        model = f"{entry.spec.name} {entry.spec.quantize} {self._attention}"
        device, clip = entry.offloader.device, entry.spec.family == "wan"
        artifacts = Artifacts(self._folder, card=self._card, model=model, mode=self._mode)
        started, misses = time.monotonic(), _misses()
        try:
            if not one.calls:
                artifacts.read()
                one.compile(self._backend)
            piece = one.pieces[0]
            try:
                entry.offloader.arrive(one.name)
                with one_piece(), _compiling(), attention(self._attention, device, clip=clip):
                    self._try(one, piece)
                    made = _misses() - misses
                    if made:
                        artifacts.write()
            finally:
                entry.offloader.rest()
        except Exception as error:  # noqa: BLE001 - jobs run eagerly after any failure
            one.give_up(error)
            traceback.clear_frames(error.__traceback__)  # frees the block's arguments
            release_memory()
            return
        one.pieces.popleft()
        if not one.pieces:
            one.state = "ready"
        seconds = round(time.monotonic() - started, 2)
        facts = {"action": "compiled", "seconds": seconds, "left": len(one.pieces), "kept": not made}
        log.info("%s: a part of %s is compiled", entry.spec.name, one.name, extra=facts)

    def _try(self, one: Compiled, piece: Piece) -> None:
        """Compile, and see that it computes the same.

        Raises:
            CompiledWrong: the output differs. Also whatever torch raises.
        """
        args, kwargs = piece.inputs()
        plain: Call = piece.module._call_impl
        got, want = one.calls[piece.module](*args, **kwargs), plain(*args, **kwargs)
        for ours, theirs in zip(_tensors(got), _tensors(want), strict=True):
            away = torch.linalg.vector_norm((ours.float() - theirs.float()).flatten())
            if not away <= MOST_OFF * torch.linalg.vector_norm(theirs.float().flatten()):
                raise CompiledWrong


@contextmanager
def _compiling() -> Iterator[None]:
    """Set torch's compile options for these networks in the body.

    Floats are specialised as constants, so that each graph is traced once. Dimensions that happen to be equal are not
    assumed to be the same.
    """
    patched = torch._dynamo.config.patch(specialize_float=True, recompile_limit=MOST_GRAPHS)
    shapes: Any = torch.fx.experimental._config  # the config module is built dynamically
    with torch.no_grad(), patched, shapes.patch(use_duck_shape=False):
        yield


def _tensors(value: Any) -> list[torch.Tensor]:
    return [value] if isinstance(value, torch.Tensor) else list(value)


def _misses() -> int:
    """Return the number of cache misses so far."""
    return counters["inductor"]["fxgraph_cache_miss"]
