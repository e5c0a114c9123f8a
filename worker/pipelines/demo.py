"""The small built-in demo models: their recipe, and the command that makes them.

`python -m worker.pipelines.demo --out DIR` writes `sdxl/`, `sdxl-refiner/` and `wan/` in diffusers' own layout: the same
classes as the large models, random weights, the same bytes every time, no network. Knows shapes; knows no requests.
Importing this module imports no torch: what a demo model says of itself (`worker.json`) is known before it is made.
"""

import argparse
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker.config import load_settings

log = logging.getLogger(__name__)

WARNING = "These are the small built-in demo models: their pictures only show that everything works, they are not real."
WORKER_JSON: dict[str, dict[str, Any]] = {
    "sdxl": {
        "name": "demo",
        "width": 256,
        "height": 256,
        "num_inference_steps": 8,
        "guidance_scale": 5.0,
        "warnings": [WARNING],
    },
    "sdxl-refiner": {"name": "demo", "width": 256, "height": 256},
    "wan": {
        "name": "demo",
        "width": 192,
        "height": 112,
        "num_inference_steps": 6,
        "guidance_scale": 5.0,
        "num_frames": 81,
        "fps": 15,
        "size_multiple": 16,
        "warnings": [WARNING],
    },
}
"""What each demo model says of itself; the same text lies in its folder as `worker.json`."""

_FINGERPRINT = "fingerprint.txt"
_SEED = 20240607
_TEXT_WIDTH = 32  # of each of SDXL's two text encoders, and of Wan's


def fingerprint() -> str:
    """Names this recipe: a change of these two files makes the models anew."""
    here = Path(__file__)
    sources = b"".join(path.read_bytes() for path in (here, here.with_name("demo_text.py")))
    return hashlib.sha256(sources).hexdigest()


def ensure(out: Path) -> Path:
    """Make the demo models in `out` unless this very recipe has made them there; returns `out`.

    Two processes may do this at once: each builds beside, the first to rename wins, and nobody sees half a model.
    """
    if _is_current(out):
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        build(scratch)
        scratch.chmod(0o755)
        _put_in_place(scratch, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return out


def build(out: Path) -> None:
    """Write all demo models into the folder `out`, the fingerprint last."""
    import torch
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    makers: tuple[Callable[[Path], None], ...] = (_sdxl, _sdxl_refiner, _wan)
    for seed, maker in enumerate(makers, start=_SEED):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            maker(out)
    for name, content in WORKER_JSON.items():
        _write_json(out / name / "worker.json", content)
    (out / _FINGERPRINT).write_text(fingerprint())


def _is_current(out: Path) -> bool:
    try:
        return (out / _FINGERPRINT).read_text() == fingerprint()
    except OSError:
        return False


def _put_in_place(scratch: Path, out: Path) -> None:
    for _ in range(3):
        if _is_current(out):
            return
        outdated = Path(f"{scratch}-outdated")
        try:
            if out.exists():
                out.rename(outdated)
            scratch.rename(out)
        except OSError:
            continue  # another process renamed between the two lines: look again
        finally:
            shutil.rmtree(outdated, ignore_errors=True)
        log.info("demo models made", extra={"action": "demo_models"})
        return
    if not _is_current(out):
        raise OSError(f"{out.name}: the demo models could not be put in place")


def _sdxl(out: Path) -> None:
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from worker.pipelines.demo_text import clip_vocabulary_size, write_clip_tokenizer

    folder = out / "sdxl"
    write_clip_tokenizer(folder / "tokenizer", pad_token="<|endoftext|>")
    write_clip_tokenizer(folder / "tokenizer_2", pad_token="!")
    size = clip_vocabulary_size(folder / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=size,
        hidden_size=_TEXT_WIDTH,
        intermediate_size=2 * _TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=_TEXT_WIDTH,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )
    CLIPTextModel(text).eval().save_pretrained(folder / "text_encoder")
    CLIPTextModelWithProjection(text).eval().save_pretrained(folder / "text_encoder_2")
    UNet2DConditionModel(**_unet(cross_attention=2 * _TEXT_WIDTH, time_ids=6)).save_pretrained(folder / "unet")
    vae = AutoencoderKL(
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
    _sdxl_scheduler(EulerDiscreteScheduler).save_pretrained(folder / "scheduler")
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
    from diffusers import EulerDiscreteScheduler, UNet2DConditionModel

    # Like the real refiner it reads the second text encoder only, and it shares that and the VAE with the base.
    folder = out / "sdxl-refiner"
    UNet2DConditionModel(**_unet(cross_attention=_TEXT_WIDTH, time_ids=5)).save_pretrained(folder / "unet")
    _sdxl_scheduler(EulerDiscreteScheduler).save_pretrained(folder / "scheduler")
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
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    from worker.pipelines.demo_text import write_t5_tokenizer

    folder = out / "wan"
    size = write_t5_tokenizer(folder / "tokenizer")
    text = UMT5Config(
        vocab_size=size,
        d_model=_TEXT_WIDTH,
        d_kv=16,
        d_ff=2 * _TEXT_WIDTH,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    UMT5EncoderModel(text).eval().save_pretrained(folder / "text_encoder")
    # Wan 2.2 TI2V's layout: a VAE that patchifies, and a time step per token; one checkpoint serves both video tasks.
    transformer = WanTransformer3DModel(
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
    vae = AutoencoderKLWan(
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
    scheduler = UniPCMultistepScheduler(
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
        "projection_class_embeddings_input_dim": time_ids * time_width + _TEXT_WIDTH,
        "use_linear_projection": True,
        "norm_num_groups": 8,
    }


def _sdxl_scheduler(kind: Any) -> Any:
    # scheduler/scheduler_config.json of stabilityai/stable-diffusion-xl-base-1.0.
    return kind(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        steps_offset=1,
        timestep_spacing="leading",
    )


def _write_index(folder: Path, class_name: str, components: dict[str, Any]) -> None:
    from diffusers import __version__

    _write_json(folder / "model_index.json", {"_class_name": class_name, "_diffusers_version": __version__, **components})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """`python -m worker.pipelines.demo [--out DIR]`: make the demo models where they are missing or outdated."""
    parser = argparse.ArgumentParser(description="Make the small built-in demo models.")
    parser.add_argument("--out", type=Path, default=None, help="the folder to write (default: the worker's own)")
    out = parser.parse_args().out or load_settings().demo_models_dir
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    ensure(Path(os.path.abspath(out)))
    log.info("demo models ready in %s", out, extra={"action": "demo_models"})


if __name__ == "__main__":
    main()
