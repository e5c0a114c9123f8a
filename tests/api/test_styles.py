"""A style fills in open fields, the client's own values win, and a style that cannot work prevents the start."""

from typing import Any

import pytest

from worker.api.request import ImageRequest, Request, parse
from worker.api.styles import check_styles, styled, tasks_of
from worker.core.config import ConfigError, ListedLora
from worker.core.errors import InvalidInput
from worker.core.types import TaskType

LISTED = {
    "ghibli": ListedLora(source="org/ghibli"),
    "detail": ListedLora(source="org/detail"),
    "motion": ListedLora(source="org/motion", family="wan"),
}
IMAGES = (TaskType.TEXT2IMG, TaskType.IMG2IMG, TaskType.INPAINT)
STYLES: dict[str, dict[str, Any]] = {
    "ghibli": {
        "prompt": "ghibli style, {prompt}, hand-drawn",
        "negative_prompt": "photo, {negative_prompt}",
        "loras": [{"path": "ghibli", "scale": 0.8}],
        "guidance_scale": 6,
        "image_size": "landscape_16_9",
    },
    "plain": {"negative_prompt": "blurry"},
    "film": {"loras": [{"path": "motion"}], "num_inference_steps": 20},
}


def apply(**fields: Any) -> Request:
    return styled(parse({"prompt": "a fox", **fields}), STYLES, LISTED)


def image(**fields: Any) -> ImageRequest:
    found = apply(**fields)
    assert isinstance(found, ImageRequest)
    return found


def test_a_request_without_a_style_stays_as_it_is() -> None:
    request = parse({"prompt": "a {prompt}"})
    assert styled(request, STYLES, LISTED) is request


def test_a_style_frames_the_prompt_and_fills_what_is_open() -> None:
    found = image(style="ghibli", seed=7)
    assert found.prompt == "ghibli style, a fox, hand-drawn"
    assert found.negative_prompt == "photo,"
    assert (found.guidance_scale, found.image_size, found.seed, found.style) == (6, "landscape_16_9", 7, "ghibli")
    assert [(one.path, one.scale) for one in found.loras] == [("ghibli", 0.8)]


def test_braces_of_the_client_are_letters() -> None:
    assert image(style="ghibli", prompt="{prompt} {x}").prompt == "ghibli style, {prompt} {x}, hand-drawn"


def test_what_the_client_says_wins() -> None:
    found = image(style="ghibli", guidance_scale=0, negative_prompt="text")
    assert (found.guidance_scale, found.negative_prompt) == (0, "photo, text")
    assert image(style="plain").negative_prompt == "blurry"
    assert image(style="plain", negative_prompt="text").negative_prompt == "text"


@pytest.mark.parametrize("fields", [{"width": 512}, {"height": 512}, {"aspect_ratio": "1:1"}, {"image_size": "square"}])
def test_a_size_of_the_clients_own_takes_the_place_of_the_styles_in_whatever_words(fields: dict[str, Any]) -> None:
    found = image(style="ghibli", **fields)
    assert {name: getattr(found, name) for name in fields} == fields
    assert found.image_size == fields.get("image_size")


def test_loras_of_both_are_used_and_of_the_same_one_the_clients_scale() -> None:
    both = image(style="ghibli", loras=[{"path": "detail", "scale": 0.3}]).loras
    # The client's first: an error or a warning about one names its place in the list that the client sent.
    assert [(one.path, one.scale) for one in both] == [("detail", 0.3), ("ghibli", 0.8)]
    same = image(style="ghibli", loras=[{"path": "ghibli", "scale": 0.2}]).loras
    assert [(one.path, one.scale) for one in same] == [("ghibli", 0.2)]


