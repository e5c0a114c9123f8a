"""Writes full-size SDXL, Wan 2.1 1.3B and Wan 2.2 TI2V 5B with random weights, from their public configurations.

They are written in diffusers' layout, in the dtypes that a worker would use, so the engine loads them like any other
folder. Random weights take exactly as long as trained ones.
"""

import gc
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worker.engine.models.hub import DEMO_MODELS

# unet/config.json and vae/config.json of stabilityai/stable-diffusion-xl-base-1.0 and -refiner-1.0 (2.57 B and 2.26 B).
SDXL_UNET: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}
REFINER_UNET: dict[str, Any] = SDXL_UNET | {
    "block_out_channels": (384, 768, 1536, 1536),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 4,
    "attention_head_dim": (6, 12, 24, 24),
    "cross_attention_dim": 1280,
    "projection_class_embeddings_input_dim": 2560,
}
SDXL_VAE: dict[str, Any] = {
    "sample_size": 1024,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "scaling_factor": 0.13025,
    "force_upcast": False,  # as in madebyollin/sdxl-vae-fp16-fix
}
# text_encoder/config.json (CLIP ViT-L) and text_encoder_2/config.json (OpenCLIP bigG).
CLIP_L: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
CLIP_BIGG: dict[str, Any] = CLIP_L | {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
# transformer/config.json of Wan-AI/Wan2.1-T2V-1.3B-Diffusers (1.42 B); its VAE is AutoencoderKLWan with its defaults.
WAN_TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 8960,
    "num_layers": 30,
}
# The layout of Wan2.1-I2V at the width of the 1.3B model: mask and first frame as channels beside the latents.
WAN_I2V_TRANSFORMER: dict[str, Any] = WAN_TRANSFORMER | {
    "in_channels": 36,
    "image_dim": 1280,
    "added_kv_proj_dim": 1536,
}
# transformer/config.json of Wan-AI/Wan2.1-T2V-14B-Diffusers, and of each of the two experts of Wan2.2-T2V-A14B.
WAN_14B_TRANSFORMER: dict[str, Any] = WAN_TRANSFORMER | {
    "num_attention_heads": 40,
    "ffn_dim": 13824,
    "num_layers": 40,
}
# transformer/config.json and vae/config.json of Wan-AI/Wan2.2-TI2V-5B-Diffusers.
WAN_TI2V_TRANSFORMER: dict[str, Any] = WAN_TRANSFORMER | {
    "num_attention_heads": 24,
    "in_channels": 48,
    "out_channels": 48,
    "ffn_dim": 14336,
}
WAN_22_VAE: dict[str, Any] = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
    "dropout": 0.0,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_temporal": 4,
    "scale_factor_spatial": 16,
}
# text_encoder/config.json: google/umt5-xxl (5.68 B in the encoder).
UMT5_XXL: dict[str, Any] = {
    "vocab_size": 256384,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
# image_encoder/config.json of Wan2.1-I2V: CLIP ViT-H/14.
CLIP_H_VISION: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 1024,
}


def write_sdxl(folder: Path, out: Path) -> None:
    """Write SDXL base with random weights in float16, in diffusers' layout."""
    import diffusers
    import torch
    import transformers

    half = torch.float16
    _skeleton("sdxl", out)
    _save(lambda: transformers.CLIPTextModel(transformers.CLIPTextConfig(**CLIP_L)), out / "text_encoder", half)
    second = transformers.CLIPTextConfig(**CLIP_BIGG)
    _save(lambda: transformers.CLIPTextModelWithProjection(second), out / "text_encoder_2", half)
    kit: Any = diffusers
    _save(lambda: kit.UNet2DConditionModel(**SDXL_UNET), out / "unet", half)
    _save(lambda: kit.AutoencoderKL(**SDXL_VAE), out / "vae", half)
    _finish("sdxl", out)


def write_refiner(folder: Path, out: Path) -> None:
    """Write the SDXL refiner's UNet; its other parts are those of SDXL base."""
    import diffusers
    import torch

    kit: Any = diffusers
    _skeleton("sdxl-refiner", out)
    _save(lambda: kit.UNet2DConditionModel(**REFINER_UNET), out / "unet", torch.float16)
    for shared in ("text_encoder_2", "vae"):
        shutil.rmtree(out / shared, ignore_errors=True)
        (out / shared).symlink_to(folder / "sdxl" / shared)
    _finish("sdxl-refiner", out)


