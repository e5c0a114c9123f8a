"""Networks that move to the device they run on and leave again, with the CPU standing in for the card."""

import copy
import weakref
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from worker.engine.memory import offload
from worker.engine.memory.offload import Offloader, module_bytes
from worker.engine.memory.pinned import copies
from worker.engine.protocol import Placement, PlacementMode


class Tied(nn.Module):
    """Two names for one table, as in UMT5, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Embedding(8, 4)
        self.encoder = nn.Embedding(8, 4)
        self.encoder.weight = self.shared.weight
        self.register_buffer("positions", torch.arange(8))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = self.encoder(ids)
        return embedded


@pytest.fixture
def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"text_encoder": Tied(), "text_encoder_2": nn.Linear(4, 4), "unet": nn.Linear(4, 4), "vae": nn.Linear(4, 4)}


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Record (`come` or `leave`, bytes) of every network that moves."""
    seen: list[tuple[str, int]] = []
    for name in ("_come", "_leave"):
        whole = getattr(Offloader, name)

        def told(self: Offloader, network: str, whole: Any = whole, name: str = name) -> None:
            seen.append((f"{name.removeprefix('_')} {network}", self.networks[network]))
            whole(self, network)

        monkeypatch.setattr(Offloader, name, told)
    return seen


def settled(networks: dict[str, nn.Module], mode: PlacementMode) -> Offloader:
    offloader = Offloader(networks, torch.device("cpu"))
    offloader.settle(Placement(mode, "for the test"))
    return offloader


def job(networks: dict[str, nn.Module]) -> torch.Tensor:
    """Encode twice, denoise twice, decode."""
    for _ in range(2):
        latents: torch.Tensor = networks["text_encoder_2"](networks["text_encoder"](torch.tensor([1, 2])))
    for _ in range(2):
        latents = networks["unet"](latents)
    decoded: torch.Tensor = networks["vae"](latents)
    return decoded


def test_one_phase_after_the_other_is_there_and_comes_once(
    networks: dict[str, nn.Module], moves: list[tuple[str, int]]
) -> None:
    before = job(networks)
    offloader = settled(networks, "offloaded")
    assert offloader.resting_bytes == 0
    moves.clear()
    assert torch.equal(job(networks), before)
    order = [what for what, _ in moves]
    assert order[:2] == ["come text_encoder", "come text_encoder_2"]
    assert order[4:] == ["come unet", "leave unet", "come vae"]
    assert set(order[2:4]) == {"leave text_encoder", "leave text_encoder_2"}
    offloader.rest()
    assert moves[-1][0] == "leave vae"


def test_nobody_leaves_for_a_preview_and_what_draws_it_comes_once(
    networks: dict[str, nn.Module], moves: list[tuple[str, int]]
) -> None:
    networks["preview"] = nn.Linear(4, 4)
    offloader = settled(networks, "offloaded")
    followed: list[str] = []
    moves.clear()
    with offloader.followed(followed.append):
        for name in ("unet", "preview", "unet", "preview", "vae"):
            networks[name](torch.ones(4))
    assert [what for what, _ in moves] == ["come unet", "come preview", "leave unet", "come vae"]
    assert followed == ["unet", "unet", "vae"]
    offloader.rest()
    assert {what for what, _ in moves[4:]} == {"leave preview", "leave vae"}


def test_partly_moves_the_text_encoders_alone(networks: dict[str, nn.Module], moves: list[tuple[str, int]]) -> None:
    before = job(networks)
    offloader = settled(networks, "partly")
    assert offloader.resting_bytes == module_bytes(networks["unet"]) + module_bytes(networks["vae"])
    moves.clear()
    assert torch.equal(job(networks), before)
    assert {what.split()[1] for what, _ in moves} == {"text_encoder", "text_encoder_2"}
    assert len(moves) == 4


