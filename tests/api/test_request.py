"""Requests: every field of the contract, its range, its default, and one message for everything that is wrong."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.clock import computed
from tests.support.examples import examples
from worker.api.fingerprint import fingerprint
from worker.api.request import (
    REQUESTS,
    Img2ImgRequest,
    InpaintRequest,
    Text2ImgRequest,
    Text2VideoRequest,
    envelope,
    names_of,
    parse,
)
from worker.core.errors import InvalidInput
from worker.core.types import Owner, Scheduler

PICTURE = "data:image/png;base64,iVBORw0KGgo="
REQUIRED: dict[str, dict[str, Any]] = {
    "text2img": {},
    "img2img": {"image_url": PICTURE},
    "inpaint": {"image_url": PICTURE, "mask_url": PICTURE},
    "upscale": {"image_url": PICTURE, "upscale_factor": 2},
    "text2video": {},
    "img2video": {"image_url": PICTURE},
}


def problem(raw: object) -> str:
    with pytest.raises(InvalidInput) as caught:
        parse(raw)
    return str(caught.value)


@pytest.mark.parametrize("task", REQUESTS)
def test_each_task_needs_only_its_required_fields(task: str) -> None:
    request = parse({"task_type": task, "prompt": "a fox", **REQUIRED[task]})
    assert request.task_type == task
    assert request.seed is None
    assert request.use_cloud_storage is False
    assert request.negative_prompt == ""


def test_a_request_without_task_type_is_text2img() -> None:
    assert isinstance(parse({"prompt": "a fox"}), Text2ImgRequest)


def test_strength_has_the_default_of_its_task() -> None:
    img2img = parse({"task_type": "img2img", "prompt": "x", "image_url": PICTURE})
    inpaint = parse({"task_type": "inpaint", "prompt": "x", "image_url": PICTURE, "mask_url": PICTURE})
    assert isinstance(img2img, Img2ImgRequest)
    assert isinstance(inpaint, InpaintRequest)
    assert (img2img.strength, inpaint.strength) == (0.6, 0.99)


def test_every_bad_field_is_named_in_one_message() -> None:
    message = problem({"prompt": "  ", "width": 1023, "seed": "20", "guidance_scale": math.nan, "widht": 5})
    assert message.startswith("invalid_input: ")
    for part in (
        "prompt: must have 1 to 4000 characters",
        "width: must be a multiple of 8 (got 1023)",
        'seed: must be a whole number (got "20")',
        "guidance_scale: must be a finite number",
        "widht: is not a known field; did you mean width?",
    ):
        assert part in message


def test_a_field_of_another_task_is_named_with_its_tasks() -> None:
    message = problem({"prompt": "x", "num_frames": 81})
    assert message.endswith("num_frames: is not a field of text2img (it belongs to text2video, img2video)")
    assert "strength: is not a field of text2img" in problem({"prompt": "x", "strength": 0.5})


EVERY_FIELD = sorted({name for model in REQUESTS.values() for name in model.model_fields})


@pytest.mark.parametrize("task", [None, *REQUESTS])
def test_null_is_not_given_in_every_optional_field_and_every_field_of_another_task(task: str | None) -> None:
    """stdapi.ai#245, TensorRT-LLM PR#19454, hydrus#922: clients that serialise structs send null for unset fields.

    The fingerprint is the same with and without.
    """
    asked: dict[str, Any] = {"prompt": "a fox", **REQUIRED[task or "text2img"]}
    nulls = dict.fromkeys(EVERY_FIELD) | {"action": None}
    plain, padded = parse(asked | ({"task_type": task} if task else {})), parse({**nulls, **asked, "task_type": task})
    assert plain == padded
    assert fingerprint(plain) == fingerprint(padded)


@pytest.mark.parametrize("task", REQUESTS)
def test_null_in_a_required_field_is_a_field_that_is_missing(task: str) -> None:
    asked: dict[str, Any] = {"task_type": task, "prompt": "a fox", **REQUIRED[task]}
    for field in (*(("prompt",) if task != "upscale" else ()), *REQUIRED[task]):
        assert problem(asked | {field: None}) == f"invalid_input: {field}: is required for {task}"


def test_null_in_a_field_that_nobody_knows_is_still_an_unknown_field() -> None:
    assert problem({"prompt": "x", "webhook": None}) == "invalid_input: webhook: is not a known field"


def test_a_random_seed_is_written_as_null_or_minus_one() -> None:
    asked = [{"prompt": "x"}, *({"prompt": "x", "seed": seed} for seed in (None, -1, -1.0))]
    assert len({fingerprint(parse(one)) for one in asked}) == 1


def test_a_format_has_one_name_however_it_is_written() -> None:
    """Fooocus PR#2453, weserv/images#445: clients use jpg and jpeg for one format."""
    written = [fingerprint(parse({"prompt": "x", "output_format": name})) for name in ("jpg", "JPG", "jpeg", "Jpeg")]
    assert len(set(written)) == 1
    assert parse({"prompt": "x", "output_format": "PNG"}).model_dump()["output_format"] == "png"


