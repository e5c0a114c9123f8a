"""Training of the two autoencoders on cut-outs of shapes in any colours. Knows pixels and latents; knows no words."""

import math
import random
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch.nn import functional

from tools.train_demo import architecture
from tools.train_demo.device import quick
from tools.train_demo.scenes import COLOURS, SHAPES, render, turn_of
from tools.train_demo.trainer import fit
from tools.train_demo.whole import WholeClips

_library: Any = diffusers  # its classes carry half of their annotations

IMAGE_CUTS = ((64, 24), (96, 12), (96, 12), (192, 3))
"""Side in pixels, and how many in a batch of about the same size."""
VIDEO_CUTS = (
    (1, 64, 64, 16),
    (1, 96, 96, 8),
    (5, 64, 64, 4),
    (9, 64, 64, 2),
    (17, 48, 48, 2),
    (33, 32, 32, 3),
    (33, 48, 48, 2),
    (81, 32, 32, 2),
)
"""Frames, height and width in pixels, and how many in a batch. Frames later than those of the longest drift in colour.

Two at least: over a single clip torch takes another convolution, whose step takes three times as long as two clips'.
"""
_NOISE = 0.15
"""Of the latents' own spread: what a decoder learns to look past, so that a denoiser need not be perfect."""
_VIDEO_NOISE = 0.1
"""Outlines are small beside the colours of flat parts: with 0.3 they were lost in it, and stars became pentagons."""
_VIDEO_PALETTE = 0.8
VIDEO_OUTLINES = 5.0
"""How much more a pixel near an outline counts."""
VIDEO_LARGEST = 60.0
"""Radius in pixels: an outline is one at any size, and in small cut-outs large shapes have none."""


def image_autoencoder(out: Path, work: Path, steps: int) -> None:
    """Train SDXL's autoencoder and write it to `out`, its scaling factor measured."""
    torch.manual_seed(10)
    vae = architecture.image_vae().to(memory_format=torch.channels_last)

    def loss_of(rng: random.Random, step: int) -> torch.Tensor:
        side, count = rng.choice(IMAGE_CUTS)
        pixels = (cut_outs(rng, count, side, side)[:, 0] * 2 - 1).contiguous(memory_format=torch.channels_last)
        with quick():
            latents = vae.encode(pixels).latent_dist
            back = vae.decode(disturbed(latents)).sample
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


def video_autoencoder(out: Path, work: Path, steps: int) -> None:
    """Train Wan's autoencoder and write it to `out`, its latents' mean and spread per channel measured."""
    torch.manual_seed(11)
    vae = architecture.video_vae()
    whole = WholeClips(vae)

    def loss_of(rng: random.Random, step: int) -> torch.Tensor:
        frames, height, width, count = rng.choice(VIDEO_CUTS)
        pixels = (
            cut_outs(rng, count, height, width, frames, palette=_VIDEO_PALETTE, largest=VIDEO_LARGEST).transpose(1, 2)
            * 2
            - 1
        )
        with quick():
            latents = whole.encode(pixels)
            back = whole.decode(disturbed(latents, _VIDEO_NOISE))
        return _loss(back.float(), pixels, latents, step / steps, VIDEO_OUTLINES)

    fit("video_vae", vae, loss_of, steps=steps, rate=2e-3, work=work)
    rng = random.Random("spread of video latents")
    with torch.no_grad():
        pixels = cut_outs(rng, 24, 96, 96, 17, palette=_VIDEO_PALETTE, largest=VIDEO_LARGEST).transpose(1, 2) * 2 - 1
        latents = whole.encode(pixels).mean
        error = (whole.decode(latents) - pixels).abs().mean().item() / 2
    vae.register_to_config(
        latents_mean=[round(value, 5) for value in latents.mean((0, 2, 3, 4)).tolist()],
        latents_std=[round(value, 5) for value in latents.std((0, 2, 3, 4)).tolist()],
    )
    print(f"video_vae: mean error {error:.4f} of 1, latents {_spread(latents)}", flush=True)
    vae.half().save_pretrained(out)


