"""Wan's autoencoder over a whole clip at once, for training: the same sums as frame by frame, in fewer steps.

diffusers takes a clip four frames at a time and hands what a causal convolution has to remember from one part to the
next, so that a long clip fits a card. Small cut-outs fit anyway. Knows the autoencoder's parts; knows no data.
"""

import types
from typing import Any

import torch
from diffusers.models.autoencoders import autoencoder_kl_wan
from torch.nn import functional

_wan: Any = autoencoder_kl_wan  # its classes carry half of their annotations


class WholeClips:
    """`encode` and `decode` of an AutoencoderKLWan, whose own two may not be used any more."""

    def __init__(self, vae: Any) -> None:
        if vae.config.is_residual or vae.config.patch_size != 2:
            raise ValueError(
                "whole clips are for a Wan autoencoder without residual up- and downsampling, patch size 2"
            )
        self._vae = vae
        self.config = vae.config
        forwards = {_wan.WanResample: _resample, _wan.WanRMS_norm: _normalise, _wan.WanCausalConv3d: _convolve}
        for module in vae.modules():
            if type(module) in forwards:
                module.forward = types.MethodType(forwards[type(module)], module)

    def encode(self, pixels: torch.Tensor) -> Any:
        """(clips, 3, 4 k + 1, height, width) pixels, -1 to 1 -> the distribution of their latents."""
        return _wan.DiagonalGaussianDistribution(
            self._vae.quant_conv(self._vae.encoder(_wan.patchify(pixels, patch_size=2)))
        )

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(clips, channels, k + 1, height / 8, width / 8) latents -> pixels, not yet cut off at -1 and 1."""
        pixels: torch.Tensor = _wan.unpatchify(self._vae.decoder(self._vae.post_quant_conv(latents)), patch_size=2)
        return pixels


def _resample(self: Any, x: torch.Tensor, _cache: Any = None, _index: Any = None) -> torch.Tensor:
    # The first frame stands alone: it is neither doubled nor merged with what follows.
    if self.mode == "upsample3d" and x.shape[2] > 1:
        rest = self.time_conv(x[:, :, 1:]).unflatten(1, (2, -1))
        x = torch.cat([x[:, :, :1], rest.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)], dim=2)
    count, frames = x.shape[0], x.shape[2]
    x = self.resample(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (count, frames)).transpose(1, 2)
    if self.mode == "downsample3d" and frames > 1:
        x = torch.cat([x[:, :, :1], self.time_conv(x)], dim=2)
    return x


def _normalise(self: Any, x: torch.Tensor) -> torch.Tensor:
    scale = torch.rsqrt((x * x).mean(1 if self.channel_first else -1, keepdim=True) + 1e-6)
    normalised: torch.Tensor = x * scale * self.gamma.to(x.dtype)
    return normalised


def _convolve(self: Any, x: torch.Tensor, _cache: Any = None) -> torch.Tensor:
    left, right, top, bottom, before, _ = self._padding
    if x.shape[2] == 1 and before == 2 and self.kernel_size[0] == 3:
        # Of a single frame the other two planes of the kernel see only zeros.
        return functional.conv2d(x[:, :, 0], self.weight[:, :, -1], self.bias, padding=(top, left))[:, :, None]
    padded = functional.pad(x, (left, right, top, bottom, before, 0))
    return functional.conv3d(padded, self.weight, self.bias, self.stride)
