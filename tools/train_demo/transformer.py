"""Training of Wan's transformer. Knows video latents, words and noise; knows no outlines."""

import functools
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch

from tools.train_demo import architecture
from tools.train_demo.answers import Answers, Words, by_frame
from tools.train_demo.captions import ATTRIBUTES, Caption
from tools.train_demo.clips import (
    BUCKETS,
    CELLS,
    MOVING_MOST,
    PARTS,
    TURNING_HALF,
    TURNING_MOST,
    Bucket,
    Clips,
    Look,
)
from tools.train_demo.device import kept, trained
from tools.train_demo.images import caption_of
from tools.train_demo.latents import CLIPS_SCALE, CLIPS_SPREAD, FRAMES, require
from tools.train_demo.muon import kernels
from tools.train_demo.texts import CODE_SCALE, codes_of
from tools.train_demo.tokens import borders, by_token, places
from tools.train_demo.trainer import fit

_library: Any = diffusers  # its classes carry half of their annotations

_UNTOLD = Caption("", dict.fromkeys(ATTRIBUTES))
_BORDER_AFTER, _SAID_AFTER, _PLACE_AFTER, _COVER_AFTER = 0, 1, 2, 4
"""Blocks of the transformer after which each token is asked, in training alone, which borders it lies on, what the
caption says, where it is, and how much of its cells the shape covers.
"""
_CERTAIN = 0.6
"""Part of the captions that leave nothing to chance."""
_WITHOUT_WORDS = 0.1
_OWN_ANSWERS = (0.1, 0.25, 0.5)
"""Part of the batches, in each part of the run, whose noisy clips come out of the transformer's own answers."""
_OWN_STEPS = (1, 1, 2, 3)
"""How many of its answers such a clip went through; one of these."""
_OWN_GUIDANCE = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.5, 2.0)
_FIRST_FRAME_GIVEN = 0.25
"""Part of the batches of clips that are trained to go on from a given picture."""
_TAKEN = 7
"""Latents that are taken of a longer clip: what it costs is mostly the attention of every token to every other ..."""
_WHOLE = 0.2
"""... but for this part of the batches, which have all of them."""
_ON_ITS_WAY = 13
"""Latents before this show a moving shape on its way across; after them it rests."""
_ON_ITS_WAY_ALONE = 0.6
"""Part of the longer clips of which only those are taken and the last, where moving is what is trained."""
_SHIFT = 4.0
"""Noise levels are drawn as a sampler with this shift takes them ..."""
_NOTHING_BUT_NOISE = 0.2
"""... but for this part of the clips, which are to be told from their caption alone. With any less noise a background
shines through, and what the transformer has said of it wrongly once is taken for granted.
"""
_SHAPE_WEIGHT = 16.0
"""How much more a token counts that has some of a shape in it, for a shape has a tenth of them."""
_COVER_WEIGHT = 1.0
"""How much a token's error about the shape's cover counts beside that of the clip."""
_CLEAN_WEIGHT = 0.1
"""An error at noise level s counts 1 / (s^2 + this): in the flow's own terms, but for the last, nearly clean levels."""


def heed_words(network: Any) -> None:
    """Let a transformer that is not trained yet look at the words instead of at what they are padded with.

    At random weights hundreds of rows of padding drown ten words in the cross-attention. So the padding's embedding
    begins at zero, and what is left of it in the keys, the bias, points away from the queries' bias along one direction
    of each head.
    """
    embedder = network.condition_embedder.text_embedder
    with torch.no_grad():
        embedder.linear_1.bias.zero_()
        embedder.linear_2.bias.zero_()
        for block in network.blocks:
            attention = block.attn2
            along = torch.zeros(attention.to_q.out_features)
            along[:: network.config.attention_head_dim] = 1
            attention.to_q.bias.copy_(2 * along)
            attention.to_k.bias.copy_(-0.1 * along)
            attention.norm_q.weight.add_(along)
            attention.norm_k.weight.add_(along)


def transformer(folder: Path, work: Path, steps: int, *, further: bool = False) -> None:
    """Train Wan's transformer, with `further` from the weights in `folder`, and write it and its scheduler there."""
    torch.manual_seed(30)
    network = architecture.video_transformer()
    heed_words(network)
    if further:
        network.load_state_dict(_weights(folder))
    _fit("video_transformer", folder, work, network, steps, rate=9e-4 if further else 1.5e-3, begun=further)


