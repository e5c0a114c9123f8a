"""The published upscalers on an imaginary card, in half precision: each tile takes what is estimated."""

import pytest
import torch

from tests.rehearsal.card import Card
from tests.rehearsal.mode import pretended
from tests.support.model_folders import registry
from worker.engine.memory import room
from worker.engine.memory.room import Size
from worker.engine.models.upscaler import CompactNet, RrdbNet
from worker.engine.models.upscaler_file import Layout

PUBLISHED = {
    "RealESRGAN_x4plus": Layout("rrdb", 4, 64, 23, 32, 1, 2),
    "RealESRGAN_x2plus": Layout("rrdb", 2, 64, 23, 32, 2, 2),
    "realesr-general-x4v3": Layout("compact", 4, 64, 32),
}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("tile", [128, 512])
def test_a_tile_takes_what_is_estimated(name: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = PUBLISHED[name]
    monkeypatch.setattr(room, "upscaler_layout", lambda _spec: found)
    spec = registry(cuda=True, upscaler_model="org/upscaler").upscaler()
    assert spec is not None
    estimated = room.room(spec, Size(tile, tile), cuda=True).upscale
    card = Card()
    with pretended(card), torch.no_grad():
        network = (RrdbNet if found.kind == "rrdb" else CompactNet)(found).to("cuda", torch.float16)
        given = torch.empty(1, 3, tile, tile, device="cuda")
        card.forget()
        weights = card.now
        card.enter("upscale")
        made = network(given.half())
        assert made.shape[-1] == tile * found.scale
        made[0].float().clamp(0, 1).mul(255).permute(1, 2, 0)
        counted = card.peaks["upscale"] - weights
    assert 0.85 * estimated <= counted <= estimated, (counted, estimated)
