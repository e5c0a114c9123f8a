"""Where weights lie: RunPod's cached models, the network volume, the image, Hugging Face's own cache, this package.

Knows folder layouts and hub ids; does not know which model serves what. Downloads only what is nowhere on this machine.
Imports no torch.
"""

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from worker.core.config import REPOSITORY, RUNPOD_VOLUME

DEMO_MODELS = REPOSITORY / "worker" / "demo_models"
"""The built-in demo models, `sdxl/`, `sdxl-refiner/` and `wan/`: part of the worker, like its code."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*\Z")


What = Literal["pipeline", "configs", "vae", "safety"]


@dataclass(frozen=True, slots=True)
class Place:
    """One root to look under.

    `hub` is the Hub's cache layout (`models--org--name/snapshots/<commit>`), `plain` one folder a model (`org--name`).
    """

    root: Path
    layout: Literal["hub", "plain"]

    def find(self, hub_id: str) -> Path | None:
        """The folder in which this place has the model; None where it has none."""
        flat = hub_id.replace("/", "--")
        if self.layout == "plain":
            folder = self.root / flat
            return folder if folder.is_dir() else None
        return _snapshot(self.root / f"models--{flat}")


def default_places(models_dir: Path) -> tuple[Place, ...]:
    """Where this worker looks, in order; `models_dir` holds what the image has baked in."""
    from huggingface_hub import constants

    return (
        # https://docs.runpod.io/serverless/endpoints/model-caching
        Place(RUNPOD_VOLUME / "huggingface-cache" / "hub", "hub"),
        Place(RUNPOD_VOLUME / "models", "plain"),
        Place(models_dir, "plain"),
        Place(Path(constants.HF_HUB_CACHE), "hub"),
    )


def find(hub_id: str, places: tuple[Place, ...], complete: Callable[[Path], bool]) -> Path | None:
    """The first folder that has all of the model. A download that was cut off is passed over."""
    for place in places:
        folder = place.find(hub_id)
        if folder is not None and complete(folder):
            return folder
    return None


def download(hub_id: str, what: What, *, half: bool) -> Path:
    """Fetch a model into Hugging Face's cache and return its folder.

    `pipeline` is everything `model_index.json` names, as safetensors, the fp16 files where `half` asks for them and the
    repository has them; `configs` is everything but weights; `vae` is a repository that holds
    one autoencoder, `safety` one safety checker.

    Raises:
        OSError, httpx.HTTPError or an error of huggingface_hub: not reachable, not found, not allowed, no space.
    """
    from huggingface_hub import snapshot_download

    small = ["*.json", "*.txt", "*.model"]
    if what == "configs":
        return Path(snapshot_download(hub_id, allow_patterns=small))
    if what == "vae":
        return Path(snapshot_download(hub_id, allow_patterns=["config.json", "diffusion_pytorch_model.safetensors"]))
    if what == "safety":
        return Path(snapshot_download(hub_id, allow_patterns=["*.json", "model.safetensors"]))
    from diffusers import DiffusionPipeline

    if half:
        try:
            return Path(DiffusionPipeline.download(hub_id, variant="fp16", use_safetensors=True))
        except ValueError:  # diffusers' word for "there is no such variant"
            pass
    return Path(DiffusionPipeline.download(hub_id, use_safetensors=True))


def arrived(hub_id: str) -> int:
    """Bytes of a model that are in Hugging Face's cache, those of unfinished files included."""
    from huggingface_hub import constants

    total = 0
    for blob in (Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}" / "blobs").glob("*"):
        with contextlib.suppress(FileNotFoundError):  # an unfinished file is renamed when it is finished
            total += blob.stat().st_size
    return total


def _snapshot(cache: Path) -> Path | None:
    snapshots = cache / "snapshots"
    try:
        commit = (cache / "refs" / "main").read_text().strip()
    except OSError:
        commit = ""
    if commit and (snapshots / commit).is_dir():
        return snapshots / commit
    try:
        only = [folder for folder in snapshots.iterdir() if folder.is_dir()]
    except OSError:
        return None
    return only[0] if len(only) == 1 else None