@pytest.mark.parametrize("uid", ["kakao:12345", "auth0|abc", "user.name", "google-oauth2|1_2-3", "a@b.c+d"])
def test_uids_of_custom_sign_in_are_user_ids_and_no_file_uids(uid: str) -> None:
    """react-native-auth0#14: custom sign-in gives uids such as provider:id."""
    asked = {"prompt": "x", "use_cloud_storage": True, "user_id": f" {uid} ", "file_uid": " f "}
    assert parse(asked).owner == envelope(asked).owner == Owner(uid, "f")
    if uid.replace("-", "").replace("_", "").isalnum() is False:
        assert "file_uid: must be" in problem(asked | {"file_uid": uid})


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"width": 64, "image_size": "square"}, "width, image_size"),
        ({"height": 64, "aspect_ratio": "1:1"}, "height, aspect_ratio"),
        ({"image_size": "square", "aspect_ratio": "1:1"}, "image_size, aspect_ratio"),
        ({"task_type": "text2video", "video_width": 64, "resolution": "480p"}, "video_width, resolution"),
        ({"task_type": "text2video", "video_height": 64, "aspect_ratio": "1:1"}, "video_height, aspect_ratio"),
        ({"task_type": "text2video", "num_frames": 81, "duration": 5}, "num_frames, duration"),
    ],
)
def test_two_ways_to_say_one_thing_are_an_error_that_names_both(fields: dict[str, Any], named: str) -> None:
    assert problem({"prompt": "x", **fields}).startswith(f"invalid_input: {named}: are several ways to say the same")


@pytest.mark.parametrize(
    ("field", "written", "meant"),
    [
        ("scheduler", "ddim", "DDIM"),
        ("scheduler", "k euler", "K_EULER"),
        ("scheduler", "dpmsolver-multistep", "DPMSolverMultistep"),
        ("output_format", "wepb", None),
        ("output_format", "web-p", "webp"),
        ("image_size", "Landscape 16:9", "landscape_16_9"),
        ("aspect_ratio", "16x9", "16:9"),
        ("task_type", "Text2Img", "text2img"),
        ("task_type", "txt2img", "text2img"),
        ("scheduler", "os.system", None),
    ],
)
def test_a_choice_that_is_written_otherwise_is_led_to_the_right_one(
    field: str, written: str, meant: str | None
) -> None:
    message = problem({"prompt": "x", field: written})
    assert f"{field}: must be one of " in message
    assert ("did you mean" in message) is (meant is not None)
    assert f"did you mean {meant}?" in message or meant is None


BAD_VALUES: dict[str, list[Any]] = {
    "num_inference_steps": [0, -1, 101, 10**9, 10**400, "20", True, 1.5],
    "guidance_scale": [math.nan, math.inf, -math.inf, 1e308, -0.1, 31, "5", True],
    "width": [8, 56, 100000, 1023, "1024", -512, 2056],
    "num_images": [0, 5, 10**6, -1],
    "seed": [2**32, 2**64, -2, "1", "-1", True, 0.5],
    "user_id": [
        *("../v", "a/files/b", ".", "..", "", " ", 5, True, ["a"], {}, "x" * 129),
        *("a\x00", "a\n", "a\u202e", "a\u200b", "ａ", "%2e%2e", "é"),
    ],
    "file_uid": ["x.png?alt=media#y", "a[b]*", "../x", "a/b", "a\n"],
    "prompt": ["", "   ", "x" * 4001, 5, None, ["x"], "\ud800"],
    "negative_prompt": ["x" * 4001, 5],
    "scheduler": ["__import__('os')", "ddim", 5],
    "output_format": ["gif", "PN G", "image/png", ".jpg", 5, ""],
    "output_quality": [0, 101, "90", 9.5, True],
    "image_size": ["1024x1024", "SQUARE", {"width": 512, "height": 512}, 1024],
    "aspect_ratio": ["16x9", "2:1", 1.5, "1", ""],
    "use_cloud_storage": ["true", 1],
    "id_token": ["", "x" * 10**6, 5],
    "high_noise_frac": [-0.1, 1.1, "x"],
    "task_type": ["text2audio", "TEXT2IMG", 5, [], {}],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field in BAD_VALUES for value in BAD_VALUES[field]])
