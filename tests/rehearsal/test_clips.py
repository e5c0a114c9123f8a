"""A clip's extras on an imaginary card: LoRAs for both experts, and skipped steps."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.rehearsal.conftest import ROWS
from tests.rehearsal.jobs import Row, params_of, rehearsal
from tests.rehearsal.models import A14B, WAN_1_3B, Model, write_lora
from worker.api.params import StepCache
from worker.core.types import LoraFile, TaskType
from worker.engine.adapters.lora_file import bytes_of
from worker.engine.memory.room import Size, room

T2V = TaskType.TEXT2VIDEO
SIZE = {"width": 832, "height": 480, "num_frames": 17}
Record = Callable[[str, object], None]


def test_loras_of_two_experts_come_and_go(tmp_path: Path, record_property: Record) -> None:
    model = A14B.shallow()
    loras = (
        LoraFile("high", write_lora(tmp_path / "high.safetensors", model, "wan", 64), 1.0, "high"),
        LoraFile("low", write_lora(tmp_path / "low.safetensors", model, "wan", 64), 1.0, "low"),
    )
    with rehearsal(tmp_path, model) as stage:
        run = stage.run(T2V, **SIZE, loras=loras)
        assert (run.calls["transformer"], run.calls["transformer_2"]) == (2, 2)
        assert run.warnings == []
        assert stage.card.now == run.weights, "all of it left with the job"
        size = replace(Size.of(T2V, params_of(T2V, **SIZE)), beside=bytes_of(loras))
        estimated = room(stage.spec(T2V), size, cuda=True).denoise
        row = Row("Wan A14B 832x480x17, two LoRAs", "denoise", run.beside_weights("denoise"), estimated, 0)
        record_property(ROWS, str(row))
        assert row.right, row


@pytest.mark.parametrize(
    ("model", "cache", "guidance"),
    [
        (WAN_1_3B, StepCache("first_block", 0.1), {}),
        (WAN_1_3B, StepCache("sea", 0.1), {}),
        (A14B, StepCache("first_block", 0.1), {"guidance_scale_2": 3.0}),
    ],
    ids=["first block", "SEA", "two experts"],
)
def test_what_is_kept_from_step_to_step_is_counted(
    model: Model, cache: StepCache, guidance: dict[str, Any], tmp_path: Path, record_property: Record
) -> None:
    asked = {**SIZE, "num_inference_steps": 4, "step_cache": cache, **guidance}
    with rehearsal(tmp_path, model.shallow()) as stage:
        run = stage.run(T2V, **asked)
        assert run.warnings == []
        assert stage.card.now == run.weights, "nothing is kept for another job"
        estimated = room(stage.spec(T2V), Size.of(T2V, params_of(T2V, **asked)), cuda=True).denoise
        name = f"{model.name} 832x480x17, {cache.kind}"
        row = Row(name, "denoise", run.beside_weights("denoise"), estimated, 0)
        record_property(ROWS, str(row))
        assert row.right, row
