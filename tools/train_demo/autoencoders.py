"""Training of the two autoencoders on cut-outs of shapes in any colours. Knows pixels and latents; knows no words."""

import math
import random
from pathlib import Path
from typing import Any

import diffusers
import torch

from tools.train_demo import architecture
from tools.train_demo.scenes import COLOURS, SHAPES, render
from tools.train_demo.trainer import fit

_library: Any = diffusers  # its classes carry half of their annotations

_IMAGE_CUTS = ((64, 24), (96, 12), (96, 12), (192, 3))
"""Side in pixels, and how many in a batch of about the same size."""
_VIDEO_CUTS = ((1, 64, 64, 16), (5, 64, 64, 4), (9, 48, 64, 3), (9, 48, 64, 3))
"""Frames, height and width in pixels, and how many in a batch."""
_NOISE = 0.15
"""Of the latents' own spread: what a decoder learns to look past, so that a denoiser need not be perfect."""


def image_autoencoder(out: Path, work: Path, steps: int) -> None:
    """Train SDXL's autoencoder and write it to `out`, its scaling factor measured."""
    torch.manual_seed(10)
    vae = architecture.image_vae().to(memory_format=torch.channels_last)

    def loss_of(rng: random.Random, step: int) -> torch.Tensor:
        side, count = rng.choice(_IMAGE_CUTS)
        pixels = (cut_outs(rng, count, side, side)[:, 0] * 2 - 1).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            latents = vae.encode(pixels).latent_dist
            back = vae.decode(_disturbed(latents)).sample
        return _loss(back.float(), pixels, latents, step / steps)

    fit("image_vae", vae, loss_of, steps=steps, rate=2e-3, work=work)
    rng = random.Random("spread of image latents")
    with torch.no_grad():
        pixels = cut_outs(rng, 64, 128, 128)[:, 0] * 2 - 1
        latents = vae.encode(pixels).latent_dist.mean
        error = (vae.decode(latents).sample - pixels).abs().mean().item() / 2
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    print(f"image_vae: mean error {error:.4f} of 1, latents {_spread(latents)}", flush=True)
    vae.half().save_pretrained(out)


