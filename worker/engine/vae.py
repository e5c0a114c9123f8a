"""Decodes latents to uint8 pixels and encodes pixels to latents. Knows VAEs; knows no prompts and no denoising.

A decode without a usable picture (not finite, or every pixel the same) is repeated in float32, then fails: no client
gets a black image silently. Rounding follows diffusers' PIL path (denormalise, clamp, x255, round), on the VAE's
device, so that only uint8 leaves the GPU.
"""

import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from worker.engine.memory.room import IMAGE_TILE
from worker.engine.vendor_errors import no_picture

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

log = logging.getLogger(__name__)

_FRAMES_AT_ONCE = 8


@torch.no_grad()
def decode_image(vae: Any, latents: torch.Tensor) -> "NDArray[np.uint8]":
    """(1, 4, h, w) SDXL latents -> (8h, 8w, 3) uint8.

    Raises:
        Internal: no usable picture, not even in float32.
    """
    return _decode(vae, latents, _image)


@torch.no_grad()
def decode_clip(vae: Any, latents: torch.Tensor) -> "NDArray[np.uint8]":
    """(1, z, f, h, w) Wan latents -> (4f - 3, height, width, 3) uint8.

    Raises:
        Internal: no usable picture, not even in float32.
    """
    return _decode(vae, latents, _clip)


@torch.no_grad()
def encode_image(vae: Any, image: "Image.Image", device: torch.device) -> torch.Tensor:
    """An RGB picture -> (1, 4, h / 8, w / 8) SDXL latents in the VAE's dtype: the posterior's mean, not a sample."""
    pixels = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1).unsqueeze(0) / 127.5 - 1.0
    return _encode(vae, pixels.to(device), lambda mean: _standardised(vae, mean))


@torch.no_grad()
def encode_clip(vae: Any, frames: "NDArray[np.uint8]", device: torch.device) -> torch.Tensor:
    """(4f - 3, height, width, 3) frames -> (1, z, f, h, w) Wan latents in the VAE's dtype: the mean as well."""
    pixels = torch.from_numpy(frames).to(device).permute(3, 0, 1, 2).unsqueeze(0).float() / 127.5 - 1.0
    return encode_pixels(vae, pixels)


