"""Computes a job's working memory beside the weights, per phase, from its size and the model's widths.

Everything it needs is known before a job runs: pixels, frames, tokens, network widths, two or four bytes per number.
The constants are fitted to the peaks that the rehearsal measures (`make rehearsal`), which asserts them to within a
tenth. Pure arithmetic on a model's small JSON files; knows no torch, no card and no other model.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from worker.api.params import ImageParams, ModelDefaults, Params, VideoParams
from worker.api.prompt_length import CHUNK_TOKENS, likely_chunks
from worker.core.types import TaskType
from worker.engine.models.checkpoint import read_json
from worker.engine.models.registry import ModelSpec
from worker.engine.models.upscaler_file import DEMO, USUAL, Layout, NotAnUpscaler, file_in, read

Phase = Literal["text", "encode", "denoise", "decode", "decode_in_tiles", "upscale"]

MIB = 2**20
_CACHED = 3
"""Hidden states that a step cache keeps per prediction and expert: the first block's output, its residual, and the
other blocks' residual."""
_TEXT = {"sdxl": 64 * MIB, "wan": 128 * MIB}
"""Activations of the text and image encoders: 77 tokens and 512."""
DEPTH = 512 * MIB
"""Depth estimation: the largest Depth Anything needs 603 bytes per input pixel (measured at 518 x 518, 518 x 1036 and
518 x 2072), and gets at most 3 x 518 x 518."""
PREVIEW_SIDE = 64
"""Longest side of a tiny autoencoder's input, in latents."""
PREVIEW = 3 * 64 * (8 * PREVIEW_SIDE) ** 2
"""Numbers that its decoding needs: three copies of its last block's full-size output."""
IMAGE_TILE = 512
"""Tile side of an image's tiled decoding, in pixels."""
UPSCALE_TILES = (512, 384, 256, 128, 64)
"""Tile sides of an upscaler, in source pixels; the largest that fits is used."""
CLIP_TILE = 256
"""Tile side of a clip's tiled decoding: `AutoencoderKLWan.tile_sample_min_height`."""


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes beside the weights at the peak of each phase."""

    text: int
    encode: int
    denoise: int
    decode: int
    decode_in_tiles: int
    upscale: int = 0

    def of(self, network: str, *, tiles: bool) -> int:
        """Return the working memory of the network of this name."""
        if network == "upscaler":
            return self.upscale
        if network == "depth":
            return DEPTH
        if network == "vae":
            return max(self.encode, self.decode_in_tiles if tiles else self.decode)
        return self.denoise if network.startswith(("unet", "controlnet", "refiner_unet", "transformer")) else self.text

    def scaled(self, factors: "dict[Phase, float]") -> "Room":
        """The room with what was learnt of a model: phase -> how many times the estimate it was seen to take."""
        values = {phase: round(getattr(self, phase) * factor) for phase, factor in factors.items()}
        return replace(self, **values)


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a job, as far as its working memory depends on it."""

    width: int
    height: int
    frames: int = 1
    source: bool = False
    """Whether a picture is encoded first."""
    guided: bool = True
    """Whether conditional and unconditional latents form one batch (SDXL only)."""
    beside: int = 0
    """Bytes that the job's LoRAs add to the denoisers."""
    chunks: int = 1
    """Chunks of the longer prompt."""
    controls: int = 0
    """Number of control pictures."""
    cached: int = 0
    """Hidden states of a clip that a step cache keeps."""
    whole: bool = False
    """Whether more than a clip's first frame is encoded, for any model."""

    @property
    def pixels(self) -> int:
        """Pixels of one frame."""
        return self.width * self.height

    @classmethod
    def of(cls, task_type: TaskType, params: Params) -> "Size":
        """Return the size of a resolved job."""
        source = task_type not in {TaskType.TEXT2IMG, TaskType.TEXT2VIDEO} or params.draft is not None
        if isinstance(params, ImageParams) and params.enlarges:
            tile = params.upscale.tile if params.upscale is not None else None
            return cls(
                *(tile or (64, 64)), 1, source=True, guided=params.guidance_scale > 1, chunks=likely_chunks(params)
            )
        if isinstance(params, VideoParams):
            chunks, cached = likely_chunks(params), _CACHED if params.step_cache is not None else 0
            cached *= (1 + (params.guidance_scale > 1)) * (1 + (params.guidance_scale_2 is not None))
            clip = cls(params.width, params.height, params.num_frames, source, chunks=chunks, cached=cached)
            return replace(clip, whole=params.ends or params.draft is not None)
        width, height = params.drawn_size
        if params.upscale is not None and params.upscale.tile is not None:
            # The larger of the two passes decides.
            width, height = max((width, height), params.upscale.tile, key=math.prod)
            source = True
        return cls(
            width,
            height,
            1,
            source,
            params.guidance_scale > 1,
            chunks=likely_chunks(params),
            controls=len(params.controlnets or ()),
        )

    @classmethod
    def native(cls, task_type: TaskType, defaults: ModelDefaults) -> "Size":
        """Return the size of a job with the model's defaults."""
        frames = defaults.num_frames if task_type.is_video else 1
        return cls(defaults.width, defaults.height, frames, source=True)


