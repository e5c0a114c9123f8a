"""LoRAs and a long prompt beside SDXL on an imaginary card: loading, unloading, and working memory."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rehearsal.conftest import ROWS
from tests.rehearsal.jobs import Row, rehearsal, room_of
from tests.rehearsal.models import SDXL, write_lora
from worker.core.types import LoraFile, TaskType
from worker.engine.adapters.lora_file import identify

T2I = TaskType.TEXT2IMG
SIZE = {"width": 1024, "height": 1024, "num_inference_steps": 3}
Record = Callable[[str, object], None]


@pytest.mark.parametrize(("gib", "mode"), [(80, "resident"), (2.2, "offloaded")])
def test_loras_come_and_go_with_their_network(gib: float, mode: str, tmp_path: Path, record_property: Record) -> None:
    model = SDXL.shallow()
    loras = (
        LoraFile("a", write_lora(tmp_path / "a.safetensors", model, "kohya", 64), 0.8),
        LoraFile("b", write_lora(tmp_path / "b.safetensors", model, "diffusers", 64), 0.5),
    )
    added = sum(identify(lora.path).bytes for lora in loras)
    with rehearsal(tmp_path, model, gib=gib) as stage:
        plain = stage.run(T2I, **SIZE)
        before = (stage.card.now, dict(stage.card.peaks))
        plain_denoise = plain.beside_weights("denoise")
        run = stage.run(T2I, **SIZE, loras=loras)
        assert (plain.placement.mode, run.placement.mode) == (mode, mode)
        assert run.warnings == []
        assert stage.card.now == run.weights == plain.weights, "all of it left with the job"
        more = run.beside_weights("denoise") - plain_denoise
        record_property(ROWS, str(Row(f"SDXL, two LoRAs, {mode}", "denoise", more, added, 0)))
        assert 0 < more <= 1.1 * added, (more, added)
        again = stage.run(T2I, **SIZE)
        assert (stage.card.now, dict(stage.card.peaks)) == before
        assert again.placement.mode == mode


def test_a_prompt_of_five_chunks_takes_what_is_estimated(tmp_path: Path, record_property: Record) -> None:
    model = SDXL.shallow()
    with rehearsal(tmp_path, model) as stage:
        one = stage.run(T2I, **SIZE)
        alone, estimated = one.beside_weights("denoise"), room_of(stage, T2I, **SIZE).denoise
        long = {"prompt": " ".join(["cat"] * 370), "prompt_weighting": True}
        run = stage.run(T2I, **SIZE, **long)
        assert run.warnings == []
        row = Row(
            "SDXL 1024x1024, five chunks",
            "denoise",
            run.beside_weights("denoise"),
            room_of(stage, T2I, **SIZE, **long).denoise,
            0,
        )
        record_property(ROWS, str(row))
        assert row.right, row
        assert run.beside_weights("denoise") - alone <= row.estimated - estimated
