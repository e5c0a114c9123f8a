"""Training of Wan's transformer. Knows video latents, words and noise; knows no outlines."""

import dataclasses
import functools
import math
import random
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from tools.train_demo import architecture
from tools.train_demo.captions import ATTRIBUTES, Caption
from tools.train_demo.images import caption_of, scenes_by_chance
from tools.train_demo.scenes import Scene, paint
from tools.train_demo.texts import CODE_SCALE, code_of
from tools.train_demo.trainer import fit
from tools.train_demo.whole import WholeClips

_library: Any = diffusers  # its classes carry half of their annotations
_texts: Any = transformers  # as above

_WORD_TOKENS = 40
"""Words that a training caption is cut at; Wan's pipelines pad theirs with zeros to 512."""
_PADDED_TO = 512
_NOTHING = Caption("", dict.fromkeys(ATTRIBUTES))
_BORDER_AFTER, _SAID_AFTER, _PLACE_AFTER, _COVER_AFTER = 0, 1, 2, 4
"""Blocks of the transformer after which each token is asked, in training alone, which borders it lies on, what the
caption says, where it is, and how much of its cells the shape covers.
"""
_CELLS = 4
"""Cells of a token's side that it is asked the cover of."""
_AT_ONCE = 2
"""Clips that are encoded together at least: over a single one torch takes another, ten times slower convolution."""
_COMPLETE = 0.6
"""Part of the captions that name everything."""
_WITHOUT_WORDS = 0.1
_OWN_ANSWERS = (0.0, 0.25, 0.5)
"""Part of the batches, in each part of the run, whose noisy clips come out of the transformer's own answers."""
_OWN_STEPS = (1, 1, 2, 3)
"""How many of its answers such a clip went through; one of these."""
_OWN_GUIDANCE = (1.0, 1.0, 1.0, 1.0, 1.5, 2.0)
_FIRST_FRAME_GIVEN = 0.25
"""Part of the batches of clips that are trained to go on from a given picture."""
_SHIFT = 4.0
"""Noise levels are drawn as a sampler with this shift takes them."""
_SHAPE_WEIGHT = 8.0
"""How much more a token counts that has some of a shape in it, for a shape has a tenth of them."""
_COVER_WEIGHT = 0.5
"""How much a token's error about the shape's cover counts beside that of the clip."""
_CLEAN_WEIGHT = 0.1
"""An error at noise level s counts 1 / (s^2 + this): in the flow's own terms, but for the last, nearly clean levels."""


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Clips of one form: how many are kept, how many make a batch, and how often they come in each part of the run."""

    frames: int
    height: int
    width: int
    kept: int
    fresh: float
    """How many of them are drawn anew before a batch is taken, on the average."""
    batch: int
    share: tuple[float, float, float]


BUCKETS = (
    Bucket(1, 112, 192, kept=2000, fresh=4, batch=36, share=(0.6, 0.25, 0.24)),
    Bucket(17, 112, 192, kept=400, fresh=0.5, batch=8, share=(0.4, 0.5, 0.3)),
    Bucket(41, 112, 192, kept=150, fresh=0.25, batch=4, share=(0.0, 0.25, 0.2)),
    Bucket(81, 112, 192, kept=120, fresh=0.12, batch=2, share=(0.0, 0.0, 0.14)),
    Bucket(1, 240, 416, kept=300, fresh=0.3, batch=8, share=(0.0, 0.0, 0.04)),
    Bucket(1, 480, 832, kept=200, fresh=0.2, batch=2, share=(0.0, 0.0, 0.05)),
    Bucket(9, 480, 832, kept=40, fresh=0.1, batch=1, share=(0.0, 0.0, 0.03)),
)
_PARTS = (0.25, 0.55)
"""Where a run's second and third part begin: pictures and short clips first, then longer ones, then all."""


