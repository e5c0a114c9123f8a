"""Inpainting's input to the model, and its result: the client's own pixels where nothing is repainted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.support.engine_jobs import Recorder, image_params, picture, stripe_mask
from worker.api.layout import Borders, Drawn, Layout, Native, laid_out
from worker.engine.canvas import Canvas
from worker.engine.resize import fit_image, fit_mask, masked_box

NATIVE = Native(64, 64, 8, 2048)
sides = st.integers(20, 150)


def random_mask(size: tuple[int, int], seed: int, *, soft: bool) -> Image.Image:
    """Draw a few boxes of grey, or only of white, on black; sometimes none."""
    dice, mask = np.random.default_rng(seed), np.zeros(size[::-1], dtype=np.uint8)
    for _ in range(dice.integers(0, 4)):
        x, y = dice.integers(0, size[0]), dice.integers(0, size[1])
        mask[y : y + dice.integers(1, size[1]), x : x + dice.integers(1, size[0])] = dice.choice([40, 128, 255])
    return Image.fromarray(mask if soft else np.where(mask, 255, 0).astype(np.uint8))


def canvas(layout: Layout, image: Image.Image, mask: Image.Image | None, blur: float = 0) -> Canvas:
    params = image_params(
        width=layout.width, height=layout.height, outpaint=layout.outpaint, drawn=layout.drawn, mask_blur=blur
    )
    return Canvas(params, image, mask, Recorder())


def drawn(on: Canvas, value: int = 255) -> NDArray[np.uint8]:
    """Return a model's picture of one colour."""
    return np.full((*on.source.size[::-1], 3), value, dtype=np.uint8)


