"""The client's picture in the output: where it lies, and which part is drawn at which size."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.api.layout import Borders, Drawn, Layout, Native, Shares, followed, laid_out

SDXL = Native(1024, 1024, 8, 2048)
WAN = Native(832, 480, 16, 1280)
MOST = 2_359_296
Size = tuple[int, int]

sizes = st.tuples(st.integers(1, 5000), st.integers(1, 5000))
asked = st.tuples(*[st.none() | st.integers(8, 192).map(lambda n: 8 * n)] * 2)
borders = st.builds(Borders, *[st.integers(0, 256).map(lambda n: 8 * n)] * 4)
shares = st.tuples(*[st.floats(0, 1)] * 4).map(
    lambda s: (min(s[0], s[2]), min(s[1], s[3]), max(s[0], s[2]), max(s[1], s[3]))
)


def laid(
    source: Size,
    *,
    sides: tuple[int | None, int | None] = (None, None),
    native: Native = SDXL,
    grown: Borders | None = None,
    only: Shares | None = None,
    blur: float = 0,
) -> Layout:
    return laid_out(sides, native, source, most_pixels=MOST, borders=grown, only=only, blur=blur)


@pytest.mark.parametrize(
    ("sides", "source", "expected"),
    [
        ((None, None), (1080, 1920), (760, 1352)),
        ((None, None), (100, 100), (1024, 1024)),
        ((512, None), (1080, 1920), (512, 912)),
        ((None, 512), (1080, 1920), (288, 512)),
        ((2048, None), (1000, 3000), (2048, 1152)),
        ((512, 512), (1080, 1920), (512, 512)),
        ((None, 512), None, (1024, 512)),
    ],
    ids=["no side", "small source", "width", "height", "as far as the limit", "both sides", "no source yet"],
)
def test_what_was_not_asked_for_follows_the_source(
    sides: tuple[int | None, int | None], source: Size | None, expected: Size
) -> None:
    """cog-sdxl#10, Fooocus#843: an img2img without sizes keeps the photo's shape."""
    assert followed(sides, SDXL, source, most_pixels=MOST) == expected


def test_a_clip_of_an_upright_photo_is_upright() -> None:
    """MultiTalk#104, Wan2.2#128: image to video of an upright photo came out in landscape."""
    width, height = followed((None, None), WAN, (1080, 1920), most_pixels=MOST)
    assert (width, height) == (448, 800)


@given(source=sizes, sides=asked)
def test_every_size_is_one_that_the_model_takes(source: Size, sides: tuple[int | None, int | None]) -> None:
    for native in (SDXL, WAN):
        size = followed(sides, native, source, most_pixels=MOST)
        for side, wanted in zip(size, sides, strict=True):
            assert side == wanted or (side % native.multiple == 0 and 64 <= side <= native.longest)
        if sides == (None, None):
            assert size[0] * size[1] <= native.pixels


def test_a_picture_with_borders_keeps_its_size_where_the_limits_allow_that() -> None:
    """The drawn part has a size that suits the model; the picture itself is not scaled."""
    layout = laid((1024, 1024), grown=Borders(right=256))
    assert layout == Layout(1280, 1024, Borders(right=256), Drawn(1120, 896, (0, 0, 1280, 1024)))
    assert laid((801, 601), grown=Borders(up=64)).width == 801
    assert laid((896, 1016), grown=Borders(left=128)) == Layout(1024, 1016, Borders(left=128))


def test_a_picture_too_large_for_its_borders_is_scaled_with_them_to_the_models_pixels() -> None:
    layout = laid((4032, 3024), grown=Borders(left=1008, right=1008))
    assert (layout.width, layout.height) == (1440, 720)
    assert layout.outpaint == Borders(240, 240, 0, 0)
    assert layout.drawn is None


def test_a_narrow_border_of_a_huge_picture_is_one_pixel_and_told_as_a_number() -> None:
    """`params.outpaint` is JSON: 1 there, not `true`."""
    layout = laid((1, 20_000), grown=Borders(left=64, up=8))
    assert layout.outpaint == Borders(63, 0, 1, 0)
    assert type(layout.outpaint.up) is int


def test_a_size_that_was_asked_for_is_the_whole_canvas() -> None:
    layout = laid((512, 512), sides=(1024, 512), grown=Borders(left=512))
    assert layout == Layout(1024, 512, Borders(left=512))
    assert laid((512, 512), sides=(None, 256), grown=Borders(left=512)) == Layout(512, 256, Borders(left=256))


def test_the_masked_area_is_drawn_at_the_models_pixels_and_the_canvas_keeps_its_own() -> None:
    layout = laid((1600, 1200), only=(0.5, 0.5, 0.625, 0.625))
    assert (layout.width, layout.height) == (1600, 1200)
    assert layout.drawn is not None
    left, top, right, bottom = layout.drawn.box
    assert left <= 800 - 50 and right >= 1000 + 50  # noqa: PT018 - one interval
    assert top <= 600 - 50 and bottom >= 750 + 50  # noqa: PT018 - and the other
    assert layout.drawn.width * layout.drawn.height > 0.9 * SDXL.pixels


def test_a_large_photo_keeps_as_much_of_itself_as_the_limits_allow() -> None:
    layout = laid((4032, 3024), only=(0, 0, 0.1, 0.1))
    assert layout.width * layout.height == pytest.approx(MOST, rel=0.002)
    assert layout.width / layout.height == pytest.approx(4 / 3, rel=0.002)


def test_only_the_border_is_drawn_where_nothing_else_is_masked() -> None:
    layout = laid((1200, 800), grown=Borders(right=200), only=(0, 0, 0, 0))
    assert layout.drawn is not None
    assert layout.drawn.box[0] > 700
    assert layout.drawn.box[1:] == (0, 1400, 800)


@given(
    source=sizes,
    sides=asked,
    grown=st.none() | borders,
    only=st.none() | shares,
    blur=st.floats(0, 64),
)
def test_every_layout_lies_within_its_output_and_the_limits(
    source: Size, sides: tuple[int | None, int | None], grown: Borders | None, only: Shares | None, blur: float
) -> None:
    layout = laid(source, sides=sides, grown=grown, only=only, blur=blur)
    size = layout.width, layout.height
    assert max(size) <= 2048
    assert size[0] * size[1] <= MOST
    assert (grown is None) == (layout.outpaint is None)
    if layout.outpaint is not None and min(size) > 2:
        left, top, right, bottom = layout.outpaint.inside(size)
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]  # noqa: PT018 - one box
    if layout.drawn is None:
        assert all(side % 8 == 0 for side in size)
        return
    left, top, right, bottom = layout.drawn.box
    assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]  # noqa: PT018 - one box
    assert layout.drawn.width * layout.drawn.height <= SDXL.pixels
    assert all(64 <= side <= 2048 and side % 8 == 0 for side in (layout.drawn.width, layout.drawn.height))


@given(
    source=st.tuples(st.integers(300, 2000), st.integers(300, 2000)),
    only=shares.filter(lambda s: s[2] - s[0] > 0.02 and s[3] - s[1] > 0.02),
)
def test_what_is_drawn_has_the_shape_of_where_it_goes(source: Size, only: Shares) -> None:
    layout = laid(source, only=only)
    if layout.drawn is not None:
        left, top, right, bottom = layout.drawn.box
        there, drawn = (right - left) / (bottom - top), layout.drawn.width / layout.drawn.height
        assert abs(math.log(there / drawn)) < 0.03