def test_weights_move_one_way(networks: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    """A network leaves by pointing back at the copy that was made once: nothing is copied from the card."""
    made: list[int] = []
    in_memory = offload._in_memory

    def counted(tensors: Sequence[torch.Tensor]) -> Iterator[tuple[int, torch.Tensor]]:
        for index, host in in_memory(tensors):
            made.append(host.numel())
            yield index, host

    monkeypatch.setattr(offload, "_in_memory", counted)
    offloader = settled(networks, "offloaded")
    copies = len(made)
    host = {name: tensor.data_ptr() for name, tensor in networks["unet"].named_parameters()}
    for mode in ("resident", "offloaded", "partly", "offloaded"):
        job(networks)
        offloader.rest()
        offloader.settle(Placement(mode, "for the test"))
    assert len(made) == copies
    assert {name: tensor.data_ptr() for name, tensor in networks["unet"].named_parameters()} == host


def test_copies_in_slabs_are_what_was_there_and_the_old_ones_go_one_by_one(
    networks: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine with a card, except that the slabs are of plain memory, 1 KiB each."""
    networks["unet"] = nn.Linear(16, 16)
    before = {name: copy.deepcopy(network.state_dict()) for name, network in networks.items()}
    old = {name: weakref.ref(tensor.untyped_storage()) for name, tensor in networks["unet"].named_parameters()}
    alive: list[int] = []

    def plain(count: int) -> torch.Tensor:
        alive.append(sum(storage() is not None for storage in old.values()))
        return torch.empty(count, dtype=torch.uint8)

    monkeypatch.setattr(offload, "_in_memory", partial(copies, most=1024, memory=plain))
    settled(networks, "offloaded")
    for name, network in networks.items():
        assert all(torch.equal(before[name][key], value) for key, value in network.state_dict().items())
    tied = networks["text_encoder"]
    assert isinstance(tied, Tied)
    assert tied.shared.weight is tied.encoder.weight
    assert set(alive) == {2, 1, 0}


@pytest.mark.parametrize("slabs", [False, True])
def test_what_is_tied_stays_tied_and_is_counted_once(
    networks: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch, slabs: bool
) -> None:
    if slabs:
        plain = partial(torch.empty, dtype=torch.uint8)
        monkeypatch.setattr(offload, "_in_memory", partial(copies, memory=plain))
    offloader = settled(networks, "offloaded")
    tied = networks["text_encoder"]
    assert isinstance(tied, Tied)
    assert offloader.networks["text_encoder"] == 8 * 4 * 4 + 8 * 8
    job(networks)
    offloader.rest()
    assert tied.shared.weight is tied.encoder.weight


def test_a_visit_that_fails_halfway_ends_with_everything_away(
    networks: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = copy.deepcopy(networks["unet"].state_dict())
    offloader = settled(networks, "offloaded")
    put, calls = offload.put, []

    def scarce(owner: nn.Module, key: str, value: torch.Tensor) -> None:
        calls.append(key)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        put(owner, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(offload, "put", scarce)
        with pytest.raises(torch.OutOfMemoryError):
            networks["unet"](torch.zeros(1, 4))
    offloader.rest()
    assert offloader._visiting == set()
    networks["unet"](torch.zeros(1, 4))
    assert all(torch.equal(before[name], value) for name, value in networks["unet"].state_dict().items())


def test_the_bytes_of_a_network_are_counted_once_and_of_one_that_comes_later_then(
    networks: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two jobs the GPU waits while they are counted."""
    counted: list[nn.Module] = []

    def count(module: nn.Module) -> int:
        counted.append(module)
        return module_bytes(module)

    monkeypatch.setattr(offload, "module_bytes", count)
    offloader = Offloader(networks, torch.device("cpu"))
    later = nn.Linear(2, 2)
    for _ in range(2):
        assert offloader.bytes == sum(map(module_bytes, networks.values()))
        assert offloader.resting_bytes == offloader.bytes
    assert counted == list(networks.values())
    offloader.add("preview", later)
    assert offloader.networks["preview"] == module_bytes(later)
    assert counted == [*networks.values(), later]