def room(spec: ModelSpec, size: Size, *, cuda: bool) -> Room:
    """Return the working memory of a job of this size: float32 without a GPU, else half precision."""
    number = 2 if cuda else 4
    if spec.family == "upscaler":
        return _upscaler(spec, size, number)
    plain = _sdxl(spec, size, number) if spec.family == "sdxl" else _wan(spec, size, number)
    return replace(plain, denoise=plain.denoise + size.beside * number // 2)


def upscaler_layout(spec: ModelSpec) -> Layout:
    """Return an upscaler's layout; the usual one if its file is not on this machine yet."""
    if spec.main.kind == "demo":
        return DEMO
    try:
        return USUAL if spec.main.path is None else read(file_in(spec.main.path))
    except NotAnUpscaler:
        return USUAL


def upscale_tile(spec: ModelSpec, free: int, *, cuda: bool) -> int:
    """Return the largest tile that fits into the bytes; the smallest if none does."""
    for tile in UPSCALE_TILES:
        if room(spec, Size(tile, tile), cuda=cuda).upscale <= free:
            return tile
    return UPSCALE_TILES[-1]


def _upscaler(spec: ModelSpec, size: Size, number: int) -> Room:
    """Return the memory of one tile: RRDBNet holds its widest features three times at full size."""
    found = upscaler_layout(spec)
    colours = 3 * found.scale**2
    if found.kind == "rrdb":
        taken = 3 * found.features * 4**found.doublings / found.unshuffle**2 * number + 12 * colours
    else:
        taken = max(2 * found.features * number, colours * (number + 8))
    return Room(0, 0, 0, 0, 0, upscale=round(taken * size.pixels))


def _sdxl(spec: ModelSpec, size: Size, number: int) -> Room:
    folder = spec.main.path if spec.main.kind == "folder" else None
    unet = _width(read_json(folder / "unet" / "config.json"), 320) if folder else 320
    refiner = spec.refiner.path if spec.refiner is not None else None
    if refiner is not None:
        unet = max(unet, _width(read_json(refiner / "unet" / "config.json"), 384))
    vae = _width(read_json(folder / "vae" / "config.json"), 128) if folder else 128
    # The text's keys and values in the widest block, and their inputs, 2.5 times as measured: some exist in two forms.
    # The first chunk is included below.
    text = (size.chunks - 1) * CHUNK_TOKENS["sdxl"] * round(2.5 * (2 * 4 * unet + 2048)) * number
    text *= 2 if size.guided else 1
    # A ControlNet's residuals: 0.08 of its width per pixel, twice while those of two are added. A network without a
    # type is a union, which takes all pictures at once.
    at_once = all(extra.called is None for extra in spec.extras if extra.role == "controlnet")
    residuals = min(size.controls, 1 if at_once else 2) * 0.08 * unet + 3 * size.controls
    denoise = round((0.25 * unet + residuals) * number * (2 if size.guided else 1)) * size.pixels + text
    if any(extra.role == "preview" for extra in spec.extras):
        denoise = max(denoise, PREVIEW * number)  # between two steps, when the UNet's memory is free
    decoded = 6 * vae * number  # three copies of the second widest block's full-size output
    return Room(
        text=_TEXT["sdxl"],
        encode=round(5.1 * vae * number) * size.pixels if size.source else 0,
        denoise=denoise,
        decode=decoded * size.pixels,
        decode_in_tiles=decoded * min(size.pixels, IMAGE_TILE**2) + 4 * 3 * number * size.pixels,
    )


def _width(config: dict[str, object], usual: int) -> int:
    widths = config.get("block_out_channels")
    return widths[0] if isinstance(widths, list) and widths and isinstance(widths[0], int) else usual


@dataclass(frozen=True, slots=True)
class _Wan:
    """Values of a Wan model's configs; the defaults are Wan 2.1 1.3B."""

    width: int = 1536
    feed_forward: int = 8960
    token_steps: bool = False
    """Whether each token has its own time step (Wan 2.2 TI2V)."""
    tile: int = 8
    """Pixels per latent along a side."""
    vae: int = 96
    residual: bool = False
    vae_patch: int = 1
    encoder: int = 96


def _wan(spec: ModelSpec, size: Size, number: int) -> Room:
    numbers = _wan_numbers(spec)
    latents = (size.frames - 1) // 4 + 1
    tokens = latents * (size.width // (2 * numbers.tile)) * (size.height // (2 * numbers.tile))
    # A block's peak: two copies of the feed-forward's hidden layer, five of the hidden states (the norm's in float32).
    a_token = 2 * numbers.feed_forward + 5 * numbers.width
    if numbers.token_steps:
        a_token += 18 * numbers.width  # six shifts and scales per token, in both precisions
    clip = 3 * size.frames * number
    # The decoder processes four frames at a time, at full size in its last block, and caches for the next four.
    inside = (80.4 if numbers.residual else 48.3) * numbers.vae / numbers.vae_patch**2
    decoder = round(inside * number)
    encoded = size.frames if size.whole or not numbers.token_steps else 1
    # The residual encoder takes less per frame for four frames than for one.
    of_a_frame = (49.3 if encoded == 1 else 40.3) if numbers.residual else 37
    encoder = round(of_a_frame * numbers.encoder / numbers.vae_patch**2 * 4)
    return Room(
        text=_TEXT["wan"],
        encode=(encoder * min(encoded, 4) // 4 + 3 * 4 * encoded) * size.pixels if size.source else 0,
        denoise=(
            (a_token + size.cached * numbers.width) * tokens
            + 4 * numbers.width * (size.chunks - 1) * CHUNK_TOKENS["wan"]
        )
        * number,
        decode=(decoder + 2 * clip) * size.pixels,
        decode_in_tiles=decoder * min(size.pixels, CLIP_TILE**2) + 3 * clip * size.pixels,
    )


def _wan_numbers(spec: ModelSpec) -> _Wan:
    """Read the values from the model's folder; guess them from its name if it is not on this machine yet."""
    path = spec.main.path
    if path is None:
        return _told_by_name(spec.main.name.upper())
    transformer, vae = read_json(path / "transformer" / "config.json"), read_json(path / "vae" / "config.json")
    base = int(vae.get("base_dim", 96))
    return _Wan(
        width=int(transformer.get("num_attention_heads", 40)) * int(transformer.get("attention_head_dim", 128)),
        feed_forward=int(transformer.get("ffn_dim", 13824)),
        token_steps=bool(read_json(path / "model_index.json").get("expand_timesteps")),
        tile=int(vae.get("scale_factor_spatial", 8)),
        vae=int(vae.get("decoder_base_dim") or base),
        residual=bool(vae.get("is_residual")),
        vae_patch=int(vae.get("patch_size") or 1),
        encoder=base,
    )


def _told_by_name(name: str) -> _Wan:
    if "TI2V" in name:
        return _Wan(3072, 14336, token_steps=True, tile=16, vae=256, residual=True, vae_patch=2, encoder=160)
    return _Wan(5120, 13824) if "14B" in name else _Wan()
