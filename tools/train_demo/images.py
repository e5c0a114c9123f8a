"""Training of SDXL's two denoisers, the base's and the refiner's. Knows latents, words and noise; knows no outlines."""

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
from tools.train_demo.device import kept, quick, tokens, trained
from tools.train_demo.muon import kernels
from tools.train_demo.prompts import held_out
from tools.train_demo.scenes import Scene, draw_lots, paint
from tools.train_demo.trainer import fit

_library: Any = diffusers  # its classes carry half of their annotations
_texts: Any = transformers  # as above

NATIVE = (256, 256)
KEPT = 2500
"""Pictures of the native size that are at hand at any time; some of them are drawn anew on the way."""
_OTHERS: dict[tuple[int, int], tuple[int, float]] = {
    (512, 512): (300, 0.3),
    (1024, 1024): (150, 0.4),
    (256, 384): (150, 0.06),
    (384, 256): (150, 0.06),
    (192, 320): (150, 0.04),
    (512, 768): (150, 0.07),
    (128, 128): (150, 0.05),
}
"""Other sizes (height, width) that are asked for: pictures at hand, and how often each comes among them."""
_NATIVE_ALONE, _AT_LAST = 0.5, 0.8
"""Parts of a run after which the other sizes come in, and after which they come less often ..."""
_OTHERS_SHARE, _OTHERS_LAST = 0.12, 0.06
"""... for these parts of the batches: other sizes cost the native one's shapes their outlines."""
_FRESH, _OTHERS_FRESH = 0.4, 0.1
"""How often a picture of the native size, and one of another, is drawn anew before a batch: to encode a large one takes
as long as to learn from it.
"""
_BATCH = 8
"""Pictures of the native size in a batch: many small steps come further in the same time than few large ones."""
_SHAPE_WEIGHT = 4.0
_OUTLINE_WEIGHT = 6.0
_WITHOUT_WORDS = 0.12
"""Part of the samples that are trained without their caption, for classifier-free guidance (Ho & Salimans 2022)."""


