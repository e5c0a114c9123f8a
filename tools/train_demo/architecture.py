"""The parts of the demo models, untrained: the large models' classes at the smallest sizes that learn this world.

Knows shapes and configurations; knows no data and no training. The numbers are ours; the layouts are those of
stabilityai/stable-diffusion-xl-base-1.0, -refiner-1.0 and Wan-AI/Wan2.2-TI2V-5B-Diffusers.
"""

from typing import Any

import diffusers
import torch
import transformers

from tools.train_demo.captions import ATTRIBUTES
from tools.train_demo.latents import CLIPS_SCALE, SCALE

_library: Any = diffusers  # its classes carry half of their annotations

CODE = sum(len(values) + 1 for values in ATTRIBUTES.values())
"""Length of a scene's code: per attribute one place for each value, and one for "not said"."""
TEXT_WIDTH = 48
"""Of SDXL's first text encoder ..."""
TEXT_WIDTH_2 = 64
"""... and of its second, wider one."""
VIDEO_TEXT_WIDTH = 64
LATENT_CHANNELS = 4
"""What is in them: `latents`."""
VIDEO_LATENT_CHANNELS = 12
_TIME_WIDTH = 8


def clip(vocabulary: int, width: int, layers: int) -> transformers.CLIPTextConfig:
    """Either of SDXL's text encoders; the last two entries of the vocabulary are a text's start and end."""
    return transformers.CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        projection_dim=CODE,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )


def t5(vocabulary: int) -> transformers.UMT5Config:
    """Wan's text encoder."""
    return transformers.UMT5Config(
        vocab_size=vocabulary,
        d_model=VIDEO_TEXT_WIDTH,
        d_kv=16,
        d_ff=2 * VIDEO_TEXT_WIDTH,
        num_layers=3,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
    )


def unet(*, refiner: bool) -> Any:
    """SDXL's UNet; the refiner's reads the second text encoder alone, and an aesthetic score for a target size."""
    time_ids = 5 if refiner else 6
    return _library.UNet2DConditionModel(
        sample_size=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(32, 48, 64, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=1,
        attention_head_dim=(1, 1, 2, 2),
        cross_attention_dim=TEXT_WIDTH_2 if refiner else TEXT_WIDTH + TEXT_WIDTH_2,
        addition_embed_type="text_time",
        addition_time_embed_dim=_TIME_WIDTH,
        projection_class_embeddings_input_dim=time_ids * _TIME_WIDTH + CODE,
        resnet_time_scale_shift="scale_shift",
        use_linear_projection=True,
        norm_num_groups=8,
    )


def image_vae() -> Any:
    """SDXL's autoencoder, 8 pixels to a latent."""
    return _library.AutoencoderKL(
        sample_size=256,
        block_out_channels=(16, 16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=1,
        mid_block_add_attention=False,
        force_upcast=False,
        scaling_factor=SCALE,
    )


def video_vae() -> Any:
    """Wan's autoencoder, 8 pixels and 4 frames to a latent; it takes pixels two by two, as TI2V's does."""
    return _library.AutoencoderKLWan(
        base_dim=16,
        decoder_base_dim=16,
        z_dim=VIDEO_LATENT_CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.0] * VIDEO_LATENT_CHANNELS,
        latents_std=[1 / CLIPS_SCALE] * VIDEO_LATENT_CHANNELS,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_temporal=4,
        scale_factor_spatial=8,
    )


def video_transformer() -> Any:
    """Wan's transformer as in TI2V: a time step per token, so that one checkpoint serves both video tasks."""
    return _library.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=VIDEO_LATENT_CHANNELS,
        out_channels=VIDEO_LATENT_CHANNELS,
        text_dim=VIDEO_TEXT_WIDTH,
        freq_dim=64,
        ffn_dim=384,
        num_layers=7,
    )


def image_scheduler() -> Any:
    """The linear noise levels of Ho et al. 2020: almost nothing of a picture is left at the last one.

    So a flat background's colour cannot shine through the first denoising step, as it would with SDXL's own levels.
    """
    with torch.device("cpu"):  # it reckons with NumPy
        return _library.EulerDiscreteScheduler(
            beta_start=0.0001,
            beta_end=0.02,
            beta_schedule="linear",
            num_train_timesteps=1000,
            prediction_type="v_prediction",
            timestep_spacing="trailing",
            steps_offset=0,
        )


def video_scheduler() -> Any:
    """Flow matching with Wan's shift; the transformer says what is clean, not the flow towards it."""
    with torch.device("cpu"):  # as above
        return _library.UniPCMultistepScheduler(
            prediction_type="sample", use_flow_sigmas=True, flow_shift=5.0, num_train_timesteps=1000
        )
