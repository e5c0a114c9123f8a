"""Faults planted on purpose: the rehearsal refuses what a card refuses."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from tests.rehearsal.card import GIB, Card
from tests.rehearsal.mode import pretended

HALF = torch.float16


@dataclass
class Networks:
    """Layers in half precision and inputs in single precision, both on the card."""

    card: Card
    linear: Any = field(default_factory=lambda: torch.nn.Linear(8, 8))
    conv: Any = field(default_factory=lambda: torch.nn.Conv2d(8, 8, 3))
    group_norm: Any = field(default_factory=lambda: torch.nn.GroupNorm(2, 8))
    layer_norm: Any = field(default_factory=lambda: torch.nn.LayerNorm(8))
    embedding: Any = field(default_factory=lambda: torch.nn.Embedding(9, 8))

    def __post_init__(self) -> None:
        for layer in (self.linear, self.conv, self.group_norm, self.layer_norm, self.embedding):
            layer.to("cuda", HALF)
        self.rows = torch.empty(2, 8, device="cuda")
        self.image = torch.empty(1, 8, 8, 8, device="cuda")
        self.heads = torch.empty(1, 1, 4, 8, device="cuda", dtype=HALF)


@pytest.fixture(scope="module")
def networks() -> Iterator[Networks]:
    card = Card()
    with pretended(card), torch.no_grad():
        yield Networks(card)


FAULTS: dict[str, Callable[[Networks], object]] = {
    "linear: float32 into float16": lambda on: on.linear(on.rows),
    "convolution: float32 into float16": lambda on: on.conv(on.image),
    "group norm: float32 into float16": lambda on: on.group_norm(on.image),
    "layer norm: float32 into float16": lambda on: on.layer_norm(on.rows),
    "linear: an input on the CPU": lambda on: on.linear(torch.zeros(2, 8, dtype=HALF)),
    "convolution: an input on the CPU": lambda on: on.conv(torch.zeros(1, 8, 8, 8, dtype=HALF)),
    "add: one of the two on the CPU": lambda on: on.rows + torch.zeros(2, 8),
    "embedding: ids on the CPU": lambda on: on.embedding(torch.zeros(2, dtype=torch.long)),
    "cat: one of the two on the CPU": lambda on: torch.cat([on.rows, torch.zeros(2, 8)]),
    "where: values on the CPU": lambda on: torch.where(on.rows > 0, torch.zeros(2, 8), on.rows),
    "attention: float32 keys for float16 queries": lambda on: torch.nn.functional.scaled_dot_product_attention(
        on.heads, on.heads.float(), on.heads
    ),
    "randn: a CPU generator for the card": lambda on: torch.randn(
        2, 8, device="cuda", generator=torch.Generator("cpu").manual_seed(0)
    ),
    "numpy of a tensor on the card": lambda on: on.rows.numpy(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(networks: Networks, fault: str) -> None:
    with pytest.raises(RuntimeError, match=r"on cuda and on cpu|dtypes|should be the same|a cpu generator|subclasses"):
        FAULTS[fault](networks)


def test_what_a_card_allows_is_allowed(networks: Networks) -> None:
    assert (networks.rows * torch.tensor(2.0)).shape == (2, 8)
    assert networks.rows[torch.zeros(1, dtype=torch.long)].shape == (1, 8)
    assert networks.linear(networks.rows.half()).dtype == HALF


def test_bytes_are_counted_while_a_tensor_lives(networks: Networks) -> None:
    before = networks.card.now
    tensor = torch.empty(1024, 1024, device="cuda")
    view = tensor[1:]
    assert networks.card.now - before == 4 * 1024 * 1024
    del tensor
    assert networks.card.now - before == 4 * 1024 * 1024
    del view
    assert networks.card.now == before


def test_a_full_card_runs_out_of_memory(networks: Networks) -> None:
    before = networks.card.now
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(100 * GIB, device="cuda", dtype=torch.uint8)
    assert networks.card.now == before


def test_what_the_host_waits_for_is_counted(networks: Networks) -> None:
    networks.card.forget()
    assert bool(torch.isfinite(networks.rows).all())
    networks.rows.cpu()
    torch.zeros(2, 8).to("cuda")
    assert networks.card.syncs.total() == 3
    assert networks.card.up == networks.card.down == 64


def test_the_numbers_of_small_tensors_are_real_on_the_card(networks: Networks) -> None:
    """Schedules are made on the card, and the host counts their steps."""
    steps = torch.linspace(999, 0, 11).to("cuda")
    assert [float(step) for step in steps[:2]] == [999.0, pytest.approx(899.1)]
    assert int((steps >= 500).sum()) == 5
    assert (steps == steps[3]).nonzero().tolist() == [[3]]
    steps[0] = 7.0
    assert steps.cpu()[0] == 7.0
