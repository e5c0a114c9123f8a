"""A ControlNet beside SDXL on an imaginary card: dtypes, devices, moves, and working memory."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rehearsal.conftest import ROWS
from tests.rehearsal.jobs import Row, params_of, rehearsal, request_for
from tests.rehearsal.models import SDXL, Model, write_controlnet
from worker.api.params import ControlParams
from worker.core.types import TaskType
from worker.engine.memory.footprint import spec_bytes
from worker.engine.memory.placement import set_aside
from worker.engine.memory.room import Size, room

CONTROLS = (ControlParams("canny"), ControlParams("depth", preprocess=False), ControlParams("tile"))
T2I = TaskType.TEXT2IMG
STEPS = 2
WORKING = {"text": ("text_encoder", "text_encoder_2"), "denoise": ("unet", "controlnet"), "decode": ("vae",)}
"""Phase -> the networks on the card during it, if no others are."""
Record = Callable[[str, object], None]


@pytest.mark.parametrize(
    ("model", "gib", "mode", "count"),
    [
        (SDXL, 80, "resident", 1),
        (SDXL.shallow(), 80, "resident", 2),
        (SDXL.shallow(), 80, "resident", 3),
        (SDXL, 8, "offloaded", 1),
    ],
    ids=["resident", "two pictures", "three pictures", "offloaded"],
)
def test_a_union_network_is_there_while_the_unet_works(
    model: Model, gib: float, mode: str, count: int, tmp_path: Path, record_property: Record
) -> None:
    asked = {"controlnets": CONTROLS[:count]}
    size = {"width": 1024, "height": 1024, "num_inference_steps": STEPS}
    network = write_controlnet(tmp_path / "controlnet", model)
    with rehearsal(tmp_path, model, gib=gib, controlnet=network) as stage:
        spec = stage.engine.registry.spec(T2I, None, request_for(T2I, **asked))
        networks = spec_bytes(spec, cuda=True)
        run = stage.run(T2I, **size, **asked)
        assert (run.placement.mode, run.placement.tiles) == (mode, mode == "offloaded")
        assert run.calls["controlnet"] == run.calls["unet"] == STEPS
        assert run.warnings == []
        assert run.weights == stage.card.now, "it left with the job"
        aside = set_aside(networks, run.placement.mode)
        estimate = room(spec, Size.of(T2I, params_of(T2I, **size, **asked)), cuda=True)
        for phase, working in WORKING.items():
            there = sum(networks[name] for name in working if name in aside)
            said = f"SDXL 1024x1024, union, {count} pictures, {mode}"
            counted = run.beside_weights(phase) - there
            planned = "decode_in_tiles" if phase == "decode" and run.placement.tiles else phase
            row = Row(said, phase, counted, getattr(estimate, planned), run.card.flops[phase])
            record_property(ROWS, str(row))
            assert row.right, row