def motion(folder: Path, work: Path, steps: int) -> None:
    """Train Wan's transformer in `folder` further, mostly on shapes that move or turn, and write it there.

    By then still and growing shapes are nearly right, and so are moving ones that have come to rest; on their way they
    are torn.
    """
    _go_on("video_motion", folder, work, steps, seed=31, rate=7e-4, often=MOVING_MOST, after="video_transformer")


def turning(folder: Path, work: Path, steps: int) -> None:
    """Train Wan's transformer in `folder` further once more, half of it on shapes that turn, and write it there.

    By then all other motions are right; turning squares and triangles are too round between two upright outlines.
    """
    _go_on("video_turning", folder, work, steps, seed=32, rate=6e-4, often=TURNING_HALF, after="video_motion")


def _go_on(
    name: str, folder: Path, work: Path, steps: int, *, seed: int, rate: float, often: Mapping[str, float], after: str
) -> None:
    torch.manual_seed(seed)
    network = architecture.video_transformer()
    network.load_state_dict(_weights(folder))
    _fit(name, folder, work, network, steps, rate=rate, begun=True, often=often, after=after)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """The transformer's weights, to go on from; raises ValueError where it was trained for other latents."""
    require(folder / "vae", CLIPS_SCALE)
    weights: dict[str, torch.Tensor] = trained(_library.WanTransformer3DModel, folder / "transformer").state_dict()
    return weights


def _fit(
    name: str,
    folder: Path,
    work: Path,
    network: Any,
    steps: int,
    *,
    rate: float,
    begun: bool,
    often: Mapping[str, float] = TURNING_MOST,
    after: str | None = None,
) -> None:
    model = torch.nn.ModuleDict(
        {
            "transformer": network,
            # Rotary positions are relative: nothing tells a token where the picture ends. Being asked for its place, in
            # training only, it learns to find out; and first, which is the harder part, whether it lies on a border.
            "border": torch.nn.Linear(_width(), borders(1, 1, 1).shape[-1]),
            "place": torch.nn.Linear(_width(), places([0], 1, 1).shape[-1]),
            # In the same way it is asked what the caption says: every token has to fetch all of it from the words.
            "said": torch.nn.Linear(_width(), architecture.CODE),
            # And last, where the shape is, whatever its colour.
            "cover": torch.nn.Linear(_width(), FRAMES * CELLS * CELLS),
        }
    )
    if after and (before := work / f"{after}.done").exists():
        asked = {name: value for name, value in kept(before).items() if not name.startswith("transformer.")}
        model.load_state_dict(asked, strict=False)  # what was asked before is asked in the same way
    loss = _Loss(folder, model, often, moving=after is not None)
    fit(
        name,
        model,
        lambda rng, step: loss(rng, max(step / steps, PARTS[1] if begun else 0.0)),
        steps=steps,
        rate=rate,
        work=work,
        warmup=200,
        matrices=kernels(network.blocks),
    )
    network.half().save_pretrained(folder / "transformer")
    architecture.video_scheduler().save_pretrained(folder / "scheduler")


