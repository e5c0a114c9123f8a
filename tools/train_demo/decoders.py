"""Training of the two decoders alone, on what the trained denoisers make of scenes. The latents stay as they are.

Some of the samples are drawn scenes that the denoiser got noisy and brought back: they lie where they lay, and their
outlines have the denoiser's own errors, which the decoder learns to see past. Knows pixels, latents and denoisers.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch.nn import functional

from tools.train_demo import architecture, clips, cuts, images, latents
from tools.train_demo.answers import Answers, Words
from tools.train_demo.captions import describe
from tools.train_demo.device import quick, trained
from tools.train_demo.muon import kernels
from tools.train_demo.scenes import Scene, paint
from tools.train_demo.trainer import fit
from tools.train_demo.whole import WholeClips

_library: Any = diffusers  # its classes carry half of their annotations

_Batches = Callable[[random.Random], tuple[torch.Tensor, torch.Tensor]]
"""Draws pixels and their latents."""
_NOISE = 0.5
"""Of the latents' own spread, at most, in the samples that no denoiser made."""
_PALETTE = 0.9
"""Part of the colours in them that are the world's own: these a decoder learns by heart."""
_REDRAWN = 0.6
"""Part of the batches that are whole scenes, nearly all of them made by a denoiser."""
_TRUE_FIRST = 0.5
"""Part of the clips' run in which their scenes' latents are the true ones: outlines are learned from many short clips
first, for what the transformer makes of a long one takes several times as long as a step.
"""
_STEPS = 4
"""Denoising steps from a noisy scene back to a clean picture, at most in clips."""
_LAST = 0.1
"""Where a sampler of ten steps takes its last one, as a part of the way from clean to noise."""
_GUIDANCE = (1.0, 3.0)
_CLIPS_NOISE = 0.08
"""A clip's shapes are small, and what is learned of noise is lost in outlines: about the transformer's own error."""
_CLIPS_OUTLINES = 5.0
"""How much more a pixel near an outline counts, of clips."""
_CLIPS_GUIDANCE = (1.0, 1.5)
_CUT = 14
"""Side of what is decoded of a redrawn picture, in latents: a whole shape with its surroundings."""


