"""Finds weights: in RunPod's cached models, the network volume, the image, Hugging Face's cache, this package.

Downloads only what is nowhere on this machine. Imports no torch. Knows folder layouts and hub ids; does not know which
model serves what.
"""

import contextlib
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from worker.core.config import REPOSITORY, RUNPOD_VOLUME
from worker.core.errors import ModelUnavailable
from worker.engine.models import checker_files, controlnet_files
from worker.engine.models.ip_adapter_files import ENCODERS, PREFERRED

log = logging.getLogger(__name__)

DEMO_MODELS = REPOSITORY / "worker" / "demo_models"
"""The built-in demo models: `sdxl/`, `sdxl-refiner/` and `wan/`."""
HUB_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>\w[\w./-]*))?\Z")
"""`org/name`, or `org/name@revision` with a commit, tag or branch. An unpinned id may change its model at any time."""


What = Literal["pipeline", "configs", "vae", "safety", "controlnet", "ip_adapter", "upscaler"]


@dataclass(frozen=True, slots=True)
class Place:
    """One root folder to search.

    `hub` is the hub's cache layout (`models--org--name/snapshots/<commit>`), `plain` a folder per model (`org--name`).
    """

    root: Path
    layout: Literal["hub", "plain"]

    def find(self, hub_id: str) -> Path | None:
        """Return the model's folder in this place, or None.

        A plain folder counts as any revision.
        """
        revision = parts(hub_id)[1]
        for folder in self._folders(hub_id):
            found = folder if self.layout == "plain" else _snapshot(folder, revision)
            if found is not None and found.is_dir():
                return found
        return None

    def holds(self, hub_id: str) -> tuple[Path, ...]:
        """Return the path that decides whether this place has the model."""
        folders = self._folders(hub_id)
        if self.layout == "plain":
            return folders
        return tuple(folder / name for folder in folders for name in ("refs", "snapshots"))

    def _folders(self, hub_id: str) -> tuple[Path, ...]:
        """Yield the model's possible folders: as spelled, and in lower case, as RunPod's cache may have it."""
        start = "" if self.layout == "plain" else "models--"
        flat = parts(hub_id)[0].replace("/", "--")
        return tuple(self.root / f"{start}{spelt}" for spelt in dict.fromkeys((flat, flat.lower())))


def is_closed(path: Path) -> bool:
    """Whether a file or folder, or something in it, exists but is not readable by this process."""
    denied: list[OSError] = []
    files = [path] if path.is_file() else []
    for root, folders, names in os.walk(path, onerror=denied.append):
        files += [Path(root, name) for name in names]
        if len(Path(root).relative_to(path).parts) == 2:
            folders.clear()  # deeper than any model: this may be a whole volume
    ids = os.access in os.supports_effective_ids
    return any(isinstance(error, PermissionError) for error in denied) or any(
        file.exists() and not os.access(file, os.R_OK, effective_ids=ids) for file in files
    )


def closed(hub_id: str, places: tuple[Place, ...]) -> Path | None:
    """Return the first folder that may contain the model, as far as this process can see."""
    for place in places:
        for path in place.holds(hub_id):
            try:
                if is_closed(path):
                    return path
            except PermissionError:
                return path
    return None


def parts(hub_id: str) -> tuple[str, str | None]:
    """Split a hub id into `org/name` and its revision, if any."""
    name, _, revision = hub_id.partition("@")
    return name, revision or None


def folder_name(folder: Path) -> str:
    """Return the name of a folder's model: the folder's name, or the hub id of a snapshot in a hub cache."""
    folder = folder.resolve()
    cache = folder.parent.parent.name
    if folder.parent.name == "snapshots" and cache.startswith("models--"):
        return cache.removeprefix("models--").replace("--", "/", 1)
    return folder.name


