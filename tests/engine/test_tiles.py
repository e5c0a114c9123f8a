"""Overlapping tiles cover the whole picture, fade their seams, and leave unchanged what is the same in both."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.tiles import Grid, Spans


@given(st.integers(1, 3000), st.sampled_from([64, 128, 512, 1024]), st.sampled_from([1, 2, 8]))
def test_spans_cover_a_side_and_no_three_lie_over_each_other(side: int, most: int, multiple: int) -> None:
    side, overlap = -(-side // multiple) * multiple, most // 4
    spans = Spans.over(side, most, overlap, multiple)
    ends = [start + spans.length for start in spans.starts]
    assert (spans.starts[0], ends[-1]) == (0, side)
    assert spans.length <= most
    assert not spans.length % multiple
    for end, start in zip(ends, spans.starts[1:], strict=False):
        assert end - start >= overlap - multiple
    for end, start in zip(ends, spans.starts[2:], strict=False):
        assert start >= end


@pytest.mark.parametrize("size", [(7, 5), (64, 64), (150, 90), (401, 33)])
def test_a_picture_that_is_only_copied_comes_back(size: tuple[int, int]) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    grid = Grid.over(size, (64, 64), 12)
    made = grid.painted(lambda box: picture[box[1] : box[3], box[0] : box[2]].astype(np.float32))
    assert np.array_equal(made, picture)


def test_two_tiles_that_disagree_meet_without_an_edge() -> None:
    """Each tile has one grey: along a seam no step is larger than the fade allows."""
    grid, greys = Grid.over((180, 64), (64, 64), 16), iter([0.0, 200.0, 40.0, 120.0])
    made = grid.painted(lambda box: np.full((box[3] - box[1], box[2] - box[0], 3), next(greys), np.float32))
    steps = np.abs(np.diff(made.astype(int), axis=1)).max()
    assert len(grid) == 4
    assert steps <= 2 * 200 / 16 + 1
