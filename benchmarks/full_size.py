"""Every task through the worker's own engine at full size, with random weights: time per stage, peak memory, placement.

`python benchmarks/full_size.py` builds SDXL, its refiner and Wan 2.1 1.3B (text and image to video) from the public
architecture configurations below, saves them once under `.cache/full-size` (about 38 GB) and runs them as the worker would.
Without a CUDA card, or with `--small`, the demo models run instead, at sizes a laptop can do. Random weights take exactly
the time of trained ones; their pictures are noise.
"""

import argparse
import gc
import json
import resource
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from PIL import Image

from worker.config import REPOSITORY, load_settings
from worker.generation import Progress, Sources
from worker.params import ImageParams, Params, VideoParams
from worker.pipelines import demo
from worker.pipelines.catalog import Catalog
from worker.pipelines.engine import Engine
from worker.request import REQUESTS

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
# transformer/config.json of Wan-AI/Wan2.1-T2V-1.3B-Diffusers (1.42 B); diffusers' AutoencoderKLWan defaults are its VAE.
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
# The image-to-video layout of Wan2.1-I2V, at the width of the 1.3B model: mask and first frame beside the latents.
WAN_I2V_TRANSFORMER: dict[str, Any] = WAN_TRANSFORMER | {
    "in_channels": 36,
    "image_dim": 1280,
    "added_kv_proj_dim": 1536,
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


@dataclass(slots=True)
class Watch:
    """A `Control` that notes when each denoising step ended."""

    steps: list[float] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def checkpoint(self) -> None:
        """Go on."""

    def report(self, progress: Progress) -> None:
        """Note the moment."""
        if progress.stage == "generating":
            self.steps.append(time.perf_counter())

    def warn(self, warning: str) -> None:
        """Keep it for the table."""
        self.warnings.append(warning)


@dataclass(frozen=True, slots=True)
class Job:
    """One line of the table."""

    name: str
    task_type: str
    params: Params


def main() -> None:
    """Build what is missing, run every job twice (the first with its loading), print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--small", action="store_true", help="the demo models (the only choice without CUDA)")
    parser.add_argument(
        "--folder", type=Path, default=REPOSITORY / ".cache" / "full-size", help="where weights are kept"
    )
    parser.add_argument("--wan-steps", type=int, default=50, help="denoising steps of a clip in the large form")
    parser.add_argument("--only", default="", help="run only the jobs whose name holds this")
    arguments = parser.parse_args()

    import torch

    cuda = torch.cuda.is_available() and not arguments.small
    print(
        f"{torch.cuda.get_device_name() if cuda else 'CPU'}; torch {torch.__version__}; {'full' if cuda else 'small'} form"
    )
    if cuda:
        print(f"compute capability {torch.cuda.get_device_capability()}, cuDNN {torch.backends.cudnn.version()}")
        engine, jobs = full_form(arguments.folder, arguments.wan_steps)
    else:
        engine, jobs = small_form()
    print(
        f"{'job':<34}{'load s':>8}{'first step':>11}{'s/step':>8}{'decode s':>9}{'total s':>9}{'peak GiB':>9}  placement"
    )
    for job in jobs:
        if arguments.only in job.name:
            for run in ("cold", "warm"):
                print(measure(engine, job, run, cuda=cuda), flush=True)


def measure(engine: Engine, job: Job, run: str, *, cuda: bool) -> str:
    """Run one job and give its line of the table."""
    import torch

    watch = Watch()
    model = REQUESTS[job.task_type]
    urls = {name: "https://example.com/a.png" for name in ("image_url", "mask_url") if name in model.model_fields}
    request = model.model_validate({"task_type": job.task_type, "prompt": job.params.prompt, **urls})
    noise = np.random.default_rng(0).integers(0, 256, (job.params.height, job.params.width, 3), dtype=np.uint8)
    mask = Image.new("L", (job.params.width, job.params.height))
    mask.paste(255, (0, 0, job.params.width // 2, job.params.height))
    sources = Sources(
        Image.fromarray(noise) if "image_url" in urls else None,
        mask if "mask_url" in urls else None,
    )
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    placement = engine.prepare(job.task_type, watch)
    ready = time.perf_counter()
    pictures = list(engine.generate(request, job.params, sources, watch))
    done = time.perf_counter()
    assert pictures
    # Resident set of the process, where there is no card to ask; ru_maxrss is in KiB on Linux.
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    steps = watch.steps
    each = (steps[-1] - steps[0]) / max(len(steps) - 1, 1)
    warned = f"; {'; '.join(watch.warnings)}" if watch.warnings else ""
    return (
        f"{job.name + ', ' + run:<34}{ready - begun:>8.2f}{steps[0] - ready:>11.2f}{each:>8.3f}{done - steps[-1]:>9.2f}"
        f"{done - begun:>9.2f}{peak / 2**30:>9.2f}  {engine.loaded} {placement.reason}{warned}"
    )


def small_form() -> tuple[Engine, list[Job]]:
    """The demo models: native sizes, and the two sizes of the README's example requests."""
    settings = load_settings(sdxl_model="demo", sdxl_refiner="demo", wan_model="demo", wan_i2v_model="demo")
    engine = Engine(settings, catalog=Catalog(settings, cuda=False))
    image, clip = demo.WORKER_JSON["sdxl"], demo.WORKER_JSON["wan"]
    steps, native = image["num_inference_steps"], (image["width"], image["height"])
    return engine, [
        Job("text2img native", "text2img", _image(*native, steps)),
        Job("text2img native, refiner", "text2img", _image(*native, steps, refined=True)),
        Job("img2img native", "img2img", _image(*native, steps, strength=0.6)),
        Job("inpaint native", "inpaint", _image(*native, steps, strength=0.99)),
        Job("text2img 1024x1024", "text2img", _image(1024, 1024, steps)),
        *(
            Job(f"{task} {width}x{height}x{frames}", task, _clip(width, height, frames, clip["num_inference_steps"]))
            for task in ("text2video", "img2video")
            for width, height, frames in ((clip["width"], clip["height"], 81), (832, 480, 49))
        ),
    ]


def full_form(folder: Path, wan_steps: int) -> tuple[Engine, list[Job]]:
    """The full-size models and the jobs of the README's example requests."""
    for name, write in {
        "sdxl": write_sdxl,
        "sdxl-refiner": write_refiner,
        "wan": write_wan,
        "wan-i2v": write_i2v,
    }.items():
        if not (folder / name / "model_index.json").exists():
            begun = time.perf_counter()
            write(folder, folder / name)
            print(f"built {name} in {time.perf_counter() - begun:.0f} s", flush=True)
    settings = load_settings(
        sdxl_model=str(folder / "sdxl"),
        sdxl_refiner=str(folder / "sdxl-refiner"),
        wan_model=str(folder / "wan"),
        wan_i2v_model=str(folder / "wan-i2v"),
    )
    engine = Engine(settings, catalog=Catalog(settings, cuda=True))
    return engine, [
        Job("text2img 1024x1024, 30 steps", "text2img", _image(1024, 1024, 30)),
        Job("text2img, refiner 24 + 6", "text2img", _image(1024, 1024, 30, refined=True)),
        Job("img2img, strength 0.6", "img2img", _image(1024, 1024, 30, strength=0.6)),
        Job("inpaint, strength 0.99", "inpaint", _image(1024, 1024, 30, strength=0.99)),
        Job(f"text2video 832x480x49, {wan_steps}", "text2video", _clip(832, 480, 49, wan_steps)),
        Job(f"img2video 832x480x49, {wan_steps}", "img2video", _clip(832, 480, 49, wan_steps)),
    ]


def write_sdxl(folder: Path, out: Path) -> None:
    """SDXL base with random weights in float16, in diffusers' layout."""
    import diffusers
    import torch
    import transformers

    half = torch.float16
    _skeleton(folder, "sdxl", out)
    _save(lambda: transformers.CLIPTextModel(transformers.CLIPTextConfig(**CLIP_L)), out / "text_encoder", half)
    second = transformers.CLIPTextConfig(**CLIP_BIGG)
    _save(lambda: transformers.CLIPTextModelWithProjection(second), out / "text_encoder_2", half)
    kit: Any = diffusers
    _save(lambda: kit.UNet2DConditionModel(**SDXL_UNET), out / "unet", half)
    _save(lambda: kit.AutoencoderKL(**SDXL_VAE), out / "vae", half)
    _finish(folder, "sdxl", out)


def write_refiner(folder: Path, out: Path) -> None:
    """The SDXL refiner's UNet; the rest is the base's."""
    import diffusers
    import torch

    kit: Any = diffusers
    _skeleton(folder, "sdxl-refiner", out)
    _save(lambda: kit.UNet2DConditionModel(**REFINER_UNET), out / "unet", torch.float16)
    for shared in ("text_encoder_2", "vae"):
        shutil.rmtree(out / shared, ignore_errors=True)
        (out / shared).symlink_to(folder / "sdxl" / shared)
    _finish(folder, "sdxl-refiner", out)


def write_wan(folder: Path, out: Path) -> None:
    """Wan 2.1 T2V 1.3B with random weights: text encoder and transformer in bfloat16, VAE in float32."""
    import diffusers
    import torch
    import transformers

    kit: Any = diffusers
    _skeleton(folder, "wan", out)
    text = transformers.UMT5Config(**UMT5_XXL)
    _save(lambda: transformers.UMT5EncoderModel(text), out / "text_encoder", torch.bfloat16)
    _save(lambda: kit.WanTransformer3DModel(**WAN_TRANSFORMER), out / "transformer", torch.bfloat16)
    _save(lambda: kit.AutoencoderKLWan(), out / "vae", torch.float32)
    _finish(folder, "wan", out, expand_timesteps=False)


def write_i2v(folder: Path, out: Path) -> None:
    """Wan 2.1 I2V at 1.3B: its own transformer and image encoder; text encoder and VAE are those of T2V."""
    import diffusers
    import torch
    import transformers

    kit: Any = diffusers
    _skeleton(folder, "wan", out)
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
    _finish(folder, "wan", out, expand_timesteps=False, _class_name="WanImageToVideoPipeline", **extra)


def _skeleton(folder: Path, name: str, out: Path) -> None:
    """Tokenizers and schedulers are the demo models': their words are few, their work per token is the same."""
    source = demo.ensure(folder / "demo") / name
    shutil.rmtree(out, ignore_errors=True)
    for part in source.iterdir():
        if part.name.startswith(("tokenizer", "scheduler")):
            shutil.copytree(part, out / part.name)


def _finish(folder: Path, name: str, out: Path, **changes: Any) -> None:
    index = json.loads((folder / "demo" / name / "model_index.json").read_text())
    (out / "model_index.json").write_text(json.dumps(index | changes, indent=2))  # last: its presence means complete


def _save(make: Callable[[], Any], out: Path, dtype: Any) -> None:
    """Make a network on the card in its dtype with its own initial weights, write it, let go of it."""
    import torch

    torch.manual_seed(0)
    with torch.device("cuda"), _default_dtype(dtype):
        module = make()
    module.to(dtype).save_pretrained(out)
    del module
    gc.collect()
    torch.cuda.empty_cache()


@contextmanager
def _default_dtype(dtype: Any) -> Any:
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _image(width: int, height: int, steps: int, *, strength: float | None = None, refined: bool = False) -> ImageParams:
    return ImageParams(
        prompt="a red circle on a blue background",
        negative_prompt="blurry",
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance_scale=5.0,
        scheduler=None,
        seeds=(1,),
        strength=strength,
        high_noise_frac=0.8 if refined else None,
        refiner_inference_steps=steps if refined else None,
    )


def _clip(width: int, height: int, frames: int, steps: int) -> VideoParams:
    return VideoParams(
        prompt="a red circle moving left",
        negative_prompt="blurry",
        width=width,
        height=height,
        num_frames=frames,
        fps=15,
        num_inference_steps=steps,
        guidance_scale=5.0,
        flow_shift=3.0,
        seed=1,
    )


if __name__ == "__main__":
    main()