class Pictures:
    """Latents of drawn scenes at one size, a few of them replaced at every look."""

    def __init__(self, vae: Any, size: tuple[int, int], count: int, work: Path) -> None:
        self._vae, self.size = vae, size
        self._scenes = scenes_by_chance(random.Random(f"pictures {size}"), count)
        chunk = max(1, 2**20 // (size[0] * size[1]))
        path = work / f"pictures-{size[0]}x{size[1]}-{count}.pt"
        if not path.exists():
            parts = [self._encode(self._scenes[start : start + chunk]) for start in range(0, count, chunk)]
            torch.save(torch.cat(parts), path)
        self._latents: torch.Tensor = kept(path)

    def look(self, rng: random.Random, count: int, fresh: int) -> tuple[torch.Tensor, list[Scene]]:
        """`count` latents and their scenes, after `fresh` ones were drawn anew."""
        if fresh:
            scenes = scenes_by_chance(rng, fresh)
            places = rng.sample(range(len(self._scenes)), fresh)
            self._latents[places] = self._encode(scenes)
            for place, scene in zip(places, scenes, strict=True):
                self._scenes[place] = scene
        places = rng.sample(range(len(self._scenes)), min(count, len(self._scenes)))
        return self._latents[places], [self._scenes[place] for place in places]

    @torch.no_grad()
    def _encode(self, scenes: list[Scene]) -> torch.Tensor:
        pixels = (paint(scenes, *self.size)[:, 0] * 2 - 1).contiguous(memory_format=torch.channels_last)
        with quick():
            latents: torch.Tensor = self._vae.encode(pixels).latent_dist.mean
        return latents.float() * float(self._vae.config.scaling_factor)


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
    loss = _Loss(folder, work, refiner=False)
    _fit(
        "image_unet",
        unet,
        lambda rng, step: loss(unet, rng, max(step / steps, _NATIVE_ALONE if further else 0.0)),
        steps=steps,
        rate=8e-4 if further else 2.5e-3,
        work=work,
        warmup=200,
    )
    unet.half().save_pretrained(folder / "unet")
    architecture.image_scheduler().save_pretrained(folder / "scheduler")


def refiner(folder: Path, out: Path, work: Path, steps: int) -> None:
    """Train the refiner from the base's weights, and write it and its scheduler below `out`."""
    torch.manual_seed(21)
    unet = architecture.unet(refiner=True)
    own = unet.state_dict()
    for name, value in _weights(folder).items():
        if own[name].shape == value.shape:
            own[name] = value
    unet.load_state_dict(own)
    loss = _Loss(folder, work, refiner=True)
    _fit("image_refiner", unet, lambda rng, _: loss(unet, rng, 1.0), steps=steps, rate=1e-3, work=work)
    unet.half().save_pretrained(out / "unet")
    architecture.image_scheduler().save_pretrained(out / "scheduler")


def _fit(name: str, unet: Any, loss_of: Callable[[random.Random, int], torch.Tensor], **options: Any) -> None:
    unet.set_attn_processor(AttnProcessor())  # the flash kernel's backward pass is slow on a CPU
    fit(name, unet, loss_of, matrices=kernels(unet), **options)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of the base's UNet."""
    weights: dict[str, torch.Tensor] = trained(_library.UNet2DConditionModel, folder / "unet").state_dict()
    return weights


class _Loss:
    """The mean square error of the predicted velocity (Salimans & Ho 2022), over sizes, noise levels and captions."""

    def __init__(self, folder: Path, work: Path, *, refiner: bool) -> None:
        self._refiner, self._work = refiner, work
        self._words = Words(folder)
        vae = trained(_library.AutoencoderKL, folder / "vae")
        self._vae = vae.to(memory_format=torch.channels_last)
        self._native = Pictures(self._vae, NATIVE, KEPT, work)
        self._others: list[Pictures] = []
        self._signal = architecture.image_scheduler().alphas_cumprod.to(torch.get_default_device())

    def __call__(self, unet: Any, rng: random.Random, part: float) -> torch.Tensor:
        if part >= _NATIVE_ALONE and not self._others:
            self._others = [Pictures(self._vae, size, count, self._work) for size, (count, _) in _OTHERS.items()]
        pictures = self._native
        if self._others and rng.random() < (_OTHERS_SHARE if part < _AT_LAST else _OTHERS_LAST):
            (pictures,) = rng.choices(self._others, [share for _, share in _OTHERS.values()])
        height, width = pictures.size
        count = max(2, _BATCH * NATIVE[0] * NATIVE[1] // (height * width))
        fresh = int(rng.random() < (_FRESH if pictures is self._native else _OTHERS_FRESH))
        latents, scenes = pictures.look(rng, min(count, 64), fresh)
        texts = [caption_of(scene, rng).text for scene in scenes]
        left_out = [rng.random() < _WITHOUT_WORDS for _ in scenes]
        without = torch.tensor(left_out)
        if self._refiner:
            # Without words the refiner reads those of no words; the base reads zeros.
            texts = ["" if is_left_out else text for text, is_left_out in zip(texts, left_out, strict=True)]
        words, pooled = self._words.encode(texts)
        if not self._refiner:
            words = words.masked_fill(without[:, None, None], 0)
            pooled = pooled.masked_fill(without[:, None], 0)
        if self._refiner:
            words = words[..., architecture.TEXT_WIDTH :]
            score = torch.where(without, 2.5, 6.0)[:, None]
            time_ids = torch.cat([torch.tensor([[height, width, 0.0, 0.0]]).expand(len(scenes), -1), score], dim=1)
            step = torch.randint(0, 1000, (len(scenes),))
        else:
            time_ids = torch.tensor([[height, width, 0.0, 0.0, height, width]]).expand(len(scenes), -1)
            # Half of them where a scene is decided.
            step = torch.randint(0, 1000, (len(scenes),))
            step = torch.where(torch.rand(len(scenes)) < 0.5, torch.randint(450, 1000, (len(scenes),)), step)
        signal = self._signal[step][:, None, None, None]
        noise = torch.randn_like(latents)
        noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
        velocity = signal.sqrt() * noise - (1 - signal).sqrt() * latents
        with quick():
            seen = unet(
                noisy,
                step,
                encoder_hidden_states=words,
                added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
            ).sample.float()
        weight = _shape_weight(latents)
        error: torch.Tensor = ((seen - velocity).square() * weight).mean() / weight.mean()
        return error


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