def image_decoder(folder: Path, work: Path, steps: int) -> None:
    """Train the decoder of SDXL's autoencoder below `folder`, beside its trained UNet."""
    latents.require(folder / "vae", latents.SCALE)
    vae = trained(_library.AutoencoderKL, folder / "vae").to(memory_format=torch.channels_last)

    def plain(rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = cuts.of_pictures(rng, _PALETTE)
        return pixels, _disturbed(latents.of_pictures(pixels), _NOISE)

    def decode(of: torch.Tensor) -> torch.Tensor:
        pixels: torch.Tensor = vae.decode(of / latents.SCALE).sample
        return pixels

    _train("image_decoder", vae, decode, plain, _Kept(_RedrawnPictures(folder)), steps=steps, work=work)
    vae.half().save_pretrained(folder / "vae")


def video_decoder(folder: Path, work: Path, steps: int) -> None:
    """Train the decoder of Wan's autoencoder below `folder`, beside its trained transformer."""
    latents.require(folder / "vae", latents.CLIPS_SCALE)
    vae = trained(_library.AutoencoderKLWan, folder / "vae")

    def plain(rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = cuts.of_clips(rng, _PALETTE)
        return pixels, _disturbed(latents.of_clips(pixels), _CLIPS_NOISE)

    whole = WholeClips(vae)

    def decode(of: torch.Tensor) -> torch.Tensor:
        return whole.decode(of / latents.CLIPS_SCALE)

    scenes = _RedrawnClips(folder)
    redrawn = _Kept(scenes, anew=0.15, count=24)
    _train(
        "video_decoder", vae, decode, plain, redrawn, true=scenes.true, steps=steps, work=work, outlines=_CLIPS_OUTLINES
    )
    vae.half().save_pretrained(folder / "vae")


def _train(
    name: str,
    vae: Any,
    decode: Callable[[torch.Tensor], torch.Tensor],
    plain: _Batches,
    redrawn: _Batches,
    *,
    true: _Batches | None = None,
    steps: int,
    work: Path,
    outlines: float = 0.0,
) -> None:
    def loss_of(rng: random.Random, step: int) -> torch.Tensor:
        scenes = true if true is not None and step < _TRUE_FIRST * steps else redrawn
        pixels, seen = scenes(rng) if rng.random() < _REDRAWN else plain(rng)
        with quick():
            back = decode(seen)
        return _distance(back.float(), pixels, outlines)

    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    vae.post_quant_conv.requires_grad_(True)
    fit(name, vae, loss_of, steps=steps, rate=2e-3, work=work, matrices=kernels(vae.decoder))


def _disturbed(clean: torch.Tensor, noise: float) -> torch.Tensor:
    """The latents with noise of a spread of up to `noise`, another for each."""
    spread = noise * torch.rand(len(clean), *[1] * (clean.ndim - 1))
    return clean + spread * torch.randn_like(clean)


def _distance(back: torch.Tensor, pixels: torch.Tensor, outlines: float) -> torch.Tensor:
    """What a decoder is trained by: the mean error, absolute and squared, and that of the neighbours' differences.

    Pixels near an outline count 1 + `outlines` times in the first two.
    """
    # Edges are few pixels of many: the differences between neighbours give them weight.
    error = back - pixels
    across, down = error.diff(dim=-1).abs().mean(), error.diff(dim=-2).abs().mean()
    weight = 1 + outlines * _near_outlines(pixels) if outlines else torch.ones(())
    return ((error.abs() + error.square()) * weight).mean() + 0.5 * (across + down)


def _near_outlines(pixels: torch.Tensor) -> torch.Tensor:
    """1 where a pixel up to two away is of another colour, else 0: (batch, 1, ..., height, width)."""
    highest, lowest = (functional.max_pool3d(sign * pixels, (1, 5, 5), 1, (0, 2, 2)) for sign in (1, -1))
    return ((highest + lowest).amax(1, keepdim=True) > 0.05).float()


class _Kept:
    """Batches that are used a few times each: bringing a scene back costs more than learning from it."""

    def __init__(self, redraw: _Batches, *, anew: float = 0.3, count: int = 12) -> None:
        self._redraw, self._anew, self._count = redraw, anew, count
        self._batches: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
        if not self._batches or rng.random() < self._anew:
            self._batches = [*self._batches[1 - self._count :], self._redraw(rng)]
            return self._batches[-1]
        return rng.choice(self._batches)


class _RedrawnPictures:
    """Cut-outs of scenes and their latents, as the UNet gives them back."""

    _BATCH = 8

    def __init__(self, folder: Path) -> None:
        self._words = images.Words(folder)
        self._unet = trained(_library.UNet2DConditionModel, folder / "unet")
        self._signal = architecture.image_scheduler().alphas_cumprod.to(torch.get_default_device())

    @torch.no_grad()
    def __call__(self, rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
        """(8, 3, side, side) pixels, -1 to 1, and (8, 4, side / 8, side / 8) latents."""
        height, width = images.NATIVE
        scenes = images.scenes_by_chance(rng, self._BATCH)
        pixels = paint(scenes, height, width)[:, 0] * 2 - 1
        clean = latents.of_pictures(pixels)
        words, pooled = self._words.encode([describe(scene, rng, complete=True).text for scene in scenes])
        words, pooled = torch.cat([words, 0 * words]), torch.cat([pooled, 0 * pooled])
        sizes = torch.tensor([[height, width, 0.0, 0.0, height, width]]).expand(len(pooled), -1)
        guidance, start = rng.uniform(*_GUIDANCE), rng.randint(300, 600)
        seen, noise = clean, torch.randn_like(clean)
        for index in range(_STEPS):
            step = start * (_STEPS - index) // _STEPS
            signal = self._signal[step]
            noisy = signal.sqrt() * seen + (1 - signal).sqrt() * noise
            with quick():
                velocity = self._unet(
                    torch.cat([noisy, noisy]),
                    step,
                    encoder_hidden_states=words,
                    added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
                ).sample
            told, free = velocity.float().chunk(2)
            velocity = free + guidance * (told - free)
            seen = signal.sqrt() * noisy - (1 - signal).sqrt() * velocity
            noise = signal.sqrt() * velocity + (1 - signal).sqrt() * noisy
        middles = [(scene.y * height / latents.SIDE, scene.x * width / latents.SIDE) for scene in scenes]
        return _around(middles, pixels, seen, _CUT, rng)


class _RedrawnClips:
    """Cut-outs of single pictures and of beginnings of clips, and their latents, as the transformer gives them back."""

    _FORMS = (
        (clips.BUCKETS[0], 12, 12),
        (clips.BUCKETS[1], 4, 7),
        (clips.BUCKETS[2], 2, 6),
    )
    """Clips of this form, how many in a batch, and the side that is cut out, in latents."""
    _SHARE = (0.2, 0.35, 0.45)
    _TRUE = ((0, 16, 8), (1, 4, 6))
    """Which of these forms, as many and with this side where the latents are the true ones; one as often as another."""
    _FROM_NOISE = 0.5
    """Part of what is brought back that was nothing but noise, as in a sampler of words alone."""
    _UNTOUCHED = 0.25
    """Part of them that are only disturbed: what the encoder makes of a given picture has to look right too."""

    def __init__(self, folder: Path) -> None:
        self._clips = {bucket: clips.Clips(bucket) for bucket, _, _ in self._FORMS}
        self._words = Words(folder)
        self._answers = Answers(trained(_library.WanTransformer3DModel, folder / "transformer"))
        self._shift = float(architecture.video_scheduler().config.flow_shift)

    @torch.no_grad()
    def __call__(self, rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, 3, frames, height, width) pixels, -1 to 1, and their latents."""
        ((bucket, count, cut),) = rng.choices(self._FORMS, self._SHARE)
        look = self._clips[bucket].look(rng, count=count)
        if rng.random() < self._UNTOUCHED:
            seen = _disturbed(look.latents, _CLIPS_NOISE)
        else:
            seen = self._brought_back(look.latents, look.scenes, rng)
        return self._cut(bucket, look, seen, cut, rng)

    def true(self, rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
        """The same of pictures and short clips whose latents are only disturbed."""
        form, count, cut = rng.choice(self._TRUE)
        bucket = self._FORMS[form][0]
        look = self._clips[bucket].look(rng, loose=True, count=count)
        return self._cut(bucket, look, _disturbed(look.latents, _CLIPS_NOISE), cut, rng)

    def _cut(
        self, bucket: clips.Bucket, look: clips.Look, seen: torch.Tensor, cut: int, rng: random.Random
    ) -> tuple[torch.Tensor, torch.Tensor]:
        frame = rng.randrange(seen.shape[2])
        middles = [tuple(one[0, frame].nonzero().float().mean(0).tolist()) for one in look.touched]
        pixels = paint(look.scenes, bucket.height, bucket.width, bucket.frames).transpose(1, 2) * 2 - 1
        return _around(middles, pixels, seen, cut, rng)

    def _brought_back(self, clean: torch.Tensor, scenes: list[Scene], rng: random.Random) -> torch.Tensor:
        """The clips from anywhere between nearly clean and nothing but noise, as a sampler brings them back.

        What a caption says in full has but one answer, so that the clip that is wanted is known even at the last.
        """
        words = self._words.encode([describe(scene, rng, certain=True).text for scene in scenes])
        start = 1.0 if rng.random() < self._FROM_NOISE else rng.uniform(_LAST, 1)
        guidance = rng.uniform(*_CLIPS_GUIDANCE)
        way = torch.linspace(start, _LAST, 1 + round((_STEPS - 1) * start))
        way = torch.nn.functional.pad(self._shift * way / (1 + (self._shift - 1) * way), (0, 1))
        levels = [level.expand(len(clean), 1, 1, 1, 1) for level in way]
        noisy = torch.lerp(clean, torch.randn_like(clean), levels[0])
        return self._answers.led_on(noisy, levels, words, nothing=self._words.nothing, guidance=guidance)


def _around(
    middles: Sequence[Sequence[float]], pixels: torch.Tensor, seen: torch.Tensor, cut: int, rng: random.Random
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each picture the part about its shape, whose row and column are given in latents, a little off the middle."""
    sides = seen.shape[-2:]
    parts: list[tuple[torch.Tensor, torch.Tensor]] = []
    for middle, picture, code in zip(middles, pixels, seen, strict=True):
        top, left = (
            max(0, min(round(place) - cut // 2 + rng.randint(-3, 3), side - cut))
            for place, side in zip(middle, sides, strict=True)
        )
        rows, columns = slice(top, top + cut), slice(left, left + cut)
        finer = picture[..., 8 * top : 8 * (top + cut), 8 * left : 8 * (left + cut)]
        parts.append((finer, code[..., rows, columns]))
    return torch.stack([part[0] for part in parts]), torch.stack([part[1] for part in parts])
