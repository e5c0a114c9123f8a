"""Step caches for Wan: some denoising steps reuse the residuals of the previous step's blocks.

Applies diffusers' caches to one run of a pipeline. They hold hidden states of that run's size, so they are removed
however the run ends.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from worker.api.params import StepCache


@contextmanager
def step_cache(networks: Iterable[Any], wanted: StepCache | None) -> Iterator[None]:
    """Let `networks` (diffusers' `CacheMixin`) skip what `wanted` allows in the body; None: nothing.

    `first_block` compares the first block's residual with that of the last computed step
    (https://github.com/chengzeyi/ParaAttention). `sea` compares the latents, filtered by how far they are settled at
    this noise level (https://arxiv.org/abs/2602.18993), for models whose only input is the noisy latents.
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
    """Whether a network supports this cache."""
    return wanted.kind != "sea" or network.config.in_channels == network.config.out_channels


def _config(wanted: StepCache) -> Any:
    from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
    from diffusers.hooks.sea_cache import SeaCacheConfig

    if wanted.kind == "sea":
        return SeaCacheConfig(threshold=wanted.threshold)
    return FirstBlockCacheConfig(threshold=wanted.threshold)
