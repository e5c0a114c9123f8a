"""No field of a request is silently without effect.

For every field of every task and a few values each: the resulting bytes differ, or a warning names the field, or the
request is refused because of it. Excluded are the fields that identify the caller (`WHO_ASKS`). A new field fails here
until it is in the table.
"""

import functools
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.demo_loras import lora
from tests.support.engine_jobs import picture, stripe_mask
from tests.support.memory_world import World
from tools.showing import data_uri
from worker.api import sizes
from worker.api.fingerprint import WHO_ASKS
from worker.api.request import REQUESTS
from worker.core.config import load_settings
from worker.engine.engine import Engine

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]


PICTURES = [data_uri(picture(seed=seed)) for seed in (0, 1)]
MASKS = [data_uri(stripe_mask()), data_uri(stripe_mask().transpose(Image.Transpose.ROTATE_90))]

IMAGE = {"seed": 7, "width": 64, "height": 64, "num_inference_steps": 4, "guidance_scale": 3.0}
VIDEO = {
    "seed": 7,
    "video_width": 64,
    "video_height": 64,
    "num_frames": 5,
    "num_inference_steps": 2,
    "video_guidance_scale": 3.0,
    "fps": 8,
}
SIZES = ("width", "height", "video_width", "video_height")
BASES: dict[str, dict[str, Any]] = {
    "text2img": IMAGE,
    "img2img": IMAGE | {"image_url": PICTURES[0], "strength": 0.8},
    "inpaint": IMAGE | {"image_url": PICTURES[0], "mask_url": MASKS[0], "strength": 0.8},
    "upscale": {"seed": 7, "image_url": PICTURES[0], "upscale_factor": 4},
    "text2video": VIDEO,
    "img2video": VIDEO | {"image_url": PICTURES[0]},
}
VALUES: dict[str, list[Any]] = {
    "prompt": ["a red square"],
    "negative_prompt": ["star"],
    "prompt_weighting": [True],
    "model": ["demo"],
    "style": ["night"],
    "loras": [[{"path": "own"}]],
    "high_noise_loras": [[{"path": "own"}]],
    "low_noise_loras": [[{"path": "own"}]],
    "seed": [8],
    "num_inference_steps": [1],
    "acceleration": ["regular"],
    "width": [72],
    "height": [72],
    "image_size": ["square_hd", "portrait_4_3", "landscape_16_9"],
    "aspect_ratio": ["1:1", "16:9", "9:21"],
    "num_images": [2],
    "guidance_scale": [0.5, 6],
    # Not DDIM: on the demo model that equals Euler (https://arxiv.org/abs/2010.02502, section 4.3).
    "scheduler": ["HEUN", "K_EULER_ANCESTRAL", "LCM"],
    "output_format": ["jpeg", "webp"],
    "output_quality": [1, 100],
    "upscale_factor": [2],
    "upscale_creativity": [0.5],
    "high_noise_frac": [0, 0.5, 1],
    "refiner_inference_steps": [9],
    "image_url": [PICTURES[1]],
    "mask_url": [MASKS[1]],
    "mask_blur": [4],
    "inpaint_area": ["masked"],
    "outpaint": [{"right": 16}],
    "strength": [0.1, 1.0],
    "video_width": [80],
    "video_height": [80],
    "resolution": ["480p"],
    "num_frames": [9],
    "duration": [0.2, 1.1],
    "fps": [16],
    "video_guidance_scale": [0, 0.5, 1, 6],
    "flow_shift": [8],
    "end_image_url": [PICTURES[1]],
    "controlnets": [
        [{"type": "canny", "image_url": PICTURES[1]}],
        [{"type": "tile", "image_url": PICTURES[1], "conditioning_scale": 0.3, "end_percentage": 0.5}],
    ],
    "ip_adapters": [[{"image_url": PICTURES[1]}], [{"image_url": PICTURES[1], "type": "style", "scale": 2}]],
    "video_quality": ["low", "maximum"],
}
BESIDE: dict[str, list[dict[str, Any]]] = {
    # Fields beside which a field may lose its effect.
    "negative_prompt": [{}, {"guidance_scale": 1, "video_guidance_scale": 1}],
    "output_quality": [{}, {"output_format": "jpeg"}, {"output_format": "webp"}],
    "refiner_inference_steps": [{}, {"high_noise_frac": 1.0}, {"high_noise_frac": 0.0}],
    "num_inference_steps": [{}, {"high_noise_frac": 0.0, "refiner_inference_steps": 3}],
    "upscale_creativity": [{}, {"upscale_factor": 2}],
    "mask_blur": [{}, {"inpaint_area": "masked"}, {"outpaint": {"right": 16}}],
    "inpaint_area": [{}, {"outpaint": {"right": 16}}],
    "scheduler": [{}, {"high_noise_frac": 0.0, "refiner_inference_steps": 3}],
}
SHAPES: dict[str, float] = {**sizes.ASPECT_RATIOS} | {
    name: sizes.ASPECT_RATIOS[shape] for name, shape in sizes.IMAGE_SIZES.items()
}
INSTEAD = {"image_size": SIZES, "aspect_ratio": SIZES, "resolution": SIZES, "duration": ("num_frames",)}
"""Fields that are another way to set others: their numbers appear in `params` under those fields' names."""


