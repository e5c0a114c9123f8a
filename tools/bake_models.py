"""Bakes models into an image during its build: `bake_models.py NAME...`, each `org/name` or `org/name@revision`.

A NAME may also be `demo`, whose models are in every image already, or the path of a local model, for instance on a
network volume: `--bfloat16` rewrites it in place, file by file.

Knows the layout of a model repository and where the worker looks for baked weights (`$MODELS_DIR/{org}--{name}`).
Knows nothing of RunPod and imports no part of the worker, so that code changes do not invalidate the weights' layer.
"""

import argparse
import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from huggingface_hub import hf_hub_download, list_repo_files, snapshot_download

DEMO = "demo"
KEPT_SUFFIXES = frozenset({".json", ".txt", ".model", ".jinja"})
"""Configuration and tokenizer files, which are small; `.model` is SentencePiece's."""
HALF = ".fp16.safetensors"
"""diffusers' suffix of half-precision weights beside full-precision ones."""
WAN_NETWORKS = ("text_encoder", "transformer", "transformer_2")
"""Wan's networks that run in bfloat16 on a GPU."""
KEPT_WIDE = frozenset({"rope", "time_embedder", "scale_shift_table", "norm1", "norm2", "norm3"})

IP_ADAPTER = (
    "models/image_encoder/config.json",
    "models/image_encoder/model.safetensors",
    "sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors",
)
"""The files that the worker prefers in a repository with the layout of h94/IP-Adapter."""
PROMAX = ("config_promax.json", "diffusion_pytorch_model_promax.safetensors")
"""The network with the most control types, in the layout of xinsir/controlnet-union-sdxl-1.0."""
CHECKER = ("safety_checker", "feature_extractor")

log = logging.getLogger("bake")


def choose_files(files: Iterable[str], components: Iterable[str] | None) -> list[str]:
    """Return the files of a repository that a pipeline loads, with each set of weights once.

    Args:
        files: every path in the repository.
        components: folders that `model_index.json` names; None: the repository is a single component, or holds
            IP-Adapters.

    Returns:
        Sorted paths. In a folder with a single half-precision file, the full-precision one is left out; sharded
        weights, whose index names the shards, are taken in full precision. Pickles, ONNX and Flax copies, images, and
        single-file checkpoints beside a pipeline's folders are left out.
    """
    paths = [PurePosixPath(name) for name in files]
    if components is None and {*PROMAX} <= {*map(str, paths)}:
        return [*PROMAX]
    if components is None and {*IP_ADAPTER} <= {*map(str, paths)}:
        return [*IP_ADAPTER]
    folders = {"."} if components is None else {*components}
    chosen = [path for path in paths if str(path.parent) == "." and path.suffix in KEPT_SUFFIXES]
    for folder in sorted(folders):
        inside = [path for path in paths if str(path.parent) == folder]
        if folder != ".":
            chosen += [path for path in inside if path.suffix in KEPT_SUFFIXES and ".fp16." not in path.name]
        weights = [path for path in inside if path.suffix == ".safetensors"]
        named = [path for path in weights if path.name.startswith(("diffusion_pytorch_model", "model"))]
        halves = [path for path in named or weights if path.name.endswith(HALF)]
        sharded = any("-of-" in path.name for path in halves)
        full = [path for path in named or weights if ".fp16" not in path.name and "non_ema" not in path.name]
        if halves and not sharded:
            # The index lists the full-precision shards, which are left out.
            chosen = [path for path in chosen if path.parent != PurePosixPath(folder) or ".index." not in path.name]
        chosen += halves if halves and not sharded else full
    return sorted({str(path) for path in chosen})


def component_folders(index: Mapping[str, object]) -> list[str]:
    """Return the folders that a `model_index.json` loads: its non-null entries of the form `[library, class]`.

    For a Stable Diffusion 1 pipeline these are only the parts of its safety checker, all that the worker runs of it.
    """
    folders = [
        name
        for name, value in index.items()
        if not name.startswith("_") and isinstance(value, list) and value and all(value)
    ]
    if index.get("_class_name") == "StableDiffusionPipeline":
        return [name for name in folders if name in CHECKER]
    return folders


def bake_from_hub(name: str, models_dir: Path) -> Path:
    """Download one model into its folder and return the folder.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: there is no such model or revision, or the hub returned an error.
    """
    repository, _, revision = name.partition("@")
    files = list_repo_files(repository, revision=revision or None)
    components = None
    if "model_index.json" in files:
        index = hf_hub_download(repository, "model_index.json", revision=revision or None)
        components = component_folders(json.loads(Path(index).read_text(encoding="utf-8")))
    target = models_dir / repository.replace("/", "--")
    snapshot_download(
        repository, revision=revision or None, local_dir=target, allow_patterns=choose_files(files, components)
    )
    # The loader finds these names without a `variant`. An image has no use for the download's metadata.
    for half in target.rglob(f"*{HALF}"):
        half.rename(half.with_name(half.name.removesuffix(HALF) + ".safetensors"))
    shutil.rmtree(target / ".cache", ignore_errors=True)
    return target


def narrow(folder: Path) -> None:
    """Rewrite a Wan model's large networks in bfloat16, in which they run: half the bytes to store, read and cast.

    The worker loads the same bits. The VAE and the image encoder, which run in float32, keep it, as do the tensors that
    diffusers keeps in float32 (`WanTransformer3DModel._keep_in_fp32_modules`). Other models are left unchanged.
    """
    index = folder / "model_index.json"
    if not index.is_file() or not json.loads(index.read_text(encoding="utf-8"))["_class_name"].startswith("Wan"):
        return
    import torch
    from safetensors.torch import load_file, save_file

    for part in WAN_NETWORKS:
        for path in (folder / part).glob("*.safetensors"):
            tensors = {
                name: value.bfloat16()
                if value.dtype == torch.float32 and (part == "text_encoder" or not KEPT_WIDE & {*name.split(".")})
                else value
                for name, value in load_file(path).items()
            }
            written = path.with_suffix(".narrow")
            save_file(tensors, written, {"format": "pt"})
            written.replace(path)


def main() -> None:
    """Bake the named models and log the size of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bfloat16", action="store_true", help="write the large networks of Wan models in bfloat16")
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in arguments.names:
        if name == DEMO:
            continue
        here = Path(name).is_absolute() and Path(name).is_dir()
        target = Path(name) if here else bake_from_hub(name, Path(os.environ.get("MODELS_DIR", "/models")))
        if arguments.bfloat16:
            narrow(target)
        size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
        log.info("baked %s: %.1f MB", name, size / 1e6, extra={"action": "bake"})


if __name__ == "__main__":
    main()
