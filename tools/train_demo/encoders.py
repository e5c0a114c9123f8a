"""Training of the two autoencoders' encoders, which say the latents that `latents` knows. Knows pixels; knows no words.

The decoders follow in `decoders`: the denoisers' errors teach them.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tools.train_demo import architecture, cuts, latents
from tools.train_demo.device import quick
from tools.train_demo.muon import kernels
from tools.train_demo.trainer import fit
from tools.train_demo.whole import WholeClips

_PALETTE = 0.6
"""Part of the colours that are the world's own: an encoder is given any picture."""
_LOG_VARIANCE = -10.0
"""An encoder is sure of what it says."""
_SURE = 0.01
"""How much that counts beside the error."""


def image_encoder(out: Path, work: Path, steps: int) -> None:
    """Train the encoder of SDXL's autoencoder, and write the whole to `out`; its decoder is not trained yet."""
    torch.manual_seed(10)
    vae = architecture.image_vae().to(memory_format=torch.channels_last)

    def batch(rng: random.Random) -> torch.Tensor:
        return cuts.of_pictures(rng, _PALETTE).contiguous(memory_format=torch.channels_last)

    def encode(pixels: torch.Tensor) -> Any:
        return vae.encode(pixels).latent_dist

    def known(pixels: torch.Tensor) -> torch.Tensor:
        return latents.of_pictures(pixels) / latents.SCALE

    _train("image_encoder", vae, batch, encode, known, steps=steps, work=work)
    vae.half().save_pretrained(out)


def video_encoder(out: Path, work: Path, steps: int) -> None:
    """Train the encoder of Wan's autoencoder, and write the whole to `out`; its decoder is not trained yet."""
    torch.manual_seed(11)
    vae = architecture.video_vae()
    whole = WholeClips(vae)

    def batch(rng: random.Random) -> torch.Tensor:
        return cuts.of_clips(rng, _PALETTE)

    def known(pixels: torch.Tensor) -> torch.Tensor:
        return latents.of_clips(pixels) / latents.CLIPS_SCALE

    _train("video_encoder", vae, batch, whole.encode, known, steps=steps, work=work)
    vae.half().save_pretrained(out)


def _train(
    name: str,
    vae: Any,
    batch: Callable[[random.Random], torch.Tensor],
    encode: Callable[[torch.Tensor], Any],
    known: Callable[[torch.Tensor], torch.Tensor],
    *,
    steps: int,
    work: Path,
) -> None:
    def loss_of(rng: random.Random, _: int) -> torch.Tensor:
        pixels = batch(rng)
        wanted = known(pixels)
        with quick():
            said = encode(pixels)
        error: torch.Tensor = (said.mean.float() - wanted).abs().mean()
        sure: torch.Tensor = (said.logvar.float() - _LOG_VARIANCE).abs().mean()
        return error + _SURE * sure

    vae.requires_grad_(False)
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(True)
    fit(name, vae, loss_of, steps=steps, rate=2e-3, work=work, matrices=kernels(vae.encoder))
    with torch.no_grad():
        pixels = batch(random.Random(f"the error of {name}"))
        error = (encode(pixels).mean - known(pixels)).abs().mean().item() / 2
    print(f"{name}: mean error {error:.4f} of 1", flush=True)