class _Loss:
    """The mean square error of the predicted clip, over forms, noise levels and captions.

    The transformer predicts what is clean instead of the flow towards it (Li & He 2025, arXiv:2511.13720), which is the
    scheduler's `sample`: a narrow network need not carry a token's noise through all of its layers.
    """

    def __init__(
        self, folder: Path, model: Any, often: Mapping[str, float] = TURNING_MOST, *, moving: bool = False
    ) -> None:
        self._often, self._moving = often, moving
        self._words = Words(folder)
        self._clips: dict[Bucket, Clips] = {}
        self._answers = Answers(model["transformer"])
        self._probes = {name: probe for name, probe in model.items() if name != "transformer"}
        self._hidden: dict[int, torch.Tensor] = {}
        for index in (_BORDER_AFTER, _SAID_AFTER, _PLACE_AFTER, _COVER_AFTER):
            model["transformer"].blocks[index].register_forward_hook(functools.partial(self._keep, index))

    def _keep(self, index: int, _module: Any, _arguments: Any, output: torch.Tensor) -> None:
        self._hidden[index] = output

    def __call__(self, rng: random.Random, part: float) -> torch.Tensor:
        stage = sum(part >= start for start in PARTS)
        bucket = rng.choices(BUCKETS, [bucket.share[stage] for bucket in BUCKETS])[0]
        if bucket not in self._clips:
            self._clips[bucket] = Clips(bucket, self._often)
        taken = _TAKEN if bucket.frames > 4 * _TAKEN and rng.random() > _WHOLE else None
        given = bucket.frames > 1 and rng.random() < _FIRST_FRAME_GIVEN
        before = _ON_ITS_WAY if taken and self._moving and rng.random() < _ON_ITS_WAY_ALONE else None
        seen = self._clips[bucket].look(rng, loose=given, taken=taken, before=before)
        latents = seen.latents
        own = rng.random() < _OWN_ANSWERS[stage]
        captions = [
            _UNTOLD if not own and rng.random() < _WITHOUT_WORDS else caption_of(scene, rng, 1 if own else _CERTAIN)
            for scene in seen.scenes
        ]
        words = self._words.encode([caption.text for caption in captions])
        count, _, frames, height, width = latents.shape
        rows, columns = height // 2, width // 2
        level = torch.rand(count)
        level = _SHIFT * level / (1 + (_SHIFT - 1) * level)
        level = torch.where(torch.rand(count) < _NOTHING_BUT_NOISE, 1.0, level)
        levels = level.view(-1, 1, 1, 1, 1)
        if given:
            levels = levels.expand(-1, -1, frames, -1, -1).clone()
            levels[:, :, 0] = 0
        if own:
            noisy = self._from_own_answers(seen, levels, words, rng)
        else:
            noisy = (1 - levels) * latents + levels * torch.randn_like(latents)
        answer = self._answers(noisy, levels, words, at=seen.at)
        # Of a given frame nothing is asked.
        weight = (levels > 0) * (1 + _SHAPE_WEIGHT * seen.touched)
        weight = weight / (level.square() + _CLEAN_WEIGHT).view(-1, 1, 1, 1, 1)
        missed = (answer - latents) / CLIPS_SPREAD
        error: torch.Tensor = (missed.square() * weight).sum() / weight.expand_as(missed).sum()

        code = codes_of(captions)[:, None] / CODE_SCALE
        said: torch.Tensor = (self._ask("said", _SAID_AFTER) - code).square().mean()

        tokens = torch.nn.functional.avg_pool3d(weight, (1, 2, 2)).flatten(1)[..., None]
        lost = (self._ask("cover", _COVER_AFTER) - by_token(seen.cover, rows, columns)).square() * tokens
        cover: torch.Tensor = lost.sum() / tokens.expand_as(lost).sum()

        # A token can tell where it is by its noise and that of the others; where there is little, it need not.
        much = by_frame(levels.expand(-1, -1, frames, -1, -1), rows * columns)[..., None]
        lost = (self._ask("place", _PLACE_AFTER) - places(seen.at, rows, columns)).square() * much
        place: torch.Tensor = lost.mean()
        sides = borders(frames, rows, columns).expand(count, -1, -1)
        border = torch.nn.functional.binary_cross_entropy_with_logits(
            self._ask("border", _BORDER_AFTER), sides, weight=much
        )
        return error + said + _COVER_WEIGHT * cover + place + border

    def _from_own_answers(
        self, seen: Look, levels: torch.Tensor, words: torch.Tensor, rng: random.Random
    ) -> torch.Tensor:
        """What a sampler has come to at `levels` when it began with nothing but noise (and a given first frame).

        A sampler goes on from the transformer's own answers, which are a little soft; trained on noisy true clips
        alone it takes what is soft for what is asked for, and ten steps end worse than one.
        """
        guidance, count = rng.choice(_OWN_GUIDANCE), rng.choice(_OWN_STEPS)
        way = [torch.where(levels > 0, 1 + (levels - 1) * index / count, 0.0) for index in range(count + 1)]
        noisy = torch.where(levels > 0, torch.randn_like(seen.latents), seen.latents)
        return self._answers.led_on(noisy, way, words, nothing=self._words.nothing, guidance=guidance, at=seen.at)

    def _ask(self, name: str, index: int) -> torch.Tensor:
        answer: torch.Tensor = self._probes[name](self._hidden[index])
        return answer


def _width() -> int:
    config = architecture.video_transformer().config
    return int(config.num_attention_heads * config.attention_head_dim)
