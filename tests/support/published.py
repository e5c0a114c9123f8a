"""The published repositories that the worker names: the contents of their small JSON files, and a miniature of each.

`INDEXES` and `CONFIGS` are facts about those repositories (https://huggingface.co, each by its id), as they and
diffusers' conversion scripts (scripts/convert_wan_to_diffusers.py, scripts/convert_original_stable_diffusion_to_
diffusers.py) state them; the configs hold only what decides whether and how a network is loaded. A miniature has the
same index, classes and file layout, with fewer and narrower layers of random weights.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.support.small_models import clip_config

_KIT: Any = diffusers
_MODELS: Any = transformers

SDXL_BASE = "stabilityai/stable-diffusion-xl-base-1.0"
SDXL_REFINER = "stabilityai/stable-diffusion-xl-refiner-1.0"
SDXL_VAE = "madebyollin/sdxl-vae-fp16-fix"
T2V_1B = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
T2V_14B = "Wan-AI/Wan2.1-T2V-14B-Diffusers"
I2V_480P = "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"
I2V_720P = "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers"
TI2V_5B = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
T2V_A14B = "Wan-AI/Wan2.2-T2V-A14B-Diffusers"
I2V_A14B = "Wan-AI/Wan2.2-I2V-A14B-Diffusers"

_SDXL_PARTS = {
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
_WAN_PARTS = {
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}
_I2V_21 = {
    "_class_name": "WanImageToVideoPipeline",
    **_WAN_PARTS,
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "image_processor": ["transformers", "CLIPImageProcessor"],
}
_SECOND = {"transformer_2": ["diffusers", "WanTransformer3DModel"]}
INDEXES: dict[str, dict[str, Any]] = {
    SDXL_BASE: {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
        "add_watermarker": True,
        **_SDXL_PARTS,
    },
    SDXL_REFINER: {
        "_class_name": "StableDiffusionXLImg2ImgPipeline",
        "force_zeros_for_empty_prompt": False,
        "requires_aesthetics_score": True,
        "add_watermarker": True,
        **_SDXL_PARTS,
        "text_encoder": [None, None],
        "tokenizer": [None, None],
    },
    T2V_1B: {"_class_name": "WanPipeline", **_WAN_PARTS},
    T2V_14B: {"_class_name": "WanPipeline", **_WAN_PARTS},
    I2V_480P: _I2V_21,
    I2V_720P: _I2V_21,
    TI2V_5B: {
        "_class_name": "WanPipeline",
        "boundary_ratio": None,
        "expand_timesteps": True,
        **_WAN_PARTS,
        "transformer_2": [None, None],
    },
    T2V_A14B: {"_class_name": "WanPipeline", "boundary_ratio": 0.875, **_WAN_PARTS, **_SECOND},
    # Its picture goes into the transformer's 36 channels alone.
    I2V_A14B: {
        "_class_name": "WanImageToVideoPipeline",
        "boundary_ratio": 0.9,
        "expand_timesteps": False,
        **_WAN_PARTS,
        **_SECOND,
        "image_encoder": [None, None],
        "image_processor": [None, None],
    },
}
"""Hub id -> `model_index.json`. The repository with only the VAE has none."""

_WAN = {"attention_head_dim": 128, "cross_attn_norm": True, "patch_size": [1, 2, 2], "text_dim": 4096, "freq_dim": 256}
_WAN_1B = _WAN | {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960, "in_channels": 16, "out_channels": 16}
_WAN_14B = _WAN_1B | {"num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13824}
_WAN_PICTURE = {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}
_WAN_5B = {"num_attention_heads": 24, "num_layers": 30, "ffn_dim": 14336, "in_channels": 48, "out_channels": 48}
_VAE_21 = {"base_dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "temperal_downsample": [False, True, True]}
_VAE_22 = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "dim_mult": [1, 2, 4, 4],
    "temperal_downsample": [False, True, True],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "scale_factor_temporal": 4,
    "latents_mean": [0.0] * 48,  # the published values scale a picture's latents, which does not matter to a loader
    "latents_std": [1.0] * 48,
}
_SDXL_VAE = {"block_out_channels": [128, 256, 512, 512], "scaling_factor": 0.13025, "layers_per_block": 2}
_UNET = {
    "sample_size": 128,
    "in_channels": 4,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "use_linear_projection": True,
    "layers_per_block": 2,
}
CONFIGS: dict[str, dict[str, dict[str, Any]]] = {
    SDXL_BASE: {
        "unet": _UNET
        | {
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "attention_head_dim": [5, 10, 20],
            "transformer_layers_per_block": [1, 2, 10],
            "cross_attention_dim": 2048,
            "projection_class_embeddings_input_dim": 2816,
        },
        "vae": _SDXL_VAE | {"sample_size": 1024, "force_upcast": True},
    },
    SDXL_REFINER: {
        "unet": _UNET
        | {
            "block_out_channels": [384, 768, 1536, 1536],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "attention_head_dim": [6, 12, 24, 24],
            "transformer_layers_per_block": 4,
            "cross_attention_dim": 1280,
            "projection_class_embeddings_input_dim": 2560,
        },
        "vae": _SDXL_VAE | {"sample_size": 1024, "force_upcast": True},
    },
    SDXL_VAE: {"vae": _SDXL_VAE | {"sample_size": 512, "force_upcast": False}},
    T2V_1B: {"transformer": _WAN_1B, "vae": _VAE_21},
    T2V_14B: {"transformer": _WAN_14B, "vae": _VAE_21},
    I2V_480P: {"transformer": _WAN_14B | _WAN_PICTURE, "vae": _VAE_21},
    I2V_720P: {"transformer": _WAN_14B | _WAN_PICTURE, "vae": _VAE_21},
    TI2V_5B: {"transformer": _WAN | _WAN_5B, "vae": _VAE_22},
    T2V_A14B: {"transformer": _WAN_14B, "transformer_2": _WAN_14B, "vae": _VAE_21},
    I2V_A14B: {
        "transformer": _WAN_14B | {"in_channels": 36},
        "transformer_2": _WAN_14B | {"in_channels": 36},
        "vae": _VAE_21,
    },
}
"""Hub id -> component -> values of its `config.json`."""
SHARDED = frozenset({"text_encoder", "transformer", "transformer_2"})
"""Wan's components that are published in several files."""

