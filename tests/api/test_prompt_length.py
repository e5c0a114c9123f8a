"""A prompt's number of tokens is estimated from its characters."""

from dataclasses import replace
from typing import Any

import pytest

from tests.support.engine_jobs import image_params, video_params
from worker.api.cost import job_units
from worker.api.params import public_params
from worker.api.prompt_length import likely_chunks
from worker.engine.memory.room import Size, room
from worker.engine.models.registry import ModelSpec, WeightSource

PROSE = "a small red fox sits beside an old stone bridge in the morning light, "  # 15 words and signs


@pytest.mark.parametrize(
    ("fields", "image", "clip"),
    [
        ({"prompt": "a fox"}, 1, 1),
        ({"prompt": PROSE * 5}, 1, 1),
        ({"prompt": PROSE * 6}, 2, 1),
        ({"prompt": PROSE * 50}, 10, 2),
        ({"prompt": "a fox", "negative_prompt": PROSE * 6}, 2, 1),
        ({"prompt": "a fox", "negative_prompt": PROSE * 6, "guidance_scale": 1.0}, 1, 1),
        ({"prompt": "狐" * 76}, 4, 1),
        ({"prompt": "\U00013000" * 4000}, 214, 16),
        ({"prompt": "7" * 4000}, 54, 8),
        ({"prompt": "a BREAK b BREAK c"}, 1, 1),
        ({"prompt": "a BREAK b BREAK c", "prompt_weighting": True}, 3, 1),
    ],
)
def test_a_longer_prompt_has_more_chunks(fields: dict[str, Any], image: int, clip: int) -> None:
    assert (likely_chunks(image_params(**fields)), likely_chunks(video_params(**fields))) == (image, clip)


def test_what_a_model_does_not_read_counts_as_nothing() -> None:
    long = video_params(prompt=PROSE * 50, most_chunks=1)
    assert likely_chunks(long) == 1
    assert job_units(long) == job_units(replace(long, prompt="a fox"))
    assert "most_chunks" not in public_params(long)


@pytest.mark.parametrize("family", ["sdxl", "wan"])
def test_each_chunk_takes_its_room_beside_the_denoiser(family: Any) -> None:
    spec = ModelSpec(family, WeightSource("SDXL_MODEL", "sdxl", "hub", "org/model", None))
    frames = 81 if family == "wan" else 1
    one, two, ten = (room(spec, Size(1024, 1024, frames, chunks=count), cuda=True) for count in (1, 2, 10))
    assert (one.text, one.decode) == (ten.text, ten.decode)
    assert ten.denoise - one.denoise == 9 * (two.denoise - one.denoise) > 0
    assert ten.denoise < 1.1 * one.denoise