def cut_outs(
    rng: random.Random,
    count: int,
    height: int,
    width: int,
    frames: int = 1,
    *,
    palette: float = 0.6,
    largest: float = 120.0,
) -> torch.Tensor:
    """Shapes anywhere, of any size up to a radius of `largest` pixels and any angle, moving by chance.

    `palette` of the colours are the world's own.

    (count, frames, 3, height, width), 0 to 1.
    """
    shapes, place, ink, ground = [], [], [], []
    for _ in range(count):
        shapes.append(rng.choice(SHAPES))
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        radius, angle = math.exp(rng.uniform(math.log(9), math.log(largest))), rng.uniform(-math.pi, math.pi)
        if rng.random() < 0.6:
            angle *= 0.03
        pace, way = rng.uniform(0, 4), rng.uniform(0, 2 * math.pi)
        kind = rng.randrange(4)
        across, down = (pace * math.cos(way), pace * math.sin(way)) if kind == 1 else (0.0, 0.0)
        growth, turn = (1.015 if kind == 2 else 1.0), (turn_of(shapes[-1]) if kind == 3 else 0.0)
        place.append([[x + across * f, y + down * f, radius * growth**f, angle + turn * f] for f in range(frames)])
        first, second = _colour(rng, palette), _colour(rng, palette)
        ink.append(first)
        ground.append(second)
    return render(shapes, torch.tensor(place), (torch.tensor(ink), torch.tensor(ground)), height, width)


def _colour(rng: random.Random, palette: float) -> list[float]:
    if rng.random() < palette:
        return [value / 255 for value in COLOURS[rng.choice(sorted(COLOURS))]]
    return [rng.random() for _ in range(3)]


def disturbed(latents: Any, noise: float = _NOISE) -> torch.Tensor:
    """A sample of an encoder's distribution, with up to `noise` of the latents' present spread as noise."""
    sample: torch.Tensor = latents.sample()
    return sample + noise * sample.detach().float().std() * torch.randn_like(sample) * torch.rand(
        sample.shape[0], *[1] * (sample.ndim - 1)
    )


def _loss(back: torch.Tensor, pixels: torch.Tensor, latents: Any, part: float, outlines: float = 0.0) -> torch.Tensor:
    kl: torch.Tensor = latents.kl().mean() / latents.mean[0].numel()
    return distance(back, pixels, outlines) + 3e-4 * kl * (1 - 0.5 * part)


def distance(back: torch.Tensor, pixels: torch.Tensor, outlines: float = 0.0) -> torch.Tensor:
    """What a decoder is trained by: the mean error, absolute and squared, and that of the neighbours' differences.

    Pixels near an outline count 1 + `outlines` times in the first two.
    """
    # Edges are few pixels of many: the differences between neighbours give them weight.
    error = back - pixels
    across, down = error.diff(dim=-1).abs().mean(), error.diff(dim=-2).abs().mean()
    weight = torch.ones(())
    if outlines:
        weight = 1 + outlines * _near_outlines(pixels)
    return ((error.abs() + error.square()) * weight).mean() + 0.5 * (across + down)


def _near_outlines(pixels: torch.Tensor) -> torch.Tensor:
    """1 where a pixel up to two away is of another colour, else 0: (batch, 1, ..., height, width)."""
    highest, lowest = (functional.max_pool3d(sign * pixels, (1, 5, 5), 1, (0, 2, 2)) for sign in (1, -1))
    return ((highest + lowest).amax(1, keepdim=True) > 0.05).float()


def _spread(latents: torch.Tensor) -> str:
    axes = [0, *range(2, latents.ndim)]
    means, spreads = latents.mean(axes).tolist(), latents.std(axes).tolist()
    return ", ".join(f"{mean:.2f} +- {spread:.2f}" for mean, spread in zip(means, spreads, strict=True))
