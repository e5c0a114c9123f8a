"""JSON that Python's parser rejects."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.api.json_text import MAX_DEPTH, read, readable

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


def nested(levels: int, opening: str = "[", closing: str = "]") -> str:
    return opening * levels + closing * levels


@pytest.mark.parametrize("levels", [1_000, 1_750, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"]":', "}]")])
def test_what_stands_beside_a_deeply_nested_value_is_read_in_full(levels: int, opening: str, closing: str) -> None:
    deep = opening * levels + "1" + closing * levels
    jobs = read(
        f'[{{"id": "a", "input": {{"x": {deep}, "user_id": "u"}}}}, {{"id": "b", "input": {{"y": [1, "[[{{"]}}}}]'
    )
    assert [job["id"] for job in jobs] == ["a", "b"]
    assert jobs[0]["input"]["user_id"] == "u"
    assert isinstance(jobs[0]["input"]["x"], list | dict)
    assert jobs[1]["input"] == {"y": [1, "[[{"]}


def test_a_number_too_long_to_be_read_becomes_one_that_no_field_takes() -> None:
    value = read('{"seed": %s, "text": "%s", "next": -%s}' % ("9" * 5000, "9" * 5000, "8" * 5000))  # noqa: UP031 - braces
    assert value == {"seed": float("inf"), "text": "9" * 5000, "next": float("inf")}


@given(json_values)
def test_text_that_python_reads_stays_as_it_is(value: Any) -> None:
    text = json.dumps(value)
    assert readable(text) == text
    assert read(text) == value


@pytest.mark.parametrize("text", ["", "{", '"', "[[", "[1]]", "nonsense", '"' * 9999, "[" * 10**6, "]" * 10**5])
def test_what_is_not_json_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(text)


@given(st.integers(1, 300), st.integers(1, 300))
def test_nothing_above_the_limit_is_touched(first: int, second: int) -> None:
    text = f'{{"a": {nested(first)}, "b": {nested(second)}, "c": "]"}}'
    shallow = f'{{"a": {nested(min(first, MAX_DEPTH - 1))}, "b": {nested(min(second, MAX_DEPTH - 1))}, "c": "]"}}'
    assert readable(text) == shallow
