"""The small built-in demo models: what they say of themselves, and the command that makes them.

`python -m worker.pipelines.demo --out DIR` writes `sdxl/`, `sdxl-refiner/` and `wan/` in diffusers' own layout: the
classes of the large models, random weights, the same bytes every time, no network. Knows folders; knows no requests.
Importing this module imports no torch: what a demo model says of itself (`worker.json`) is known before it is made.
"""

import argparse
import hashlib
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from worker.config import load_settings
from worker.pipelines.demo_recipe import write_json, write_models
from worker.pipelines.vendor import quiet

log = logging.getLogger(__name__)

WARNING = "These are the small built-in demo models: their pictures only show that everything works, they are not real."
WORKER_JSON: dict[str, dict[str, Any]] = {
    "sdxl": {
        "name": "demo",
        "width": 256,
        "height": 256,
        "num_inference_steps": 8,
        "guidance_scale": 5.0,
        "warnings": [WARNING],
    },
    "sdxl-refiner": {"name": "demo", "width": 256, "height": 256},
    "wan": {
        "name": "demo",
        "width": 192,
        "height": 112,
        "num_inference_steps": 6,
        "guidance_scale": 5.0,
        "num_frames": 81,
        "fps": 15,
        "size_multiple": 16,
        "warnings": [WARNING],
    },
}
"""What each demo model says of itself; the same text lies in its folder as `worker.json`."""

_FINGERPRINT = "fingerprint.txt"


def fingerprint() -> str:
    """Names this recipe: a change of these files makes the models anew."""
    here = Path(__file__)
    names = (here.name, "demo_recipe.py", "demo_text.py")
    sources = b"".join(here.with_name(name).read_bytes() for name in names)
    return hashlib.sha256(sources).hexdigest()


def ensure(out: Path) -> Path:
    """Make the demo models in `out` unless this very recipe has made them there; returns `out`.

    Two processes may do this at once: each builds beside, the first to rename wins, and nobody sees half a model.
    """
    if _is_current(out):
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        build(scratch)
        scratch.chmod(0o755)
        _put_in_place(scratch, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return out


def build(out: Path) -> None:
    """Write all demo models into the folder `out`, the fingerprint last."""
    quiet()
    write_models(out)
    for name, content in WORKER_JSON.items():
        write_json(out / name / "worker.json", content)
    (out / _FINGERPRINT).write_text(fingerprint())


def _is_current(out: Path) -> bool:
    try:
        return (out / _FINGERPRINT).read_text() == fingerprint()
    except OSError:
        return False


def _put_in_place(scratch: Path, out: Path) -> None:
    for _ in range(3):
        if _is_current(out):
            return
        outdated = Path(f"{scratch}-outdated")
        try:
            if out.exists():
                out.rename(outdated)
            scratch.rename(out)
        except OSError:
            continue  # another process renamed between the two lines: look again
        finally:
            shutil.rmtree(outdated, ignore_errors=True)
        log.info("demo models made", extra={"action": "demo_models"})
        return
    if not _is_current(out):
        raise OSError(f"{out.name}: the demo models could not be put in place")


def main() -> None:
    """`python -m worker.pipelines.demo [--out DIR]`: make the demo models where they are missing or outdated."""
    parser = argparse.ArgumentParser(description="Make the small built-in demo models.")
    parser.add_argument("--out", type=Path, default=None, help="the folder to write (default: the worker's own)")
    out = parser.parse_args().out or load_settings().demo_models_dir
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    ensure(Path(os.path.abspath(out)))
    log.info("demo models ready in %s", out, extra={"action": "demo_models"})


if __name__ == "__main__":
    main()
