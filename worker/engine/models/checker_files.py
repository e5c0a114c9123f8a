"""Which files make a safety checker: of a repository or folder of its own, or of a pipeline's. Imports no torch.

A folder of its own has network and preprocessor beside each other; a pipeline's has them in `CHECKER` and `PROCESSOR`,
among much that no checker needs.
"""

from collections.abc import Iterable
from pathlib import Path

CHECKER, PROCESSOR = "safety_checker", "feature_extractor"
"""What a pipeline's `model_index.json` calls the two (diffusers' StableDiffusionPipeline)."""
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
_HALF, _FULL = "model.fp16.safetensors", "model.safetensors"


def checker_folders(folder: Path) -> tuple[Path, Path]:
    """Where the network lies, and where its preprocessor."""
    if (folder / CHECKER / CONFIG).is_file():
        return folder / CHECKER, folder / PROCESSOR
    return folder, folder


def needed_files(files: Iterable[str], *, half: bool) -> list[str]:
    """The files of a repository that make its checker: the half-precision weights where `half` and there are such.

    Without any weights in safetensors: none.
    """
    there = set(files)
    inside, beside = (f"{CHECKER}/", f"{PROCESSOR}/") if f"{CHECKER}/{CONFIG}" in there else ("", "")
    weights = [f"{inside}{name}" for name in ((_HALF, _FULL) if half else (_FULL, _HALF))]
    chosen = next((name for name in weights if name in there), None)
    return [] if chosen is None else [f"{inside}{CONFIG}", f"{beside}{PREPROCESSOR}", chosen]
