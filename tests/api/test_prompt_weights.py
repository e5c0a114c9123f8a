"""Prompt weights are read as A1111 reads them."""

import math
import time

import pytest

from worker.api.prompt_weights import MAX_PASSAGES, MAX_WEIGHT, Span, has_weights, heaviest, letters, plain, weighted
from worker.api.request import parse
from worker.core.errors import InvalidInput

# The first six are A1111's own examples (modules/prompt_parser.py).
READ = {
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(unbalanced": [("unbalanced", 1.1)],
    r"\(literal\]": [("(literal]", 1.0)],
    "(unnecessary)(parens)": [("unnecessaryparens", 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1.0),
        ("house", 1.573),
        (" ", 1.1),
        ("on", 1.0),
        (" a ", 1.1),
        ("hill", 0.55),
        (", sun, ", 1.1),
        ("sky", 1.4641),
        (".", 1.1),
    ],
    "": [("", 1.0)],
    "()": [("", 1.0)],
    "[[far]] away": [("far", 1 / 1.21), (" away", 1.0)],
    "[unbalanced": [("unbalanced", 1 / 1.1)],
    "never opened) at all]": [("never opened) at all]", 1.0)],
    "((a) b": [("a", 1.21), (" b", 1.1)],
    "(a, (b:2), c:0.5)": [("a, ", 0.5), ("b", 1.0), (", c", 0.5)],
    "(a: 1.5 )": [("a", 1.5)],
    "(a:.5)": [("a", 0.5)],
    "(a:-1)": [("a", -1.0)],
    "(a:0)": [("a", 0.0)],
    "12:30 at noon": [("12:30 at noon", 1.0)],
    "a ratio of 16:9)": [("a ratio of 16:9)", 1.0)],
    "(a:b)": [("a:b", 1.1)],
    "(a:1.2.3)": [("a:1.2.3", 1.1)],
    r"\\(a)": [("\\", 1.0), ("a", 1.1)],
    "C++ \\ code": [("C++ \\ code", 1.0)],
    "[a:b:0.5]": [("a:b:0.5", 1 / 1.1)],
    "[(a)]": [("a", 1.0)],
    "([a)]": [("a", 1.0)],
    "(über:1.2) 雪": [("über", 1.2), (" 雪", 1.0)],
}


@pytest.mark.parametrize("text", READ)
def test_a_prompt_is_read_as_in_a1111(text: str) -> None:
    (passage,) = weighted(text)
    assert [span.text for span in passage] == [text for text, _ in READ[text]]
    assert [span.weight for span in passage] == pytest.approx([weight for _, weight in READ[text]])


@pytest.mark.parametrize(
    ("text", "passages"),
    [
        ("a BREAK b", [["a"], ["b"]]),
        ("BREAK b", [[""], ["b"]]),
        ("a BREAK", [["a"], [""]]),
        ("a\nBREAK\nb", [["a"], ["b"]]),
        ("BREAKFAST, break", [["BREAKFAST, break"]]),
        ("(a:1.2) BREAK b (c)", [["a", ""], ["b ", "c"]]),
    ],
)
def test_break_begins_a_passage(text: str, passages: list[list[str]]) -> None:
    assert [[span.text for span in passage] for passage in weighted(text)] == [
        [text for text in passage if text or len(passage) == 1] for passage in passages
    ]


def test_without_weights_letters_are_letters() -> None:
    assert plain("a (b:1.3) BREAK") == ((Span("a (b:1.3) BREAK"),),)
    assert not has_weights(plain("(b)"))
    assert has_weights(weighted("(b)"))
    assert has_weights(weighted("a BREAK b"))
    assert not has_weights(weighted(r"\(b\)"))
    assert letters(weighted("(a:2) b BREAK c")) == "a b c"


def test_a_weight_that_no_picture_survives_is_refused() -> None:
    assert heaviest(weighted("(a:-3) (b:2)")) == -3
    for prompt in ("(a:11)", "(a:-10.5)", "(" * 30 + "a" + ")" * 30):
        with pytest.raises(InvalidInput, match=rf"prompt: a weight must be within -{MAX_WEIGHT:g} and {MAX_WEIGHT:g}"):
            parse({"prompt": prompt, "prompt_weighting": True})
        parse({"prompt": prompt})
    with pytest.raises(InvalidInput, match="negative_prompt: a weight"):
        parse({"prompt": "a", "negative_prompt": "(b:99)", "prompt_weighting": True})


@pytest.mark.parametrize(
    "text", ["(" * 4000, "[" * 2000 + "]" * 2000, "(a:" * 1300, "BREAK " * 660, ":" * 4000, "\\" * 4000]
)
def test_no_prompt_takes_long_to_read(text: str) -> None:
    weighted.cache_clear()
    started = time.process_time()
    weighted(text[:4000])
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    "text", ["(" * 50 + "a" + ":99999999999999999999)" * 49 + ":0)", "((a:99999999999999999999):-99999999999999999999)"]
)
def test_no_weight_is_beyond_numbers(text: str) -> None:
    assert math.isfinite(heaviest(weighted(text)))


@pytest.mark.parametrize(
    "text",
    [":" + "1" * 3999, ":" + " " * 3999, ": " * 2000, " " * 4000, "(" * 2000 + ":1.1)" * 400, "(a)b" * 1000],
    ids=["digits", "blanks", "colons", "nothing", "nested", "words"],
)
def test_runs_of_digits_and_blanks_are_read_once(text: str) -> None:
    fastest = float("inf")
    for _ in range(3):
        weighted.cache_clear()
        begin = time.process_time()
        weighted(text)
        fastest = min(fastest, time.process_time() - begin)
    assert fastest < 0.2


def test_a_prompt_has_a_bounded_number_of_breaks() -> None:
    """Each begins a chunk, and the price does not count chunks."""
    most = "a BREAK " * 39 + "a"
    for field in ("prompt", "negative_prompt"):
        asked = {"prompt": "a fox", "prompt_weighting": True}
        assert len(weighted(most)) == MAX_PASSAGES
        parse(asked | {field: most})
        with pytest.raises(InvalidInput, match=f"{field}: BREAK may stand in it at most 39 times \\(got 40\\)"):
            parse(asked | {field: "BREAK " + most})
    parse({"prompt": "BREAK " * 600})
