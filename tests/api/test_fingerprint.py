"""A request's fingerprint: the same for the same request, for every caller and in every later version of the worker."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from worker.api.fingerprint import fingerprint
from worker.api.request import Img2ImgRequest, Text2ImgRequest, parse

PICTURE = "https://example.com/a.png"
GOLDEN: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "a fox"}, "v1:a36c30abdeb52ed1647ea324dddb6a54b01c373345ee984ffb36aef3dc8d5953"),
    (
        {
            "prompt": "ein Fuchs – 狐 🦊",
            "negative_prompt": "blurry",
            "width": 1024,
            "height": 768,
            "num_images": 2,
            "seed": 7,
            "num_inference_steps": 30,
            "guidance_scale": 5.5,
            "scheduler": "K_EULER",
            "output_format": "webp",
            "high_noise_frac": 0.8,
        },
        "v1:f6f8349d973e674c1176a32ceaa07a19a963b5422887a0886bbc5f3e91b7a933",
    ),
    (
        {"task_type": "img2img", "prompt": "a fox", "image_url": "https://example.com/a.png", "strength": 0.75},
        "v1:efa633c8914187be283e92d9d063dbd9c34b8c889c2cd55f559227e3511af9aa",
    ),
    (
        {
            "task_type": "inpaint",
            "prompt": "a fox",
            "image_url": "https://example.com/a.png",
            "mask_url": "https://example.com/m.png",
        },
        "v1:61211c40f2cf406958780b385497ba4179eed511f0d38b59417011494fad66a2",
    ),
    (
        {"task_type": "text2video", "prompt": "a fox", "num_frames": 49, "fps": 15, "flow_shift": 3},
        "v1:c7d35eacde3dd6a9913eee6158d88c04db5424b1dc25738b4d7e534246193268",
    ),
    (
        {
            "task_type": "img2video",
            "prompt": "a fox",
            "image_url": "https://example.com/a.png",
            "video_guidance_scale": 5.0,
        },
        "v1:f88624b066a223859cbf1ddccf8d9cd825dafa0c22b129dc08ad38da7e236c44",
    ),
]


@pytest.mark.parametrize(("asked", "pinned"), GOLDEN, ids=[asked.get("task_type", "text2img") for asked, _ in GOLDEN])
def test_stored_fingerprints_are_still_those_of_their_requests(asked: dict[str, Any], pinned: str) -> None:
    assert fingerprint(parse(asked)) == pinned


def test_it_tells_what_is_asked_not_who_asks() -> None:
    base = {"prompt": "a fox", "seed": 5}
    who = {"user_id": "u", "file_uid": "f", "use_cloud_storage": True, "id_token": "t", "preview": True}
    assert fingerprint(parse(base)) == fingerprint(parse({"prompt": " a fox ", "seed": 5.0, **who}))
    assert fingerprint(parse(base)) != fingerprint(parse(base | {"seed": 6}))
    assert fingerprint(parse(base)) != fingerprint(parse(base | {"task_type": "text2video"}))


def test_a_default_that_is_written_out_changes_nothing() -> None:
    written = {"task_type": "text2img", "prompt": "a fox", "negative_prompt": "", "num_images": 1, "seed": None}
    assert fingerprint(parse(written)) == fingerprint(parse({"prompt": "a fox"}))


def test_a_field_that_is_added_later_moves_no_fingerprint_of_a_request_without_it() -> None:
    class Later(Text2ImgRequest):
        clip_skip: int = 2
        background: str | None = None

    class LaterFromPicture(Img2ImgRequest):
        mask_blur: int = 0

    for model, later, asked in (
        (Text2ImgRequest, Later, {"task_type": "text2img", "prompt": "a fox", "seed": 5}),
        (Img2ImgRequest, LaterFromPicture, {"task_type": "img2img", "prompt": "a fox", "image_url": PICTURE}),
    ):
        before, after = (TypeAdapter(kind).validate_python(asked) for kind in (model, later))
        assert fingerprint(after) == fingerprint(before)
    used = Later.model_validate({"task_type": "text2img", "prompt": "a fox", "seed": 5, "background": "sky"})
    assert fingerprint(used) != fingerprint(parse({"prompt": "a fox", "seed": 5}))
