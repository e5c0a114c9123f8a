"""Processes a large picture in overlapping tiles with blended seams. Knows pixels; no network.

Only one row of tiles at a time is in float32, so memory is the picture's own bytes plus two rows of tiles.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, as Pillow has them."""


@dataclass(frozen=True, slots=True)
class Spans:
    """One side of a picture, divided into equally long spans."""

    length: int
    starts: tuple[int, ...]

    @classmethod
    def over(cls, side: int, most: int, overlap: int, multiple: int = 1) -> "Spans":
        """Return the fewest spans of at most `most` that cover the side, each sharing about `overlap` with the next.

        `most`, the side and the spans are multiples of `multiple`. `most` is more than three times the overlap, so that
        at most two spans overlap anywhere.
        """
        if side <= most:
            return cls(side, (0,))
        count = math.ceil((side - overlap) / (most - overlap))
        length = min(most, multiple * math.ceil((side + (count - 1) * overlap) / count / multiple))
        return cls(length, tuple(round(k * (side - length) / (count - 1) / multiple) * multiple for k in range(count)))

    def fades(self, scale: int) -> "list[NDArray[np.float32]]":
        """Return the blend weights, 0 to 1, of each span but the first in its overlap with the previous one.

        The quarter next to its edge has weight 0, because the network saw nothing beyond the edge.
        """
        shared = ((before + self.length - start) * scale for before, start in pairwise(self.starts))
        return [np.clip(2 * (np.arange(n) + 0.5) / n - 0.5, 0, 1).astype(np.float32) for n in shared]


@dataclass(frozen=True, slots=True)
class Grid:
    """The tiles of a picture."""

    across: Spans
    down: Spans

    @classmethod
    def over(cls, size: tuple[int, int], most: tuple[int, int], overlap: int, multiple: int = 1) -> "Grid":
        """Return the tiles of a picture of `size`, each at most `most`; both are (width, height)."""
        return cls(*(Spans.over(side, longest, overlap, multiple) for side, longest in zip(size, most, strict=True)))

    def __len__(self) -> int:
        return len(self.across.starts) * len(self.down.starts)

    @property
    def tile(self) -> tuple[int, int]:
        """Width and height of a tile."""
        return self.across.length, self.down.length

    def painted(self, paint: "Callable[[Box], NDArray[np.float32]]", *, scale: int = 1) -> "NDArray[np.uint8]":
        """Return the picture, (height, width, 3), from `paint` of each tile, `scale` times as large, 0 ... 255."""
        rows: list[NDArray[np.uint8]] = []
        fades, kept = self.down.fades(scale), None
        for index, strip in enumerate(self._strips(paint, scale)):
            if kept is not None:
                weight = fades[index - 1][:, None, None]
                strip[: len(weight)] = (1 - weight) * kept + weight * strip[: len(weight)]
            done = len(strip) - (len(fades[index]) if index < len(fades) else 0)
            rows.append(np.clip(np.rint(strip[:done]), 0, 255).astype(np.uint8))
            kept = strip[done:].copy()
        return np.concatenate(rows)

    def _strips(self, paint: "Callable[[Box], NDArray[np.float32]]", scale: int) -> "Iterator[NDArray[np.float32]]":
        """Yield each row of tiles, blended from left to right."""
        fades, (width, height) = self.across.fades(scale), self.tile
        whole = (self.across.starts[-1] + width) * scale
        for top in self.down.starts:
            strip = np.empty((height * scale, whole, 3), np.float32)
            for index, left in enumerate(self.across.starts):
                tile = paint((left, top, left + width, top + height))
                at, shared = left * scale, 0
                if index:
                    weight = fades[index - 1][None, :, None]
                    shared = weight.shape[1]
                    strip[:, at : at + shared] += weight * (tile[:, :shared] - strip[:, at : at + shared])
                strip[:, at + shared : at + width * scale] = tile[:, shared:]
            yield strip
