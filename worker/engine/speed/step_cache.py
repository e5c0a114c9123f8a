"""Denoising steps of Wan that are not computed in full: what most blocks added last time is added again.

diffusers' caches, for one run of a pipeline. They hold hidden states of that run's size, so nothing of them may be left
when it ends, however it ends.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from worker.api.params import StepCache


@contextmanager
def step_cache(networks: Iterable[Any], wanted: StepCache | None) -> Iterator[None]:
    """In the body, `networks` (diffusers' `CacheMixin`) skip what `wanted` allows; None: nothing.

    `first_block` compares what the first block changes with what it changed at the last step that was computed
    (https://github.com/chengzeyi/ParaAttention), `sea` the latents themselves, filtered as far as they are settled at
    this noise level (https://arxiv.org/abs/2602.18993; for models that take nothing beside the noisy latents).
    """
    if wanted is None:
        yield
        return
    with ExitStack() as stack:
        for network in networks:
            network.enable_cache(_config(wanted))
            stack.callback(network.disable_cache)
        yield


def serves(network: Any, wanted: StepCache) -> bool:
    """Whether a network can be cached so."""
    return wanted.kind != "sea" or network.config.in_channels == network.config.out_channels


def _config(wanted: StepCache) -> Any:
    from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
    from diffusers.hooks.sea_cache import SeaCacheConfig

    if wanted.kind == "sea":
        return SeaCacheConfig(threshold=wanted.threshold)
    return FirstBlockCacheConfig(threshold=wanted.threshold)
