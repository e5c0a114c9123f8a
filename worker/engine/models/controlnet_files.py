"""Which files make a ControlNet, of a folder or repository, or one file alone; and what is known of it. No torch here.

A folder has one network in diffusers' layout, or, as xinsir/controlnet-union-sdxl-1.0, a second one beside it, ProMax,
with a config of its own: that takes all that the first takes, and is the one that is meant. Of a file by itself the
tensors tell what it is; its widths are those of the UNet.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.core.messages import text
from worker.engine.models.checkpoint import header, read_json
from worker.engine.models.control_types import is_controlnet
from worker.engine.models.weight_files import has_weights_in, is_complete, is_whole, weight_files

PROMAX = ("config_promax.json", "diffusion_pytorch_model_promax.safetensors")
PLAIN = ("config.json", "diffusion_pytorch_model.safetensors")
_READS_PICTURES = "controlnet_cond_embedding.conv_in.weight"
_READER = ("conv_in", "blocks.1", "blocks.3", "blocks.5")
"""Layers of what reads a picture, each as wide as the next one of `conditioning_embedding_out_channels`."""
_TELLS_TYPES, _PROJECTS = "task_embedding", "spatial_ch_projs.weight"
"""Of a union network alone; the first has a row for each type."""


@dataclass(frozen=True, slots=True)
class ControlNetFiles:
    """One network. `folder` is None where diffusers' own way to read one does not find it."""

    config: Mapping[str, Any]
    """As published; of a file by itself, what its tensors tell alone."""
    folder: Path | None
    files: tuple[Path, ...]


def controlnet_files(path: Path, *, half: bool = False) -> ControlNetFiles | str:
    """The network that lies at `path`, or why there is none, as the end of a sentence."""
    if path.is_file():
        return _alone(path)
    if all((path / name).is_file() for name in PROMAX):
        return _alone(path / PROMAX[1])
    config = read_json(path / PLAIN[0])
    if not is_controlnet(config):
        return text("model_unavailable.no_controlnet")
    if not has_weights_in(path):
        return text("model_unavailable.no_weights")
    if not is_complete(path):
        return text("model_unavailable.cut_off")
    return ControlNetFiles(config, path, tuple(weight_files(path, half=half)))


def needed_files(files: Iterable[str]) -> list[str]:
    """The files of a repository that are downloaded for its network."""
    there = set(files)
    return [*PROMAX] if there.issuperset(PROMAX) else [*PLAIN]


def _alone(file: Path) -> ControlNetFiles | str:
    if not is_whole(file):
        return text("model_unavailable.cut_off" if header(file) else "model_unavailable.is_no_safetensors")
    tensors = header(file)
    if _READS_PICTURES not in tensors:
        return text("model_unavailable.no_controlnet")
    config = read_json(file.with_name(PROMAX[0] if file.name == PROMAX[1] else PLAIN[0]))
    if not is_controlnet(config):
        config = _told_by({name: tensor.get("shape", []) for name, tensor in tensors.items()})
    return ControlNetFiles(config, None, (file,))


def _told_by(shapes: Mapping[str, list[int]]) -> dict[str, Any]:
    """What the tensors of a network tell of its config, beside what is the UNet's."""
    reader = [shapes.get(f"controlnet_cond_embedding.{layer}.weight", [0])[0] for layer in _READER]
    config: dict[str, Any] = {"_class_name": "ControlNetModel", "conditioning_embedding_out_channels": reader}
    if len(types := shapes.get(_TELLS_TYPES, [])) == 2 and len(projects := shapes.get(_PROJECTS, [])) == 2:
        layers = {name.split(".")[1] for name in shapes if name.startswith("transformer_layes.")}  # diffusers' spelling
        config |= {"num_control_type": types[0], "num_trans_channel": types[1], "num_proj_channel": projects[0]}
        config["num_trans_layer"] = len(layers)
    return config
