"""The work of a job in FLOP (a multiply and an add are two), part by part, in the order in which the job runs.

Pure: reads small JSON values, imports no torch. Counts agree within 10 % with what torch's FlopCounterMode counts on
the full networks (tests/engine/test_work.py has both).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from worker.api.params import ImageParams, Params, VideoParams
from worker.api.prompt_length import CHUNK_TOKENS, likely_chunks
from worker.api.request import TWICE_A_STEP
from worker.core.types import Part, Scheduler
from worker.engine.models.checkpoint import read_json
from worker.engine.models.ip_adapter_files import IpAdapterFiles, ip_adapter_files
from worker.engine.models.registry import Family, ModelSpec
from worker.engine.models.upscaler_file import Layout

Kind = Literal["sdxl", "wan", "vae"]
"""The kind of work, which determines the rate: SDXL's networks, Wan's, or VAE convolutions."""
Config = Mapping[str, Any]
"""A network's `config.json`."""

_CLIP_TEXT = 0.111e12
"""CLIP-L and bigG for one prompt, counted; small compared with everything else."""
UMT5_XXL: Config = {"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "num_layers": 24}
_IMAGE_TOKENS = 257
"""CLIP-H tokens of an image-to-video Wan: 16 x 16 patches and a class token."""
_TWICE_CLASSES = {"HeunDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "KDPM2DiscreteScheduler"}
"""diffusers' second-order schedulers, for a model that runs with its own scheduler."""

SDXL_UNET: Config = {
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "layers_per_block": 2,
    "cross_attention_dim": 2048,
}
"""For a checkpoint in one file, without configs: https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0."""
SDXL_VAE: Config = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}


@dataclass(frozen=True, slots=True)
class Networks:
    """The configs of a job's networks, as in their folders."""

    family: Family
    denoiser: Config
    vae: Config
    refiner: Config | None = None
    scheduler: Config | None = None
    text: Config | None = None
    """Wan's text encoder, which takes as much work as the rest of a small model."""
    image_encoder: Config | None = None
    """The IP-Adapter's image encoder; None: no IP-Adapter."""
    upscaler: Layout | None = None
    """The upscaler; None: Lanczos."""
    controlnets: int = 0
    """ControlNets beside the UNet, each called once per step in its span."""

    @classmethod
    def of(cls, spec: ModelSpec) -> "Networks | None":
        """Return the networks of these weights; None: not on this machine yet."""
        family, main = spec.family, spec.main.path
        if family == "upscaler":
            return cls(family, {}, {}) if main is not None or spec.main.kind == "demo" else None
        if main is None:
            return None
        vae = spec.vae.path if spec.vae is not None else None
        refiner = spec.refiner.path if spec.refiner is not None else None
        denoiser = read_json(main / ("unet" if family == "sdxl" else "transformer") / "config.json")
        decoder = (read_json(vae / "config.json") if vae is not None else {}) or read_json(main / "vae" / "config.json")
        if family == "wan" and not (denoiser and decoder):
            return None
        return cls(
            family,
            denoiser or SDXL_UNET,
            decoder or SDXL_VAE,
            read_json(refiner / "unet" / "config.json") if refiner is not None else None,
            read_json(main / "scheduler" / "scheduler_config.json"),
            read_json(main / "text_encoder" / "config.json"),
            _image_encoder(spec),
            controlnets=sum(extra.role == "controlnet" for extra in spec.extras),
        )


def _image_encoder(spec: ModelSpec) -> Config | None:
    for extra in (extra for extra in spec.extras if extra.role == "ip_adapter"):
        files = None if extra.path is None else ip_adapter_files(extra.path)
        if isinstance(files, IpAdapterFiles):
            return read_json(files.encoder / "config.json")
        if extra.kind == "hub":
            return {}
    return None


Work = tuple[tuple[Part, Kind, float], ...]
"""(part, kind, FLOP) of each piece, in order."""


def work(networks: Networks, params: Params, *, from_image: bool = False) -> Work:
    """Return the work of a job.

    Args:
        networks: the job's networks.
        params: the job.
        from_image: whether there is a source picture.
    """
    if isinstance(params, VideoParams):
        return tuple(_video(networks, params, from_image=from_image))
    return tuple(_images(networks, params, from_image=from_image))


def _images(networks: Networks, params: ImageParams, *, from_image: bool) -> Iterator[tuple[Part, Kind, float]]:
    if not params.draws_nothing:
        # Each reference picture is encoded once, together with an empty picture.
        seen = sum(2 for reference in params.ip_adapters or () if reference.scale)
        encoded = image_encoder(networks.image_encoder) if networks.image_encoder is not None else 0.0
        yield "text", "sdxl", 2 * likely_chunks(params) * _CLIP_TEXT + seen * encoded
    if from_image and not params.enlarges:
        yield "encode", "vae", image_encode(networks.vae, *params.drawn_size)
    for _ in params.seeds:
        if not params.enlarges:
            yield from _drawn(networks, params)
        yield from _upscaled(networks, params)


def _drawn(networks: Networks, params: ImageParams) -> Iterator[tuple[Part, Kind, float]]:
    """One picture."""
    steps, strength, draft = params.num_inference_steps, params.strength, params.draft
    calls = (2 if params.guidance_scale > 1 else 1) * _calls_a_step(networks, params.scheduler)
    size = params.drawn_size
    chunks = likely_chunks(params)
    controls = networks.controlnets * max((entry.span for entry in params.controlnets or ()), default=0.0)

    def step(width: int, height: int) -> float:
        beside = controls * controlnet(networks.denoiser, width, height) if controls else 0.0
        return calls * (unet(networks.denoiser, width, height, chunks) + beside)

    share = draft.strength if draft is not None else strength or 1.0
    base, refined = max(1, int(steps * share)), 0
    if networks.refiner is not None and params.high_noise_frac is not None:
        schedule = params.refiner_inference_steps or steps
        base = max(0, round(steps * (share + params.high_noise_frac - 1)))
        refined = round(schedule * (min(share, 1 - params.high_noise_frac)))
    if draft is not None:
        yield from (("step", "sdxl", step(draft.width, draft.height)) for _ in range(steps))
        yield "decode", "vae", image_decode(networks.vae, draft.width, draft.height)
        yield "encode", "vae", image_encode(networks.vae, *size)
    yield from (("step", "sdxl", step(*size)) for _ in range(base))
    yield from (("step", "sdxl", calls * unet(networks.refiner or {}, *size, chunks)) for _ in range(refined))
    yield "decode", "vae", image_decode(networks.vae, *size)


def _upscaled(networks: Networks, params: ImageParams) -> Iterator[tuple[Part, Kind, float]]:
    """Yield the work of enlarging a finished picture; Lanczos is negligible."""
    if (upscale := params.upscale) is None:
        return
    if (found := networks.upscaler) is not None:
        flop, made, pixels = 0.0, 1, float(params.width * params.height)
        while made < upscale.factor:
            flop, made, pixels = flop + found.flop_a_pixel * pixels, made * found.scale, pixels * found.scale**2
        yield "upscale", "vae", flop
    if upscale.tile is None:
        return
    width, height = upscale.tile
    calls = (2 if params.guidance_scale > 1 else 1) * _calls_a_step(networks, params.scheduler)
    step = calls * unet(networks.denoiser, width, height, likely_chunks(params))
    for _ in range(math.prod(upscale.tiles)):
        yield "encode", "vae", image_encode(networks.vae, width, height)
        yield from (("step", "sdxl", step) for _ in range(upscale.steps(params.num_inference_steps)))
        yield "decode", "vae", image_decode(networks.vae, width, height)


def _video(networks: Networks, params: VideoParams, *, from_image: bool) -> Iterator[tuple[Part, Kind, float]]:
    steps, draft = params.num_inference_steps, params.draft
    calls = (2 if params.guidance_scale > 1 else 1) * _calls_a_step(networks, None)
    size = params.width, params.height
    chunks = likely_chunks(params)
    yield "text", "wan", 2 * chunks * text_encoder(networks.text or {})
    if from_image:
        # Wan 2.2's small model encodes only the picture, the others a clip of it and grey frames.
        frames = 1 if networks.vae.get("is_residual") else params.num_frames
        yield "encode", "vae", clip_encode(networks.vae, *size, frames)
    if draft is not None:
        small = draft.width, draft.height, params.num_frames
        step = calls * transformer(networks.denoiser, networks.vae, *small, from_image=from_image, chunks=chunks)
        yield from (("step", "wan", step) for _ in range(steps))
        yield "decode", "vae", clip_decode(networks.vae, *small)
        yield "encode", "vae", clip_encode(networks.vae, *size, params.num_frames)
        steps = max(1, int(steps * draft.strength))
    frames = params.num_frames
    step = calls * transformer(networks.denoiser, networks.vae, *size, frames, from_image=from_image, chunks=chunks)
    yield from (("step", "wan", step) for _ in range(steps))
    yield "decode", "vae", clip_decode(networks.vae, *size, params.num_frames)


def _calls_a_step(networks: Networks, chosen: Scheduler | None) -> int:
    if chosen is not None:
        return 2 if chosen in TWICE_A_STEP else 1
    return 2 if (networks.scheduler or {}).get("_class_name") in _TWICE_CLASSES else 1


_CONTROL_PICTURE = 56e3
"""FLOP per pixel of the eight convolutions (16, 32, 96, 256 wide) that embed a control picture."""


def controlnet(config: Config, width: int, height: int) -> float:
    """FLOP of one ControlNet call (https://arxiv.org/abs/2302.05543): the UNet's encoder, the picture's embedding."""
    return unet(config, width, height, up=False) + _CONTROL_PICTURE * width * height


def unet(config: Config, width: int, height: int, chunks: int = 1, *, up: bool = True) -> float:
    """FLOP of one SDXL UNet call for one picture (https://arxiv.org/abs/2307.01952, table 1).

    Without `up`: only the encoder and the middle.
    """
    channels: list[int] = list(config.get("block_out_channels") or SDXL_UNET["block_out_channels"])
    kinds = list(config.get("down_block_types") or SDXL_UNET["down_block_types"])
    layers, context = int(config.get("layers_per_block", 2)), int(config.get("cross_attention_dim", 2048))
    depth = config.get("transformer_layers_per_block", 1)
    depths: list[int] = [depth] * len(channels) if isinstance(depth, int) else list(depth)
    tokens, last = width * height / 64, len(channels) - 1

    def resnet(inside: int, outside: int, n: float) -> float:
        return 2.0 * n * outside * (9 * inside + 9 * outside + (inside if inside != outside else 0))

    def attention(level: int, n: float) -> float:
        c, text = channels[level], chunks * CHUNK_TOKENS["sdxl"]
        # Projections of both attentions (4 and 2 of c x c), GEGLU's two (12); then keys and values of the text.
        layer = 2 * n * 18 * c * c + 4 * text * c * context + 4 * n * n * c + 4 * n * text * c
        return 4 * n * c * c + depths[level] * layer

    total = 0.0
    for level, c in enumerate(channels):
        n, before = tokens / 4**level, channels[max(level - 1, 0)]
        attends = attention(level, n) if kinds[level].startswith("CrossAttn") else 0.0
        after = channels[min(level + 1, last)]
        for index in range(layers):
            total += resnet(c if index else before, c, n) + attends
        for index in range(layers + 1 if up else 0):  # the decoder, with skip connections
            total += resnet((c if index else after) + (before if index == layers else c), c, n) + attends
        if level < last:
            total += 2 * 9 * (n / 4) * c * c
        if level and up:
            total += 2 * 9 * (4 * n) * c * c
    n = tokens / 4**last
    return total + 2 * resnet(channels[last], channels[last], n) + attention(last, n)


def image_encoder(config: Config) -> float:
    """FLOP of a CLIP image encoder for one picture (https://arxiv.org/abs/2010.11929): 0.334e12 for ViT-H."""
    n = (int(config.get("image_size", 224)) // int(config.get("patch_size", 14))) ** 2 + 1
    d, wide = int(config.get("hidden_size", 1280)), int(config.get("intermediate_size", 5120))
    return int(config.get("num_hidden_layers", 32)) * (8 * n * d * d + 4 * n * d * wide + 4 * n * n * d)


def text_encoder(config: Config) -> float:
    """FLOP of a gated T5 encoder for one prompt (https://arxiv.org/abs/1910.10683): 4.845e12 for UMT5-XXL."""
    c, n = {**UMT5_XXL, **config}, CHUNK_TOKENS["wan"]
    d, inner, wide = int(c["d_model"]), int(c["num_heads"]) * int(c["d_kv"]), int(c["d_ff"])
    return int(c["num_layers"]) * (8 * n * d * inner + 6 * n * d * wide + 4 * n * n * inner)


def transformer(
    config: Config, vae: Config, width: int, height: int, frames: int, *, from_image: bool = False, chunks: int = 1
) -> float:
    """FLOP of one call of Wan's transformer (https://arxiv.org/abs/2503.20314, section 4.2.2).

    Attention grows with the square of the tokens; the rest, 4 d^2 for each attention's projections and twice the
    feed-forward's width, linearly.
    """
    d = int(config.get("num_attention_heads", 12)) * int(config.get("attention_head_dim", 128))
    wide, blocks = int(config.get("ffn_dim", 8960)), int(config.get("num_layers", 30))
    in_time, *across = config.get("patch_size") or (1, 2, 2)
    scale = int(vae.get("scale_factor_spatial", 8))
    latents = (frames - 1) // int(vae.get("scale_factor_temporal", 4)) + 1
    n = latents // in_time * (height // scale // across[0]) * (width // scale // across[1])
    seen = chunks * CHUNK_TOKENS["wan"]
    if from_image and config.get("added_kv_proj_dim"):
        seen += int(config.get("pos_embed_seq_len") or _IMAGE_TOKENS)  # both pictures of a first-last-frame model
    block = 12 * n * d * d + 4 * seen * d * d + 4 * n * n * d + 4 * n * seen * d + 4 * n * d * wide
    return blocks * block


def _levels(channels: Sequence[int], config: Config, blocks: int) -> float:
    """Return the convolution work per pixel for these widths; each level has a quarter of the pixels."""
    weights: float = sum(c * c / 4**level for level, c in enumerate(channels))
    return weights * blocks / int(config.get("patch_size") or 1) ** 2


_IMAGE_LEVELS = 3 * 53_248.0
"""`_levels` of SDXL's decoder, for which the two figures below were counted at 1024 x 1024."""
_IMAGE_DECODE, _IMAGE_ENCODE = 9.46e6, 4.13e6
"""FLOP per pixel without the middle's attention."""


def image_decode(config: Config, width: int, height: int) -> float:
    """FLOP of decoding SDXL latents."""
    return _image_vae(config, width, height, _IMAGE_DECODE)


def image_encode(config: Config, width: int, height: int) -> float:
    """FLOP of encoding a picture to SDXL latents."""
    return _image_vae(config, width, height, _IMAGE_ENCODE)


def _image_vae(config: Config, width: int, height: int, full: float) -> float:
    channels: list[int] = list(config.get("block_out_channels") or SDXL_VAE["block_out_channels"])
    share = _levels(channels, {}, int(config.get("layers_per_block", 2)) + 1) / _IMAGE_LEVELS
    tokens = width * height / 64 if config.get("mid_block_add_attention", True) else 0
    return full * share * width * height + 4 * tokens * tokens * channels[-1] + 8 * tokens * channels[-1] ** 2


def clip_decode(config: Config, width: int, height: int, frames: int, *, tiled: bool = False) -> float:
    """FLOP of decoding Wan latents; tiles decode their overlaps repeatedly."""
    residual = bool(config.get("is_residual"))
    pixels = _in_tiles(width) * _in_tiles(height) if tiled else width * height
    # Counted: 8.5e6 per pixel and frame for Wan 2.1, 18.5e6 for Wan 2.2's VAE, which works on 2 x 2 patches.
    full = (18.5e6, 256) if residual else (8.5e6, 96)
    width_of_levels = int(config.get("decoder_base_dim") or config.get("base_dim", 96))
    return pixels * frames * full[0] * _clip_share(config, width_of_levels, full[1])


def clip_encode(config: Config, width: int, height: int, frames: int) -> float:
    """FLOP of encoding a clip to Wan latents."""
    full = (3.6e6, 160) if config.get("is_residual") else (5.1e6, 96)
    return width * height * frames * full[0] * _clip_share(config, int(config.get("base_dim", 96)), full[1])


def _clip_share(config: Config, width: int, full_width: int) -> float:
    """Return the work of a VAE of these widths relative to the published one."""
    multiples = list(config.get("dim_mult") or (1, 2, 4, 4))
    patch = 2 if config.get("is_residual") else 1
    full = _levels([full_width * m for m in (1, 2, 4, 4)], {"patch_size": patch}, 3)
    return _levels([width * m for m in multiples], config, int(config.get("num_res_blocks", 2)) + 1) / full


_TILE, _STRIDE = 256, 192
"""diffusers' own for this VAE (AutoencoderKLWan.enable_tiling)."""


def _in_tiles(side: int) -> int:
    """Return the decoded pixels along one side, counting overlaps repeatedly."""
    return side if side <= _TILE else sum(min(_TILE, side - start) for start in range(0, side, _STRIDE))
