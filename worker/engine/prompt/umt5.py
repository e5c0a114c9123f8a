"""Computes Wan's embeddings of prompts of any length, with weights. Knows its text encoder; knows no latents.

Prompts of one chunk without weights are encoded by the pipeline itself, bit for bit.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean

from worker.api.prompt_weights import Passages, Span, has_weights, letters
from worker.engine.prompt.chunks import Chunk, chunked

MAX_TOKENS = 512
"""Wan's training length, to which its text encoder pads."""


def chunks_of(tokenizer: Any, passages: Passages) -> list[Chunk]:
    """Return the chunks of a prompt. Wan reads sentences, so passages do not begin new chunks."""
    spans = (span for passage in passages for span in (*passage, Span(" ")))
    return chunked(tokenizer, (tuple(spans)[:-1],), MAX_TOKENS - 1)


def embeddings(
    pipeline: Any,
    device: torch.device,
    prompt: Passages,
    negative: Passages,
    *,
    guided: bool,
    most_chunks: int | None,
    raise_if_stopped: Callable[[], None] = lambda: None,
) -> dict[str, torch.Tensor | None]:
    """Return the embeddings of both prompts as the pipeline's arguments, padded to one length.

    `most_chunks`: longer prompts are cut; None: no limit. `raise_if_stopped`: called before each chunk.
    """
    asked = [_cleaned(passages) for passages in ([prompt, negative] if guided else [prompt])]
    cut = [chunks_of(pipeline.tokenizer, passages)[:most_chunks] for passages in asked]
    count = max(map(len, cut))
    if count == 1 and not any(has_weights(passages) for passages in asked):
        seen, unseen = pipeline.encode_prompt(
            prompt=letters(prompt),
            negative_prompt=letters(negative),
            do_classifier_free_guidance=guided,
            max_sequence_length=MAX_TOKENS,
            device=device,
        )
    else:
        seen, *others = (_encoded(pipeline, device, chunks, count, raise_if_stopped) for chunks in cut)
        unseen = others[0] if others else None
    return {"prompt_embeds": seen, "negative_prompt_embeds": unseen}


def _cleaned(passages: Passages) -> Passages:
    """Clean a span as the pipeline cleans a prompt, but keep the spaces around it."""

    def clean(text: str) -> str:
        start, end = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
        cleaned: str = prompt_clean(text)  # type: ignore[no-untyped-call]  # diffusers has no types there
        return start[:1] + cleaned + (end[:1] if cleaned else "")

    return tuple(tuple(replace(span, text=clean(span.text)) for span in passage) for passage in passages)


def _encoded(
    pipeline: Any, device: torch.device, chunks: list[Chunk], count: int, raise_if_stopped: Callable[[], None]
) -> torch.Tensor:
    """Return (1, 512 x count, width); padding is zero, as in training, so a weight scales a token's state."""
    network, width = pipeline.text_encoder, pipeline.text_encoder.config.d_model
    result = torch.zeros((1, MAX_TOKENS * count, width), dtype=network.dtype, device=device)
    for place, chunk in enumerate(chunks):
        raise_if_stopped()
        ids = torch.tensor([[*chunk.ids, pipeline.tokenizer.eos_token_id]], device=device)
        states = network(ids, torch.ones_like(ids)).last_hidden_state[0]
        weights = torch.tensor([*chunk.weights, 1.0], device=states.device)[:, None]
        weighed = torch.where(weights == 1, states, (states.float() * weights).to(states.dtype))
        result[0, MAX_TOKENS * place : MAX_TOKENS * place + len(weighed)] = weighed.to(device)
    return result
