"""Where a clip's tokens are, and how much of each the shape covers. Knows no network and no words."""

import math
from collections.abc import Sequence

import torch

from tools.train_demo.clips import CELLS
from tools.train_demo.latents import FRAMES
from tools.train_demo.scenes import TURN_FRAMES


def by_token(cover: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """(batch, 4, frames, cells down, cells across) -> (batch, frames * rows * columns, 4 times a token's cells)."""
    cells = cover.reshape(len(cover), FRAMES, -1, rows, CELLS, columns, CELLS)
    return cells.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)


def borders(frames: int, rows: int, columns: int) -> torch.Tensor:
    """Whether a token is of the first or last frame, row or column, (frames * rows * columns, 6): 0 or 1."""
    sides = torch.zeros(frames, rows, columns, 6)
    for axis in range(3):
        for side, end in enumerate((0, -1)):
            sides[..., 2 * axis + side].select(axis, end).fill_(1)
    return sides.flatten(0, 2)


def places(at: Sequence[int], rows: int, columns: int) -> torch.Tensor:
    """What a token is asked of its place, (frames * rows * columns, 8): when, down and across, all in waves too.

    Time counts from the clip's beginning and not by its length, since a moving shape's way does; its root spreads the
    first frames apart. It spans about as much as rows and columns do: at a tenth of that it was not learned. Its wave
    tells which of its two latents a turning shape has come to.
    """
    turn = 2 * math.pi * FRAMES / TURN_FRAMES * torch.tensor(at)
    when = 3 * torch.sqrt(torch.tensor(at) / 20) - 1
    down, across = ((torch.arange(side) + 0.5) / side * 2 - 1 for side in (rows, columns))
    when, down, across = torch.meshgrid(when, down, across, indexing="ij")
    waves = [wave(math.pi * side) for wave in (torch.cos, torch.sin) for side in (down, across)]
    waves.append(torch.cos(turn)[:, None, None].expand_as(when))
    return torch.stack([when, down, across, *waves], dim=-1).flatten(0, 2)
