"""Runs many jobs in a row in one process and measures its resources; prints one JSON line a lap.

Run by `test_endurance` with the emulators' variables set: `python tests/faults/marathon.py JOBS LAPS`.
"""

import asyncio
import dataclasses
import gc
import json
import os
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import handler
from tests.support.faulty_world import cloud
from tests.support.painting_worker import Painter, Script
from worker.core import logs
from worker.core.config import load_settings, set_library_defaults
from worker.job.services import Services

PAGE = os.sysconf("SC_PAGE_SIZE")


def job_input(number: int) -> dict[str, Any]:
    """Return the input of one of twenty kinds of jobs, in turn."""
    name = f"m{number:06}"
    match number % 20:
        case 0:
            return {"prompt": "a fox"}
        case 1:
            return {"prompt": "a fox", "output_format": "webp", "num_images": 2}
        case 2:
            return cloud(name, width=1023)
        case 3:
            return cloud(name, "out of memory: a fox")
        case 4:
            return cloud(name, "raises: a fox")
        case 5:
            return cloud(f"m{number - 10:06}")  # a repeated request
        case 6:
            return cloud(f"m{number - 10:06}", "another fox")  # under an id that is taken
        case 7:
            return cloud(name, num_images=2)
        case 8:
            return cloud(name, task_type="text2video", num_frames=5, video_width=64, video_height=64)
        case 9:
            return cloud(name, num_inference_steps=100)  # to be stopped
        case 10 | 11 | 12 | 13:
            return {"prompt": "a fox", "seed": number}
        case _:
            return cloud(name)


async def serve(number: int, services: Services, painter: Painter) -> str:
    """Serve one job; returns how it ended."""
    painter.step_seconds = 0.01 if number % 20 == 9 else 0.0
    work = asyncio.create_task(handler.serve({"id": f"job-{number}", "input": job_input(number)}, services))
    if number % 20 == 9:
        await asyncio.sleep(0.1)
        work.cancel()
    await asyncio.wait({work})
    return "stopped" if work.cancelled() else str(work.result().get("error_code", "completed"))


def weight() -> dict[str, int]:
    """Return the resources that the process holds now; `rss` in bytes."""
    gc.collect()
    return {
        "rss": int(Path("/proc/self/statm").read_text().split()[1]) * PAGE,
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "files": len(os.listdir(tempfile.gettempdir())),
    }


async def run(jobs: int, laps: int) -> None:
    """Run all jobs, one after the other."""
    services = handler.build(load_settings())
    painter = Painter(Script())
    services = dataclasses.replace(services, generator=painter)
    ended: Counter[str] = Counter()
    for number in range(jobs):
        ended[await serve(number, services, painter)] += 1
        if (number + 1) % (jobs // laps) == 0:
            print(json.dumps({"jobs": number + 1, "ended": ended, **weight()}), flush=True)


if __name__ == "__main__":
    set_library_defaults()
    logs.configure(load_settings())
    asyncio.run(run(int(sys.argv[1]), int(sys.argv[2])))
