"""The published models at full size, as folders that hold everything but the numbers.

Their small JSON files are real, and so are the headers of their safetensors files; each header is followed by a hole as
long as its tensors. The registry, the estimate of bytes, the placement and the loader thus find what they would find in
a download, and only the reading of a network is replaced (`read_no_numbers`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch.utils._python_dispatch import _disable_current_modes

from benchmarks import full_size_models as full
from tests.support.loras import Style, attentions, layers_of, named
from tests.support.published_loras import header_only
from worker.core.types import TaskType
from worker.engine.models.checkpoint import read_json
from worker.engine.models.hub import DEMO_MODELS
from worker.engine.models.registry import Family

# scheduler/scheduler_config.json of stabilityai/stable-diffusion-xl-base-1.0 and of the Wan repositories.
_EULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
_UNIPC = {
    "_class_name": "UniPCMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 3.0,
}


@dataclass(frozen=True)
class Network:
    """A class of diffusers or transformers, and the contents of its `config.json`."""

    kind: str
    """`library.Class`."""
    config: Mapping[str, Any]

    @property
    def named(self) -> list[str]:
        """Return library and class, as in `model_index.json`."""
        return self.kind.split(".")

    def on_meta(self) -> Any:
        """Return the network without memory."""
        library, name = self.named
        with _disable_current_modes(), torch.device("meta"):
            if library == "diffusers":
                return getattr(diffusers, name)(**self.config)
            kind = getattr(transformers, name)
            return kind(kind.config_class(**self.config))

    def shallow(self) -> "Network":
        """Return the network with one or two blocks of each kind at full width: each dtype, device and shape occurs."""
        shorter = {name: depth for name, depth in _SHALLOW.items() if name in self.config}
        return replace(self, config=dict(self.config) | shorter)


_UNET_ALONE = {"sample_size", "up_block_types"}
"""Fields of a UNet's config that its ControlNet's does not share."""
_SHALLOW = {"transformer_layers_per_block": 1, "num_hidden_layers": 2, "num_layers": 2}


@dataclass(frozen=True)
class Model:
    """A repository in diffusers' layout."""

    name: str
    """The name in the tables."""
    family: Family
    networks: Mapping[str, Network]
    tasks: tuple[TaskType, ...]
    index: Mapping[str, Any] = field(default_factory=dict)
    """The contents of `model_index.json` beside its parts."""
    scheduler: Mapping[str, Any] = field(default_factory=lambda: _UNIPC)
    refiner: "Model | None" = None

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return self.name.replace(" ", "-")

    def shallow(self) -> "Model":
        """Return the model with one or two blocks of each kind."""
        networks = {name: network.shallow() for name, network in self.networks.items()}
        return replace(self, networks=networks, refiner=self.refiner and self.refiner.shallow())

    def write(self, folder: Path) -> Path:
        """Write the model to its own folder below `folder`; returns its path."""
        out = folder / self.folder
        demo = DEMO_MODELS / ("wan" if self.family == "wan" else "sdxl")
        index: dict[str, Any] = {name: network.named for name, network in self.networks.items()}
        for part in demo.iterdir():
            if part.name.startswith("tokenizer"):
                (out / part.name).mkdir(parents=True)
                for file in part.iterdir():
                    (out / part.name / file.name).symlink_to(file)
                index[part.name] = json.loads((demo / "model_index.json").read_text())[part.name]
        _write_json(out / "scheduler" / "scheduler_config.json", self.scheduler)
        index["scheduler"] = ["diffusers", self.scheduler["_class_name"]]
        if "image_encoder" in self.networks:
            transformers.CLIPImageProcessor().save_pretrained(out / "image_processor")
            index["image_processor"] = ["transformers", "CLIPImageProcessor"]
        for name, network in self.networks.items():
            _write_network(out / name, network)
        _write_json(out / "model_index.json", {**index, **self.index})
        return out