def write_wan(folder: Path, out: Path) -> None:
    """Write Wan 2.1 T2V 1.3B with random weights: text encoder and transformer in bfloat16, VAE in float32."""
    import diffusers
    import torch
    import transformers

    kit: Any = diffusers
    _skeleton("wan", out)
    text = transformers.UMT5Config(**UMT5_XXL)
    _save(lambda: transformers.UMT5EncoderModel(text), out / "text_encoder", torch.bfloat16)
    _save(lambda: kit.WanTransformer3DModel(**WAN_TRANSFORMER), out / "transformer", torch.bfloat16)
    _save(kit.AutoencoderKLWan, out / "vae", torch.float32)
    _finish("wan", out, expand_timesteps=False)


def write_i2v(folder: Path, out: Path) -> None:
    """Write Wan 2.1 I2V at 1.3B: transformer and image encoder; text encoder and VAE are those of T2V."""
    import diffusers
    import torch
    import transformers

    kit: Any = diffusers
    _skeleton("wan", out)
    _save(lambda: kit.WanTransformer3DModel(**WAN_I2V_TRANSFORMER), out / "transformer", torch.bfloat16)
    vision = transformers.CLIPVisionConfig(**CLIP_H_VISION)
    _save(lambda: transformers.CLIPVisionModel(vision), out / "image_encoder", torch.float32)
    transformers.CLIPImageProcessor().save_pretrained(out / "image_processor")
    for shared in ("text_encoder", "vae"):
        shutil.rmtree(out / shared, ignore_errors=True)
        (out / shared).symlink_to(folder / "wan" / shared)
    extra = {
        "image_encoder": ["transformers", "CLIPVisionModel"],
        "image_processor": ["transformers", "CLIPImageProcessor"],
    }
    _finish("wan", out, expand_timesteps=False, _class_name="WanImageToVideoPipeline", **extra)


def write_ti2v(folder: Path, out: Path) -> None:
    """Write Wan 2.2 TI2V 5B (both text and image to video); its text encoder is that of Wan 2.1."""
    import diffusers
    import torch

    kit: Any = diffusers
    _skeleton("wan", out)
    _save(lambda: kit.WanTransformer3DModel(**WAN_TI2V_TRANSFORMER), out / "transformer", torch.bfloat16)
    _save(lambda: kit.AutoencoderKLWan(**WAN_22_VAE), out / "vae", torch.float32)
    shutil.rmtree(out / "text_encoder", ignore_errors=True)
    (out / "text_encoder").symlink_to(folder / "wan" / "text_encoder")
    _finish("wan", out, expand_timesteps=True)


def _skeleton(name: str, out: Path) -> None:
    """Copy the demo models' tokenizers and schedulers: a small vocabulary, but the same work per token."""
    source = DEMO_MODELS / name
    shutil.rmtree(out, ignore_errors=True)
    for part in source.iterdir():
        if part.name.startswith(("tokenizer", "scheduler")):
            shutil.copytree(part, out / part.name)


def _finish(name: str, out: Path, **changes: Any) -> None:
    index = json.loads((DEMO_MODELS / name / "model_index.json").read_text())
    (out / "model_index.json").write_text(json.dumps(index | changes, indent=2))  # last: it marks a complete folder


def _save(make: Callable[[], Any], out: Path, dtype: Any) -> None:
    """Create a network on the GPU in its dtype with its default initial weights, write it and free it."""
    import torch

    torch.manual_seed(0)
    with torch.device("cuda"), _default_dtype(dtype):
        module = make()
    module.to(dtype).save_pretrained(out)
    del module
    gc.collect()
    torch.cuda.empty_cache()


@contextmanager
def _default_dtype(dtype: Any) -> Iterator[None]:
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


WRITERS: dict[str, Callable[[Path, Path], None]] = {
    "sdxl": write_sdxl,
    "sdxl-refiner": write_refiner,
    "wan": write_wan,
    "wan-i2v": write_i2v,
    "wan-ti2v": write_ti2v,
}
"""Folder name -> its writer, in an order in which later folders can link to parts of earlier ones."""
