"""Width and height derived from a shape."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.api.sizes import shaped


@pytest.mark.parametrize(
    ("ratio", "pixels", "multiple", "most", "expected"),
    [
        (1.0, 1024 * 1024, 8, 2048, (1024, 1024)),
        (16 / 9, 1024 * 1024, 8, 2048, (1352, 760)),
        (1080 / 1920, 1024 * 1024, 8, 2048, (760, 1352)),
        (832 / 480, 832 * 480, 16, 1280, (832, 480)),
        (480 / 832, 832 * 480, 16, 1280, (480, 832)),
        (1280 / 704, 1280 * 704, 32, 1280, (1280, 704)),
        (20.0, 1024 * 1024, 8, 2048, (1944, 96)),
        (0.001, 1024 * 1024, 8, 2048, (64, 2048)),
    ],
)
def test_a_shape_gets_the_size_that_is_nearest_to_it(
    ratio: float, pixels: int, multiple: int, most: int, expected: tuple[int, int]
) -> None:
    assert shaped(ratio, pixels, multiple=multiple, least=64, most=most) == expected


@given(
    ratio=st.floats(0.001, 1000),
    pixels=st.integers(4 * 64 * 64, 4_000_000),
    multiple=st.sampled_from([8, 16, 32]),
)
def test_every_size_is_one_that_a_request_could_have_named_itself(ratio: float, pixels: int, multiple: int) -> None:
    width, height = shaped(ratio, pixels, multiple=multiple, least=64, most=2048)
    assert width * height <= pixels
    assert all(64 <= side <= 2048 and side % multiple == 0 for side in (width, height))


@given(ratio=st.floats(0.4, 2.5), pixels=st.integers(512 * 512, 1280 * 1024))
def test_a_usual_shape_is_met_within_two_hundredths_and_fills_most_of_the_pixels(ratio: float, pixels: int) -> None:
    width, height = shaped(ratio, pixels, multiple=8, least=64, most=2048)
    assert abs(math.log(width / height / ratio)) < 0.02
    assert width * height > 0.85 * pixels


@given(ratio=st.floats(0.05, 20))
def test_a_picture_turned_by_a_quarter_gets_the_same_size_turned(ratio: float) -> None:
    upright = shaped(ratio, 1024 * 1024, multiple=8, least=64, most=2048)
    lying = shaped(1 / ratio, 1024 * 1024, multiple=8, least=64, most=2048)
    assert abs(upright[0] * upright[1] - lying[0] * lying[1]) < 0.15 * 1024 * 1024
