"""The placement decision as a table: small made-up numbers first, then real models on real cards."""

import dataclasses

import pytest

from worker.engine.memory.placement import GIB, SLACK, Demand, Resident, decide, set_aside
from worker.engine.memory.room import Room
from worker.engine.protocol import Placement, PlacementMode

NEW = Demand(
    "new",
    {"text_encoder": 2 * GIB, "unet": 5 * GIB, "vae": GIB},
    Room(text=0, encode=GIB, denoise=2 * GIB, decode=4 * GIB, decode_in_tiles=GIB),
)
"""Whole: 12 GiB, 10 without the text encoder, 7 one network at a time (the UNet's); in tiles 10, 8 and 7."""
OLD = Resident("old", 7 * GIB, last_used=1)
RECENT = Resident("recent", 8 * GIB, last_used=2)


@pytest.mark.parametrize(
    ("free", "residents", "expected"),
    [
        (80, (), ("resident", False, ())),
        (80, (OLD, RECENT), ("resident", False, ())),
        (12.5, (), ("resident", False, ())),
        (12.4, (), ("partly", False, ())),
        (10.5, (OLD,), ("partly", False, ())),
        (6, (RECENT, OLD), ("resident", False, ("old",))),
        (4, (RECENT, OLD), ("partly", False, ("old",))),
        (1, (RECENT, OLD), ("resident", False, ("old", "recent"))),
        (10.4, (), ("offloaded", False, ())),
        (7.4, (), ("offloaded", True, ())),
        (1, (OLD,), ("offloaded", False, ("old",))),
        (5, (Resident("new", 6 * GIB, 1),), ("offloaded", True, ())),
    ],
    ids=[
        "an empty card",
        "room beside the others",
        "exactly fits",
        "all but the text encoder",
        "that leaves the others where they are",
        "the least recently used goes first",
        "all but the text encoder before a second one goes",
        "as many go as it takes",
        "one at a time",
        "too small even for one network: tried all the same, with least at once",
        "one at a time after the other has gone",
        "it never evicts itself",
    ],
)
def test_placement(free: float, residents: tuple[Resident, ...], expected: tuple[str, bool, tuple[str, ...]]) -> None:
    placement = decide(NEW, residents, free=int(free * GIB), total=24 * GIB)
    assert (placement.mode, placement.tiles, placement.evicted) == expected


def test_tiles_come_when_nothing_else_helps() -> None:
    wide = dataclasses.replace(NEW, room=dataclasses.replace(NEW.room, decode=20 * GIB))
    placement = decide(wide, (OLD,), free=11 * GIB, total=24 * GIB)
    assert (placement.mode, placement.tiles, placement.evicted) == ("resident", True, ())
    assert "decoding in tiles" in placement.reason


def test_what_few_jobs_need_visits_the_card_and_stays_aside_in_every_mode() -> None:
    seeing = dataclasses.replace(NEW, networks={**NEW.networks, "ip_adapter": 3 * GIB})
    modes: tuple[PlacementMode, ...] = ("resident", "partly", "offloaded")
    for mode in modes:
        assert set_aside(seeing.networks, mode) == {*set_aside(NEW.networks, mode), "ip_adapter"}
        assert seeing.least(mode, tiles=False) == NEW.least(mode, tiles=False), "it is gone before the most is needed"
        assert seeing.aside(mode) == NEW.aside(mode) + 3 * GIB
    larger = dataclasses.replace(NEW, networks={**NEW.networks, "ip_adapter": 5 * GIB})
    assert larger.least("resident", tiles=False) == NEW.least("resident", tiles=False) + GIB
    only = dataclasses.replace(seeing, networks={"unet": 5 * GIB, "vae": GIB, "ip_adapter": 3 * GIB})
    assert decide(only, (), free=4 * GIB, total=24 * GIB).mode == "offloaded"


def test_what_draws_previews_is_there_beside_whichever_network_runs() -> None:
    shown = dataclasses.replace(NEW, networks={**NEW.networks, "preview": GIB})
    modes: tuple[PlacementMode, ...] = ("resident", "partly", "offloaded")
    for mode in modes:
        assert shown.least(mode, tiles=False) == NEW.least(mode, tiles=False) + GIB
        assert set_aside(shown.networks, mode) == {*set_aside(NEW.networks, mode), "preview"}