_WIDTHS = (32, 48)
"""Widths of SDXL's two text encoders in miniature."""


def miniature(hub_id: str, demo_models: Path, root: Path) -> Path:
    """Write the repository in miniature to its folder below `root` (`org--name`), with the demo models' tokenizers."""
    folder = root / hub_id.replace("/", "--")
    folder.mkdir(parents=True)
    torch.manual_seed(5)
    if hub_id == SDXL_VAE:
        _vae(CONFIGS[hub_id]["vae"]).save_pretrained(folder)
        return folder
    index = INDEXES[hub_id]
    (folder / "model_index.json").write_text(json.dumps(index))
    wan = hub_id.startswith("Wan-AI/")
    for name, entry in index.items():
        if not isinstance(entry, list) or entry[0] is None:
            continue
        match name:
            case "tokenizer" | "tokenizer_2" | "scheduler":
                shutil.copytree(demo_models / ("wan" if wan else "sdxl") / name, folder / name)
            case _ if wan:
                _wan_part(hub_id, name, demo_models, folder / name)
            case _:
                _sdxl_part(hub_id, name, demo_models, folder / name)
    return folder


def _sdxl_part(hub_id: str, name: str, demo_models: Path, folder: Path) -> None:
    if name == "vae":
        _vae(CONFIGS[hub_id]["vae"]).save_pretrained(folder)
    elif name == "unet":
        published = CONFIGS[hub_id]["unet"]
        refiner = hub_id == SDXL_REFINER
        levels = len(published["block_out_channels"])
        small = {
            "sample_size": 32,
            "block_out_channels": (32, 64, 64, 64)[:levels],
            "attention_head_dim": (1, 2, 2, 2)[:levels],
            "transformer_layers_per_block": 1,
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "cross_attention_dim": _WIDTHS[1] if refiner else sum(_WIDTHS),
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": (5 if refiner else 6) * 8 + _WIDTHS[1],
        }
        _KIT.UNet2DConditionModel(**(published | small)).save_pretrained(folder)
    else:
        vocabulary = json.loads((demo_models / "sdxl" / "tokenizer_2" / "vocab.json").read_text(encoding="utf-8"))
        kind = getattr(_MODELS, INDEXES[hub_id][name][1])
        kind(clip_config(len(vocabulary), _WIDTHS[name == "text_encoder_2"])).save_pretrained(folder)
        _as_older_transformers("text_model.", folder / "model.safetensors")


def _wan_part(hub_id: str, name: str, demo_models: Path, folder: Path) -> None:
    published = CONFIGS[hub_id].get(name, {})
    text = json.loads((demo_models / "wan" / "text_encoder" / "config.json").read_text())
    shards = {"max_shard_size": "150KB"} if name in SHARDED else {}
    if name == "text_encoder":
        _MODELS.UMT5EncoderModel(_MODELS.UMT5Config(**text)).save_pretrained(folder, **shards)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    elif name == "image_encoder":
        vision = _MODELS.CLIPVisionConfig(
            hidden_act="gelu",
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
            projection_dim=16,
        )
        _MODELS.CLIPVisionModelWithProjection(vision).save_pretrained(folder)
        _as_older_transformers("vision_model.", folder / "model.safetensors")
    elif name == "image_processor":
        size = {"height": 32, "width": 32}
        _MODELS.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    elif name == "vae":
        small = {"base_dim": 8, "num_res_blocks": 1}
        if "decoder_base_dim" in published:
            small["decoder_base_dim"] = 16
        _KIT.AutoencoderKLWan(**(published | small)).save_pretrained(folder)
    else:
        small = {
            "num_attention_heads": 2,
            "attention_head_dim": 32,
            "num_layers": 2,
            "ffn_dim": 64,
            "freq_dim": 32,
            "text_dim": text["d_model"],
        }
        if "image_dim" in published:
            small |= {"image_dim": 32, "added_kv_proj_dim": 64}
        _KIT.WanTransformer3DModel(**(published | small)).save_pretrained(folder, **shards)


def _vae(published: dict[str, Any]) -> Any:
    levels = len(published["block_out_channels"])
    small = {
        "block_out_channels": (8, 16, 16, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "sample_size": 256,
    }
    return _KIT.AutoencoderKL(**(published | small))


def _as_older_transformers(prefix: str, path: Path) -> None:
    """Rename the tensors to those of the transformers version that wrote the checkpoint, positions included."""
    tensors = {
        name if "projection" in name else prefix + name.removeprefix(prefix): value
        for name, value in load_file(path).items()
    }
    tensors[f"{prefix}embeddings.position_ids"] = torch.arange(77)[None]
    save_file(tensors, path, {"format": "pt"})