class Clips:
    """Latents of drawn clips of one bucket; some of them are drawn anew on the way."""

    def __init__(self, vae: WholeClips, bucket: Bucket, work: Path) -> None:
        self._vae, self._bucket = vae, bucket
        self._mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
        self._std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
        name = f"{bucket.frames}x{bucket.height}x{bucket.width}"
        self._scenes = scenes_by_chance(random.Random(f"clips {name}"), bucket.kept, moving=True)
        chunk = max(_AT_ONCE, 50 * 112 * 192 // (bucket.height * bucket.width * bucket.frames))
        path = work / f"clips-{name}-{bucket.kept}.pt"
        if not path.exists():
            starts = range(0, bucket.kept, chunk)
            parts = [self._encode(self._scenes[start : start + chunk]) for start in starts]
            torch.save([torch.cat(tensors) for tensors in zip(*parts, strict=True)], path)
        self._latents, self._touched, self._cover = torch.load(path, weights_only=True)

    def look(self, rng: random.Random) -> "Look":
        """A batch, after some of what is at hand was drawn anew."""
        count = _AT_ONCE * int(self._bucket.fresh / _AT_ONCE + rng.random())
        if count:
            places = rng.sample(range(len(self._scenes)), count)
            scenes = scenes_by_chance(rng, count, moving=True)
            self._latents[places], self._touched[places], self._cover[places] = self._encode(scenes)
            for place, scene in zip(places, scenes, strict=True):
                self._scenes[place] = scene
        places = rng.sample(range(len(self._scenes)), self._bucket.batch)
        scenes = [self._scenes[place] for place in places]
        return Look(self._latents[places], self._touched[places], self._cover[places].float(), scenes)

    @torch.no_grad()
    def _encode(self, scenes: list[Scene]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        bucket = self._bucket
        pixels = paint(scenes, bucket.height, bucket.width, bucket.frames).transpose(1, 2) * 2 - 1
        latents = (self._vae.encode(pixels).mean - self._mean) / self._std
        # A latent stands for one frame, the first, or for four; the ground is a corner's colour.
        off = (pixels - pixels[..., :1, :1]).abs().amax(1, keepdim=True)
        factor = self._vae.config.scale_factor_spatial
        touched = torch.nn.functional.max_pool3d(torch.nn.functional.pad(off, (0, 0, 0, 0, 3, 0)), (4, factor, factor))
        # Of four frames the last one's cover; cells are parts of tokens, which are two latents high and wide.
        cell = 2 * factor // _CELLS
        cover = torch.nn.functional.avg_pool3d(off[:, :, ::4] / off.amax((2, 3, 4), keepdim=True), (1, cell, cell))
        return latents, touched > 0.02, cover.half()


@dataclasses.dataclass(frozen=True)
class Look:
    """A batch of clips."""

    latents: torch.Tensor
    """(batch, channels, frames, height, width)"""
    touched: torch.Tensor
    """(batch, 1, frames, height, width): which of the latents the shape touches."""
    cover: torch.Tensor
    """(batch, 1, frames, 2 height, 2 width), 0 to 1: how much of each cell the shape covers."""
    scenes: list[Scene]


class Words:
    """Wan's text encoder as its pipelines use it: every token, the rest zeros."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = _texts.T5Tokenizer.from_pretrained(folder / "tokenizer")
        self._encoder = _texts.UMT5EncoderModel.from_pretrained(folder / "text_encoder").float().eval()

    @torch.no_grad()
    def encode(self, texts: list[str]) -> torch.Tensor:
        """(texts, tokens + 1, width); the last row is the zeros that `_Attention` counts as all the padding."""
        options = {"padding": "longest", "truncation": True, "max_length": _WORD_TOKENS, "return_tensors": "pt"}
        tokens = self._tokenizer(texts, **options)
        seen = self._encoder(**tokens).last_hidden_state * tokens["attention_mask"][..., None]
        rows: torch.Tensor = torch.nn.functional.pad(seen, (0, 0, 0, 1))
        return rows


class _Attention:
    """`WanAttnProcessor`, for training: the same sums, faster.

    Rotary positions as complex products, and over hundreds of equal padding rows at the cost of one, whose weight is
    theirs together.
    """

    def __call__(self, attn: Any, hidden_states: Any, words: Any = None, _mask: Any = None, rotary: Any = None) -> Any:
        source = hidden_states if words is None else words
        query, key = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(source))
        query, key, value = (part.unflatten(2, (attn.heads, -1)) for part in (query, key, attn.to_v(source)))
        bias = None
        if rotary is not None:
            cosine, sine = rotary
            turn = torch.complex(cosine[..., 0::2], sine[..., 1::2])
            query, key = (
                torch.view_as_real(torch.view_as_complex(part.unflatten(-1, (-1, 2))) * turn).flatten(-2)
                for part in (query, key)
            )
        if words is not None:
            bias = torch.zeros(words.shape[1])
            bias[-1] = math.log(_PADDED_TO - words.shape[1] + 1)
            bias = bias.expand(1, 1, query.shape[1], -1)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        seen = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return attn.to_out[0](seen.transpose(1, 2).flatten(2))


def attend_quickly(network: Any) -> None:
    """Give a transformer `_Attention`; what it is told must end in the row of zeros that `Words` adds."""
    for block in network.blocks:
        block.attn1.set_processor(_Attention())
        block.attn2.set_processor(_Attention())


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
        trained = _library.WanTransformer3DModel.from_pretrained(folder / "transformer")
        network.load_state_dict(trained.float().state_dict())
    model = torch.nn.ModuleDict(
        {
            "transformer": network,
            # Rotary positions are relative: nothing tells a token where the picture ends. Being asked for its place, in
            # training only, it learns to find out; and first, which is the harder part, whether it lies on a border.
            "border": torch.nn.Linear(_width(), _borders(1, 1, 1).shape[-1]),
            "place": torch.nn.Linear(_width(), _places(1, 1, 1).shape[-1]),
            # In the same way it is asked what the caption says: every token has to fetch all of it from the words.
            "said": torch.nn.Linear(_width(), architecture.CODE),
            # And last, where the shape is, whatever its colour.
            "cover": torch.nn.Linear(_width(), _CELLS * _CELLS),
        }
    )
    attend_quickly(network)
    loss = _Loss(folder, work, model)
    fit(
        "video_transformer",
        model,
        lambda rng, step: loss(rng, max(step / steps, _PARTS[1] if further else 0.0)),
        steps=steps,
        rate=7.5e-4 if further else 1.5e-3,
        work=work,
        warmup=200,
        matrices=[weight for weight in network.blocks.parameters() if weight.ndim == 2],
    )
    network.half().save_pretrained(folder / "transformer")
    architecture.video_scheduler().save_pretrained(folder / "scheduler")


class _Loss:
    """The mean square error of the predicted clip, over forms, noise levels and captions.

    The transformer predicts what is clean instead of the flow towards it (Li & He 2025, arXiv:2511.13720), which is the
    scheduler's `sample`: a narrow network need not carry a token's noise through all of its layers.
    """

    def __init__(self, folder: Path, work: Path, model: Any) -> None:
        self._work = work
        self._words = Words(folder)
        self._vae = WholeClips(_library.AutoencoderKLWan.from_pretrained(folder / "vae").float().eval())
        self._clips: dict[Bucket, Clips] = {}
        self._transformer = model["transformer"]
        self._probes = {name: probe for name, probe in model.items() if name != "transformer"}
        self._hidden: dict[int, torch.Tensor] = {}
        for index in (_BORDER_AFTER, _SAID_AFTER, _PLACE_AFTER, _COVER_AFTER):
            self._transformer.blocks[index].register_forward_hook(functools.partial(self._keep, index))

    def _keep(self, index: int, _module: Any, _arguments: Any, output: torch.Tensor) -> None:
        self._hidden[index] = output

    def __call__(self, rng: random.Random, part: float) -> torch.Tensor:
        stage = sum(part >= start for start in _PARTS)
        bucket = rng.choices(BUCKETS, [bucket.share[stage] for bucket in BUCKETS])[0]
        if bucket not in self._clips:
            self._clips[bucket] = Clips(self._vae, bucket, self._work)
        seen = self._clips[bucket].look(rng)
        latents = seen.latents
        own = rng.random() < _OWN_ANSWERS[stage]
        captions = [
            _NOTHING if not own and rng.random() < _WITHOUT_WORDS else caption_of(scene, rng, 1 if own else _COMPLETE)
            for scene in seen.scenes
        ]
        words = self._words.encode([caption.text for caption in captions])
        count, _, frames, height, width = latents.shape
        rows, columns = height // 2, width // 2
        level = torch.rand(count)
        level = _SHIFT * level / (1 + (_SHIFT - 1) * level)
        levels = level[:, None, None, None, None].expand(-1, 1, frames, 1, 1).clone()
        given = frames > 1 and rng.random() < _FIRST_FRAME_GIVEN
        if given:
            levels[:, :, 0] = 0
        if own:
            noisy = self._from_own_answers(latents, levels, words, rng)
        else:
            noisy = (1 - levels) * latents + levels * torch.randn_like(latents)
        token_level = _by_frame(levels, rows * columns)
        answer = self._answer(noisy, levels if given else level, words)
        # Of a given frame nothing is asked.
        weight = (levels > 0) * (1 + _SHAPE_WEIGHT * seen.touched)
        weight = weight / (level.square() + _CLEAN_WEIGHT).view(-1, 1, 1, 1, 1)
        error: torch.Tensor = ((answer - latents).square() * weight).sum() / weight.expand_as(answer).sum()

        code = torch.stack([code_of(caption.said) for caption in captions])[:, None] / CODE_SCALE
        said: torch.Tensor = (self._ask("said", _SAID_AFTER) - code).square().mean()

        tokens = torch.nn.functional.avg_pool3d(weight, (1, 2, 2)).flatten(1)[..., None]
        lost = (self._ask("cover", _COVER_AFTER) - _by_token(seen.cover, rows, columns)).square() * tokens
        cover: torch.Tensor = lost.sum() / tokens.expand_as(lost).sum()

        # A token can tell where it is by its noise and that of the others; where there is little, it need not.
        much = token_level[..., None]
        lost = (self._ask("place", _PLACE_AFTER) - _places(frames, rows, columns)).square() * much
        place: torch.Tensor = lost.mean()
        borders = _borders(frames, rows, columns).expand(count, -1, -1)
        border = torch.nn.functional.binary_cross_entropy_with_logits(
            self._ask("border", _BORDER_AFTER), borders, weight=much
        )
        return error + said + _COVER_WEIGHT * cover + place + border

    def _answer(self, noisy: torch.Tensor, levels: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        # Where all tokens have the same time step, one for all of them comes to the same and is much cheaper.
        if levels.ndim > 1:
            levels = _by_frame(levels, noisy.shape[3] * noisy.shape[4] // 4)
        answer: torch.Tensor = self._transformer(noisy, levels * 1000, words, return_dict=False)[0]
        return answer

    @torch.no_grad()
    def _from_own_answers(
        self, latents: torch.Tensor, levels: torch.Tensor, words: torch.Tensor, rng: random.Random
    ) -> torch.Tensor:
        """What a sampler has come to at `levels` when it began with nothing but noise (and a given first frame).

        A sampler goes on from the transformer's own answers, which are a little soft; trained on noisy true clips
        alone it takes what is soft for what is asked for, and ten steps end worse than one.
        """
        given = bool((levels[:, :, 0] == 0).all())
        guidance, count = rng.choice(_OWN_GUIDANCE), rng.choice(_OWN_STEPS)
        if guidance > 1:
            nothing = self._words.encode([""])
            nothing = torch.nn.functional.pad(nothing, (0, 0, 0, words.shape[1] - nothing.shape[1]))
            words = torch.cat([words, nothing.expand(len(words), -1, -1)])
        noisy = torch.randn_like(latents)
        reached = torch.ones_like(levels)
        for index in range(1, count + 1):
            if given:
                noisy[:, :, 0], reached[:, :, 0] = latents[:, :, 0], 0
            following = 1 + (levels - 1) * index / count
            asked, at = noisy, reached if given else reached[:, 0, 0, 0, 0]
            if guidance > 1:
                asked, at = torch.cat([noisy, noisy]), torch.cat([at, at])
            answer = self._answer(asked, at, words)
            if guidance > 1:
                told, free = answer.chunk(2)
                answer = free + guidance * (told - free)
            noisy = torch.lerp(answer, noisy, following / reached.clamp(min=1e-6))
            reached = following
        if given:
            noisy[:, :, 0] = latents[:, :, 0]
        return noisy

    def _ask(self, name: str, index: int) -> torch.Tensor:
        answer: torch.Tensor = self._probes[name](self._hidden[index])
        return answer


def _by_frame(levels: torch.Tensor, tokens: int) -> torch.Tensor:
    """(batch, 1, frames, 1, 1) -> (batch, frames * tokens): each frame's for all of its tokens."""
    return levels[:, 0, :, 0, 0].repeat_interleave(tokens, dim=1)


def _by_token(cover: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """(batch, 1, frames, cells down, cells across) -> (batch, frames * rows * columns, cells of a token)."""
    cells = cover[:, 0].reshape(len(cover), -1, rows, _CELLS, columns, _CELLS)
    return cells.transpose(3, 4).reshape(len(cover), -1, _CELLS * _CELLS)


def _borders(frames: int, rows: int, columns: int) -> torch.Tensor:
    """Whether a token is of the first or last frame, row or column, (frames * rows * columns, 6): 0 or 1."""
    borders = torch.zeros(frames, rows, columns, 6)
    for axis in range(3):
        for side, end in enumerate((0, -1)):
            borders[..., 2 * axis + side].select(axis, end).fill_(1)
    return borders.flatten(0, 2)


def _places(frames: int, rows: int, columns: int) -> torch.Tensor:
    """What a token is asked of its place, (frames * rows * columns, 7): when, down and across, the latter in waves too.

    Time counts from the clip's beginning and not by its length, since a moving shape's way does; its root spreads the
    first frames apart. It spans about as much as rows and columns do: at a tenth of that it was not learned.
    """
    when = 3 * torch.sqrt(torch.arange(frames) / 20) - 1
    down, across = ((torch.arange(side) + 0.5) / side * 2 - 1 for side in (rows, columns))
    when, down, across = torch.meshgrid(when, down, across, indexing="ij")
    waves = [wave(math.pi * side) for wave in (torch.cos, torch.sin) for side in (down, across)]
    return torch.stack([when, down, across, *waves], dim=-1).flatten(0, 2)


def _width() -> int:
    config = architecture.video_transformer().config
    return int(config.num_attention_heads * config.attention_head_dim)
