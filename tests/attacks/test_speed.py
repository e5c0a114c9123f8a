"""Nonsense by the megabyte is refused in linear time, and no nesting depth breaks the parser."""

import statistics
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.clock import took
from worker.api.request import envelope, parse
from worker.core.errors import InvalidInput
from worker.core.logs import redact

pytestmark = pytest.mark.slow

MEGABYTE = 1_000_000
BOUND_SECONDS = 0.5
"""For 2 MB on a busy machine. A quiet one takes some 20 ms at most; the promise for 1 MB is 50."""
GROWTH = 3.0
UNMEASURABLE_SECONDS = 0.005


def nest(depth: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = wrap(value)
    return value


SHAPES: dict[str, Callable[[int], Any]] = {
    "a long prompt": lambda size: {"prompt": "fox " * (size // 4)},
    "brackets": lambda size: {"prompt": "(" * size},
    "brackets that close": lambda size: {"prompt": "(" * (size // 2) + ")" * (size // 2)},
    "tags": lambda size: {"prompt": "<lora:" * (size // 6)},
    "spaces": lambda size: {"prompt": " " * size},
    "control characters": lambda size: {"prompt": "x", "negative_prompt": "\x00\u202e" * (size // 4)},
    "lone surrogates": lambda size: {"prompt": "\ud800" * (size // 3)},
    "emoji": lambda size: {"prompt": "🦊" * (size // 4)},
    "many keys": lambda size: {f"{number:x}": 0 for number in range(size // 9)},
    "many keys that look right": lambda size: {f"promp{number}": "x" for number in range(size // 15)},
    "a long key": lambda size: {"prompt": "x", "k" * size: 1},
    "long keys": lambda size: {"prompt": "x", **{f"{number}" + "width" * 200: 1 for number in range(size // 1000)}},
    "a long list": lambda size: {"prompt": [0] * (size // 2)},
    "a long list at the top": lambda size: [0] * (size // 2),
    "deep lists": lambda size: {"prompt": "x", "seed": nest(size // 2, lambda value: [value])},
    "deep objects": lambda size: {"prompt": "x", "metadata": nest(size // 6, lambda value: {"a": value})},
    "deep objects at the top": lambda size: nest(size // 6, lambda value: {"a": value}),
    "a huge number": lambda size: {"prompt": "x", "seed": 1 << int(3.3 * size)},
    "a huge negative number": lambda size: {"prompt": "x", "width": -(1 << int(3.3 * size))},
    "a long id": lambda size: {"prompt": "x", "user_id": "a" * size},
    "an id of underscores": lambda size: {"prompt": "x", "file_uid": "_" * size},
    "a long token": lambda size: {"prompt": "x", "id_token": "eyJ." * (size // 4)},
    "a long task": lambda size: {"prompt": "x", "task_type": "text2img" * (size // 8)},
    "a long scheduler": lambda size: {"prompt": "x", "scheduler": "DDIM" * (size // 4)},
    "a long URL": lambda size: {"task_type": "img2img", "prompt": "x", "image_url": "http" * (size // 4)},
    "a data URI without end": lambda size: {
        "task_type": "img2img",
        "prompt": "x",
        "image_url": "data:image/" + "a" * size,
    },
}


def refuse(job_input: object) -> None:
    envelope(job_input)
    with pytest.raises(InvalidInput) as caught:
        parse(job_input)
    assert len(str(caught.value)) < 5000


def check_growth(small: Callable[[], object], large: Callable[[], object]) -> None:
    """Check that twice the input takes at most about three times as long; a busy machine gets several chances."""
    times: list[tuple[float, float]] = []
    for _ in range(20):
        times.append((took(small), took(large)))
        # The quickest of each, or, if one of them was quick by luck, the median.
        for usual in (min, statistics.median):
            once, twice = (usual(measured) for measured in zip(*times, strict=True))
            if twice < max(UNMEASURABLE_SECONDS, GROWTH * once) and twice < BOUND_SECONDS:
                return
    raise AssertionError([f"{1000 * first:.1f} ms, {1000 * second:.1f} ms" for first, second in times])


@pytest.mark.parametrize("shape", SHAPES)
def test_nonsense_is_refused_in_linear_time(shape: str) -> None:
    small, large = SHAPES[shape](MEGABYTE), SHAPES[shape](2 * MEGABYTE)
    check_growth(lambda: refuse(small), lambda: refuse(large))


@pytest.mark.parametrize(
    "piece",
    [
        "eyJ-",
        "eyJa.",
        "-eyJaaaaaaaa.b",
        "MII+",
        "-----BEGIN ",
        "-----BEGIN PRIVATE KEY-----",
        "token=",
        ";base64,",
        "a\n",
    ],
)
def test_a_log_line_is_redacted_in_linear_time(piece: str) -> None:
    """Whatever a library writes to the log, the filter that redacts secrets cannot be made to hang."""
    small, large = piece * (50_000 // len(piece)), piece * (100_000 // len(piece))
    check_growth(lambda: redact(small), lambda: redact(large))
