"""The roles of weights, and the checks that a folder or file can serve in a role.

Reads small JSON files and headers of weights. A problem is phrased as the end of a sentence about the variable.
"""

from pathlib import Path
from typing import Literal

from worker.core.messages import text
from worker.engine.models import upscaler_file
from worker.engine.models.checker_files import CONFIG, PREPROCESSOR, checker_folders
from worker.engine.models.checkpoint import components, has_weights, header, read_json
from worker.engine.models.controlnet_files import controlnet_files
from worker.engine.models.identity import identify
from worker.engine.models.ip_adapter_files import ip_adapter_files
from worker.engine.models.weight_files import has_weights_in, is_complete

Role = Literal["sdxl", "vae", "refiner", "wan", "safety", "ip_adapter", "controlnet", "depth", "preview", "upscaler"]

_CLASSES: dict[Role, frozenset[str]] = {
    "sdxl": frozenset({"StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline"}),
    "refiner": frozenset({"StableDiffusionXLImg2ImgPipeline"}),
    "wan": frozenset({"WanPipeline", "WanImageToVideoPipeline"}),
}
"""The diffusers pipelines that a folder's index may name."""
_WORDS = ("tokenizer.json", "vocab.json", "spiece.model", "sentencepiece.model")
_SMALL = {
    "tokenizer": _WORDS,
    "tokenizer_2": _WORDS,
    "scheduler": ("scheduler_config.json",),
    "image_processor": ("preprocessor_config.json", "processor_config.json"),
}
"""Required parts without weights -> files of which one must exist."""


def folder_problem(folder: Path, role: Role) -> str | None:
    """Return why `folder` cannot be loaded as `role`, as the end of a sentence; None: no problem found."""
    if role == "upscaler":
        return upscaler_file.problem(folder)
    if role == "controlnet":
        return _controlnet_problem(folder)
    if role in {"vae", "depth", "preview"}:
        return _problem_alone(folder, role) or _weights_problem(folder)
    if role == "ip_adapter":
        files = ip_adapter_files(folder)
        return files if isinstance(files, str) else None
    if role == "safety":
        return _checker_problem(folder)
    index = read_json(folder / "model_index.json")
    if not index:
        alone = role == "sdxl" and any(folder.glob("*.safetensors"))
        return text("model_unavailable.no_index_but_file" if alone else "model_unavailable.no_index")
    if index.get("_class_name") not in _CLASSES[role]:
        return text("model_unavailable.kind", kinds=", ".join(sorted(_CLASSES[role])))
    if problem := _problem_of_parts(folder):
        return problem
    if role == "sdxl" and read_json(folder / "unet" / "config.json").get("in_channels", 4) != 4:
        return text("model_unavailable.inpainting_only")
    return None


def file_problem(path: Path, role: Role) -> str | None:
    """The same for a model in a single file."""
    if role == "upscaler":
        return upscaler_file.problem(path)
    if role == "sdxl" or not header(path):
        return identify(path).problem
    if role == "controlnet":
        return _controlnet_problem(path)
    return _preview_problem(path) if role == "preview" else None


def _problem_of_parts(folder: Path) -> str | None:
    """Return what a pipeline's folder lacks of the parts in its index."""
    for component in filter(has_weights, components(folder)):
        if not has_weights_in(folder / component):
            return text("model_unavailable.no_weights_of", part=component)
        if not is_complete(folder / component):
            return text("model_unavailable.cut_off_of", part=component)
    for component in filter(_SMALL.__contains__, components(folder)):
        if not any((folder / component / name).is_file() for name in _SMALL[component]):
            return text("model_unavailable.no_part", part=component)
    return None


def _problem_alone(folder: Path, role: Role) -> str | None:
    """Return why a folder is not the network of this role, by its config."""
    config = read_json(folder / "config.json")
    if role == "vae" and config.get("_class_name") != "AutoencoderKL":
        return text("model_unavailable.no_vae")
    if role == "depth" and config.get("architectures") != ["DepthAnythingForDepthEstimation"]:
        return text("model_unavailable.no_depth")
    if role == "preview" and (config.get("_class_name"), config.get("latent_channels", 4)) != ("AutoencoderTiny", 4):
        return text("model_unavailable.no_preview")
    return None


def _preview_problem(path: Path) -> str | None:
    """Return why a file cannot decode SDXL previews, by its first layer: 4 latent channels to 64, 3 x 3."""
    shape = header(path).get("decoder.layers.0.weight", {}).get("shape")
    return None if shape == [64, 4, 3, 3] else text("model_unavailable.no_preview")


def _controlnet_problem(path: Path) -> str | None:
    files = controlnet_files(path)
    return files if isinstance(files, str) else None


def _checker_problem(folder: Path) -> str | None:
    network, processor = checker_folders(folder)
    if read_json(network / CONFIG).get("architectures") != ["StableDiffusionSafetyChecker"]:
        return text("model_unavailable.no_checker")
    if not (processor / PREPROCESSOR).is_file():
        return text("model_unavailable.no_preprocessor")
    return _weights_problem(network)


def _weights_problem(folder: Path) -> str | None:
    if not has_weights_in(folder):
        return text("model_unavailable.no_weights")
    return None if is_complete(folder) else text("model_unavailable.cut_off")
