"""A preview drawn by a tiny autoencoder stays within its estimated memory, and the host does not wait for the card."""

import types
from collections.abc import Iterator
from typing import Any

import diffusers
import pytest
import torch

from tests.rehearsal.card import Card
from tests.rehearsal.mode import pretended
from worker.engine.memory.offload import module_bytes
from worker.engine.memory.room import PREVIEW
from worker.engine.preview import LONGEST_SIDE, SDXL_FACTOR, Beside, drawer

_KIT: Any = diffusers


class Vae:
    """SDXL's VAE, as far as its latents go."""

    config = types.MappingProxyType({"latent_channels": 4, "scaling_factor": SDXL_FACTOR})


@pytest.fixture(scope="module")
def card() -> Iterator[Card]:
    card = Card()
    with pretended(card), torch.no_grad():
        yield card


@pytest.mark.parametrize("side", [64, 128, 192])
def test_a_preview_is_drawn_in_its_room_without_a_wait(card: Card, side: int) -> None:
    tiny = _KIT.AutoencoderTiny().to("cuda", torch.float16)
    draw = drawer(tiny, Vae(), Beside(), 1024 * 1024)
    assert draw is not None
    clean = torch.empty(4, side, side, device="cuda")
    card.forget()
    card.enter("denoise")
    before = card.now
    pixels = draw(clean)
    assert pixels is not None
    assert tuple(pixels.shape) == (LONGEST_SIDE, LONGEST_SIDE, 3)
    assert not card.syncs, card.syncs
    assert card.peaks["denoise"] - before == pytest.approx(2 * PREVIEW, rel=0.1)
    assert module_bytes(tiny) == 2 * 2445063