def image_decoder(out: Path, work: Path, steps: int) -> None:
    """Train the decoder of SDXL's autoencoder in `out` further; its latents stay as they are."""
    vae = _library.AutoencoderKL.from_pretrained(out).float().to(memory_format=torch.channels_last)

    def pair(rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
        side, count = rng.choice(_IMAGE_CUTS)
        pixels = (cut_outs(rng, count, side, side)[:, 0] * 2 - 1).contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return pixels, _disturbed(vae.encode(pixels).latent_dist)

    def loss_of(rng: random.Random, _: int) -> torch.Tensor:
        pixels, latents = pair(rng)
        with torch.autocast("cpu", torch.bfloat16):
            back = vae.decode(latents).sample
        return _distance(back.float(), pixels)

    _decoder_alone(vae)
    fit("image_decoder", vae, loss_of, steps=steps, rate=2e-3, work=work)
    rng = random.Random("error of the image decoder")
    with torch.no_grad():
        pixels, latents = pair(rng)
        error = (vae.decode(latents.float()).sample - pixels).abs().mean().item() / 2
    print(f"image_decoder: mean error {error:.4f} of 1", flush=True)
    vae.half().save_pretrained(out)


def video_decoder(out: Path, work: Path, steps: int) -> None:
    """Train the decoder of Wan's autoencoder in `out` further; its latents stay as they are."""
    vae = _library.AutoencoderKLWan.from_pretrained(out).float()

    def pair(rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
        frames, height, width, count = rng.choice(_VIDEO_CUTS)
        pixels = cut_outs(rng, count, height, width, frames).transpose(1, 2) * 2 - 1
        with torch.no_grad():
            return pixels, _disturbed(vae.encode(pixels).latent_dist)

    def loss_of(rng: random.Random, _: int) -> torch.Tensor:
        pixels, latents = pair(rng)
        return _distance(vae.decode(latents).sample, pixels)

    _decoder_alone(vae)
    fit("video_decoder", vae, loss_of, steps=steps, rate=2e-3, work=work)
    rng = random.Random("error of the video decoder")
    with torch.no_grad():
        pixels, latents = pair(rng)
        error = (vae.decode(latents).sample - pixels).abs().mean().item() / 2
    print(f"video_decoder: mean error {error:.4f} of 1", flush=True)
    vae.half().save_pretrained(out)


def video_autoencoder(out: Path, work: Path, steps: int) -> None:
    """Train Wan's autoencoder and write it to `out`, its latents' mean and spread per channel measured."""
    torch.manual_seed(11)
    vae = architecture.video_vae()

    def loss_of(rng: random.Random, step: int) -> torch.Tensor:
        frames, height, width, count = rng.choice(_VIDEO_CUTS)
        pixels = cut_outs(rng, count, height, width, frames).transpose(1, 2) * 2 - 1
        latents = vae.encode(pixels).latent_dist
        back = vae.decode(_disturbed(latents)).sample
        return _loss(back, pixels, latents, step / steps)

    fit("video_vae", vae, loss_of, steps=steps, rate=2e-3, work=work)
    rng = random.Random("spread of video latents")
    with torch.no_grad():
        pixels = cut_outs(rng, 24, 96, 96, 9).transpose(1, 2) * 2 - 1
        latents = vae.encode(pixels).latent_dist.mean
        error = (vae.decode(latents).sample - pixels).abs().mean().item() / 2
    vae.register_to_config(
        latents_mean=[round(value, 5) for value in latents.mean((0, 2, 3, 4)).tolist()],
        latents_std=[round(value, 5) for value in latents.std((0, 2, 3, 4)).tolist()],
    )
    print(f"video_vae: mean error {error:.4f} of 1, latents {_spread(latents)}", flush=True)
    vae.half().save_pretrained(out)


def cut_outs(rng: random.Random, count: int, height: int, width: int, frames: int = 1) -> torch.Tensor:
    """Shapes anywhere, of any size and angle, in the world's colours or any other, moving by chance.

    (count, frames, 3, height, width), 0 to 1.
    """
    shapes, place, ink, ground = [], [], [], []
    for _ in range(count):
        shapes.append(rng.choice(SHAPES))
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        radius, angle = math.exp(rng.uniform(math.log(9), math.log(120))), rng.uniform(-math.pi, math.pi)
        if rng.random() < 0.6:
            angle *= 0.03
        pace, way = rng.uniform(0, 4), rng.uniform(0, 2 * math.pi)
        kind = rng.randrange(4)
        across, down = (pace * math.cos(way), pace * math.sin(way)) if kind == 1 else (0.0, 0.0)
        growth, turn = (1.015 if kind == 2 else 1.0), (math.radians(3) if kind == 3 else 0.0)
        place.append([[x + across * f, y + down * f, radius * growth**f, angle + turn * f] for f in range(frames)])
        first, second = _colour(rng), _colour(rng)
        ink.append(first)
        ground.append(second)
    return render(shapes, torch.tensor(place), (torch.tensor(ink), torch.tensor(ground)), height, width)


def _colour(rng: random.Random) -> list[float]:
    if rng.random() < 0.6:
        return [value / 255 for value in COLOURS[rng.choice(sorted(COLOURS))]]
    return [rng.random() for _ in range(3)]


def _disturbed(latents: Any) -> torch.Tensor:
    # As far as this autoencoder's latents spread just now, not as far as they should.
    sample: torch.Tensor = latents.sample()
    return sample + _NOISE * sample.detach().float().std() * torch.randn_like(sample) * torch.rand(
        sample.shape[0], *[1] * (sample.ndim - 1)
    )


def _loss(back: torch.Tensor, pixels: torch.Tensor, latents: Any, part: float) -> torch.Tensor:
    kl: torch.Tensor = latents.kl().mean() / latents.mean[0].numel()
    return _distance(back, pixels) + 3e-4 * kl.float() * (1 - 0.5 * part)


def _distance(back: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    # Edges are few pixels of many: the differences between neighbours give them weight.
    error = back - pixels
    across, down = error.diff(dim=-1).abs().mean(), error.diff(dim=-2).abs().mean()
    return error.abs().mean() + error.square().mean() + 0.5 * (across + down)


def _decoder_alone(vae: Any) -> None:
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    vae.post_quant_conv.requires_grad_(True)


def _spread(latents: torch.Tensor) -> str:
    axes = [0, *range(2, latents.ndim)]
    means, spreads = latents.mean(axes).tolist(), latents.std(axes).tolist()
    return ", ".join(f"{mean:.2f} +- {spread:.2f}" for mean, spread in zip(means, spreads, strict=True))
