"""A request is planned beside the event loop, in which other jobs' heartbeats and uploads run."""

import threading
from typing import Any

from tests.support.fakes import PaintingGenerator
from tests.support.memory_world import CLOUD, World
from worker.api.params import ModelDefaults, Params
from worker.api.request import Request
from worker.core.types import TaskType


class Noting(PaintingGenerator):
    """Notes where it is asked what reads its files."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[tuple[str, int]] = []

    def describe(self, task_type: TaskType, model: str | None = None) -> ModelDefaults:
        self.threads.append(("describe", threading.get_ident()))
        return super().describe(task_type, model)

    def estimate(self, request: Request, params: Params) -> Any:
        self.threads.append(("estimate", threading.get_ident()))
        return super().estimate(request, params)


async def test_no_file_of_a_model_is_looked_at_in_the_event_loop() -> None:
    generator = Noting()
    response = await World(generator).run(CLOUD)
    assert "error" not in response
    assert {what for what, _ in generator.threads} == {"describe", "estimate"}
    assert threading.get_ident() not in {where for _, where in generator.threads}
