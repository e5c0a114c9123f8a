"""How much of a prompt a model reads; the rest is said to be left out. Knows tokenizers; knows no embeddings."""

from typing import Any

from worker.api.params import Params
from worker.core.types import Control


def warn_of_cut_prompts(tokenizer: Any, most: int, params: Params, control: Control) -> None:
    """Warn of each prompt with more than `most` tokens, the tokenizer's own marks included."""
    for name in ("prompt", "negative_prompt"):
        tokens = len(tokenizer(getattr(params, name)).input_ids)
        if tokens > most:
            control.warn(f"{name}: the model reads {most} tokens and this has {tokens}; the rest was left out")
