"""A picture at twice its size, redrawn in tiles on an imaginary card: each phase takes what is estimated."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rehearsal.conftest import ROWS
from tests.rehearsal.jobs import rehearsal, rows_of
from tests.rehearsal.models import SDXL
from worker.api.params import LANCZOS, Upscale
from worker.core.types import TaskType
from worker.engine.families import sdxl

Record = Callable[[str, object], None]


def test_tiles_that_are_drawn_anew_take_what_is_estimated(
    tmp_path: Path, record_property: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdxl, "_FLAT", 0)  # a picture without numbers counts as flat
    asked = {
        "width": 960,
        "height": 512,
        "num_inference_steps": 3,
        "upscale": Upscale(2, 1920, 1024, LANCZOS, 0.5, (1024, 1024)),
    }
    with rehearsal(tmp_path, SDXL.shallow()) as stage:
        run = stage.run(TaskType.TEXT2IMG, **asked)
        assert run.shapes == [(1024, 1920, 3)]
        assert (run.calls["unet"], run.calls["encode"], run.calls["decode"]) == (3 + 2, 2, 1 + 2)
        assert run.warnings == []
        assert stage.card.now == run.weights
        for row in rows_of(stage, run, "SDXL 960x512, twice as large, anew", TaskType.TEXT2IMG, **asked):
            record_property(ROWS, str(row))
            assert row.right, row
