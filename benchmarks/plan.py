"""Compares the cost of planning a request with and without the cache of what the models' files say.

    python benchmarks/plan.py [--repeat 50] [--quick]

Both plan the same requests in turn, on the models that the environment names (by default the demo models); the plans
are asserted equal. Times are CPU times of the process, which depend little on other load on the machine.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.memory_world import World
from worker.api.request import Request, parse
from worker.core.config import load_settings
from worker.core.types import TaskType
from worker.engine.engine import Engine
from worker.engine.models.kept import Kept
from worker.engine.models.registry import ModelRegistry
from worker.job.plan import plan
from worker.job.services import Services

T = TypeVar("T")
PICTURE = "https://u.example/p.png"
REQUESTS: dict[TaskType, dict[str, Any]] = {
    TaskType.TEXT2IMG: {"seed": 7},
    TaskType.IMG2IMG: {"seed": 7, "image_url": PICTURE, "width": 256, "height": 256},
    TaskType.TEXT2VIDEO: {"seed": 7},
}


class Forgetful(Kept):
    """A cache that keeps nothing."""

    def get(self, key: Hashable, read: Callable[[], T]) -> T:
        """Return what `read` returns now."""
        return read()


def services(kept: Kept) -> Services:
    """Return a worker with in-memory fakes for everything except its models."""
    world: Any = World()
    settings = load_settings()
    world.generator = Engine(settings, registry=ModelRegistry(settings, kept=kept))
    made: Services = world.services()
    return made


async def cpu_ms(request: Request, worker: Services) -> float:
    """Return the CPU time of one plan, summed over all threads."""
    started = time.process_time()
    await plan(request, worker)
    return 1000 * (time.process_time() - started)


async def compare(repeat: int) -> None:
    """Print one line per task."""
    anew, kept = services(Forgetful()), services(Kept())
    print("task        read anew ms  kept ms  anew/kept")
    for task, fields in REQUESTS.items():
        request = parse({"prompt": "a fox", "task_type": task, **fields})
        assert await plan(request, anew) == await plan(request, kept)
        pairs = [(await cpu_ms(request, anew), await cpu_ms(request, kept)) for _ in range(repeat)]
        before, after = (statistics.median(each) for each in zip(*pairs, strict=True))
        print(f"{task:10}  {before:12.2f}  {after:7.2f}  {before / after:8.1f}x")


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="a few of each only")
    options = parser.parse_args()
    asyncio.run(compare(5 if options.quick else options.repeat))


if __name__ == "__main__":
    main()