def test_a_source_picture_and_a_mask_go_along() -> None:
    pictures = {"image_url": "https://u.example/a.png", "outpaint": {"left": 64}}
    found = apply(task_type="inpaint", style="plain", **pictures)
    assert found.pictures() == {"image_url": "https://u.example/a.png"}
    assert found.model_dump(mode="json", include={"outpaint"}) == {
        "outpaint": {"left": 64, "right": 0, "up": 0, "down": 0}
    }


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"style": "Gibli"}, "style: is no style of this worker; did you mean ghibli? There are ghibli, plain, film"),
        ({"style": "nothing"}, 'style: is no style of this worker; there are ghibli, plain, film (got "nothing")'),
        ({"style": "ghibli", "task_type": "text2video"}, "style: is a style for text2img, img2img, inpaint (got"),
        ({"style": "film"}, "style: is a style for text2video, img2video"),
        (
            {"style": "ghibli", "prompt": "x" * 3990},
            'prompt: must have 1 to 4000 characters (got 4016), once the style "ghibli" is applied',
        ),
        (
            {"style": "ghibli", "loras": [{"path": "detail"}] * 4},
            "loras: must have at most 4 entries (got 5), once the style",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        apply(**fields)
    assert said in caught.value.message


def test_a_style_is_for_the_tasks_that_have_all_of_it() -> None:
    assert tasks_of(STYLES["ghibli"], LISTED)[:3] == IMAGES
    assert not any(task.is_video for task in tasks_of(STYLES["ghibli"], LISTED))
    assert set(tasks_of(STYLES["plain"], LISTED)) >= {*IMAGES, TaskType.TEXT2VIDEO, TaskType.IMG2VIDEO}
    assert tasks_of(STYLES["film"], LISTED) == (TaskType.TEXT2VIDEO, TaskType.IMG2VIDEO)


def test_good_styles_pass_the_check() -> None:
    check_styles(STYLES, LISTED)
    check_styles({"with a picture": {"ip_adapters": [{"image_url": "https://u.example/a.png"}]}}, {})


@pytest.mark.parametrize(
    ("style", "said"),
    [
        ({"prompt": "ghibli style"}, "STYLES.bad.prompt: must be a text with {prompt} in it"),
        ({"prompt": 5}, "STYLES.bad.prompt: must be a text with {prompt} in it"),
        ({"prompt": "x" * 4000 + "{prompt}"}, "STYLES.bad.prompt: must have 1 to 4000 characters"),
        ({"negative_prompt": 5}, "STYLES.bad.negative_prompt: must be a string"),
        ({"guidance_scale": 99}, "STYLES.bad.guidance_scale: must be at most 30"),
        ({"scheduler": "secret"}, "STYLES.bad.scheduler: must be one of"),
        ({"loras": [{"path": "other"}]}, 'STYLES.bad: names "other", which LORAS does not have'),
        ({"loras": [{"path": "ghibli", "scale": 9}]}, "STYLES.bad.loras.0.scale: must be at most 4"),
        ({"loras": 5}, "STYLES.bad.loras: must be a list"),
        ({"loras": [5]}, "STYLES.bad.loras.0: must be an object of path, scale, weight_name"),
        ({"loras": ["ghibli"]}, "STYLES.bad.loras.0: must be an object of path, scale, weight_name"),
        ({"loras": [{"scale": 1}]}, "STYLES.bad.loras.0.path: is required"),
        ({"width": 512, "image_size": "square"}, "STYLES.bad: width, image_size: are several ways to say the same"),
        ({"loras": [{"path": "motion"}], "guidance_scale": 5}, "STYLES.bad: no task has all of its fields"),
        ({"steps": 5, "lustre": 1}, 'STYLES.bad: no task has "steps" (num_inference_steps?), "lustre"'),
        ({"width": 512, "fps": 12}, "STYLES.bad: no task has all of its fields"),
        ({"user_id": "u", "image_url": "https://u.example/a"}, "STYLES.bad: user_id, image_url cannot be of a style"),
        ({"ip_adapters": [{"image_url": "gs://b/uploads/u/a.png"}]}, "STYLES.bad: a picture of a style must have an"),
    ],
)
def test_a_bad_style_is_named_at_the_start(style: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_styles({"bad": style, **STYLES}, LISTED)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["", " ", "x" * 201])
def test_a_style_that_no_request_can_name_is_refused_at_the_start(name: str) -> None:
    with pytest.raises(ConfigError, match="STYLES: names must have 1 to 200 characters"):
        check_styles({name: {"prompt": "{prompt}"}}, {})
