"""Training of SDXL's two denoisers, the base's and the refiner's. Knows latents, words and noise; knows no outlines."""

import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.models.attention_processor import AttnProcessor

from tools.train_demo import architecture
from tools.train_demo.captions import Caption, describe, say
from tools.train_demo.device import quick, tokens, trained
from tools.train_demo.latents import SCALE, SIDE, of_pictures, require
from tools.train_demo.muon import kernels
from tools.train_demo.prompts import held_out
from tools.train_demo.scenes import Scene, cover, draw_lots, in_play, paint
from tools.train_demo.trainer import fit

_library: Any = diffusers  # its classes carry half of their annotations
_texts: Any = transformers  # as above

NATIVE = (256, 256)
_OTHERS: dict[tuple[int, int], float] = {
    (512, 512): 0.15,
    (1024, 1024): 0.1,
    (256, 384): 0.16,
    (384, 256): 0.16,
    (208, 304): 0.1,
    (304, 208): 0.1,
    (192, 320): 0.06,
    (320, 192): 0.06,
    (512, 768): 0.06,
    (128, 128): 0.05,
}
"""Other sizes (height, width) that are asked for, and how often each comes among them."""
_NATIVE_ALONE = 0.5
"""The part of the base's run after which the other sizes come in ..."""
_OTHERS_SHARE = 0.08
"""... for this part of the batches: other sizes cost the native one's shapes their outlines."""
_SIZES_SHARE = 0.5
"""And this is their part when the base, which knows its native size well, is trained for them."""
_LITTLE_NOISE = 600
"""Steps below this show what is noisy. Only there shapes lie loosely, as those of given pictures may: what comes out of
nothing but noise is to be exact. And only there the sizes are seen that are drawn at the native size first.
"""
_LOOSE = 0.4
"""Part of the pictures there whose shapes lie loosely."""
_SHOWN_WELL = 300
"""Steps below this show a picture as it is ..."""
_MISTOLD = 0.1
"""... whatever the words say: this part of them have another picture's caption there. With its own alone, a UNet takes
a given picture's background for noise where the prompt names another, however little it is to be changed.
"""
_REFINED = 750
"""The refiner sees steps below this: it takes over when half of the way is gone, or later."""
_BATCH = 8
"""Pictures of the native size in a batch: many small steps come further in the same time than few large ones."""
_SHAPE_WEIGHT = 4.0
_OUTLINE_WEIGHT = 6.0
_PROBED = (8, 4, 2)
"""Latents to a side of what the UNet is asked about at each place of its lowest levels."""
_WITHOUT_WORDS = 0.12
"""Part of the samples that are trained without their caption, for classifier-free guidance (Ho & Salimans 2022)."""


