"""What a model will weigh in memory, told from file headers before anything is loaded. Imports no torch."""

from pathlib import Path

from worker.engine.models.checkpoint import components, has_weights, loaded_bytes, weight_files
from worker.engine.models.registry import ModelSpec, WeightSource

_FLOAT32_ON_CUDA = frozenset({"wan:vae", "wan:image_encoder"})
"""Parts that stay in float32 on the GPU (see `models.loader`); every other runs in two bytes there."""


def spec_bytes(spec: ModelSpec, *, cuda: bool) -> dict[str, int]:
    """Network -> bytes in the dtype it is loaded in; empty parts where files are missing."""
    sizes = _part(spec.main, cuda=cuda)
    if spec.vae is not None:
        sizes.pop("vae", None)
        sizes |= {"vae": _part(spec.vae, cuda=cuda).get("vae", 0)}
    if spec.refiner is not None:
        # The refiner's other networks are the base's.
        sizes["refiner_unet"] = _part(spec.refiner, cuda=cuda).get("unet", 0)
    return sizes


def _part(weights: WeightSource, *, cuda: bool) -> dict[str, int]:
    path = weights.path
    if path is None:
        return {}
    if weights.role == "vae":
        return {"vae": loaded_bytes(_files(path, cuda), 2 if cuda else 4)}
    if weights.kind == "file":
        return {"file": loaded_bytes([path], 2 if cuda else 4)}
    sizes = {}
    for name in filter(has_weights, components(path)):
        wide = not cuda or f"{weights.role}:{name}" in _FLOAT32_ON_CUDA
        sizes[name] = loaded_bytes(_files(path / name, cuda), 4 if wide else 2)
    return sizes


def _files(path: Path, cuda: bool) -> list[Path]:
    return [path] if path.is_file() else weight_files(path, half=cuda)
