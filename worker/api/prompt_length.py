"""How many chunks a prompt comes to, told from its letters before any tokenizer is loaded; no torch."""

import math
import re
from collections.abc import Callable
from functools import lru_cache

from worker.api.params import ImageParams, Params
from worker.api.prompt_weights import Passages, letters, plain, weighted

CHUNK_TOKENS = {"sdxl": 77, "wan": 512}
"""Of one chunk, its marks included: what CLIP and Wan were trained with."""
_WORDS = re.compile(r"[A-Za-z]+|[^\sA-Za-z]")
_LETTERS_A_TOKEN = 8
"""Of a word: a common one is one token, whatever its length."""


def likely_chunks(params: Params) -> int:
    """Of the longer of a job's prompts, about: what text takes in bytes and in FLOP grows with them."""
    of = _of_image if isinstance(params, ImageParams) else _of_clip
    return max(of(*text) for text in (params.texts if params.guidance_scale > 1 else params.texts[:1]))


@lru_cache(maxsize=32)  # a quote asks for those of one text for every shape that a picture may have
def _of_image(text: str, weights: bool) -> int:
    # CLIP spells in bytes what it was not trained on.
    passages = weighted(text) if weights else plain(text)
    return sum(_chunks((passage,), 75, lambda sign: len(sign.encode(errors="surrogatepass"))) for passage in passages)


@lru_cache(maxsize=32)
def _of_clip(text: str, weights: bool) -> int:
    # UMT5 knows the signs of most languages.
    return _chunks(weighted(text) if weights else plain(text), 511, lambda _: 2)


def _chunks(passages: Passages, most: int, of_sign: Callable[[str], int]) -> int:
    words = _WORDS.findall(letters(passages))
    tokens = sum(math.ceil(len(word) / _LETTERS_A_TOKEN) if word.isascii() else of_sign(word) for word in words)
    return max(1, math.ceil(tokens / most))