class Words:
    """SDXL's two text encoders, as its pipelines use them: both's tokens, and the second one's pooled embedding."""

    def __init__(self, folder: Path) -> None:
        self._tokenizers = [
            _texts.CLIPTokenizer.from_pretrained(folder / name) for name in ("tokenizer", "tokenizer_2")
        ]
        first, second = _texts.CLIPTextModel, _texts.CLIPTextModelWithProjection
        self._first = trained(first, folder / "text_encoder")
        self._second = trained(second, folder / "text_encoder_2")

    @torch.no_grad()
    def encode(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """(texts, 77, both widths) and (texts, CODE)."""
        ids = [
            tokens(tokenizer, texts, padding="max_length", max_length=77)["input_ids"] for tokenizer in self._tokenizers
        ]
        first = self._first(ids[0], output_hidden_states=True)
        second = self._second(ids[1], output_hidden_states=True)
        return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds


def base(folder: Path, work: Path, steps: int, *, further: bool = False) -> None:
    """Train the base UNet, with `further` from the weights in `folder`, and write it and its scheduler there."""
    torch.manual_seed(20)
    unet = architecture.unet(refiner=False)
    if further:
        unet.load_state_dict(_weights(folder))
    # A UNet that knows its places is not asked: new probes would upset it.
    probes = None if further else _Probes(unet)
    loss = _Loss(folder, unet, refiner=False, probes=probes)
    _fit(
        "image_unet",
        torch.nn.ModuleDict({"unet": unet} | ({"probes": probes} if probes else {})),
        lambda rng, step: loss(rng, _OTHERS_SHARE if further or step / steps >= _NATIVE_ALONE else 0.0),
        steps=steps,
        rate=8e-4 if further else 2.5e-3,
        work=work,
        warmup=200,
    )
    unet.half().save_pretrained(folder / "unet")
    architecture.image_scheduler().save_pretrained(folder / "scheduler")


def sizes(folder: Path, work: Path, steps: int) -> None:
    """Train the base's UNet in `folder` further, half of the batches in other sizes, and write it there."""
    torch.manual_seed(22)
    unet = architecture.unet(refiner=False)
    unet.load_state_dict(_weights(folder))
    loss = _Loss(folder, unet, refiner=False)
    model = torch.nn.ModuleDict({"unet": unet})
    _fit("image_sizes", model, lambda rng, _: loss(rng, _SIZES_SHARE), steps=steps, rate=8e-4, work=work)
    unet.half().save_pretrained(folder / "unet")


def refiner(folder: Path, out: Path, work: Path, steps: int) -> None:
    """Train the refiner from the base's weights, and write it and its scheduler below `out`."""
    torch.manual_seed(21)
    unet = architecture.unet(refiner=True)
    own = unet.state_dict()
    for name, value in _weights(folder).items():
        if own[name].shape == value.shape:
            own[name] = value
    unet.load_state_dict(own)
    loss = _Loss(folder, unet, refiner=True)
    model = torch.nn.ModuleDict({"unet": unet})
    _fit("image_refiner", model, lambda rng, _: loss(rng, _OTHERS_SHARE), steps=steps, rate=1e-3, work=work)
    unet.half().save_pretrained(out / "unet")
    architecture.image_scheduler().save_pretrained(out / "scheduler")


def _fit(name: str, model: Any, loss_of: Callable[[random.Random, int], torch.Tensor], **options: Any) -> None:
    model["unet"].set_attn_processor(AttnProcessor())  # the flash kernel's backward pass is slow on a CPU
    fit(name, model, loss_of, matrices=kernels(model["unet"]), **options)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of the base's UNet, to go on from; raises ValueError where it was trained for other latents."""
    require(folder / "vae", SCALE)
    weights: dict[str, torch.Tensor] = trained(_library.UNet2DConditionModel, folder / "unet").state_dict()
    return weights


class _Probes(torch.nn.Module):
    """What a UNet is asked in training alone, on its way up: how much of each latent the shape covers.

    The first is asked of its lowest level, of 64 latents at each place. What a caption says has to be made a shape in
    its place there; with the error of the picture alone, which comes down to there through all that is above, places
    take far longer to learn.
    """

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self._hidden: dict[int, torch.Tensor] = {}
        self.layers = torch.nn.ModuleList()
        widths = [*reversed(unet.config.block_out_channels)]
        # The middle is as wide as the first block above it; only the lowest blocks are asked.
        levels = zip((unet.mid_block, *unet.up_blocks), (widths[0], *widths), _PROBED, strict=False)
        for index, (block, width, side) in enumerate(levels):
            self.layers.append(torch.nn.Conv2d(width, side * side, 1))
            block.register_forward_hook(functools.partial(self._keep, index))

    def _keep(self, index: int, _module: Any, _arguments: Any, output: torch.Tensor) -> None:
        self._hidden[index] = output

    def forward(self, covered: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The mean square error about the cover, (batch, 1, height, width), in what the UNet said last."""
        height, width = covered.shape[-2:]
        # Halved sides are rounded up, so that a place at the end of the lowest levels may reach beyond the picture.
        answers = [
            torch.nn.functional.pixel_shuffle(layer(self._hidden[index].float()), side)[..., :height, :width]
            for index, (layer, side) in enumerate(zip(self.layers, _PROBED, strict=True))
        ]
        return torch.stack([((answer - covered).square() * weight).mean() for answer in answers]).sum() / weight.mean()


class _Loss:
    """The mean square error of the predicted velocity (Salimans & Ho 2022), over sizes, noise levels and captions."""

    def __init__(self, folder: Path, unet: Any, *, refiner: bool, probes: _Probes | None = None) -> None:
        self._unet, self._refiner, self._probes = unet, refiner, probes
        self._words = Words(folder)
        self._signal = architecture.image_scheduler().alphas_cumprod.to(torch.get_default_device())

    def __call__(self, rng: random.Random, others: float) -> torch.Tensor:
        height, width = NATIVE
        if rng.random() < others:
            ((height, width),) = rng.choices([*_OTHERS], [*_OTHERS.values()])
        times = height * width / (NATIVE[0] * NATIVE[1])
        count = max(2, min(64, round(_BATCH / times)))
        steps = [self._step(rng, drafted=times > 2) for _ in range(count)]
        scenes = [
            in_play(scene, rng) if step < _LITTLE_NOISE and rng.random() < _LOOSE else scene
            for step, scene in zip(steps, scenes_by_chance(rng, count), strict=True)
        ]
        pixels = paint(scenes, height, width)[:, 0] * 2 - 1
        latents = of_pictures(pixels)
        told = [
            scenes_by_chance(rng, 1)[0] if step < _SHOWN_WELL and rng.random() < _MISTOLD else scene
            for step, scene in zip(steps, scenes, strict=True)
        ]
        texts = [caption_of(scene, rng).text for scene in told]
        left_out = [rng.random() < _WITHOUT_WORDS for _ in scenes]
        without = torch.tensor(left_out)
        if self._refiner:
            # Without words the refiner reads those of no words; the base reads zeros.
            texts = ["" if is_left_out else text for text, is_left_out in zip(texts, left_out, strict=True)]
        words, pooled = self._words.encode(texts)
        if self._refiner:
            words = words[..., architecture.TEXT_WIDTH :]
            score = torch.where(without, 2.5, 6.0)[:, None]
            time_ids = torch.cat([torch.tensor([[height, width, 0.0, 0.0]]).expand(count, -1), score], dim=1)
        else:
            words = words.masked_fill(without[:, None, None], 0)
            pooled = pooled.masked_fill(without[:, None], 0)
            time_ids = torch.tensor([[height, width, 0.0, 0.0, height, width]]).expand(count, -1)
        level = torch.tensor(steps)
        signal = self._signal[level][:, None, None, None]
        noise = torch.randn_like(latents)
        noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
        velocity = signal.sqrt() * noise - (1 - signal).sqrt() * latents
        with quick():
            seen = self._unet(
                noisy,
                level,
                encoder_hidden_states=words,
                added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
            ).sample.float()
        weight = _shape_weight(latents)
        error: torch.Tensor = ((seen - velocity).square() * weight).mean() / weight.mean()
        if self._probes is not None:
            error = error + self._probes(torch.nn.functional.avg_pool2d(cover(pixels), SIDE), weight)
        return error

    def _step(self, rng: random.Random, *, drafted: bool) -> int:
        """A noise level; of the base's, half are where a scene is decided."""
        if drafted:
            return rng.randrange(_LITTLE_NOISE)
        if self._refiner:
            return rng.randrange(_REFINED)
        return rng.randrange(450, 1000) if rng.random() < 0.5 else rng.randrange(1000)


def _shape_weight(latents: torch.Tensor) -> torch.Tensor:
    """(batch, 1, height, width): more where a shape is, by how far the latents are from the background's.

    A shape is a tenth of a picture: unweighted, a denoiser learns backgrounds first and shapes long after. And most of
    it is the same for every shape: what tells a star from a circle is its outline, which weighs most.
    """
    ground = latents.flatten(-2).median(-1).values[..., None, None]
    inside = ((latents - ground).abs().sum(1, keepdim=True) > 1).float()
    grown = torch.nn.functional.max_pool2d(inside, 3, 1, 1)
    shrunk = -torch.nn.functional.max_pool2d(-inside, 3, 1, 1)
    return 1 + _SHAPE_WEIGHT * inside + _OUTLINE_WEIGHT * (grown - shrunk)


def caption_of(scene: Scene, rng: random.Random, certain: float = 0.3) -> Caption:
    """A caption to train a denoiser on: this part of them leave nothing to chance."""
    return describe(scene, rng, certain=True) if rng.random() < certain else say(scene, rng)


def scenes_by_chance(rng: random.Random, count: int, *, moving: bool = False) -> list[Scene]:
    """Scenes that are not held out."""
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = draw_lots(rng, moving=moving)
        if not held_out(scene):
            scenes.append(scene)
    return scenes
