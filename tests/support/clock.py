"""Time, measured on a machine that may be busy with something else."""

import time
from collections.abc import Callable

CHANCES = 5


def took(work: Callable[[], object]) -> float:
    """How many seconds it took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def is_within(bound: float, work: Callable[[], object]) -> bool:
    """Whether it can be done in less than `bound` seconds: whoever is too slow by design misses every chance."""
    return any(took(work) < bound for _ in range(CHANCES))