def encode_pixels(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """(1, 3, 4f - 3, height, width) pixels, -1 ... 1 -> (1, z, f, h, w) Wan latents."""

    def standardised(mean: torch.Tensor) -> torch.Tensor:
        middle, inverse = _clip_statistics(vae, mean)
        return (mean - middle) * inverse

    return _encode(vae, pixels, standardised)


def _encode(vae: Any, pixels: torch.Tensor, standardised: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Encode in the VAE's dtype, and again in float32 if the latents are not finite.

    Raises:
        Internal: they are not finite in float32 either.
    """

    def encode(dtype: torch.dtype) -> torch.Tensor:
        return standardised(vae.encode(pixels.to(dtype)).latent_dist.mode())

    latents = encode(vae.dtype)
    if not torch.isfinite(latents).all() and vae.dtype != torch.float32:
        with _in_float32(vae):
            latents = encode(torch.float32)
    if not torch.isfinite(latents).all():
        raise no_picture()
    return latents


def _decode(
    vae: Any, latents: torch.Tensor, how: Callable[[Any, torch.Tensor], torch.Tensor | None]
) -> "NDArray[np.uint8]":
    if not torch.isfinite(latents).all():
        raise no_picture()
    # In float32 up to the decoder, so that they are rounded only once.
    latents, dtype = latents.float(), decoder_dtype(vae)
    pixels = how(vae, latents)
    if pixels is None and dtype != torch.float32:
        log.warning("no usable picture in %s: decoding again in float32", dtype, extra={"action": "decode_again"})
        with _in_float32(vae):
            pixels = how(vae, latents)
    if pixels is None:
        raise no_picture()
    return np.ascontiguousarray(pixels.cpu().numpy())


@contextmanager
def watched(network: torch.nn.Module, calls: int, tell: Callable[[float], None]) -> Iterator[None]:
    """Call `tell` after each call of `network` in the body, with the share of `calls` done; it may raise."""
    done = itertools.count(1)
    tell(0.0)
    hook = network.register_forward_hook(lambda *_: tell(min(1.0, next(done) / calls)))
    try:
        yield
    finally:
        hook.remove()


def clip_calls(vae: Any, latent_frames: int, height: int, width: int) -> int:
    """Return how often Wan's VAE calls its decoder or encoder for a clip: once per latent frame and tile."""
    tiles = 1
    if vae.use_tiling and (width > vae.tile_sample_min_width or height > vae.tile_sample_min_height):
        tiles = -(-height // vae.tile_sample_stride_height) * -(-width // vae.tile_sample_stride_width)
    return latent_frames * tiles


def decoder_dtype(vae: Any) -> torch.dtype:
    """Return the dtype in which a VAE decodes; Wan's encodes in another."""
    dtype: torch.dtype = next(vae.decoder.parameters()).dtype
    return dtype


@contextmanager
def in_tiles(vae: Any, *, tiles: bool) -> Iterator[None]:
    """Tile the VAE in the body, if `tiles` says so."""
    if not tiles:
        yield
        return
    if hasattr(vae, "tile_latent_min_size") and vae.tile_sample_min_size > IMAGE_TILE:
        # SDXL's default tiles are as large as its native pictures, and take as much memory.
        vae.tile_latent_min_size = vae.tile_latent_min_size * IMAGE_TILE // vae.tile_sample_min_size
        vae.tile_sample_min_size = IMAGE_TILE
    vae.enable_tiling()
    try:
        yield
    finally:
        vae.disable_tiling()


@contextmanager
def _in_float32(vae: Any) -> Iterator[None]:
    dtypes = {name: next(part.parameters()).dtype for name, part in vae.named_children()}
    vae.to(torch.float32)
    try:
        yield
    finally:
        # Every bfloat16 and float16 value is exact in float32, so converting back loses nothing.
        for name, part in vae.named_children():
            part.to(dtypes[name])


def _image(vae: Any, latents: torch.Tensor) -> torch.Tensor | None:
    image = vae.decode(_destandardised(vae, latents).to(decoder_dtype(vae)), return_dict=False)[0][0]
    return _usable(_quantised(image).permute(1, 2, 0)) if torch.isfinite(image).all() else None


def _clip(vae: Any, latents: torch.Tensor) -> torch.Tensor | None:
    mean, inverse = _clip_statistics(vae, latents)
    video = vae.decode((latents / inverse + mean).to(decoder_dtype(vae)), return_dict=False)[0][0]
    frames = torch.empty((*video.shape[1:], 3), dtype=torch.uint8, device=video.device)
    for start in range(0, video.shape[1], _FRAMES_AT_ONCE):
        part = video[:, start : start + _FRAMES_AT_ONCE]
        if not torch.isfinite(part).all():
            return None
        frames[start : start + _FRAMES_AT_ONCE] = _quantised(part).permute(1, 2, 3, 0)
    return _usable(frames)


def _clip_statistics(vae: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the per-channel mean and, as in diffusers' WanPipeline, the inverse standard deviation."""
    shape = (1, -1, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean).view(shape).to(like.device, like.dtype)
    return mean, 1.0 / torch.tensor(vae.config.latents_std).view(shape).to(like.device, like.dtype)


def _quantised(values: torch.Tensor) -> torch.Tensor:
    # In float32 first: after adding 0.5, bfloat16 has steps of 1 / 256, and a quarter of the values end one off.
    return values.float().mul(0.5).add(0.5).clamp(0, 1).mul(255).round().to(torch.uint8)


def _usable(pixels: torch.Tensor) -> torch.Tensor | None:
    return None if bool(pixels.min() == pixels.max()) else pixels


def _destandardised(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    factor = float(vae.config.scaling_factor)
    if (statistics := _statistics(vae, latents)) is not None:
        mean, deviation = statistics
        return latents * deviation / factor + mean
    return latents / factor


def _standardised(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    factor = float(vae.config.scaling_factor)
    if (statistics := _statistics(vae, latents)) is not None:
        mean, deviation = statistics
        return (latents - mean) * factor / deviation
    return latents * factor


def _statistics(vae: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return per-channel mean and deviation if the checkpoint has them (Playground 2.5); most have one factor."""
    mean, deviation = getattr(vae.config, "latents_mean", None), getattr(vae.config, "latents_std", None)
    if mean is None or deviation is None:
        return None
    return torch.tensor(mean).view(1, -1, 1, 1).to(like), torch.tensor(deviation).view(1, -1, 1, 1).to(like)
