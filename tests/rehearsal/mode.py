"""Tensors on an imaginary card, for the code in the body of `pretended`.

Two modes stand in front of torch. `_Dispatch` sees each operation: one without a CUDA tensor is computed, any other
goes to FakeTensorMode, after a check of what a card refuses and a fake kernel allows
(tests/rehearsal/test_controls.py). `_Functions` chooses the attention kernel that torch would take on a card, which a
build without CUDA cannot.
"""

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only
from torch.utils.flop_counter import flop_registry

from tests.rehearsal import guard
from tests.rehearsal.card import Card
from worker.core.config import REPOSITORY

aten: Any = torch.ops.aten
_ONE_DTYPE = (
    "convolution",
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "_scaled_dot_product",
    "native_group_norm",
    "native_layer_norm",
    "_fused_rms_norm",
)
"""Name prefixes of the operations whose operands must be of one dtype on a card."""
_TWO_DEVICES = {"_to_copy", "copy_", "index", "index_put", "index_put_", "_index_put_impl_", "lift_fresh"}
"""Operations that take tensors of the card and of the machine together."""
_INITIALISERS = {"uniform_", "normal_", "bernoulli_", "trunc_normal_"}
_OURS = {
    str(REPOSITORY) + "/worker/": "worker/",
    str(Path(torch.__file__).parents[1]) + "/diffusers/": "diffusers/",
    str(Path(torch.__file__).parents[1]) + "/transformers/": "transformers/",
}


@contextmanager
def pretended(card: Card) -> Iterator[None]:
    """Provide this card in the body.

    Raises:
        RuntimeError: there is no C++ compiler (see `guard`).
    """
    guard.install()
    dispatch = _Dispatch(card)
    capability = mock.patch.object(torch.cuda, "get_device_capability", return_value=card.capability)
    apply = mock.patch.object(torch.nn.Module, "_apply", _apply)
    event = mock.patch.object(torch.cuda, "Event", _Event)
    with capability, apply, event, dispatch.fake, dispatch, _Functions(dispatch):
        yield


