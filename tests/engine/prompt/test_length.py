"""What a model does not read of a prompt is said, and only that."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.engine_jobs import Recorder, image_params
from worker.engine.prompt.length import warn_of_cut_prompts


def words(text: str) -> Any:
    """A tokenizer of one token a word, with a mark before and behind."""
    return SimpleNamespace(input_ids=["<", *text.split(), ">"])


@pytest.mark.parametrize(("most", "warned"), [(5, True), (6, False)])
def test_a_prompt_is_cut_when_it_has_one_token_too_many(most: int, warned: bool) -> None:
    control = Recorder()
    warn_of_cut_prompts(words, most, image_params(prompt="one two three four", negative_prompt="one"), control)
    left_out = f"prompt: the model reads {most} tokens and this has 6; the rest was left out"
    assert control.warnings == ([left_out] if warned else [])
