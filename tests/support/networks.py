"""Published networks as their configs describe them, and jobs on them, without any weights."""

from typing import Any

from tests.support.engine_jobs import image_params, video_params
from worker.api.params import ImageParams, VideoParams
from worker.engine.work import SDXL_UNET, SDXL_VAE, Config, Networks

REFINER: Config = {
    "block_out_channels": [384, 768, 1536, 1536],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "transformer_layers_per_block": 4,
    "layers_per_block": 2,
    "cross_attention_dim": 1280,
}
WAN_1_3B: Config = {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "num_layers": 30}
WAN_14B: Config = {"num_attention_heads": 40, "attention_head_dim": 128, "ffn_dim": 13824, "num_layers": 40}
WAN_I2V: Config = {**WAN_1_3B, "added_kv_proj_dim": 1536}
TI2V_5B: Config = {"num_attention_heads": 24, "attention_head_dim": 128, "ffn_dim": 14336, "num_layers": 30}
WAN_VAE: Config = {"base_dim": 96, "scale_factor_spatial": 8}
TI2V_VAE: Config = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "is_residual": True,
    "patch_size": 2,
    "scale_factor_spatial": 16,
}
VIT_G: Config = {"hidden_size": 1664, "intermediate_size": 8192, "num_hidden_layers": 48}
SDXL = Networks("sdxl", SDXL_UNET, SDXL_VAE, REFINER)
WAN = Networks("wan", WAN_1_3B, WAN_VAE)


def images(**changes: Any) -> ImageParams:
    return image_params(
        **{"prompt": "", "width": 1024, "height": 1024, "num_inference_steps": 30, "seeds": (0,)} | changes
    )


def clip(**changes: Any) -> VideoParams:
    size = {"width": 832, "height": 480, "num_frames": 81, "fps": 16}
    return video_params(**{"prompt": "", **size, "num_inference_steps": 50, "seed": 0} | changes)