def test_a_bad_value_is_refused_by_name_and_not_echoed_in_full(field: str, value: object) -> None:
    message = problem({"prompt": "a fox", field: value})
    assert f"{field}: " in message
    assert len(message) < 500
    message.encode()  # never a lone surrogate


@pytest.mark.parametrize(("got", "low", "high"), [(80, 77, 81), (6, 5, 9), (120, 117, 121), (8, 5, 9)])
def test_a_wrong_frame_count_names_the_two_nearest(got: int, low: int, high: int) -> None:
    message = problem({"task_type": "text2video", "prompt": "x", "num_frames": got})
    assert f"the nearest are {low} and {high} (got {got})" in message


@pytest.mark.parametrize("got", [1, 4, 0, -3, 125, 10**7])
def test_frame_counts_out_of_range_are_refused(got: int) -> None:
    assert "num_frames: must be at" in problem({"task_type": "text2video", "prompt": "x", "num_frames": got})


@pytest.mark.parametrize("size", ["1024x768", "1280 x 720", "832*480", {"width": 1024, "height": 768}])
def test_a_size_in_pixels_in_place_of_a_name_leads_to_the_two_sides(size: object) -> None:
    """OpenAI's `size` and fal's `image_size` take pixels."""
    for field in ("image_size", "aspect_ratio"):
        assert "; a size in pixels is given by width and height (got " in problem({"prompt": "x", field: size})
    video = problem({"task_type": "text2video", "prompt": "x", "resolution": size})
    assert "; a size in pixels is given by video_width and video_height (got " in video


def test_a_whole_number_written_as_a_float_is_a_whole_number() -> None:
    request = parse({"prompt": "x", "num_inference_steps": 20.0})
    assert request.num_inference_steps == 20


@pytest.mark.parametrize(
    "url",
    ["http://x/y.png", "ftp://x", "javascript:1", "x.png", "https:x", "gs:/b/uploads/u/a", ""],
)
def test_an_image_reference_of_another_kind_is_refused(url: str) -> None:
    assert "image_url: must be an https:// URL" in problem({"task_type": "img2img", "prompt": "x", "image_url": url})


def test_an_input_that_is_no_object_is_refused() -> None:
    nothing: list[object] = [[], "x", 1, None, True]
    for raw in nothing:
        assert "input: must be an object" in problem(raw)


def test_cloud_storage_needs_both_ids() -> None:
    message = problem({"prompt": "x", "use_cloud_storage": True, "user_id": "u"})
    assert "file_uid: required when use_cloud_storage is true" in message


@pytest.mark.parametrize(
    "nothing",
    [
        *("\u200b", "\ufeff", "\u2060\u200d", "\u200f \u200e", "\u3164", "\u2800", "\ufe0f"),
        *("\ufffc\ufffc", "\ufff9\ufffb", "\U000e0067\U000e007f", "\U000e0100", "\U0001d173"),
    ],
)
def test_a_prompt_of_which_nothing_is_seen_is_empty(nothing: str) -> None:
    assert problem({"prompt": nothing}).endswith("prompt: must have 1 to 4000 characters (got 0)")
    assert parse({"prompt": "x", "negative_prompt": nothing}).negative_prompt == ""


@pytest.mark.parametrize(
    "text",
    [
        *("\u2764\ufe0f", "\U0001f469\u200d\U0001f680", "\u0645\u06cc\u200c\u062e", "\u200fשלום"),
        "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",  # Scotland's flag
    ],
)
def test_what_joins_signs_stays_between_them(text: str) -> None:
    assert parse({"prompt": text}).prompt == text


