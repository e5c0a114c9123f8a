"""Small models with random weights for layouts that the built-in ones lack: other dtypes, families and single files."""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from PIL import Image

# Half of the annotations of these classes are missing; as Any they need no exceptions here.
_KIT: Any = diffusers
_MODELS: Any = transformers


def sdxl(demo_sdxl: Path, folder: Path) -> Path:
    """Write a small float32 SDXL checkpoint: a UNet of two levels with one layer a block, as `single_file` needs."""
    folder.mkdir(parents=True)
    for part in ("tokenizer", "tokenizer_2", "model_index.json"):
        copy = shutil.copytree if (demo_sdxl / part).is_dir() else shutil.copy
        copy(demo_sdxl / part, folder / part)
    vocabulary = len(json.loads((folder / "tokenizer" / "vocab.json").read_text(encoding="utf-8")))
    widths = (32, 48)
    torch.manual_seed(2)
    _MODELS.CLIPTextModel(clip_config(vocabulary, widths[0])).save_pretrained(folder / "text_encoder")
    _MODELS.CLIPTextModelWithProjection(clip_config(vocabulary, widths[1])).save_pretrained(folder / "text_encoder_2")
    _KIT.UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        cross_attention_dim=sum(widths),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + widths[1],
        use_linear_projection=True,
        norm_num_groups=8,
    ).save_pretrained(folder / "unet")
    _KIT.AutoencoderKL(
        sample_size=256,
        block_out_channels=(8, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.13025,
        force_upcast=False,
    ).save_pretrained(folder / "vae")
    # scheduler/scheduler_config.json of stabilityai/stable-diffusion-xl-base-1.0.
    _KIT.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    ).save_pretrained(folder / "scheduler")
    return folder


def wan_21(demo_wan: Path, folder: Path, *, image_to_video: bool) -> Path:
    """Write a small Wan 2.1 checkpoint: eightfold VAE, no patches, one time step for all; I2V with a CLIP encoder."""
    folder.mkdir(parents=True)
    for part in ("tokenizer", "text_encoder", "scheduler"):
        shutil.copytree(demo_wan / part, folder / part)
    text_width = json.loads((demo_wan / "text_encoder" / "config.json").read_text())["d_model"]
    torch.manual_seed(3)
    _KIT.AutoencoderKLWan(
        base_dim=4,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    ).save_pretrained(folder / "vae")
    extra = {"in_channels": 36, "image_dim": 32, "added_kv_proj_dim": 32} if image_to_video else {"in_channels": 16}
    _KIT.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        out_channels=16,
        text_dim=text_width,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
        **extra,
    ).save_pretrained(folder / "transformer")
    index = json.loads((demo_wan / "model_index.json").read_text()) | {
        "expand_timesteps": False,
        "_class_name": "WanImageToVideoPipeline" if image_to_video else "WanPipeline",
    }
    if image_to_video:
        vision = _MODELS.CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
            projection_dim=32,
        )
        _MODELS.CLIPVisionModel(vision).save_pretrained(folder / "image_encoder")
        size = {"height": 32, "width": 32}
        _MODELS.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(
            folder / "image_processor"
        )
        index |= {
            "image_encoder": ["transformers", "CLIPVisionModel"],
            "image_processor": ["transformers", "CLIPImageProcessor"],
        }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def safety_checker(folder: Path, *, flags: Image.Image | bool) -> Path:
    """Write a small safety checker with random weights that flags everything, nothing, or lookalikes of one picture."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    torch.manual_seed(4)
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    kind: Any = StableDiffusionSafetyChecker
    checker = kind(_MODELS.CLIPConfig(vision_config=vision, projection_dim=16)).eval()
    size = {"height": 32, "width": 32}
    processor = _MODELS.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    # A concept is found where its cosine is above its threshold.
    threshold = 0.998
    with torch.no_grad():
        checker.special_care_embeds_weights.fill_(2.0)
        if isinstance(flags, Image.Image):
            seen = processor([flags], return_tensors="pt").pixel_values
            checker.concept_embeds.copy_(checker.visual_projection(checker.vision_model(seen)[1]).expand(17, -1))
        else:
            threshold = -2.0 if flags else 2.0
        checker.concept_embeds_weights.fill_(threshold)
    checker.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def clip_config(vocabulary: int, width: int) -> Any:
    """Return a small text encoder's config, for a tokenizer of `vocabulary` words."""
    return _MODELS.CLIPTextConfig(
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


def wan_experts(one: Path, folder: Path, boundary: float = 0.875) -> Path:
    """Write Wan 2.2 A14B's layout from a checkpoint with one network: an expert for high noise and another for low."""
    shutil.copytree(one, folder)
    network = _KIT.WanTransformer3DModel.from_pretrained(folder / "transformer")
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.02)
    network.save_pretrained(folder / "transformer_2")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"transformer_2": index["transformer"], "boundary_ratio": boundary}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