def cases() -> Iterator[tuple[str, str, Any, dict[str, Any]]]:
    for task, model in REQUESTS.items():
        own = set(model.model_fields)
        for field in sorted(own - WHO_ASKS - {"task_type"}):
            for value, beside in itertools.product(VALUES.get(field, [None]), BESIDE.get(field, [{}])):
                yield task, field, value, {name: said for name, said in beside.items() if name in own}


@functools.cache
def world() -> World:
    own = lora(Path(tempfile.mkdtemp()) / "own.safetensors", 1)
    made = World(
        loras={"own": str(own)},
        styles={"night": {"prompt": "{prompt}, a red square"}},
        accelerations={"sdxl": {"regular": {"num_inference_steps": 2, "loras": [{"path": "own"}]}}},
    )
    made.generator = Engine(load_settings())  # type: ignore[assignment]  # the built-in models in the painter's place
    return made


_answers: dict[str, dict[str, Any]] = {}


async def answered(job: dict[str, Any]) -> dict[str, Any]:
    if (known := repr(sorted(job.items(), key=str))) not in _answers:
        _answers[known] = await world().run(job)
    return _answers[known]


def test_the_table_has_every_field_but_those_that_say_who_asks() -> None:
    fields = {name for model in REQUESTS.values() for name in model.model_fields}
    assert set(VALUES) == fields - WHO_ASKS - {"task_type"}


@pytest.mark.parametrize(
    ("task", "field", "value", "beside"),
    [pytest.param(*case, id=f"{case[0]}-{case[1]}-{str(case[2])[:20]}-{'+'.join(case[3])}") for case in cases()],
)
async def test_a_field_has_an_effect_or_is_named(task: str, field: str, value: Any, beside: dict[str, Any]) -> None:
    base = {"task_type": task, "prompt": "a blue star", **BASES[task], **beside}
    base = {name: said for name, said in base.items() if name not in INSTEAD.get(field, ())}
    if field in INSTEAD:
        plain, asked = [(await answered({"action": "quote", **job}))["params"] for job in (base, base | {field: value})]
        shape = SHAPES.get(value)
        assert plain != asked or (shape and asked["width"] / asked["height"] == pytest.approx(shape, rel=0.05))
        return
    with_it = await answered(base | {field: value})
    if "error" in with_it:
        assert f"{field}: " in with_it["error"]
        return
    without = await answered(base)
    named = any(field in warning.partition(": ")[0] for warning in with_it["warnings"])
    changed = [answer.get("images") or answer["videos"] for answer in (with_it, without)]
    default = field == "model" and with_it["model"] == value
    assert named or default or changed[0] != changed[1]
