"""The recipe of the demo models: which classes, how large, from which seed. Knows shapes; knows no requests.

Every part is of the class that the large models have, in diffusers' own file layout.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SEED = 20240607
_TEXT_WIDTH = 32  # of SDXL's first text encoder, and of Wan's
_TEXT_WIDTH_2 = 48  # of SDXL's second one, wider as in the large model


def write_models(out: Path) -> None:
    """Write `sdxl/`, `sdxl-refiner/` and `wan/` into `out`: the same bytes every time."""
    import torch

    makers: tuple[Callable[[Path], None], ...] = (_sdxl, _sdxl_refiner, _wan)
    for seed, maker in enumerate(makers, start=_SEED):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            maker(out)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object as people read it."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _sdxl(out: Path) -> None:
    import transformers

    from worker.pipelines.demo_text import clip_vocabulary_size, write_clip_tokenizer

    folder = out / "sdxl"
    write_clip_tokenizer(folder / "tokenizer", padding="<|endoftext|>")
    write_clip_tokenizer(folder / "tokenizer_2", padding="!")
    size = clip_vocabulary_size(folder / "tokenizer")
    transformers.CLIPTextModel(_clip(size, _TEXT_WIDTH)).save_pretrained(folder / "text_encoder")
    second = transformers.CLIPTextModelWithProjection(_clip(size, _TEXT_WIDTH_2))
    second.save_pretrained(folder / "text_encoder_2")
    _diffusers().UNet2DConditionModel(**_unet(cross_attention=_TEXT_WIDTH + _TEXT_WIDTH_2, time_ids=6)).save_pretrained(
        folder / "unet"
    )
    vae = _diffusers().AutoencoderKL(
        sample_size=256,
        block_out_channels=(8, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.13025,
        force_upcast=False,
    )
    vae.save_pretrained(folder / "vae")
    _sdxl_scheduler().save_pretrained(folder / "scheduler")
    _write_index(
        folder,
        "StableDiffusionXLPipeline",
        {
            "force_zeros_for_empty_prompt": True,
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )


def _sdxl_refiner(out: Path) -> None:
    # Like the real refiner it reads the second text encoder only, and it shares that and the VAE with the base.
    folder = out / "sdxl-refiner"
    _diffusers().UNet2DConditionModel(**_unet(cross_attention=_TEXT_WIDTH_2, time_ids=5)).save_pretrained(
        folder / "unet"
    )
    _sdxl_scheduler().save_pretrained(folder / "scheduler")
    for shared in ("text_encoder_2", "tokenizer_2", "vae"):
        shutil.copytree(out / "sdxl" / shared, folder / shared)
    _write_index(
        folder,
        "StableDiffusionXLImg2ImgPipeline",
        {
            "force_zeros_for_empty_prompt": False,
            "requires_aesthetics_score": True,
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "text_encoder": [None, None],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer": [None, None],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )


def _wan(out: Path) -> None:
    import transformers

    from worker.pipelines.demo_text import write_t5_tokenizer

    folder = out / "wan"
    size = write_t5_tokenizer(folder / "tokenizer")
    text = transformers.UMT5Config(
        vocab_size=size,
        d_model=_TEXT_WIDTH,
        d_kv=16,
        d_ff=2 * _TEXT_WIDTH,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    transformers.UMT5EncoderModel(text).save_pretrained(folder / "text_encoder")
    # Wan 2.2 TI2V's layout: a VAE that patchifies, and a time step per token; one checkpoint serves both video tasks.
    transformer = _diffusers().WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=8,
        out_channels=8,
        text_dim=_TEXT_WIDTH,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
    )
    transformer.save_pretrained(folder / "transformer")
    vae = _diffusers().AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=8,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.0] * 8,
        latents_std=[1.0] * 8,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_temporal=4,
        scale_factor_spatial=8,
    )
    vae.save_pretrained(folder / "vae")
    scheduler = _diffusers().UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
    )
    scheduler.save_pretrained(folder / "scheduler")
    _write_index(
        folder,
        "WanPipeline",
        {
            "boundary_ratio": None,
            "expand_timesteps": True,
            "scheduler": ["diffusers", "UniPCMultistepScheduler"],
            "text_encoder": ["transformers", "UMT5EncoderModel"],
            "tokenizer": ["transformers", "T5Tokenizer"],
            "transformer": ["diffusers", "WanTransformer3DModel"],
            "transformer_2": [None, None],
            "vae": ["diffusers", "AutoencoderKLWan"],
        },
    )


def _clip(vocabulary: int, width: int) -> Any:
    import transformers

    return transformers.CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=width,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )


def _unet(*, cross_attention: int, time_ids: int) -> dict[str, Any]:
    time_width = 8
    return {
        "sample_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 1),
        "attention_head_dim": (2, 4),
        "cross_attention_dim": cross_attention,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": time_width,
        "projection_class_embeddings_input_dim": time_ids * time_width + _TEXT_WIDTH_2,
        "use_linear_projection": True,
        "norm_num_groups": 8,
    }


def _sdxl_scheduler() -> Any:
    # scheduler/scheduler_config.json of stabilityai/stable-diffusion-xl-base-1.0.
    return _diffusers().EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        steps_offset=1,
        timestep_spacing="leading",
    )


def _diffusers() -> Any:
    # Its classes carry half of their annotations; as Any they need no exceptions to be checked here.
    import diffusers

    return diffusers


def _write_index(folder: Path, class_name: str, components: dict[str, Any]) -> None:
    version = _diffusers().__version__
    write_json(folder / "model_index.json", {"_class_name": class_name, "_diffusers_version": version, **components})