def test_one_message_names_what_is_wrong_with_one_field_and_with_several_together() -> None:
    together = {"use_cloud_storage": True, "user_id": "u", "prompt_weighting": True, "prompt": "(a:11)"}
    sizes = {"width": 512, "height": 512, "image_size": "square"}
    of_several = (
        "file_uid: required when use_cloud_storage is true; "
        "width, height, image_size: are several ways to say the same; give one of them; "
        "prompt: a weight must be within -10 and 10 (got 11.0)"
    )
    assert problem({**together, **sizes}) == f"invalid_input: {of_several}"
    one = "num_images: must be at most 4 (got 5)"
    assert problem({**together, **sizes, "num_images": 5}) == f"invalid_input: {one}; {of_several}"
    # A field that is itself wrong still counts as given.
    message = problem({"task_type": "text2video", "prompt": "x", "num_frames": 80, "duration": 5})
    assert message.endswith("(got 80); num_frames, duration: are several ways to say the same; give one of them")


def test_a_text_that_is_empty_or_too_long_is_told_the_length_that_is_right() -> None:
    assert problem({"prompt": "x", "id_token": ""}) == (
        "invalid_input: id_token: must not be empty; null says that it is not given"
    )
    assert problem({"prompt": "x", "id_token": "t" * 8193}).endswith("must have at most 8192 characters (got 8193)")
    assert problem({"prompt": "x", "model": "m" * 201}).endswith("must have at most 200 characters (got 201)")


def test_an_input_within_the_input_is_told_where_its_fields_belong() -> None:
    """RunPod's own wrapper, sent by a client that adds it too."""
    message = problem({"input": {"prompt": "x"}})
    assert message.endswith("input: is not a known field; what is in it belongs one level up")


def test_a_bound_is_written_as_in_the_documents() -> None:
    assert problem({"prompt": "x", "guidance_scale": 31}).endswith("guidance_scale: must be at most 30 (got 31)")
    clip = {"task_type": "text2video", "prompt": "x"}
    assert problem({**clip, "flow_shift": 0}).endswith("flow_shift: must be at least 0.1 (got 0)")
    picture = {"task_type": "img2img", "prompt": "x", "image_url": PICTURE}
    assert problem({**picture, "strength": 0}).endswith("strength: must be greater than 0 (got 0)")


def test_control_characters_and_bidi_tricks_are_taken_out_of_prompts() -> None:
    assert parse({"prompt": " a\x00 \x1b[31mfox\u202e\r\n "}).prompt == "a [31mfox"


def test_templates_stay_text() -> None:
    text = "{{ RUNPOD_SECRET_x }} ${KEY} {0.__class__} %s"
    assert parse({"prompt": text}).prompt == text


def test_the_document_gets_no_token_and_no_inline_image() -> None:
    data = parse({"task_type": "img2img", "prompt": "x", "image_url": PICTURE, "id_token": "secret"}).public()
    assert "secret" not in json.dumps(data)
    assert data["image_url"] == f"(inline image, {len(PICTURE)} characters)"
    assert "id_token" not in data


def test_an_inpainting_needs_a_mask_or_a_canvas_that_grows() -> None:
    inpaint = {"task_type": "inpaint", "prompt": "x", "image_url": PICTURE}
    assert problem(inpaint) == "invalid_input: mask_url: is required for inpaint"
    assert problem({**inpaint, "outpaint": None}) == "invalid_input: mask_url: is required for inpaint"
    grown = parse({**inpaint, "outpaint": {"left": 64, "up": 8.0, "down": None}})
    assert isinstance(grown, InpaintRequest)
    assert grown.mask_url is None
    assert grown.public()["outpaint"] == {"left": 64, "right": 0, "up": 8, "down": 0}
    both = parse({**inpaint, "mask_url": PICTURE, "outpaint": {"left": 64}, "mask_blur": 64, "inpaint_area": "masked"})
    assert both.public()["mask_url"] == both.public()["image_url"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"left": 7}, "outpaint.left: must be a multiple of 8 (got 7)"),
        ({"up": -8}, "outpaint.up: must be at least 0 (got -8)"),
        ({"down": 2056}, "outpaint.down: must be at most 2048 (got 2056)"),
        ({"right": "8"}, 'outpaint.right: must be a whole number (got "8")'),
        ({"top": None, "left": 8}, "outpaint.top: is not a side; there are left, right, up and down"),
        ({"top": 8, "left": 8}, "outpaint.top: is not a side; there are left, right, up and down"),
        ({}, "outpaint: must be more than 0 on one side at least (left, right, up or down)"),
        ({"left": 0}, "outpaint: must be more than 0 on one side at least (left, right, up or down)"),
        (64, "outpaint: must be an object of left, right, up and down, in pixels (got 64)"),
    ],
    ids=str,
)
def test_a_border_that_is_wrong_is_named_with_its_side(value: object, message: str) -> None:
    inpaint = {"task_type": "inpaint", "prompt": "x", "image_url": PICTURE}
    assert problem({**inpaint, "outpaint": value}) == f"invalid_input: {message}"


