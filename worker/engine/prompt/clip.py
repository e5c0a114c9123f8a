"""SDXL's embeddings of prompts of any length and with weights. Knows its text encoders; knows no latents.

What fits into one chunk and has no weights is the pipeline's own work, bit for bit.
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
    """The embeddings of both prompts, by the names of the pipeline's arguments, positive and negative of one length.

    Args:
        pipeline: of SDXL, or of its refiner, which has the second encoder alone.
        device: where it runs.
        prompt: what is to be seen.
        negative: what is not to be seen; None: nothing is said, which to a model that was trained so is all zeros.
        guided: whether the negative prompt has a part.
        raise_if_stopped: asked before each chunk; what it raises is passed on.
    """
    encoders = [
        _Encoder(tokenizer, network)
        for tokenizer, network in (
            (pipeline.tokenizer, pipeline.text_encoder),
            (pipeline.tokenizer_2, pipeline.text_encoder_2),
        )
        if network is not None
    ]
    # Both read the same words: the vocabulary of the two is one, they differ in what they fill a chunk up with.
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
    """(1, 77 x count, width) and the pooled embedding of the first chunk, as A1111 and compel have it."""
    # The last one is of no words: what a weight of 0 means.
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
            # One at a time: what works in the room of one chunk does so with any number of them.
            given = encoder.network(ids, output_hidden_states=True)
            pooled = given[0] if given[0].ndim == 2 and place == 0 else pooled
            kept.append(given.hidden_states[-2])
        states = torch.cat(kept)
        parts.append(_weighed(states[:-1], states[-1:], filled[:-1], room).flatten(0, 1)[None])
    assert pooled is not None  # noqa: S101 - the second encoder, which every pipeline has, pools
    dtype = encoders[-1].network.dtype
    return torch.cat(parts, dim=-1).to(device, dtype), pooled.to(device, dtype)


def _weighed(states: torch.Tensor, of_nothing: torch.Tensor, chunks: list[Chunk], room: int) -> torch.Tensor:
    """Each token's state moved away from that of no words by its weight, or towards it.

    So do ComfyUI and compel. A1111 scales the state itself and restores the mean of all, which for SDXL, whose states
    have a mean of about 0, moves every other token as well; its authors advise against that there.
    """
    weights = torch.tensor([[1.0, *chunk.weights, *[1.0] * (room + 1 - len(chunk.weights))] for chunk in chunks])
    factors = weights[..., None].to(states.device)
    moved = of_nothing.float() + (states.float() - of_nothing.float()) * factors
    return torch.where(factors == 1, states, moved.to(states.dtype))
