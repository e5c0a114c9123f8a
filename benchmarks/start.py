"""How long a worker takes from the start of its process to its first job, beside the imports that it cannot do without.

    python benchmarks/start.py [--repeat 5]

Each repeat runs every row once, in processes of their own, one after the other; the figures are medians, so that only
what all rows share (a busy machine, warm files) moves them together. Compared are

- `import runpod`, and `import handler` above an empty Python;
- the bare imports of torch and of the pipelines of diffusers that the worker runs;
- a worker with the built-in models, `python handler.py` against a local control plane where one job waits: until it has
  taken it, models loaded, and until it is answered.

Writes nothing.
"""

import argparse
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
    """Print the medians, and the two ratios that count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    repeats = parser.parse_args().repeat
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, code in SNIPPETS.items():
            found.setdefault(name, []).append(_seconds(code))
        ready, answered = _worker()
        found.setdefault("first job taken", []).append(ready)
        found.setdefault("first job answered", []).append(answered)
    median = {name: statistics.median(values) for name, values in found.items()}
    for name, seconds in median.items():
        print(f"{name:<20} {seconds:6.2f} s")
    above = median["import handler"] - median["empty Python"]
    sdk = median["import runpod"] - median["empty Python"]
    print(f"import handler costs {above:.2f} s, {above - sdk:+.2f} s beside the SDK's own {sdk:.2f} s")
    print(f"first job taken / bare imports: {median['first job taken'] / median['bare imports']:.2f}x")


def _seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - started


def _worker() -> tuple[float, float]:
    """Seconds until a worker has taken its first job, and until that was answered."""
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
