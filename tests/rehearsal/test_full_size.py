"""Every block of the models that most jobs run on, at full size."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rehearsal.conftest import ROWS
from tests.rehearsal.jobs import Rehearsal, rehearsal, rows_of
from tests.rehearsal.models import REFINED_SDXL, TI2V_5B, WAN_1_3B, Model
from worker.core.types import TaskType

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def refined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    with rehearsal(tmp_path_factory.mktemp("sdxl"), REFINED_SDXL) as stage:
        yield stage


REFINED: dict[str, Any] = {"high_noise_frac": 0.5, "refiner_inference_steps": 4, "num_inference_steps": 4}


@pytest.mark.parametrize(
    ("task", "options", "calls"),
    [
        (TaskType.TEXT2IMG, {"num_inference_steps": 1}, {"unet": 1, "decode": 1}),
        (TaskType.INPAINT, REFINED, {"unet": 1, "refiner_unet": 2, "encode": 1, "decode": 1}),
    ],
    ids=["text2img", "inpaint and refiner"],
)
def test_sdxl(
    refined: Rehearsal, task: TaskType, options: dict[str, Any], calls: dict[str, int], record_property: Record
) -> None:
    size = {"width": 1024, "height": 1024}
    run = refined.run(task, **size, **options)
    assert run.shapes == [(1024, 1024, 3)]
    assert {name: run.calls[name] for name in calls} == calls
    assert refined.card.now == run.weights
    assert not run.card.quadratic
    for row in rows_of(refined, run, f"SDXL 1024x1024, {task}", task, **size):
        record_property(ROWS, str(row))
        # The estimate has room for the refiner, which is wider.
        assert row.right or (row.phase == "denoise" and task is TaskType.TEXT2IMG), row


@pytest.mark.parametrize(
    ("model", "width", "height"), [(WAN_1_3B, 832, 480), (TI2V_5B, 1280, 704)], ids=["Wan 1.3B", "TI2V 5B"]
)
def test_wan(model: Model, width: int, height: int, tmp_path: Path, record_property: Record) -> None:
    size = {"width": width, "height": height, "num_frames": 81}
    with rehearsal(tmp_path, model) as stage:
        run = stage.run(TaskType.TEXT2VIDEO, num_inference_steps=1, **size)
        assert run.shapes == [(81, height, width, 3)]
        assert run.calls["transformer"] == 2
        assert stage.card.now == run.weights
        assert not run.card.quadratic
        for row in rows_of(stage, run, f"{model.name} {width}x{height}x81", TaskType.TEXT2VIDEO, **size):
            record_property(ROWS, str(row))
            assert row.right, row