@settings(max_examples=150)
@given(
    size=st.tuples(sides, sides),
    mask_size=st.none() | st.tuples(sides, sides),
    asked=st.tuples(*[st.none() | st.integers(8, 20).map(lambda n: 8 * n)] * 2),
    borders=st.none() | st.builds(Borders, *[st.integers(0, 8).map(lambda n: 8 * n)] * 4),
    masked=st.booleans(),
    blur=st.sampled_from([0, 1, 3, 8]),
    soft=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_where_the_weight_is_0_every_pixel_is_the_clients_own(
    size: tuple[int, int],
    mask_size: tuple[int, int] | None,
    asked: tuple[int | None, int | None],
    borders: Borders | None,
    masked: bool,
    blur: float,
    soft: bool,
    seed: int,
) -> None:
    """At any size, with any mask, outpainted or not: the pixels as fitted to their place in the output."""
    image, mask = picture(*size, seed=seed), random_mask(mask_size or size, seed, soft=soft)
    only = (masked_box(mask) or (0, 0, 0, 0)) if masked else None
    layout = laid_out(asked, NATIVE, size, most_pixels=2048**2, borders=borders, only=only, blur=blur)
    on = canvas(layout, image, mask, blur)
    result = on.finished(drawn(on))
    assert result.shape == (layout.height, layout.width, 3)
    assert result.flags.c_contiguous
    left, up, right, down = (layout.outpaint or Borders()).inside((layout.width, layout.height))
    inner = right - left, down - up
    weights, kept = (
        np.asarray(fit_mask(mask, size, *inner, Recorder())),
        np.asarray(fit_image(image, *inner, Recorder())),
    )
    inside = result[up:down, left:right]
    if not blur:
        assert np.array_equal(inside[weights == 0], kept[weights == 0])
        assert (inside[weights == 255] == 255).all()
        return
    near = weights > 0
    for _ in range(3 * int(blur) + 2):
        near[1:] |= near[:-1].copy()
        near[:-1] |= near[1:].copy()
        near[:, 1:] |= near[:, :-1].copy()
        near[:, :-1] |= near[:, 1:].copy()
    assert np.array_equal(inside[~near], kept[~near])


@pytest.mark.parametrize("blur", [0, 4])
def test_the_more_weight_a_pixel_has_the_nearer_it_is_to_what_was_drawn(blur: float) -> None:
    image, ramp = Image.new("RGB", (256, 256), (10, 20, 30)), Image.linear_gradient("L")
    on = canvas(Layout(256, 256), image, ramp, blur)
    change = on.finished(drawn(on)).astype(int).sum(axis=(1, 2))
    assert (np.diff(change) >= 0).all()
    assert len(set(change.tolist())) > 200


def test_blur_feathers_the_edge_and_leaves_what_is_far_from_it() -> None:
    """diffusers PR#6072: there was no `mask_blur`, and a soft mask was not used as one."""
    mask = Image.new("L", (128, 128))
    mask.paste(255, (64, 0, 128, 128))
    row = np.asarray(canvas(Layout(128, 128), picture(128, 128), mask, 4).weights)[64].astype(int)
    assert (np.diff(row) >= 0).all()
    assert not row[: 64 - 13].any()
    assert (row[64 + 13 :] == 255).all()
    assert 100 < row[63] < 155


def test_only_the_masked_area_is_given_to_the_model_and_put_back() -> None:
    image, mask = picture(300, 200), Image.new("L", (300, 200))
    mask.paste(255, (200, 50, 240, 90))
    on = canvas(Layout(300, 200, None, Drawn(64, 64, (180, 30, 260, 110))), image, mask)
    assert on.source.size == on.weights.size == (64, 64)
    result = on.finished(drawn(on))
    inside = np.zeros((200, 300), dtype=bool)
    inside[50:90, 200:240] = True
    assert (result[inside] == 255).all()
    assert np.array_equal(result[~inside], np.asarray(image)[~inside])


def test_a_stroke_of_one_pixel_is_still_repainted_where_it_is_drawn_much_smaller() -> None:
    mask = Image.new("L", (1024, 1024))
    mask.paste(255, (0, 500, 1024, 501))
    on = canvas(Layout(1024, 1024, None, Drawn(64, 64, (0, 0, 1024, 1024))), Image.new("RGB", (1024, 1024)), mask)
    assert set(np.unique(np.asarray(on.weights))) == {0, 255}


@pytest.mark.parametrize(
    "borders", [Borders(left=32), Borders(right=8, up=16), Borders(32, 32, 32, 32), Borders(up=200)]
)
def test_what_is_drawn_beside_a_picture_begins_as_its_mirror_image_and_ends_as_drawn(borders: Borders) -> None:
    """The seam lies in the new area: next to the picture its own colours continue."""
    image, size = Image.new("RGB", (64, 64), (200, 100, 50)), borders.around((64, 64))
    on = canvas(Layout(*size, borders), image, None)
    assert np.abs(np.asarray(on.source).astype(int) - (200, 100, 50)).max() <= 1
    result = on.finished(drawn(on, 0)).astype(int)
    left, up, right, down = borders.inside(size)
    assert np.array_equal(result[up:down, left:right], np.asarray(image))
    if borders.left:
        row = result[(up + down) // 2, :left, 0]
        assert (np.diff(row) >= 0).all()
        assert row[-1] > 150
        assert row[0] == 0
    if borders.up == 200:
        assert not result[:180].any()


def test_a_mask_that_reaches_the_edge_goes_on_into_what_is_drawn_beside_it() -> None:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (32, 0, 64, 64))
    on = canvas(Layout(96, 64, Borders(right=32)), picture(), mask)
    assert (np.asarray(on.weights)[:, 32:] == 255).all()


def test_white_that_is_lost_where_a_mask_is_made_smaller_is_told() -> None:
    line = Image.new("L", (640, 640))
    line.paste(255, (100, 0, 101, 640))
    Canvas(image_params(), picture(), line, control := Recorder())
    assert control.warnings == ["mask_url: the mask's white is too small for 64x64, so the picture stays as it was"]


def test_a_mask_that_repaints_nothing_is_told_and_the_picture_comes_back() -> None:
    control, source = Recorder(), picture()
    on = Canvas(image_params(mask_blur=0), source, Image.new("L", (64, 64), 5), control)
    assert any("no white pixel" in warning for warning in control.warnings)
    assert np.array_equal(on.finished(drawn(on)), np.asarray(source))
    Canvas(image_params(outpaint=Borders(left=8), width=72), source, None, quiet := Recorder())
    Canvas(image_params(), source, stripe_mask(), quiet)
    assert quiet.warnings == []


def test_strokes_that_are_not_white_are_told() -> None:
    """An app may paint the area to repaint in red: that is 76 of 255."""
    strokes = Image.new("RGB", (64, 64))
    strokes.paste((255, 0, 0), (8, 8, 40, 40))
    Canvas(image_params(), picture(), strokes.convert("L"), control := Recorder())
    assert control.warnings == [
        "mask_url: the mask has no white (its brightest value is 76 of 255), so nothing is repainted wholly; "
        "paint in white what shall be"
    ]
    strokes.paste((248, 248, 248), (0, 0, 4, 4))
    Canvas(image_params(), picture(), strokes.convert("L"), quiet := Recorder())
    assert quiet.warnings == []


def test_a_mask_that_repaints_nothing_is_told_where_the_canvas_grows_too() -> None:
    params = image_params(outpaint=Borders(left=8), width=72)
    Canvas(params, picture(), Image.new("L", (64, 64)), control := Recorder())
    assert control.warnings == ["mask_url: the mask has no white pixel, so only what lies beside it is drawn"]
    Canvas(params, picture(), stripe_mask(), quiet := Recorder())
    assert quiet.warnings == []


@pytest.mark.parametrize(
    ("blur", "border", "said"), [(0, 32, None), (1.5, 32, 2), (2, 32, 2), (3, 32, None), (9, 4, 1), (9, 40, None)]
)
def test_a_blur_that_the_seam_of_the_borders_does_not_show_is_told(
    blur: float, border: int, said: float | None
) -> None:
    params = image_params(outpaint=Borders(left=border), width=64 + border, mask_blur=blur)
    Canvas(params, picture(), None, control := Recorder())
    told = f"mask_blur: has no effect; the seam of these borders is {said} pixels soft"
    assert control.warnings == ([told] if said else [])
    plain = Canvas(image_params(outpaint=Borders(left=border), width=64 + border), picture(), None, Recorder())
    same = plain.weights.tobytes() == Canvas(params, picture(), None, Recorder()).weights.tobytes()
    assert same == (said is not None or not blur)
