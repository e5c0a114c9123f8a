"""How many chunks a prompt comes to, told from its letters before any tokenizer is loaded; no torch."""

import math
import re

from worker.api.params import ImageParams, Params
from worker.api.prompt_weights import Passages, letters

CHUNK_TOKENS = {"sdxl": 77, "wan": 512}
"""Of one chunk, its marks included: what CLIP and Wan were trained with."""
_WORDS = re.compile(r"[A-Za-z]+|[^\sA-Za-z]")
_LETTERS_A_TOKEN = 8
"""Of a word: a common one is one token, whatever its length."""


def likely_chunks(params: Params) -> int:
    """Of the longer of a job's prompts, about: what text takes in bytes and in FLOP grows with them."""
    prompts = (params.wanted, params.unwanted) if params.guidance_scale > 1 else (params.wanted,)
    if isinstance(params, ImageParams):
        return max(sum(_chunks((passage,), 75) for passage in passages) for passages in prompts)
    return max(_chunks(passages, 511) for passages in prompts)


def _chunks(passages: Passages, most: int) -> int:
    words = _WORDS.findall(letters(passages))
    # What is spelt in bytes: two tokens a sign, about.
    tokens = sum(math.ceil(len(word) / _LETTERS_A_TOKEN) if word.isascii() else 2 for word in words)
    return max(1, math.ceil(tokens / most))
