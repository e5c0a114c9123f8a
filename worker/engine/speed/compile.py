"""Compiled networks: the blocks that denoise, compiled while no job waits, and used by the jobs that come after.

A job never compiles. The first of a model runs as if nothing were to be compiled, and only the shapes of what its
blocks are called with are noted. Later, when no job is there, each kind of block is compiled for itself: whoever comes
meanwhile waits for one block. From then on a call that fits runs compiled, and any other as before, for torch is told
never to compile then. A job that hangs something onto a network (LoRA, IP-Adapter, ControlNet, a step cache) runs as if
nothing were compiled, bit for bit. Whatever goes wrong leaves the network as it is: slower, not broken.
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
"""Those that denoise, by their names among a model's parts."""
MOST_GRAPHS = 64
"""Of one function: all blocks of all models share one, and each kind of block takes a graph for each batch size."""
MOST_OFF = 0.05
"""How far a compiled block's output may be from its own, as a share of its length: ten times what bfloat16 makes."""


class CompiledWrong(Exception):
    """A compiled block computes something else."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A tensor without its numbers."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: torch.Tensor) -> "Shape":
        """What a call was given."""
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)

    def filled(self, batch: dict[int, int]) -> torch.Tensor:
        """One like it; `batch`: what the first side becomes where it is one of these."""
        size = self.size and (batch.get(self.size[0], self.size[0]), *self.size[1:])
        made = torch.empty_strided(size, self.stride, dtype=self.dtype, device=self.device)
        if not self.dtype.is_floating_point:
            return made.fill_(1)
        return made.normal_(generator=torch.Generator(self.device).manual_seed(0))


@dataclass(frozen=True, slots=True)
class Piece:
    """One thing to compile: a block, what it is called with, and for which batch."""

    module: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    batch: dict[int, int]

    def inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What such a call is given, of random numbers."""
        made: tuple[tuple[Any, ...], dict[str, Any]] = tree_map_only(
            Shape, lambda shape: shape.filled(self.batch), (self.args, self.kwargs)
        )
        return made


@dataclass(slots=True)
class Compiled:
    """What is compiled of one network, or will be."""

    name: str
    network: Any
    whole: bool
    """Whether it is one graph, or one for each kind of block."""
    placed: str | None
    """Where the model is: it is compiled where its job found it."""
    state: Literal["new", "seen", "ready", "off"] = "new"
    pieces: deque[Piece] = field(default_factory=deque)
    calls: dict[torch.nn.Module, Call] = field(default_factory=dict)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """In the body, what each kind of block is called with is noted, the first time."""
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
        """In the body, calls that fit what was compiled run compiled."""
        for module, call in self.calls.items():
            module._compiled_call_impl = call
        try:
            yield
        finally:
            for module in self.calls:
                module._compiled_call_impl = None

    def compile(self, backend: str | Call) -> None:
        """Have the calls; nothing is compiled before one of them is made."""
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
        """From now on the network runs as it is."""
        self.state = "off"
        self.pieces.clear()
        said = {"action": "compile_failed", "network": self.name}
        log.warning("%s runs as it is, not compiled: %s", self.name, where(error), extra=said)

    def _kinds(self) -> Iterable[torch.nn.Module]:
        """One of each kind of what is compiled: same class, same weights' shapes, same graph."""
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
        """A UNet has a batch of two with guidance and of one without: torch makes a graph of its own for one."""
        if self.name not in UNETS:
            return ({},)
        first = next(value for value in (*call[0], *call[1].values()) if isinstance(value, Shape))
        return ({}, {first.size[0]: 3 - first.size[0]})


class Compiler:
    """Compiles the models of a worker, a piece at a time; for the GPU thread."""

    def __init__(
        self, mode: Mode, folder: Path, *, card: str, backend: str | Call = "inductor", attention: Attention = "auto"
    ) -> None:
        self._mode, self._folder, self._card, self._backend = mode, folder, card, backend
        self._attention = attention

    @contextmanager
    def at_work(self, entry: "Loaded", *, plain: bool) -> Iterator[None]:
        """In the body, one job of a model. `plain`: it hangs something onto the networks, which run as they are."""
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
        """Compile one thing of what their jobs have shown; whether there was one."""
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
        except Exception as error:  # noqa: BLE001 - whatever compiling cannot do, jobs go on without
            one.give_up(error)
            traceback.clear_frames(error.__traceback__)  # they hold what the block was called with
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
            CompiledWrong: it does not. And whatever torch raises.
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
    """In the body torch compiles as it is right for these networks.

    Their floats are constants: kept as numbers, each graph is traced once. Two sides that happen to be of a length are
    not taken for the same.
    """
    patched = torch._dynamo.config.patch(specialize_float=True, recompile_limit=MOST_GRAPHS)
    shapes: Any = torch.fx.experimental._config  # what makes a configuration of a module is not seen by type checkers
    with torch.no_grad(), patched, shapes.patch(use_duck_shape=False):
        yield


def _tensors(value: Any) -> list[torch.Tensor]:
    return [value] if isinstance(value, torch.Tensor) else list(value)


def _misses() -> int:
    """Graphs that were not found among what was compiled earlier, so far."""
    return counters["inductor"]["fxgraph_cache_miss"]
