"""The table in docs/deploy.md: which model runs how on which card, by the worker's own placement.

It runs nothing: bytes of weights come from headers, working memory from `worker.engine.memory.room`.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.rehearsal.jobs import settings_for
from tests.rehearsal.models import PUBLISHED, Model
from worker.core.types import TaskType
from worker.engine.memory.footprint import spec_bytes
from worker.engine.memory.placement import GIB, Demand, decide
from worker.engine.memory.room import Size, room
from worker.engine.models.registry import ModelRegistry

CARDS = {"16 GB": 15.7, "24 GB": 22.0, "48 GB": 44.4, "80 GB": 79.1}
"""Name of a size -> GiB that its smallest cards report: RTX A4000, L4, L40S and A40, A100 and H100."""
CONTEXT = 0.5
"""GiB that CUDA takes before anything is loaded."""
IMAGES = ((512, 512), (768, 768), (1024, 1024), (1280, 1280), (1536, 1536))
CLIPS = ((480, 320), (640, 384), (832, 480), (960, 544), (1280, 704), (1280, 1280))
FRAMES = 81


def lines() -> Iterator[str]:
    """Yield the table in Markdown, line by line."""
    yield f"| model | own size | {' | '.join(CARDS)} |"
    yield "|---" * (2 + len(CARDS)) + "|"
    with tempfile.TemporaryDirectory() as folder:
        for model in PUBLISHED:
            yield _row(model, Path(folder, model.folder))


def _row(model: Model, folder: Path) -> str:
    registry = ModelRegistry(settings_for(folder, model), cuda=True, where=())
    task = model.tasks[0]
    spec = registry.spec(task)
    own = Size.native(task, registry.describe(task))
    weights = spec_bytes(spec, cuda=True)

    def placed(size: Size, gib: float) -> tuple[str, bool]:
        total = round(gib * GIB)
        demand = Demand(spec.name, weights, room(spec, size, cuda=True))
        placement = decide(demand, (), free=total - round(CONTEXT * GIB), total=total)
        return placement.mode, placement.tiles

    def largest(gib: float) -> str:
        sizes = [_size(task, side) for side in (CLIPS if task.is_video else IMAGES)]
        fitting = [size for size in sizes if placed(size, gib)[0] != "refused"]
        return f"up to {fitting[-1].width}x{fitting[-1].height}" if fitting else "nothing"

    cells = [
        f"{mode}{', in tiles' if tiles else ''}; {largest(gib)}"
        for gib in CARDS.values()
        for mode, tiles in [placed(own, gib)]
    ]
    gib = sum(weights.values()) / GIB
    return f"| {model.name} ({gib:.1f} GiB) | {own.width}x{own.height} | {' | '.join(cells)} |"


def _size(task: TaskType, sides: tuple[int, int]) -> Size:
    return Size(*sides, FRAMES if task.is_video else 1, source=True)
