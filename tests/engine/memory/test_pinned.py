"""Copies of weights side by side in slabs, here in plain memory: pinned memory differs in nothing else."""

from collections.abc import Callable

import pytest
import torch

from worker.engine.memory.pinned import SLAB, copies, packed

GIB = 2**30
EXPERT = ([5120 * 5120] * 8 + [5120 * 13824] * 2 + [5120] * 15) * 40
"""Number of elements of each tensor of one of Wan A14B's two experts, except its first and last layers."""


def rounded(size: int) -> int:
    """Return the pinned memory that torch takes for so many bytes."""
    return 1 << (size - 1).bit_length()


@pytest.fixture
def asked() -> list[int]:
    return []


@pytest.fixture
def memory(asked: list[int]) -> Callable[[int], torch.Tensor]:
    def plain(count: int) -> torch.Tensor:
        asked.append(count)
        return torch.empty(count, dtype=torch.uint8)

    return plain


def test_an_expert_takes_little_more_than_it_weighs() -> None:
    sizes = [2 * count for count in EXPERT]
    weight, alone = sum(sizes), sum(map(rounded, sizes))
    together = sum(rounded(slab.bytes) for slab in packed(sizes))
    assert alone > weight + 13 * GIB
    assert together < weight + GIB


def test_nothing_lies_over_anything_else() -> None:
    sizes = [700, 0, 512, 2048, 1, 1024, 5000, 513]
    slabs = packed(sizes, 2048)
    assert sorted(index for slab in slabs for index in slab.starts) == list(range(len(sizes)))
    for slab in slabs:
        ends = 0
        for index, start in sorted(slab.starts.items(), key=lambda one: (one[1], sizes[one[0]])):
            assert ends <= start == start // 512 * 512
            ends = start + sizes[index]
        assert ends <= slab.bytes <= (2048 if len(slab.starts) > 1 else SLAB)


def test_a_copy_is_what_was_copied_in_every_type_and_order(memory: Callable[[int], torch.Tensor]) -> None:
    torch.manual_seed(0)
    tensors = [
        torch.randn(3, 5),
        torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last),
        torch.randn(2, 3, 2, 2, 2).to(memory_format=torch.channels_last_3d).bfloat16(),
        torch.randn(7).half(),
        torch.randn(4, 6).to(torch.float8_e4m3fn).t(),
        torch.arange(5),
        torch.tensor(2.5),
        torch.ones(3).expand(2, 3),
        torch.empty(0, 4),
        torch.tensor([True, False]),
        torch.nn.Parameter(torch.randn(3, 3)),
    ]
    made = dict(copies(tensors, most=2048, memory=memory))
    assert sorted(made) == list(range(len(tensors)))
    for index, tensor in enumerate(tensors):
        copy = made[index]
        assert (copy.dtype, copy.shape, copy.requires_grad) == (tensor.dtype, tensor.shape, False)
        assert copy.stride() == torch.empty_like(tensor).stride()
        assert torch.equal(copy.float(), tensor.detach().float())
        assert copy.data_ptr() != tensor.data_ptr() or not copy.numel()


def test_a_slab_is_taken_when_the_one_before_is_full(memory: Callable[[int], torch.Tensor], asked: list[int]) -> None:
    """With the old tensors released meanwhile, the network is never held twice."""
    taken = [len(asked) for _ in copies([torch.zeros(512)] * 4, most=4096, memory=memory)]
    assert (taken, asked) == ([1, 1, 2, 2], [4096, 4096])
