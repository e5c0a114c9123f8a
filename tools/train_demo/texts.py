"""Training of the text encoders: a caption in, the scene's code out. Knows captions; knows no pixels.

The code has one place per value of every attribute, and one for "not said". SDXL's second encoder learns to give it as
its pooled embedding, Wan's at every token: so words in any order come to the same thing before a denoiser sees them.
"""

import functools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from tools.train_demo import architecture, vocabulary
from tools.train_demo.captions import ATTRIBUTES, Caption, say
from tools.train_demo.device import tokens
from tools.train_demo.muon import kernels
from tools.train_demo.prompts import held_out
from tools.train_demo.scenes import draw_lots
from tools.train_demo.trainer import fit

_library: Any = transformers  # its classes carry half of their annotations

CODE_SCALE = 2.0
_BATCH = 96
_LENGTH = 77


def codes_of(captions: Sequence[Caption]) -> torch.Tensor:
    """(captions, CODE): `CODE_SCALE` at what was said of each attribute, 0 elsewhere."""
    codes = []
    for caption in captions:
        code: list[float] = []
        for name, values in ATTRIBUTES.items():
            place = [0.0] * (len(values) + 1)
            value = caption.said[name]
            place[len(values) if value is None else values.index(value)] = CODE_SCALE
            code += place
        codes.append(code)
    return torch.tensor(codes)


def clip_encoders(out: Path, work: Path, steps: int) -> None:
    """Train SDXL's two text encoders and write them and their tokenizers below `out`."""
    for index, (name, width, layers, padding) in enumerate(
        (
            ("", architecture.TEXT_WIDTH, 2, "<|endoftext|>"),
            ("_2", architecture.TEXT_WIDTH_2, 3, "!"),
        )
    ):
        vocabulary.write_clip_tokenizer(out / f"tokenizer{name}", padding=padding)
        tokenizer = _library.CLIPTokenizer.from_pretrained(out / f"tokenizer{name}")
        size = vocabulary.clip_vocabulary_size(out / f"tokenizer{name}")
        torch.manual_seed(index)
        encoder = _library.CLIPTextModelWithProjection(architecture.clip(size, width, layers))
        fit(
            f"text_encoder{name}",
            encoder,
            functools.partial(_pooled_loss, encoder, tokenizer),
            steps=steps if name else steps // 2,
            rate=3e-3,
            work=work,
            matrices=kernels(encoder),
        )
        right = _rightness(lambda texts, e=encoder, t=tokenizer: e(**_tokens(t, texts, _LENGTH)).text_embeds)
        print(f"text_encoder{name}: {right:.2%} of what captions say is understood", flush=True)
        if not name:
            # The first encoder has no projection in SDXL: it was there to learn by.
            plain = _library.CLIPTextModel(architecture.clip(size, width, layers))
            inner = {name.removeprefix("text_model."): value for name, value in encoder.state_dict().items()}
            plain.load_state_dict({name: inner[name.removeprefix("text_model.")] for name in plain.state_dict()})
            plain.half().save_pretrained(out / "text_encoder")
        else:
            encoder.half().save_pretrained(out / "text_encoder_2")


def t5_encoder(out: Path, work: Path, steps: int) -> None:
    """Train Wan's text encoder and write it and its tokenizer below `out`."""
    size = vocabulary.write_t5_tokenizer(out / "tokenizer")
    tokenizer = _library.T5Tokenizer.from_pretrained(out / "tokenizer")
    torch.manual_seed(2)
    encoder = _library.UMT5EncoderModel(architecture.t5(size))
    head = torch.nn.Linear(architecture.VIDEO_TEXT_WIDTH, architecture.CODE)
    both = torch.nn.ModuleDict({"encoder": encoder, "head": head})
    _look_at_neighbours(encoder)

    def codes(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = _tokens(tokenizer, texts, 128, special=True)
        return head(encoder(**ids).last_hidden_state), ids["attention_mask"]

    def loss_of(rng: random.Random, _: int) -> torch.Tensor:
        captions = captions_by_chance(rng, _BATCH, moving=True)
        seen, mask = codes([caption.text for caption in captions])
        wanted = codes_of(captions)[:, None]
        return ((seen - wanted).square().sum(-1) * mask).sum() / mask.sum()

    fit("video_text_encoder", both, loss_of, steps=steps, rate=2e-3, work=work, matrices=kernels(both))

    def first(texts: list[str]) -> torch.Tensor:
        seen, mask = codes(texts)
        return (seen * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    print(f"video_text_encoder: {_rightness(first):.2%} of what captions say is understood", flush=True)
    encoder.half().save_pretrained(out / "text_encoder")


def captions_by_chance(rng: random.Random, count: int, *, moving: bool) -> list[Caption]:
    """Captions of scenes that are not held out; an eighth of the batches is of fewer, longer ones."""
    captions: list[Caption] = []
    wordy = rng.random() < 0.125
    if wordy:
        count //= 4
    while len(captions) < count:
        scene = draw_lots(rng, moving=moving or rng.random() < 0.2)
        if not held_out(scene):
            captions.append(say(scene, rng, wordy=wordy))
    return captions


def _look_at_neighbours(encoder: Any) -> None:
    # Which colour is the shape's is told by the words beside it. Left to find that out alone, the relative biases take
    # thousands of steps to grow; so three heads of the first two layers begin with a word's neighbours.
    before, after, second_before = 1, 17, 2  # buckets of the offsets -1, +1 and -2 (transformers, UMT5Attention)
    with torch.no_grad():
        for block in encoder.encoder.block[:2]:
            bias = block.layer[0].SelfAttention.relative_attention_bias.weight
            for head, bucket in enumerate((before, after, second_before)):
                bias[bucket, head] = 4.0


def _pooled_loss(encoder: Any, tokenizer: Any, rng: random.Random, _step: int) -> torch.Tensor:
    captions = captions_by_chance(rng, _BATCH, moving=False)
    seen: torch.Tensor = encoder(**_tokens(tokenizer, [caption.text for caption in captions], _LENGTH)).text_embeds
    return (seen - codes_of(captions)).square().sum(-1).mean()


def _tokens(tokenizer: Any, texts: list[str], length: int, *, special: bool = False) -> Any:
    ids = tokens(tokenizer, texts, padding="longest", max_length=length)
    # CLIP's encoders are causal and the pooled token is the text's end: what is padded after it changes nothing.
    return ids if special else {"input_ids": ids["input_ids"]}


@torch.no_grad()
def _rightness(codes: Any) -> float:
    rng = random.Random("are captions understood")
    scenes = [draw_lots(rng, moving=rng.random() < 0.3) for _ in range(1000)]
    captions = [say(scene, rng, wordy=rng.random() < 0.1) for scene in scenes if held_out(scene)]
    seen = codes([caption.text for caption in captions])
    right = total = 0
    for row, caption in zip(seen, captions, strict=True):
        start = 0
        for name, values in ATTRIBUTES.items():
            place = row[start : start + len(values) + 1]
            start += len(values) + 1
            value = caption.said[name]
            right += int(place.argmax().item() == (len(values) if value is None else values.index(value)))
            total += 1
    return right / total