def test_the_envelope_trusts_only_valid_ids() -> None:
    good = envelope({"user_id": "u", "file_uid": "f", "use_cloud_storage": True, "prompt": 5})
    assert good.owner == Owner("u", "f")
    assert good.task_type == "text2img"
    bad: list[object] = [None, [], {"user_id": "../x", "file_uid": "f", "use_cloud_storage": True}, {"user_id": ["u"]}]
    for raw in bad:
        assert envelope(raw).owner is None
    assert envelope({"user_id": "u", "file_uid": "f"}).owner is None


def test_a_megabyte_of_nonsense_is_refused_quickly() -> None:
    nonsense: dict[str, Any] = {f"key{i}": "(" * 10 for i in range(20000)} | {"prompt": "(" * 10**6, "seed": 10**4000}
    messages: list[str] = []
    assert computed(lambda: messages.append(problem(nonsense))) < 1.0  # generous: the target is 50 ms
    assert len(messages[0]) < 10_000


@examples(300)
@given(
    st.dictionaries(
        st.sampled_from([*Text2ImgRequest.model_fields, *Text2VideoRequest.model_fields, "image_url", "zzz"]),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.text(max_size=30),
            st.lists(st.integers(), max_size=3),
            st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
        ),
    )
)
def test_whatever_comes_in_is_a_request_or_one_clear_error(raw: dict[str, Any]) -> None:
    try:
        request = parse(raw)
    except InvalidInput as error:
        assert error.problems
        str(error).encode()
    else:
        json.dumps(request.public(), allow_nan=False).encode()


# --- Lists -----------------------------------------------------------------------------------------------------------

LISTED = "https://example.com/a.png"