class _Dispatch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    def __init__(self, card: Card) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nor here
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.card = card
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_iter((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        on_card = any(tensor.device.type == "cuda" for tensor in tensors)
        device = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        if not on_card and (device is None or device.type == "cpu"):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        packet = func._overloadpacket
        name = packet.__name__
        if name in _INITIALISERS:
            return args[0]
        if on_card and (answered := self._to_host(func, name, args, kwargs, device)) is not None:
            return answered[0]
        if on_card and name == "_to_copy" and _same(args[0], device, kwargs):
            return args[0]
        if not on_card and name == "_to_copy":
            self._upload(args[0], kwargs)
        self._check(str(func), name, tensors, on_card=on_card, generator=kwargs.get("generator"))
        with self.fake:
            out = func(*args, **kwargs)
        if packet in flop_registry:
            self.card.flops[self.card.phase] += flop_registry[packet](*args, **kwargs, out_val=out)
        self._count(out, str(func))
        _compute_beside(func, name, args, kwargs, tensors, out)
        return out

    def read(self, tensor: torch.Tensor) -> bool | int | float:
        """Return one number as the host reads it; for an unknown one true, one or zero.

        Except that the unknown answer to "all pixels are the same" is false.
        """
        self.wait("item")
        if (value := _value(tensor)) is not None:
            with unset_fake_temporarily():
                known: bool | int | float = value.item()
            return known
        if tensor.dtype == torch.bool:
            return not str(tensor.__dict__.get("made_by", "")).startswith("aten.eq")
        return 1.0 if tensor.is_floating_point() else 0

    def wait(self, kind: str) -> None:
        """Count a wait of the host for the card, at the innermost function of ours, diffusers or transformers."""
        frame = sys._getframe(1)
        while frame is not None:
            path = frame.f_code.co_filename
            for root, short in _OURS.items():
                if path.startswith(root):
                    self.card.syncs[f"{kind} {short}{path.removeprefix(root)}:{frame.f_code.co_qualname}"] += 1
                    return
            if frame.f_back is None:
                break
            frame = frame.f_back
        self.card.syncs[kind] += 1

    def _to_host(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: Any, device: torch.device | None
    ) -> tuple[Any] | None:
        """Return the result of an operation whose result is on the machine; None for all others."""
        if name == "_local_scalar_dense":
            return (self.read(args[0]),)
        if name == "nonzero":
            self.wait(name)  # only a card knows how many there are
            value = _value(args[0])
            with unset_fake_temporarily():
                places = torch.zeros((1, args[0].dim()), dtype=torch.int64) if value is None else value.nonzero()
            with self.fake:
                out = torch.empty(places.shape, dtype=places.dtype, device="cuda")
            out.__dict__["value"] = places
            return (out,)
        if name == "_to_copy" and device is not None and device.type == "cpu":
            source, value = args[0], _value(args[0])
            self._download(source, kwargs)
            dtype = kwargs.get("dtype") or source.dtype
            with unset_fake_temporarily():
                if value is not None:
                    return (value.to(dtype, copy=True),)
                # Untouched, so that it takes no memory here.
                return (torch.empty_strided(source.shape, source.stride(), dtype=dtype),)
        if name == "copy_" and args[0].device.type == "cpu":
            value = _value(args[1])
            # Into pageable memory the host copies synchronously, even if asked not to.
            beside = bool(kwargs.get("non_blocking") or (len(args) > 2 and args[2])) and "pinned" in args[0].__dict__
            self._download(args[1], {"non_blocking": beside})
            with unset_fake_temporarily():
                return (args[0] if value is None else args[0].copy_(value),)
        return None

    def _upload(self, tensor: torch.Tensor, kwargs: Any) -> None:
        self.card.up += tensor.numel() * tensor.element_size()
        if tensor.numel() > 1 and not kwargs.get("non_blocking"):
            self.wait("upload")

    def _download(self, tensor: torch.Tensor, kwargs: Any) -> None:
        self.card.down += tensor.numel() * tensor.element_size()
        if not kwargs.get("non_blocking"):
            self.wait("download")

    def _check(self, func: str, name: str, tensors: list[torch.Tensor], *, on_card: bool, generator: Any) -> None:
        """Refuse what a card refuses and fake kernels allow."""
        stray = [tensor for tensor in tensors if tensor.device.type == "cpu" and tensor.dim()]
        if on_card and stray and name not in _TWO_DEVICES:
            raise RuntimeError(f"tensors on cuda and on cpu in {func}: {[tuple(tensor.shape) for tensor in stray]}")
        if generator is not None and generator.device.type != "cuda":
            raise RuntimeError(f"a {generator.device.type} generator for a cuda tensor in {func}")
        if name.startswith(_ONE_DTYPE):
            dtypes = {str(tensor.dtype) for tensor in tensors if tensor.is_floating_point()}
            if len(dtypes) > 1:
                raise RuntimeError(f"dtypes {sorted(dtypes)} in {func}")

    def _count(self, out: Any, what: str) -> None:
        for tensor in tree_iter(out):
            if not isinstance(tensor, FakeTensor) or tensor.device.type != "cuda":
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self._sizes:
                continue
            self._sizes[key] = self.card.take(storage.nbytes(), what)
            weakref.finalize(storage, self._freed, key).atexit = False
            if tensor.dim() == 0:
                tensor.__dict__["made_by"] = what

    def _freed(self, key: int) -> None:
        self.card.give_back(self._sizes.pop(key))


class _Event:
    """An event on the card, which is always done here."""

    def record(self) -> None:
        """Do nothing."""

    def query(self) -> bool:
        """Whether the card has reached the event."""
        return True


class _Functions(TorchFunctionMode):
    def __init__(self, dispatch: _Dispatch) -> None:
        super().__init__()
        self._dispatch = dispatch

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention and isinstance(
            args[0] if args else kwargs["query"], FakeTensor
        ):
            return self._attention(*args, **kwargs)
        if func is torch.tensor and any(isinstance(leaf, FakeTensor) for leaf in tree_iter(args)):
            args = tree_map_only(FakeTensor, self._dispatch.read, args)  # torch.tensor([t]) reads t from the card
        if func is torch.Tensor.pin_memory:
            return args[0]
        if func is torch.empty and kwargs.pop("pin_memory", False):  # only CUDA can pin
            made = func(*args, **kwargs)
            made.__dict__["pinned"] = True
            return made
        return func(*args, **kwargs)

    def _attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        """Choose flash, memory-efficient or plain attention by what each accepts on sm80 and up (sdp_utils.cpp)."""
        dtypes = {str(tensor.dtype) for tensor in (query, key, value)}
        if len(dtypes) > 1:
            raise RuntimeError(f"dtypes {sorted(dtypes)} in scaled_dot_product_attention")
        width, half = query.shape[-1], query.dtype in {torch.float16, torch.bfloat16}
        if half and width <= 256 and attn_mask is None:
            if pad := -width % 8:
                query, key, value = (torch.nn.functional.pad(tensor, (0, pad)) for tensor in (query, key, value))
            attend = aten._scaled_dot_product_flash_attention
            flash: torch.Tensor = attend(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
            return flash[..., :width]
        if width % (8 if half else 4) == 0:
            bias = None if attn_mask is None else _bias(attn_mask, query, key)
            attend = aten._scaled_dot_product_efficient_attention
            fused: torch.Tensor = attend(query, key, value, bias, False, dropout_p, is_causal, scale=scale)[0]
            return fused
        self._dispatch.card.quadratic[f"{tuple(query.shape)} on {key.shape[-2]}"] += 1
        weights = (query @ key.transpose(-1, -2)) * (scale or width**-0.5)
        return weights.softmax(-1) @ value


_KNOWN = 4096
"""Tensors of the card with at most this many numbers hold real ones, if computed from real ones: schedules, lengths,
ids. The host thus decides by them as it would with a card.
"""


def _value(tensor: torch.Tensor) -> torch.Tensor | None:
    """Return the numbers of a tensor on the CPU, or None if they are not known."""
    if not isinstance(tensor, FakeTensor):
        return tensor if tensor.numel() <= _KNOWN else None
    value: torch.Tensor | None = tensor.__dict__.get("value")
    return value


def _compute_beside(
    func: Any, name: str, args: tuple[Any, ...], kwargs: Any, tensors: list[torch.Tensor], out: Any
) -> None:
    """Compute the numbers of a small result beside it if those of all operands are known."""
    made = [leaf for leaf in tree_iter(out) if isinstance(leaf, torch.Tensor)]
    small = all(tensor.numel() <= _KNOWN for tensor in made)
    if not small or name.startswith(("empty", "new_empty")) or any(_value(tensor) is None for tensor in tensors):
        if name.endswith("_") and isinstance(args[0], FakeTensor):
            args[0].__dict__.pop("value", None)
        return
    with unset_fake_temporarily():
        args, kwargs = tree_map_only(torch.Tensor, _value, (args, kwargs))
        if kwargs.get("device") is not None:
            kwargs = kwargs | {"device": torch.device("cpu")}
        values = [leaf for leaf in tree_iter(func(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]
    for tensor, value in zip(made, values, strict=True):
        tensor.__dict__["value"] = value


def _bias(mask: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask.logical_not(), -1e4)
    if mask.dtype != query.dtype:
        raise RuntimeError(f"an attention mask of {mask.dtype} for a query of {query.dtype}")
    return mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])


def _same(tensor: torch.Tensor, device: torch.device | None, kwargs: Any) -> bool:
    """Whether a copy on the card is the tensor itself; the guard knows no current device, so `cuda` is not `cuda:0`."""
    there = device is not None and device.type == "cuda"
    return there and kwargs.get("dtype") in {None, tensor.dtype} and kwargs.get("memory_format") is None


def _apply(self: torch.nn.Module, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> torch.nn.Module:
    """Do as `Module._apply`, by assignment: torch's own swaps tensors, which weakly referenced fake ones refuse."""
    done: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for owner in self.modules() if recurse else (self,):
            tables: tuple[dict[str, Any], ...] = (owner._parameters, owner._buffers)
            for table in tables:
                for key, old in table.items():
                    if old is None:
                        continue
                    if id(old) not in done:
                        new = fn(old)
                        wrap = new is not old and table is owner._parameters
                        done[id(old)] = torch.nn.Parameter(new.detach(), requires_grad=False) if wrap else new
                    table[key] = done[id(old)]
    return self
