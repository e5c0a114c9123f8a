"""Computes SDXL's embeddings of prompts of any length, with weights. Knows its text encoders; knows no latents.

Prompts of one chunk without weights are encoded by the pipeline itself, bit for bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from worker.api.prompt_weights import Passages, has_weights, letters
from worker.engine.prompt.chunks import Chunk, chunked

Embeddings = dict[str, torch.Tensor | None]


@dataclass(frozen=True, slots=True)
class _Encoder:
    tokenizer: Any
    network: Any


def embeddings(
    pipeline: Any,
    device: torch.device,
    prompt: Passages,
    negative: Passages | None,
    *,
    guided: bool,
    raise_if_stopped: Callable[[], None] = lambda: None,
) -> Embeddings:
    """Return the embeddings of both prompts as the pipeline's arguments, padded to one length.

    Args:
        pipeline: SDXL's, or its refiner's, which has only the second encoder.
        device: where the encoders run.
        prompt: the prompt.
        negative: the negative prompt; None: none, which for a model trained so is all zeros.
        guided: whether the negative prompt is used.
        raise_if_stopped: called before each chunk; its errors propagate.
    """
    encoders = [
        _Encoder(tokenizer, network)
        for tokenizer, network in (
            (pipeline.tokenizer, pipeline.text_encoder),
            (pipeline.tokenizer_2, pipeline.text_encoder_2),
        )
        if network is not None
    ]
    # Both tokenizers have the same vocabulary and differ only in their padding token.
    last = encoders[-1].tokenizer
    most = last.model_max_length - 2
    asked = [prompt] if negative is None or not guided else [prompt, negative]
    cut = [chunked(last, passages, most) for passages in asked]
    if max(map(len, cut)) == 1 and not any(has_weights(passages) for passages in asked):
        return _own(pipeline, device, prompt, negative, guided=guided)
    count = max(map(len, cut))
    seen, pooled = _encoded(encoders, device, cut[0], count, raise_if_stopped)
    if not guided:
        return _named(seen, None, pooled, None)
    if negative is None and pipeline.config.force_zeros_for_empty_prompt:
        return _named(seen, torch.zeros_like(seen), pooled, torch.zeros_like(pooled))
    unseen, unpooled = _encoded(encoders, device, cut[1] if len(cut) > 1 else [Chunk()], count, raise_if_stopped)
    return _named(seen, unseen, pooled, unpooled)


def _own(
    pipeline: Any, device: torch.device, prompt: Passages, negative: Passages | None, *, guided: bool
) -> Embeddings:
    seen, unseen, pooled, unpooled = pipeline.encode_prompt(
        prompt=letters(prompt),
        device=device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=guided,
        negative_prompt=None if negative is None else letters(negative),
    )
    return _named(seen, unseen, pooled, unpooled)


def _named(
    seen: torch.Tensor, unseen: torch.Tensor | None, pooled: torch.Tensor, unpooled: torch.Tensor | None
) -> Embeddings:
    return {
        "prompt_embeds": seen,
        "negative_prompt_embeds": unseen,
        "pooled_prompt_embeds": pooled,
        "negative_pooled_prompt_embeds": unpooled,
    }


def _encoded(
    encoders: list[_Encoder],
    device: torch.device,
    chunks: list[Chunk],
    count: int,
    raise_if_stopped: Callable[[], None],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (1, 77 x count, width), and the pooled embedding of the first chunk, as A1111 and compel do."""
    # The last one is the empty prompt: the meaning of a weight of 0.
    filled = [*chunks, *[Chunk()] * (count + 1 - len(chunks))]
    parts, pooled = [], None
    for encoder in encoders:
        tokenizer = encoder.tokenizer
        room = tokenizer.model_max_length - 2
        kept = []
        for place, chunk in enumerate(filled):
            raise_if_stopped()
            fill = [tokenizer.pad_token_id] * (room - len(chunk.ids))
            ids = torch.tensor([[tokenizer.bos_token_id, *chunk.ids, tokenizer.eos_token_id, *fill]], device=device)
            # One at a time, so that memory does not grow with the number of chunks.
            given = encoder.network(ids, output_hidden_states=True)
            pooled = given[0] if given[0].ndim == 2 and place == 0 else pooled
            kept.append(given.hidden_states[-2])
        states = torch.cat(kept)
        parts.append(_weighed(states[:-1], states[-1:], filled[:-1], room).flatten(0, 1)[None])
    assert pooled is not None  # noqa: S101 - every pipeline has the second encoder, which pools
    dtype = encoders[-1].network.dtype
    return torch.cat(parts, dim=-1).to(device, dtype), pooled.to(device, dtype)


def _weighed(states: torch.Tensor, of_nothing: torch.Tensor, chunks: list[Chunk], room: int) -> torch.Tensor:
    """Scale each token's distance from the empty prompt's state by its weight.

    As ComfyUI and compel do. A1111 scales the state itself and restores the overall mean, which is about 0 for SDXL, so
    that every other token changes as well; its authors advise against that for SDXL.
    """
    weights = torch.tensor([[1.0, *chunk.weights, *[1.0] * (room + 1 - len(chunk.weights))] for chunk in chunks])
    factors = weights[..., None].to(states.device)
    moved = of_nothing.float() + (states.float() - of_nothing.float()) * factors
    return torch.where(factors == 1, states, moved.to(states.dtype))