def default_places(models_dir: Path) -> tuple[Place, ...]:
    """Return the places to search, in order; `models_dir` holds the image's baked models."""
    from huggingface_hub import constants

    return (
        # https://docs.runpod.io/serverless/endpoints/model-caching
        Place(RUNPOD_VOLUME / "huggingface-cache" / "hub", "hub"),
        Place(RUNPOD_VOLUME / "models", "plain"),
        Place(models_dir, "plain"),
        Place(Path(constants.HF_HUB_CACHE), "hub"),
    )


def find(hub_id: str, places: tuple[Place, ...], complete: Callable[[Path], bool]) -> Path | None:
    """Return the first folder with the complete model; an incomplete download is skipped."""
    for place in places:
        with contextlib.suppress(PermissionError):
            folder = place.find(hub_id)
            if folder is not None and complete(folder):
                return folder
    if closed(hub_id, places) is not None:
        log.warning("files of %s may not be read by this user", hub_id, extra={"action": "closed", "model": hub_id})
    return None


def download(hub_id: str, what: What, *, half: bool) -> Path:
    """Download a model into Hugging Face's cache and return its folder.

    `pipeline` is everything `model_index.json` names, as safetensors, the fp16 files where `half` asks for them and the
    repository has them; `configs` is everything but weights; `vae` is a repository that holds
    one autoencoder, `safety` the safety checker of a repository of its own or of a pipeline (or what else is laid out
    as the first), `controlnet` one ControlNet, ProMax where there is one, `ip_adapter` an IP-Adapter with its image
    encoder, `upscaler` one upscaler in one file.

    Raises:
        OSError, httpx.HTTPError or an error of huggingface_hub: not reachable, not found, not allowed, no space.
        ModelUnavailable: the repository has only pickled weights, or is not a pipeline.
    """
    from huggingface_hub import list_repo_files, snapshot_download

    hub_id, revision = parts(hub_id)
    small = ["*.json", "*.txt", "*.model"]
    if what == "configs":
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=small))
    if what == "vae":
        files = ["config.json", "diffusion_pytorch_model.safetensors"]
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=files))
    if what == "controlnet":
        files = controlnet_files.needed_files(list_repo_files(hub_id, revision=revision))
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=files))
    if what == "ip_adapter":
        encoder = [f"{ENCODERS[0]}/{name}" for name in ("config.json", "model.safetensors")]
        files = [f"sdxl_models/{PREFERRED[0]}", *encoder]
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=files))
    if what == "upscaler":
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=["*.safetensors"]))
    if what == "safety":
        files = checker_files.needed_files(list_repo_files(hub_id, revision=revision), half=half)
        if not files:
            raise ModelUnavailable("model_unavailable.pickled_only", repository=hub_id)
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=files))
    if "model_index.json" not in list_repo_files(hub_id, revision=revision):
        raise ModelUnavailable("model_unavailable.no_index_there", repository=hub_id)
    from diffusers import DiffusionPipeline

    if half:
        try:
            return Path(DiffusionPipeline.download(hub_id, revision=revision, variant="fp16", use_safetensors=True))
        except ValueError:  # diffusers: there is no such variant
            pass
    return Path(DiffusionPipeline.download(hub_id, revision=revision, use_safetensors=True))


def arrived(hub_id: str) -> int:
    """Return the bytes of a model in Hugging Face's cache, including unfinished files."""
    from huggingface_hub import constants

    total, folder = 0, f"models--{parts(hub_id)[0].replace('/', '--')}"
    for blob in (Path(constants.HF_HUB_CACHE) / folder / "blobs").glob("*"):
        with contextlib.suppress(FileNotFoundError):  # a finished download is renamed
            total += blob.stat().st_size
    return total


def _snapshot(cache: Path, revision: str | None) -> Path | None:
    snapshots = cache / "snapshots"
    try:
        commit = (cache / "refs" / (revision or "main")).read_text().strip()
    except OSError:
        commit = revision or ""
    if commit and (snapshots / commit).is_dir():
        return snapshots / commit
    if revision is not None:
        return None
    try:
        only = [folder for folder in snapshots.iterdir() if folder.is_dir()]
    except OSError:
        return None
    return only[0] if len(only) == 1 else None
