"""Estimates the number of chunks of a prompt from its text, before any tokenizer is loaded. Knows no torch."""

import math
import re
from collections.abc import Callable
from functools import lru_cache

from worker.api.params import ImageParams, Params
from worker.api.prompt_weights import Passages, letters, plain, weighted

CHUNK_TOKENS = {"sdxl": 77, "wan": 512}
"""Tokens per chunk, including start and end marks, with which CLIP and Wan were trained."""
_WORDS = re.compile(r"[A-Za-z]+|[^\sA-Za-z]")
_LETTERS_A_TOKEN = 8
"""Letters of a word per token; a common word is one token, whatever its length."""


def likely_chunks(params: Params) -> int:
    """Estimate the chunks of a job's longer prompt that are read; the memory and the FLOP for text grow with them."""
    texts = params.texts if params.guidance_scale > 1 else params.texts[:1]
    if isinstance(params, ImageParams):
        return max(_of_image(*text) for text in texts)
    chunks = max(_of_clip(*text) for text in texts)
    return chunks if params.most_chunks is None else min(chunks, params.most_chunks)


@lru_cache(maxsize=32)  # a quote needs the same text for every possible shape of a source image
def _of_image(text: str, weights: bool) -> int:
    # CLIP encodes characters outside its vocabulary as bytes.
    passages = weighted(text) if weights else plain(text)
    return sum(_chunks((passage,), 75, lambda sign: len(sign.encode(errors="surrogatepass"))) for passage in passages)


@lru_cache(maxsize=32)
def _of_clip(text: str, weights: bool) -> int:
    # UMT5's vocabulary covers the characters of most languages.
    return _chunks(weighted(text) if weights else plain(text), 511, lambda _: 2)


def _chunks(passages: Passages, most: int, of_sign: Callable[[str], int]) -> int:
    words = _WORDS.findall(letters(passages))
    tokens = sum(math.ceil(len(word) / _LETTERS_A_TOKEN) if word.isascii() else of_sign(word) for word in words)
    return max(1, math.ceil(tokens / most))
