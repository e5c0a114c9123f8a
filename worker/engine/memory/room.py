"""How many bytes a job works in beside the weights, phase by phase, told from its size and the model's own widths.

Pure arithmetic over the small JSON files of a model: knows no torch, no card and no other model. What decides is known
before anything runs: pixels, frames, tokens, the widths of the networks, two or four bytes a number. The constants were
fitted to the peaks that the rehearsal counts (`make rehearsal`), and are asserted there to within a tenth.
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
"""Hidden states that a step cache keeps of each prediction of each expert: what the first block gives, what it changes,
and what the others add."""
_TEXT = {"sdxl": 64 * MIB, "wan": 128 * MIB}
"""Activations of the text and image encoders: 77 tokens and 512."""
DEPTH = 512 * MIB
"""What the depth of a photo takes: the largest Depth Anything needs 603 bytes for each pixel that it sees (counted at
518 x 518, 518 x 1036 and 518 x 2072), and sees at most 3 x 518 x 518."""
PREVIEW_SIDE = 64
"""Latents of a side that a tiny autoencoder is given at most."""
PREVIEW = 3 * 64 * (8 * PREVIEW_SIDE) ** 2
"""Numbers in which it makes a picture of them: three copies of what its last block has at full size."""
IMAGE_TILE = 512
"""Side of a tile in which an image is decoded, in pixels, where there is no room to decode it whole."""
UPSCALE_TILES = (512, 384, 256, 128, 64)
"""Sides of the tiles in which a picture is made larger, in its own pixels: the largest that fits is taken."""
CLIP_TILE = 256
"""The same of a clip: `AutoencoderKLWan.tile_sample_min_height`."""


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
        """What the network of this name works in."""
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
    """The size of a job, as far as it decides the room."""

    width: int
    height: int
    frames: int = 1
    source: bool = False
    """Whether a picture is encoded first."""
    guided: bool = True
    """Whether the network sees the conditional and the unconditional latents in one batch (SDXL alone)."""
    beside: int = 0
    """Bytes that LoRAs add to the networks that denoise, for this job alone."""
    chunks: int = 1
    """How many chunks the longer prompt has."""
    controls: int = 0
    """How many control pictures there are."""
    cached: int = 0
    """Hidden states of a clip that are kept from step to step."""
    whole: bool = False
    """Whether more of a clip than its first frame is encoded, whatever its model."""

    @property
    def pixels(self) -> int:
        """Pixels of one frame."""
        return self.width * self.height

    @classmethod
    def of(cls, task_type: TaskType, params: Params) -> "Size":
        """The size of a job with nothing left open."""
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
            # One size stands for both passes: the larger.
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
        """The size of a job that leaves it to the model."""
        frames = defaults.num_frames if task_type.is_video else 1
        return cls(defaults.width, defaults.height, frames, source=True)


def room(spec: ModelSpec, size: Size, *, cuda: bool) -> Room:
    """What a job of this size works in on this model; in float32 where there is no GPU, else in two bytes a number."""
    number = 2 if cuda else 4
    if spec.family == "upscaler":
        return _upscaler(spec, size, number)
    plain = _sdxl(spec, size, number) if spec.family == "sdxl" else _wan(spec, size, number)
    return replace(plain, denoise=plain.denoise + size.beside * number // 2)


def upscaler_layout(spec: ModelSpec) -> Layout:
    """What an upscaler's file says of itself; the usual one where it is not here yet."""
    if spec.main.kind == "demo":
        return DEMO
    try:
        return USUAL if spec.main.path is None else read(file_in(spec.main.path))
    except NotAnUpscaler:
        return USUAL


def upscale_tile(spec: ModelSpec, free: int, *, cuda: bool) -> int:
    """The largest tile in which an upscaler works in so many bytes; the smallest where none does."""
    for tile in UPSCALE_TILES:
        if room(spec, Size(tile, tile), cuda=cuda).upscale <= free:
            return tile
    return UPSCALE_TILES[-1]


def _upscaler(spec: ModelSpec, size: Size, number: int) -> Room:
    """One tile: RRDBNet holds its widest features thrice at the full size; in a compact one the picture counts."""
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
    # Keys and values of the text in the widest block, and what they are made of, 2.5 times as counted: some are there
    # as they come and as they are used. One chunk is in the rest.
    text = (size.chunks - 1) * CHUNK_TOKENS["sdxl"] * round(2.5 * (2 * 4 * unet + 2048)) * number
    text *= 2 if size.guided else 1
    # What a ControlNet hands to the UNet: 0.08 of its width for each pixel, twice while those of two are added up. One
    # that is called by no type is a union: it is shown all pictures at once.
    at_once = all(extra.called is None for extra in spec.extras if extra.role == "controlnet")
    residuals = min(size.controls, 1 if at_once else 2) * 0.08 * unet + 3 * size.controls
    denoise = round((0.25 * unet + residuals) * number * (2 if size.guided else 1)) * size.pixels + text
    if any(extra.role == "preview" for extra in spec.extras):
        denoise = max(denoise, PREVIEW * number)  # between two steps, when what the UNet worked in is free
    decoded = 6 * vae * number  # three copies of the second widest block's output at full size
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
    """The numbers of a Wan model's configs; the defaults are Wan 2.1 at 1.3 B."""

    width: int = 1536
    feed_forward: int = 8960
    token_steps: bool = False
    """Whether each token has a time step of its own (Wan 2.2 TI2V)."""
    tile: int = 8
    """Pixels of one latent, along a side."""
    vae: int = 96
    residual: bool = False
    vae_patch: int = 1
    encoder: int = 96


def _wan(spec: ModelSpec, size: Size, number: int) -> Room:
    numbers = _wan_numbers(spec)
    latents = (size.frames - 1) // 4 + 1
    tokens = latents * (size.width // (2 * numbers.tile)) * (size.height // (2 * numbers.tile))
    # A block at its peak: two copies of the feed-forward's inside, five of the hidden states (the norm's in float32).
    a_token = 2 * numbers.feed_forward + 5 * numbers.width
    if numbers.token_steps:
        a_token += 18 * numbers.width  # six shifts and scales of each token, in float32 and as they come
    clip = 3 * size.frames * number
    # The decoder works on four frames at a time, at full size in its last block, and keeps what the next four need.
    inside = (80.4 if numbers.residual else 48.3) * numbers.vae / numbers.vae_patch**2
    decoder = round(inside * number)
    encoded = size.frames if size.whole or not numbers.token_steps else 1
    # Each of four frames together takes less of the residual encoder than one alone.
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
    """Read from the model's folder; a hub id that is not here yet is told from its name."""
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