def test_what_cannot_fit_into_the_empty_card_is_refused_in_numbers() -> None:
    placement = decide(NEW, (), free=6 * GIB, total=6 * GIB)
    assert placement.mode == "refused"
    assert placement.reason == "at least 7.0 GiB are needed at once, and the GPU has 6.0 GiB"


def test_what_is_not_on_the_card_has_to_fit_beside_it() -> None:
    """A machine that runs out of memory kills the process, with every job in it."""
    assert decide(NEW, (), free=11 * GIB, total=24 * GIB, host=2 * GIB).mode == "partly"
    assert decide(NEW, (), free=11 * GIB, total=24 * GIB, host=GIB).mode == "resident"  # in tiles
    refused = decide(NEW, (), free=8 * GIB, total=8 * GIB, host=7 * GIB)
    assert refused == Placement(
        "refused", "8.0 GiB of weights fit neither into the GPU's 8.0 GiB nor into 7.0 GiB beside it"
    )


def test_the_reason_says_sizes_in_words() -> None:
    placement = decide(NEW, (OLD,), free=6 * GIB, total=24 * GIB)
    assert "8.0 GiB of weights" in placement.reason
    assert "moving off old" in placement.reason


def test_without_a_card_there_is_nowhere_to_offload_to() -> None:
    assert decide(NEW, (OLD,), free=0, total=4 * GIB, can_offload=False) == Placement(
        "resident", "12.5 GiB for 7.0 GiB: tight, and nowhere else to go", ("old",)
    )


def test_the_slack_is_kept_free() -> None:
    need = NEW.least("resident", tiles=False) + SLACK
    assert decide(NEW, (), free=need, total=need).mode == "resident"
    assert decide(NEW, (), free=need - 1, total=need).mode == "partly"


def _gib(**values: float) -> dict[str, int]:
    return {name: int(value * GIB) for name, value in values.items()}


SDXL = Demand(
    "sdxl",
    _gib(text_encoder=0.23, text_encoder_2=1.29, unet=4.78, vae=0.16),
    Room(**_gib(text=0.06, encode=0, denoise=0.31, decode=1.5, decode_in_tiles=0.4)),
)
WAN = Demand(
    "wan",
    _gib(text_encoder=10.58, transformer=2.65, vae=0.36),
    Room(**_gib(text=0.06, encode=0, denoise=1.56, decode=3.96, decode_in_tiles=1.1)),
)
TI2V = Demand(
    "ti2v",
    _gib(text_encoder=10.58, transformer=9.33, vae=1.7),
    Room(**_gib(text=0.06, encode=0, denoise=3.48, decode=9.46, decode_in_tiles=1.85)),
)
"""Weights and working memory at native size, as the rehearsal counts them, with the decoder in bfloat16."""


@pytest.mark.parametrize(
    ("demand", "usable", "mode"),
    [
        (SDXL, 15.3, "resident"),
        (WAN, 15.3, "partly"),
        (WAN, 23.1, "resident"),
        (TI2V, 15.3, "offloaded"),
        (TI2V, 23.1, "partly"),
        (TI2V, 44.5, "resident"),
        (TI2V, 79.0, "resident"),
    ],
)
def test_models_on_cards_that_people_have(demand: Demand, usable: float, mode: str) -> None:
    """`usable` is what cards of 16, 24, 48 and 80 GB report to PyTorch, in GiB."""
    placement = decide(demand, (), free=int(usable * GIB), total=int(usable * GIB))
    assert (placement.mode, placement.tiles) == (mode, False)


def test_sdxl_and_wan_stay_side_by_side_on_24_gb() -> None:
    card = int(23.1 * GIB)
    sdxl = sum(SDXL.networks.values())
    wan = decide(WAN, (Resident("sdxl", sdxl, 1),), free=card - sdxl, total=card)
    assert (wan.mode, wan.evicted) == ("partly", ())
    resting = sum(WAN.networks.values()) - WAN.networks["text_encoder"]
    again = decide(SDXL, (Resident("wan", resting, 2),), free=card - resting, total=card)
    assert (again.mode, again.evicted) == ("resident", ())
