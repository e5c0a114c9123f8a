"""Measures the time from a worker's process start to its first job, compared with its unavoidable imports.

    python benchmarks/start.py [--repeat 5]

Each repeat runs every row once, in separate processes, in succession; the figures are medians, so conditions that all
rows share (load, warm files) affect them alike. For imports the CPU time is given too, which hardly depends on other
load. Prints a table for `benchmarks/README.md` with

- `import runpod` and `import handler`, compared with an empty Python;
- the bare imports of torch and of the diffusers pipelines that the worker runs;
- a worker with the built-in models, `python handler.py` against a local control plane with one queued job: the time
  until it takes the job, with models loaded, and until the job is answered.

Writes nothing.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.emulators.control_plane import ControlPlane
from tools.emulators.worker_process import ROOT, WorkerProcess

BARE = "import torch; from diffusers import StableDiffusionXLPipeline, WanPipeline"
SNIPPETS = {
    "empty Python": "pass",
    "import handler": "import handler",
    "import runpod": "import runpod",
    "bare imports": BARE,
}
JOB = {"prompt": "a red star on blue", "num_inference_steps": 1, "width": 64, "height": 64}


def main() -> None:
    """Print the medians, the costs of imports and the ratio to the bare imports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    repeats = parser.parse_args().repeat
    clock: dict[str, list[float]] = {}
    processor: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, code in SNIPPETS.items():
            seconds, of_processor = _seconds(code)
            clock.setdefault(name, []).append(seconds)
            processor.setdefault(name, []).append(of_processor)
        ready, answered = _worker()
        clock.setdefault("first job taken", []).append(ready)
        clock.setdefault("first job answered", []).append(answered)
    taken, used = _medians(clock), _medians(processor)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, medians of {repeats}\n")
    print("| | s | of the processor |\n|---|---|---|")
    for name, seconds in taken.items():
        print(f"| {name} | {seconds:.2f} | {format(used[name], '.2f') if name in used else ''} |")
    for what, median in ("clock", taken), ("processor", used):
        above, sdk = (median[name] - median["empty Python"] for name in ("import handler", "import runpod"))
        print(
            f"\nimport handler costs {above:.2f} s by the {what}, {above - sdk:+.2f} s beside the SDK's own {sdk:.2f} s"
        )
    print(f"\nfirst job taken / bare imports: {taken['first job taken'] / taken['bare imports']:.2f}x")


def _medians(found: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in found.items()}


def _seconds(code: str) -> tuple[float, float]:
    """Return the wall-clock seconds and the CPU seconds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _worker() -> tuple[float, float]:
    """Return the seconds until a worker takes its first job, and until that is answered."""
    with ControlPlane() as plane:
        job = plane.submit(JOB)
        started = time.perf_counter()
        with WorkerProcess(plane):
            plane.wait_taken(job, 300)
            taken = time.perf_counter() - started
            plane.wait(job, 300)
            return taken, time.perf_counter() - started


if __name__ == "__main__":
    main()
