"""The accounts of an imaginary card: bytes now and at their peak per phase, copies, and waits of the host."""

from collections import Counter
from dataclasses import dataclass, field

import torch

GIB = 2**30
_BLOCK = 512
"""Allocations are rounded up to this many bytes (c10/cuda/CUDACachingAllocator.cpp, `kMinBlockSize`)."""


@dataclass(slots=True)
class Card:
    """A card of `limit` bytes. It counts allocations, and refuses them as a card does."""

    limit: int = 80 * GIB
    capability: tuple[int, int] = (8, 9)
    now: int = 0
    peak: int = 0
    phase: str = "load"
    peaks: dict[str, int] = field(default_factory=dict)
    """Phase -> peak bytes, weights included."""
    biggest: dict[str, str] = field(default_factory=dict)
    """Phase -> the operation at its peak."""
    flops: Counter[str] = field(default_factory=Counter)
    up: int = 0
    """Bytes copied from the machine to the card, and down from it."""
    down: int = 0
    syncs: Counter[str] = field(default_factory=Counter)
    """Operations that make the host wait for the card -> how often; each with the function that asked for it."""
    quadratic: Counter[str] = field(default_factory=Counter)
    """Attention that no fused kernel takes, so that its whole matrix is materialised: shape -> how often."""

    def take(self, size: int, what: str) -> int:
        """Allocate; returns the bytes really taken.

        Raises:
            torch.OutOfMemoryError: more than is left.
        """
        size = -(-size // _BLOCK) * _BLOCK
        if self.now + size > self.limit:
            free = (self.limit - self.now) / GIB
            raise torch.OutOfMemoryError(f"CUDA out of memory. {what} wants {size / GIB:.2f} GiB of {free:.2f}")
        self.now += size
        self.peak = max(self.peak, self.now)
        if self.now > self.peaks.get(self.phase, 0):
            self.peaks[self.phase], self.biggest[self.phase] = self.now, what
        return size

    def give_back(self, size: int) -> None:
        """Free what `take` returned."""
        self.now -= size

    def enter(self, phase: str) -> None:
        """Count everything allocated from now on in this phase."""
        self.phase = phase
        self.peaks[phase] = max(self.peaks.get(phase, 0), self.now)

    def forget(self) -> None:
        """Reset the counts; what is allocated stays."""
        self.peak = self.now
        self.phase = "load"
        self.up = self.down = 0
        for counted in (self.peaks, self.biggest, self.flops, self.syncs, self.quadratic):
            counted.clear()