@pytest.mark.parametrize(
    ("asked", "field", "problem"),
    [
        ({"loras": "ghibli"}, "loras", "must be a list"),
        ({"loras": {"path": "ghibli"}}, "loras", "must be a list"),
        ({"loras": [{"path": "a"}] * 5}, "loras", "must have at most 4 entries (got 5)"),
        ({"loras": ["ghibli"] * 100_000}, "loras", "must have at most 4 entries (got 100000)"),
        ({"loras": ["ghibli"]}, "loras.0", "must be an object of path, scale, weight_name"),
        ({"loras": [{"path": "a"}, {"pth": "a"}]}, "loras.1", 'has no "pth"; there are path, scale, weight_name'),
        (
            {"loras": [{"pth": "a", "weight": 1}]},
            "loras.0",
            'has no "pth", "weight"; there are path, scale, weight_name',
        ),
        ({"loras": [{"path": "a", "": 1}]}, "loras.0", 'has no ""; there are path, scale, weight_name'),
        ({"loras": [{"scale": 1}]}, "loras.0.path", "is required"),
        ({"loras": [{"path": " "}]}, "loras.0.path", "1 to 2048 characters (got 0)"),
        ({"loras": [{"path": "a\x00b"}]}, "loras.0.path", "must be the name of a LoRA"),
        ({"loras": [{"path": "a", "scale": 4.5}]}, "loras.0.scale", "at most 4"),
        ({"loras": [{"path": "a", "scale": "1"}]}, "loras.0.scale", "must be a finite number"),
        ({"loras": [{"path": "a", "weight_name": "../b.safetensors"}]}, "loras.0.weight_name", ".safetensors file"),
        ({"loras": [{"path": "a", "weight_name": "b.bin"}]}, "loras.0.weight_name", ".safetensors file"),
        ({"loras": [{"path": "a", "weight_name": "b/./c.safetensors"}]}, "loras.0.weight_name", ".safetensors file"),
        ({"loras": [{"path": "a", "weight_name": "x" * 202 + ".safetensors"}]}, "loras.0.weight_name", "the name of"),
        ({"controlnets": [{"type": "Canny", "image_url": LISTED}]}, "controlnets.0.type", "did you mean canny?"),
        ({"controlnets": [{"type": "canny", "image_url": "http://a/b"}]}, "controlnets.0.image_url", "not http://"),
        (
            {"controlnets": [{"type": "canny", "image_url": LISTED, "start_percentage": 1}]},
            "controlnets.0",
            "start_percentage (1.0) must be less than end_percentage (1.0)",
        ),
        ({"ip_adapters": [{"image_url": LISTED, "type": "face"}]}, "ip_adapters.0.type", "subject, style"),
        ({"ip_adapters": [{"image_url": LISTED}] * 3}, "ip_adapters", "at most 2 entries"),
    ],
)
def test_an_entry_of_a_list_is_named_with_its_place(asked: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse({"prompt": "a fox", **asked})
    assert [found.field for found in caught.value.problems] == [field]
    assert problem in caught.value.message


@pytest.mark.parametrize(
    "name", ["モデル.safetensors", "_x.safetensors", "[a] b, c & d!.safetensors", "a/ё/x..y.safetensors"]
)
def test_a_file_of_a_repository_may_be_called_as_its_author_likes(name: str) -> None:
    """A refusal lists a repository's files as possible values: each of them is accepted."""
    request = parse({"prompt": "a fox", "loras": [{"path": "a/b", "weight_name": name}]})
    assert isinstance(request, Text2ImgRequest)
    assert request.loras[0].weight_name == name


def test_null_in_an_entry_is_not_given() -> None:
    request = parse({"prompt": "a fox", "loras": [{"path": " ghibli ", "scale": None, "weight_name": None}]})
    assert isinstance(request, Text2ImgRequest)
    assert request.loras[0].model_dump() == {"path": "ghibli", "scale": 1.0, "weight_name": None}


def test_every_picture_that_a_request_refers_to_has_the_name_of_its_field() -> None:
    entries = {"controlnets": [{"type": "tile", "image_url": LISTED}] * 2, "ip_adapters": [{"image_url": "gs://b/u/x"}]}
    request = parse({"task_type": "img2img", "prompt": "a fox", "image_url": LISTED, **entries})
    names = ["image_url", "controlnets.0.image_url", "controlnets.1.image_url", "ip_adapters.0.image_url"]
    assert list(request.pictures()) == names
    assert request.reads_bucket


@pytest.mark.parametrize("raw", [None, [], "x", {"task_type": "nothing"}, {"task_type": ["text2img"]}])
def test_what_is_no_request_has_no_names(raw: Any) -> None:
    assert names_of(raw) is None


def test_of_an_invalid_request_the_valid_names_are_read() -> None:
    raw = {
        "task_type": "img2img",
        "prompt": 7,
        "width": -1,
        "model": "photo",
        "style": ["fog"],
        "scheduler": "DDIM",
        "loras": [{"path": "a", "scale": "x"}, 5, {"path": []}, {}],
        "controlnets": [{"type": "tile", "image_url": 1}, {"type": "pose"}, None],
        "ip_adapters": "many",
        "high_noise_frac": 9,
        "refiner_inference_steps": 5,
        "end_image_url": "https://pictures.example/a.png",
    }
    names = names_of(raw)
    assert isinstance(names, Img2ImgRequest)
    assert (names.model, names.style, names.scheduler) == ("photo", None, Scheduler.DDIM)
    assert [entry.path for entry in names.loras] == ["a"] * 4
    assert [entry.type for entry in names.controlnets] == ["tile", "canny", "canny"]
    assert (names.ip_adapters, names.high_noise_frac, names.refiner_inference_steps) == ((), None, 5)
    assert (names.width, names.num_inference_steps) == (None, None)