def read_no_numbers(kind: Any, folder: Path, dtype: torch.dtype, place: torch.device | None) -> Any:
    """Do as `from_pretrained` for a folder of this module, on the CPU or in `place`, in memory never written to.

    Untouched memory takes none, so tens of gigabytes cost nothing.
    """
    config = read_json(folder / "config.json")
    diffusers_own = kind.__module__.startswith("diffusers")
    with _disable_current_modes(), torch.device("meta"):
        module = kind.from_config(config) if diffusers_own else kind(kind.config_class.from_dict(config))
    # diffusers keeps these in float32 for every dtype, transformers only for float16.
    wide = (module._keep_in_fp32_modules or []) if diffusers_own or dtype == torch.float16 else []

    made: dict[int, torch.nn.Parameter] = {}  # some are shared by two places
    for path, owner in module.named_modules():
        for key, parameter in owner.named_parameters(recurse=False):
            if id(parameter) not in made:
                keeps = not set(wide).isdisjoint([*path.split("."), key])
                memory = torch.empty(parameter.shape, dtype=torch.float32 if keeps else dtype, device=place)
                made[id(parameter)] = torch.nn.Parameter(memory, requires_grad=False)
            owner._parameters[key] = made[id(parameter)]
        for key, buffer in owner.named_buffers(recurse=False):
            owner._buffers[key] = torch.empty(buffer.shape, dtype=buffer.dtype, device=place)
    return module.eval()


def write_ip_adapter(folder: Path, model: Model) -> Path:
    """Write IP-Adapter Plus for an SDXL model with CLIP ViT-H, as h94/IP-Adapter has it; returns its path."""
    unet = model.networks["unet"].on_meta()
    width, inside = unet.config.cross_attention_dim, 1280
    shapes: dict[str, list[int]] = {
        "latents": [1, 16, inside],
        "proj_in.weight": [inside, full.CLIP_H_VISION["hidden_size"]],
        "proj_in.bias": [inside],
        "proj_out.weight": [width, inside],
        "proj_out.bias": [width],
        "norm_out.weight": [width],
        "norm_out.bias": [width],
    }
    for layer in range(4):
        shapes |= {
            f"layers.{layer}.{norm}.{part}": [inside]
            for norm in ("0.norm1", "0.norm2", "1.0")
            for part in ("weight", "bias")
        }
        shapes[f"layers.{layer}.0.to_kv.weight"] = [2 * inside, inside]
        shapes |= {f"layers.{layer}.0.{name}.weight": [inside, inside] for name in ("to_q", "to_out")}
        shapes[f"layers.{layer}.1.1.weight"] = [4 * inside, inside]
        shapes[f"layers.{layer}.1.3.weight"] = [inside, 4 * inside]
    shapes = {f"image_proj.{name}": shape for name, shape in shapes.items()}
    for index, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            own = unet.get_submodule(name.removesuffix(".processor"))
            for which in ("to_k", "to_v"):
                shapes[f"ip_adapter.{index}.{which}_ip.weight"] = list(getattr(own, which).weight.shape)
    header_only(folder / "sdxl_models" / "ip-adapter-plus_sdxl_vit-h.safetensors", shapes)
    encoder = Network("transformers.CLIPVisionModelWithProjection", full.CLIP_H_VISION)
    _write_network(folder / "models" / "image_encoder", encoder)
    return folder


def write_controlnet(folder: Path, model: Model) -> Path:
    """Write a union network for an SDXL model, as xinsir/controlnet-union-sdxl-1.0 has it; returns its path."""
    shared = {name: value for name, value in model.networks["unet"].config.items() if name not in _UNET_ALONE}
    # From its config.json; `num_control_type` is ProMax's.
    own = {"conditioning_embedding_out_channels": (16, 32, 96, 256), "num_control_type": 8}
    _write_network(folder, Network("diffusers.ControlNetUnionModel", shared | own))
    return folder


def write_lora(path: Path, model: Model, style: Style, rank: int) -> Path:
    """Write a LoRA for the usual layers, SDXL's attentions or all of Wan's blocks; returns its path."""
    shapes: dict[str, list[int]] = {}
    wan = model.family == "wan"
    for network in ("transformer",) if wan else ("text_encoder", "text_encoder_2", "unet"):
        for name, layer in layers_of(model.networks[network].on_meta()).items():
            if attentions(name) or (wan and ".ffn." in name):
                stem, (down, up) = named(style, network, name)
                outputs, inputs = layer.weight.shape
                shapes |= {stem + down: [rank, inputs], stem + up: [outputs, rank]}
                if style == "kohya":
                    shapes[f"{stem}.alpha"] = []
    header_only(path, shapes)
    return path


