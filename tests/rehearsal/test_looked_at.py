"""Jobs with a viewer, on an imaginary card: the host waits for nothing more, and nothing is left behind."""

from pathlib import Path
from typing import Any

import pytest

from tests.rehearsal.jobs import rehearsal
from tests.rehearsal.models import SDXL, WAN_1_3B, Model
from worker.core.types import TaskType


@pytest.mark.parametrize(
    ("model", "task", "size", "shown"),
    [
        (SDXL, TaskType.TEXT2IMG, {"width": 1536, "height": 768}, (192, 96)),
        (WAN_1_3B, TaskType.TEXT2VIDEO, {"width": 480, "height": 320, "num_frames": 9}, (60, 40)),
    ],
    ids=["SDXL", "Wan"],
)
def test_who_looks_is_not_felt(
    model: Model, task: TaskType, size: dict[str, Any], shown: tuple[int, int], tmp_path: Path
) -> None:
    asked = size | {"num_inference_steps": 3}
    with rehearsal(tmp_path, model.shallow()) as stage:
        alone = stage.run(task, **asked)
        before = alone.beside_weights("denoise")
        run = stage.run(task, **asked, looked_at=True)
        assert alone.previews == []
        assert [preview.ready() for preview in run.previews] == [True] * 3
        assert run.previews[-1].picture().size == shown
        assert run.step == alone.step, "the host waits for nothing else"
        assert run.warnings == []
        assert run.beside_weights("denoise") - before < 2**20
        run.previews.clear()
        assert stage.card.now == run.weights == alone.weights
