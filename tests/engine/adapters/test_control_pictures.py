"""The control picture that a ControlNet gets from a client's picture, and its place in the output."""

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from tests.support.engine_jobs import Recorder, image_params, picture
from worker.api.layout import Borders, Drawn
from worker.api.params import ControlParams
from worker.engine.adapters.control_pictures import control_picture

SIZE = (64, 64)


def shown(image: Image.Image, kind: Any, *, size: tuple[int, int] = SIZE, made: bool = False, **changes: Any) -> Any:
    entry, control = ControlParams(kind, preprocess=not made), Recorder()
    found = control_picture(
        image,
        entry,
        image_params(**changes),
        size,
        field="controlnets.0.image_url",
        control=control,
        depth=ImageOps.invert,
    )
    assert found.mode == "RGB"
    assert found.size == size
    return np.asarray(found), control.warnings


def square() -> Image.Image:
    image = Image.new("RGB", SIZE, (250, 250, 250))
    ImageDraw.Draw(image).rectangle((20, 20, 43, 43), fill=(10, 10, 10))
    return image


def test_canny_is_white_on_black_where_the_edges_are() -> None:
    edges, _ = shown(square(), "canny")
    assert set(np.unique(edges)) == {0, 255}
    rows = np.flatnonzero(edges.any(axis=(1, 2)))
    assert (rows.min(), rows.max()) in {(19, 43), (20, 43), (19, 44), (20, 44)}
    assert not edges[30, 30].any()


def test_a_scribble_is_light_on_dark_whichever_way_it_was_drawn() -> None:
    dark_on_light, _ = shown(square(), "scribble")
    assert dark_on_light[30, 30].tolist() == [245, 245, 245]
    again, _ = shown(Image.fromarray(dark_on_light), "scribble")
    assert np.array_equal(again, dark_on_light)


@pytest.mark.parametrize("kind", ["tile", "canny"])
def test_what_is_made_already_is_left_alone(kind: str) -> None:
    image = picture()
    assert np.array_equal(shown(image, kind, made=True)[0], np.asarray(image))


def test_tile_is_the_picture() -> None:
    assert np.array_equal(shown(picture(), "tile")[0], np.asarray(picture()))


def test_other_proportions_are_cropped_and_said_of_this_field() -> None:
    _, warnings = shown(picture(128, 64), "tile")
    assert len(warnings) == 1
    assert warnings[0].startswith("controlnets.0.image_url: the picture has other proportions than 64x64")


def test_beside_a_picture_that_grows_nothing_is_known() -> None:
    found, _ = shown(picture(32, 64), "tile", outpaint=Borders(left=32, right=0, up=0, down=0))
    assert not found[:, :32].any()
    assert np.array_equal(found[:, 32:], np.asarray(picture(32, 64)))


def test_of_a_drawn_box_the_same_box_is_shown() -> None:
    drawn = Drawn(64, 64, (16, 16, 48, 48))
    found, _ = shown(square(), "tile", drawn=drawn)
    expected = square().crop((16, 16, 48, 48)).resize(SIZE, Image.Resampling.LANCZOS)
    assert np.array_equal(found, np.asarray(expected))


def test_the_depth_of_a_photo_is_told_and_one_that_is_made_is_taken() -> None:
    told, _ = shown(square(), "depth")
    assert told[30, 30].tolist() == [245, 245, 245]
    assert shown(square(), "depth", made=True)[0][30, 30].tolist() == [10, 10, 10]