def _write_network(folder: Path, network: Network) -> None:
    module, (library, kind) = network.on_meta(), network.named
    if library == "diffusers":
        module.save_config(folder)
    else:
        module.config.architectures = [kind]
        module.config.save_pretrained(folder)
    stem = "diffusion_pytorch_model" if library == "diffusers" else "model"
    shapes = {name: list(tensor.shape) for name, tensor in module.named_parameters()}
    header_only(folder / f"{stem}.safetensors", shapes, dtype="BF16")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


_BIGG = Network("transformers.CLIPTextModelWithProjection", full.CLIP_BIGG)
_SDXL_VAE = Network("diffusers.AutoencoderKL", full.SDXL_VAE)
REFINER = Model(
    "SDXL refiner",
    "sdxl",
    {"text_encoder_2": _BIGG, "unet": Network("diffusers.UNet2DConditionModel", full.REFINER_UNET), "vae": _SDXL_VAE},
    (),
    {"_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": True},
    _EULER,
)
SDXL = Model(
    "SDXL",
    "sdxl",
    {
        "text_encoder": Network("transformers.CLIPTextModel", full.CLIP_L),
        "text_encoder_2": _BIGG,
        "unet": Network("diffusers.UNet2DConditionModel", full.SDXL_UNET),
        "vae": _SDXL_VAE,
    },
    (TaskType.TEXT2IMG, TaskType.IMG2IMG, TaskType.INPAINT),
    {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True},
    _EULER,
)


def _wan(
    name: str, transformer: Mapping[str, Any], *tasks: TaskType, vae: Mapping[str, Any] | None = None, **index: Any
) -> Model:
    networks = {
        "text_encoder": Network("transformers.UMT5EncoderModel", full.UMT5_XXL),
        "transformer": Network("diffusers.WanTransformer3DModel", transformer),
        "vae": Network("diffusers.AutoencoderKLWan", vae or {}),
    }
    if "image_dim" in transformer:
        networks["image_encoder"] = Network("transformers.CLIPVisionModel", full.CLIP_H_VISION)
    if "boundary_ratio" in index:
        networks["transformer_2"] = networks["transformer"]
    kind = "WanImageToVideoPipeline" if tasks == (TaskType.IMG2VIDEO,) else "WanPipeline"
    return Model(name, "wan", networks, tasks, {"_class_name": kind, "expand_timesteps": False} | index)


_T2V, _I2V = TaskType.TEXT2VIDEO, TaskType.IMG2VIDEO
_PICTURE_BESIDE = {"in_channels": 36}
"""Image to video: the mask and the first frame are concatenated with the latents."""
WAN_1_3B = _wan("Wan2.1-T2V-1.3B", full.WAN_TRANSFORMER, _T2V)
TI2V_5B = _wan("Wan2.2-TI2V-5B", full.WAN_TI2V_TRANSFORMER, _T2V, _I2V, vae=full.WAN_22_VAE, expand_timesteps=True)
WAN_14B = _wan("Wan2.1-T2V-14B", full.WAN_14B_TRANSFORMER, _T2V)
WAN_14B_I2V = _wan(
    "Wan2.1-I2V-14B",
    full.WAN_14B_TRANSFORMER | _PICTURE_BESIDE | {"image_dim": 1280, "added_kv_proj_dim": 5120},
    _I2V,
)
A14B = _wan("Wan2.2-T2V-A14B", full.WAN_14B_TRANSFORMER, _T2V, boundary_ratio=0.875)
A14B_I2V = _wan("Wan2.2-I2V-A14B", full.WAN_14B_TRANSFORMER | _PICTURE_BESIDE, _I2V, boundary_ratio=0.9)

REFINED_SDXL = replace(SDXL, name="SDXL with refiner", refiner=REFINER)
PUBLISHED = (SDXL, REFINED_SDXL, WAN_1_3B, TI2V_5B, WAN_14B, WAN_14B_I2V, A14B, A14B_I2V)
"""The models that the documents name, smallest first."""
