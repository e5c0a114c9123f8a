"""The prompts of the score: the same every time, complete, and of scenes that the training leaves out."""

from collections import Counter

import pytest

from tests.train_demo.drawn import scene
from tools.train_demo.prompts import Case, clip_cases, held_out, image_cases
from tools.train_demo.scenes import COLOURS, COLUMNS, MOTIONS, ROWS, SHAPES


def test_one_combination_in_ten_is_held_out_whatever_the_jitter() -> None:
    names = [
        {"shape": shape, "colour": ink, "background": ground, "column": column, "row": row}
        for shape in SHAPES
        for ink in COLOURS
        for ground in COLOURS
        for column in COLUMNS
        for row in ROWS
        if ink != ground
    ]
    kept = [one for one in names if held_out(scene(**one))]
    assert len(kept) / len(names) == pytest.approx(0.1, abs=0.01)
    assert all(held_out(scene(**one, x=0.1, size="small", radius=0.1)) for one in kept)
    for attribute, values in {"shape": SHAPES, "colour": COLOURS, "background": COLOURS, "row": ROWS}.items():
        assert {one[attribute] for one in kept} == set(values)


def test_prompts_are_the_same_every_time_and_a_short_list_begins_the_long_one() -> None:
    assert image_cases() == image_cases()
    assert image_cases(30) == image_cases(200)[:30]
    assert clip_cases(12) == clip_cases(50)[:12]
    assert image_cases(40, seed=1) != image_cases(40)


def test_every_prompt_differs_and_every_value_is_asked_for() -> None:
    images, clips = image_cases(), clip_cases()
    assert len({case.prompt for case in images}) == 200
    assert len({case.prompt for case in clips}) == 50
    for name, values in {"shape": SHAPES, "colour": COLOURS, "background": COLOURS}.items():
        assert {getattr(case, name) for case in images} == set(values)
    assert {(case.column, case.row) for case in images} == {(column, row) for column in COLUMNS for row in ROWS}
    assert min(Counter(case.motion for case in clips)[name] for name in MOTIONS) >= 6


def test_a_case_that_the_training_may_see_is_refused() -> None:
    case = image_cases(1)[0]
    others = [name for name in COLOURS if name not in {case.colour, case.background}]
    seen = next(name for name in others if not held_out(scene(**_names(case) | {"colour": name})))
    with pytest.raises(ValueError, match="not held out"):
        Case(**_names(case) | {"prompt": "a star", "colour": seen})


def _names(case: Case) -> dict[str, str]:
    names = ("shape", "colour", "background", "column", "row")
    return {name: getattr(case, name) for name in names}
