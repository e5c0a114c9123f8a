"""Splits a prompt of any length into chunks for a text encoder. Knows tokenizers, no encoders."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from worker.api.prompt_weights import Passages

_COMMA_WITHIN = 20
"""Tokens at a chunk's end: a comma among them ends the chunk, as in A1111's default ("token padding")."""
_WORD_END, _WORD_START = "</w>", "\u2581"
"""How CLIP's and SentencePiece's tokens mark words."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Token ids without the encoder's special tokens, and their weights."""

    ids: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()


def chunked(tokenizer: Any, passages: Passages, most: int) -> list[Chunk]:
    """Split into chunks of at most `most` tokens, at least one; each passage begins a new chunk.

    Chunks are cut at a comma near their end, else between words; only a word longer than a chunk is cut inside.
    """
    chunks: list[Chunk] = []
    for passage in passages:
        tokens = [(token, span.weight) for span in passage for token in _ids(tokenizer, span.text)]
        while len(tokens) > most:
            cut = _cut([name for name, _ in _named(tokenizer, tokens[: most + 1])], most)
            chunks.append(_chunk(tokens[:cut]))
            tokens = tokens[cut:]
        chunks.append(_chunk(tokens))
    return chunks


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
    return ids


def _named(tokenizer: Any, tokens: Sequence[tuple[int, float]]) -> list[tuple[str, float]]:
    names = tokenizer.convert_ids_to_tokens([token for token, _ in tokens])
    return [(name, weight) for name, (_, weight) in zip(names, tokens, strict=True)]


def _cut(names: Sequence[str], most: int) -> int:
    """Return how many of the first `most` tokens form a chunk; `names` has one more."""
    ends = [
        place + 1
        for place in range(most)
        if names[place].endswith(_WORD_END) or names[place + 1].startswith(_WORD_START)
    ]
    commas = [end for end in ends if names[end - 1].strip(_WORD_START).removesuffix(_WORD_END) == ","]
    if commas and most - commas[-1] <= _COMMA_WITHIN:
        return commas[-1]
    return ends[-1] if ends else most


def _chunk(tokens: Sequence[tuple[int, float]]) -> Chunk:
    return Chunk(tuple(token for token, _ in tokens), tuple(weight for _, weight in tokens))
