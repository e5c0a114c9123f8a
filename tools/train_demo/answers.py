"""Wan's transformer as the training asks it: its answers to noisy clips, and what they lead to one after the other.

Knows latents, noise levels and words; knows no scenes.
"""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from tools.train_demo.device import exact, quick, tokens, trained

_texts: Any = transformers  # its classes carry half of their annotations

_WORD_TOKENS = 40
"""Words that a training caption is cut at; Wan's pipelines pad theirs with zeros to 512."""
_PADDED_TO = 512


class Words:
    """Wan's text encoder as its pipelines use it: every token, the rest zeros. `nothing` is an empty prompt's."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = _texts.T5Tokenizer.from_pretrained(folder / "tokenizer")
        self._encoder = trained(_texts.UMT5EncoderModel, folder / "text_encoder")
        self.nothing = self.encode([""])

    @torch.no_grad()
    def encode(self, texts: list[str]) -> torch.Tensor:
        """(texts, tokens + 1, width); the last row is the zeros that `_Attention` counts as all the padding."""
        ids = tokens(self._tokenizer, texts, padding="longest", max_length=_WORD_TOKENS)
        seen = self._encoder(**ids).last_hidden_state * ids["attention_mask"][..., None]
        rows: torch.Tensor = torch.nn.functional.pad(seen, (0, 0, 0, 1))
        return rows


class Answers:
    """What a transformer, which is given `_Attention`, says of noisy clips.

    `levels` are of shape (batch, 1, 1, 1, 1), or (batch, 1, frames, 1, 1) where frames differ: 0 is clean, 1 noise.
    `words` are those of `Words`.
    """

    def __init__(self, network: Any) -> None:
        self._network = network
        self._rotary = network.rope = _Rotary(network.rope)
        for block in network.blocks:
            block.attn1.set_processor(_Attention())
            block.attn2.set_processor(_Attention())
        # What goes on from block to block stays float32, whatever the matrices are multiplied in.
        network.patch_embedding.register_forward_hook(lambda _module, _arguments, output: output.float())

    def __call__(
        self, noisy: torch.Tensor, levels: torch.Tensor, words: torch.Tensor, *, at: Sequence[int] | None = None
    ) -> torch.Tensor:
        """The clean clips, (batch, channels, frames, height, width); `at` is which frames of longer clips they have."""
        self._rotary.at = at
        # Where all tokens have the same time step, one for all of them comes to the same and is much cheaper.
        steps = levels.flatten() if levels.shape[2] == 1 else by_frame(levels, noisy.shape[3] * noisy.shape[4] // 4)
        with quick():
            answer: torch.Tensor = self._network(noisy, steps * 1000, words, return_dict=False)[0]
        return answer.float()

    @torch.no_grad()
    def led_on(
        self,
        noisy: torch.Tensor,
        levels: Sequence[torch.Tensor],
        words: torch.Tensor,
        *,
        nothing: torch.Tensor,
        guidance: float = 1.0,
        at: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """What a sampler makes of clips that are as noisy as the first of `levels`, when it has come to the last.

        `nothing` is that of `Words`, for guidance above 1. Frames of level 0 stay as they are.
        """
        if guidance > 1:
            nothing = torch.nn.functional.pad(nothing, (0, 0, 0, words.shape[1] - nothing.shape[1]))
            words = torch.cat([words, nothing.expand(len(words), -1, -1)])
        for level, following in itertools.pairwise(levels):
            if guidance > 1:
                told, free = self(torch.cat([noisy, noisy]), torch.cat([level, level]), words, at=at).chunk(2)
                answer = free + guidance * (told - free)
            else:
                answer = self(noisy, level, words, at=at)
            noisy = torch.lerp(answer, noisy, torch.where(level > 0, following / level, 1.0))
        return noisy


class _Rotary(torch.nn.Module):
    """Wan's rotary positions where only the frames `at` of a clip are there; all of them with None."""

    at: Sequence[int] | None = None

    def __init__(self, whole: torch.nn.Module) -> None:
        super().__init__()
        self._whole = whole

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self.at is None:
            cosine, sine = self._whole(hidden)
            return cosine, sine
        frames = self.at[-1] + 1
        parts = self._whole(hidden.new_empty(1, 1, frames, *hidden.shape[3:]))  # nothing but its shape is looked at
        return tuple(part.unflatten(1, (frames, -1))[:, self.at].flatten(1, 2) for part in parts)


class _Attention:
    """`WanAttnProcessor`, for training: the same sums, faster.

    Rotary positions as complex products, and over hundreds of equal padding rows at the cost of one, whose weight is
    theirs together.
    """

    def __call__(self, attn: Any, hidden_states: Any, words: Any = None, _mask: Any = None, rotary: Any = None) -> Any:
        source = hidden_states if words is None else words
        query, key, value = attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source)
        # The rest in float32: in bfloat16 the flash kernel's backward pass takes twice as long.
        with exact():
            query, key, value = attn.norm_q(query.float()), attn.norm_k(key.float()), value.float()
            query, key, value = (part.unflatten(2, (attn.heads, -1)) for part in (query, key, value))
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


def by_frame(levels: torch.Tensor, tokens: int) -> torch.Tensor:
    """(batch, 1, frames, 1, 1) -> (batch, frames * tokens): each frame's for all of its tokens."""
    return levels[:, 0, :, 0, 0].repeat_interleave(tokens, dim=1)
