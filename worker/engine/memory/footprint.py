"""Computes a model's memory from file headers, before it is loaded. Imports no torch."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from worker.engine.models.checkpoint import DENOISERS, components, has_weights, header, loaded_bytes
from worker.engine.models.controlnet_files import controlnet_files
from worker.engine.models.ip_adapter_files import ip_adapter_files
from worker.engine.models.registry import ModelSpec, WeightSource
from worker.engine.models.upscaler_file import NotAnUpscaler, file_in
from worker.engine.models.weight_files import weight_files

WAN_DECODER = ("decoder.", "post_quant_conv.")
"""The decoding half of Wan's VAE, in half precision on the GPU; the encoding half is float32."""
_IN_ONE_FILE = {
    "model.diffusion_model.": "unet",
    "first_stage_model.": "vae",
    "conditioner.embedders.0.": "text_encoder",
    "conditioner.embedders.1.": "text_encoder_2",
}
"""Prefix of tensor names in a single SDXL file -> network."""


def spec_bytes(spec: ModelSpec, *, cuda: bool) -> dict[str, int]:
    """Return network -> bytes in its run dtype; 0 for missing files."""
    if spec.family == "upscaler":
        return {"upscaler": _upscaler(spec, 2 if cuda else 4)}
    sizes = _part(spec.main, cuda=cuda, quantized=spec.quantize is not None)
    if spec.vae is not None:
        sizes.pop("vae", None)
        sizes |= {"vae": _part(spec.vae, cuda=cuda).get("vae", 0)}
    if spec.refiner is not None:
        # The refiner shares its other networks with the base.
        sizes["refiner_unet"] = _part(spec.refiner, cuda=cuda, quantized=spec.quantize is not None).get("unet", 0)
    return sizes | extra_bytes(spec, cuda=cuda)


def extra_bytes(spec: ModelSpec, *, cuda: bool) -> dict[str, int]:
    """Return the same for a job's extras; 0 for demo networks, which are built on loading and small."""
    return {extra.network: _part(extra, cuda=cuda).get(extra.role, 0) for extra in spec.extras}


def spec_files(spec: ModelSpec, *, cuda: bool) -> list[Path]:
    """Return the existing weight files of a model, in about the order of loading."""
    found = []
    for part in spec.all:
        if part.path is None:
            continue
        if part.role in {"sdxl", "wan", "refiner"} and part.path.is_dir():
            unread = {"vae"} if spec.vae is not None else set()
            names = [name for name in components(part.path) if has_weights(name) and name not in unread]
            wanted = ["unet"] if part.role == "refiner" else names
            found += [file for name in wanted for file in _files(part.path / name, cuda)]
        else:
            found += _files(part.path, cuda)
    return found


def _upscaler(spec: ModelSpec, wide: int) -> int:
    if spec.main.path is None:
        return 0
    try:
        return loaded_bytes([file_in(spec.main.path)], wide)
    except NotAnUpscaler:
        return 0


def _part(weights: WeightSource, *, cuda: bool, quantized: bool = False) -> dict[str, int]:
    path, wide = weights.path, 2 if cuda else 4
    if path is None:
        return {}
    if weights.role == "ip_adapter":
        found = ip_adapter_files(path)
        read = [] if isinstance(found, str) else [found.weights, *_files(found.encoder, cuda)]
        return {"ip_adapter": loaded_bytes(read, wide)}
    if weights.role == "controlnet":
        network = controlnet_files(path, half=cuda)
        return {"controlnet": 0 if isinstance(network, str) else loaded_bytes(network.files, wide)}
    if weights.role in {"vae", "depth", "preview"}:
        return {weights.role: loaded_bytes(_files(path, cuda), wide)}
    if weights.kind == "file":
        tensors = header(path)
        parts = ((name, _starting(tensors, [prefix])) for prefix, name in _IN_ONE_FILE.items())
        return {
            name: loaded_bytes([part], wide, quantized=quantized and name in DENOISERS) for name, part in parts if part
        }
    sizes = {}
    for name in filter(has_weights, components(path)):
        files = _files(path / name, cuda)
        if weights.role == "wan" and name == "vae" and cuda:
            tensors = {key: entry for file in files for key, entry in header(file).items()}
            narrow = _starting(tensors, WAN_DECODER)
            sizes[name] = loaded_bytes([tensors], 4) - loaded_bytes([narrow], 4) + loaded_bytes([narrow], 2)
        else:
            # A vision encoder stays in float32 (see `models.loader`).
            number = 4 if name == "image_encoder" else wide
            sizes[name] = loaded_bytes(files, number, quantized=quantized and name in DENOISERS)
    return sizes


def _starting(tensors: Mapping[str, dict[str, object]], prefixes: Iterable[str]) -> dict[str, dict[str, object]]:
    return {name: entry for name, entry in tensors.items() if name.startswith(tuple(prefixes))}


def _files(path: Path, cuda: bool) -> list[Path]:
    return [path] if path.is_file() else weight_files(path, half=cuda)
