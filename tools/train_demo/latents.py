"""What the latents hold: the mean colour of the pixels that each of them stands for.

So they are known before anything is trained: the encoders learn to say them, the decoders to draw outlines from them,
and the denoisers need neither. Latents that autoencoders found by themselves were rougher from one to the next the
quicker they were found, and denoisers learn smooth ones in a fraction of the steps. Knows pixels; knows no networks.
"""

import json
from pathlib import Path

import torch
from torch.nn import functional

SIDE = 8
"""Pixels of a latent's side ..."""
FRAMES = 4
"""... and the frames that it stands for, but for a clip's first, which stands for one."""
SCALE = 1.5
"""A picture's latent is this many times what the encoder says, which makes the spread of each channel about 1."""
CLIPS_SPREAD = 0.5
"""That of a clip's latents, which have nearly the same four times and would shine through most noise."""
CLIPS_SCALE = SCALE * CLIPS_SPREAD
_EDGES, _FLAT = 3.0, 0.5
"""How much an outline makes of a picture's last channel, and what is taken from it where there is none."""


def require(vae: Path, scale: float) -> None:
    """Raises ValueError where the autoencoder in the folder was trained for other latents, as older ones were."""
    config = json.loads((vae / "config.json").read_text(encoding="utf-8"))
    said = config.get("scaling_factor") or 1 / config["latents_std"][0]
    if abs(said - scale) > 1e-3:
        raise ValueError(f"{vae} has latents of its own, times {said:.4f} instead of {scale}: train all from nothing")


def of_pictures(pixels: torch.Tensor) -> torch.Tensor:
    """(pictures, 3, height, width) pixels, -1 to 1 -> (pictures, 4, height / 8, width / 8) latents.

    Three channels are the mean red, green and blue; the fourth is how far the pixels are from them on the average, so
    that outlines stand out whatever the colours.
    """
    mean = functional.avg_pool2d(pixels, SIDE)
    off = (pixels - functional.interpolate(mean, scale_factor=SIDE)).abs()
    edges = functional.avg_pool2d(off, SIDE).mean(1, keepdim=True)
    return SCALE * torch.cat([mean, _EDGES * edges - _FLAT], dim=1)


def of_clips(pixels: torch.Tensor) -> torch.Tensor:
    """(clips, 3, 4 k + 1, height, width) pixels, -1 to 1 -> (clips, 12, k + 1, height / 8, width / 8) latents.

    The mean red, green and blue of each of the four frames; the first frame, which has a latent to itself, is there
    four times.
    """
    return CLIPS_SCALE * by_latent(functional.avg_pool3d(pixels, (1, SIDE, SIDE)))


def by_latent(frames: torch.Tensor) -> torch.Tensor:
    """(clips, channels, 4 k + 1, height, width), of each frame -> (clips, 4 channels, k + 1, height, width)."""
    frames = torch.cat([frames[:, :, :1].expand(-1, -1, FRAMES - 1, -1, -1), frames], dim=2)
    count, channels, number, height, width = frames.shape
    frames = frames.reshape(count, channels, number // FRAMES, FRAMES, height, width)
    return frames.transpose(2, 3).flatten(1, 2)


def coloured(covers: torch.Tensor, ink: torch.Tensor, ground: torch.Tensor) -> torch.Tensor:
    """The latents of clips by those of their covers, which have one colour: the means are linear in the colours.

    (clips, 4, k + 1, height / 8, width / 8) `of_clips` of what `scenes.cover` says, and the shapes' and the
    backgrounds' colours, (clips, 3), -1 to 1 -> (clips, 12, k + 1, height / 8, width / 8).
    """
    ink, ground = (colour[:, :, None, None, None, None] for colour in (ink, ground))
    return (CLIPS_SCALE * ground + (ink - ground) * covers[:, None]).flatten(1, 2)
