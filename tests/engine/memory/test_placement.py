"""The placement decision as a table."""

import pytest

from worker.engine.memory.placement import GIB, SLACK, Demand, Resident, decide
from worker.engine.protocol import Placement

NEW = Demand("new", weights=6 * GIB, largest=5 * GIB, room=3 * GIB)
OLD = Resident("old", 7 * GIB, last_used=1)
RECENT = Resident("recent", 8 * GIB, last_used=2)


@pytest.mark.parametrize(
    ("free", "residents", "mode", "evicted"),
    [
        (80, (), "resident", ()),
        (80, (OLD, RECENT), "resident", ()),
        (9.5, (), "resident", ()),
        (9.4, (), "offloaded", ()),
        (5, (RECENT, OLD), "resident", ("old",)),
        (1, (RECENT, OLD), "resident", ("old", "recent")),
        (1, (OLD,), "offloaded", ("old",)),
        (8.6, (Resident("tiny", GIB // 4, 1),), "offloaded", ()),
        (0.5, (), "offloaded", ()),
        (5, (Resident("new", 6 * GIB, 1),), "offloaded", ()),
    ],
    ids=[
        "an empty card",
        "room beside the others",
        "exactly fits",
        "just does not fit",
        "the least recently used goes first",
        "as many go as it takes",
        "nothing left to evict",
        "evicting would not help, so nothing is evicted",
        "too small even for one network: tried all the same",
        "it never evicts itself",
    ],
)
def test_placement(free: float, residents: tuple[Resident, ...], mode: str, evicted: tuple[str, ...]) -> None:
    placement = decide(NEW, residents, free=int(free * GIB), total=24 * GIB)
    assert (placement.mode, placement.evicted) == (mode, evicted)


def test_the_reason_says_sizes_in_words() -> None:
    placement = decide(NEW, (OLD,), free=5 * GIB, total=24 * GIB)
    assert "6.0 GiB of weights" in placement.reason
    assert "evicting old" in placement.reason


def test_without_a_card_there_is_nowhere_to_offload_to() -> None:
    assert decide(NEW, (OLD,), free=0, total=4 * GIB, can_offload=False) == Placement(
        "resident", "6.0 GiB of weights and 3.0 GiB to work in for 7.0 GiB: tight, and there is nowhere else", ("old",)
    )


def test_the_slack_is_kept_free() -> None:
    need = NEW.weights + NEW.room + SLACK
    assert decide(NEW, (), free=need, total=need).mode == "resident"
    assert decide(NEW, (), free=need - 1, total=need).mode == "offloaded"
