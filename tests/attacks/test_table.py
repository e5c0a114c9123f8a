"""The attack table, row by row: each input ends as the table says, and the worker serves the next job.

The parser refuses an image reference whose scheme or shape is wrong (`invalid_input`); a well-formed one that leads to
an internal address is `url_blocked`. Both are the table's "blocked".
"""

import base64
import gzip
import io
import json
import math
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pillow_heif
import pytest
from google.oauth2 import id_token
from hypothesis import assume, example, given
from hypothesis import strategies as st
from PIL import Image

import handler
from tests.support.attacked_world import GOOD, OWNER, TABLE, World, nested, note
from tests.support.clock import SOON_SECONDS
from tests.support.examples import examples
from tests.support.hostile_hosts import INNER
from tests.support.hostile_pictures import (
    avif_of,
    bmp_of,
    box,
    boxes_of,
    chunk,
    flat_memory,
    gif_of,
    grid_of,
    heic_of,
    nested_boxes,
    png,
    progressive_of,
    saved,
    tiff_of,
    webp_of,
)
from tests.support.https_server import HOST, HttpsServer
from tests.support.tokens import hashed, new_key, public_of, unsigned, user_claims, user_token
from worker.api.request import REQUESTS, Text2ImgRequest
from worker.core.config import ConfigError, load_settings
from worker.firebase.app import Firebase
from worker.media import decode
from worker.sources.http import Address

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
IMG2IMG = {"task_type": "img2img", "prompt": "a fox"}
VIDEO = {"task_type": "text2video", "prompt": "a fox"}
FORMS: tuple[dict[str, Any], ...] = ({}, OWNER)
"""A request for inline results, and one for a document and an object."""

ALL = examples(60)


# --- ids, texts and numbers: refused by the parser alone --------------------------------------------------------------

NOT_STRINGS: list[Any] = [5, True, ["a"], {}, 1.5, [[]], {"a": "b"}]
PLAIN: dict[int, tuple[str, str, list[Any]]] = {
    1: ("user_id climbs", "user_id", ["../victim", "../../victim", "..\\victim", "/victim", "victim/.."]),
    2: ("user_id with a path", "user_id", ["victim/files/x/sub/y"]),
    3: ("user_id as a document path", "user_id", ["a/files/b", "a/", "/a", "a//b"]),
    4: ("user_id of dots", "user_id", [".", "..", " . ", " .. ", "./a", "../a", "a/..", ". ."]),
    5: ("user_id that is reserved", "user_id", ["__x__", "__name__", "____"]),
    6: ("user_id that is empty", "user_id", ["", " ", "   ", "\t", "\u3000", "\xa0"]),
    7: ("user_id of another type", "user_id", NOT_STRINGS),
    8: ("user_id that is long", "user_id", ["x" * 129, "x" * 10**6]),
    9: (
        "user_id with invisible characters",
        "user_id",
        [f"a{c}" for c in "\x00\n\r\t\x1b\x7f\x85\u202e\u200b\u200d\u2028\ufeff\u00ad\U000e0041"] + ["\r\na", "a\nb"],
    ),
    10: (
        "user_id that folds to a path",
        "user_id",
        ["ａ／ｂ", "ａ", "․․/victim", "a⁄b", "é", "e\u0301", "Ａdmin", "𝐚", "．．", "a：b", "a｜b", "＠"],
    ),
    11: ("user_id in percent", "user_id", ["%2e%2e%2fvictim", "%2e", "%00", "a%2fb", "&#46;&#46;"]),
    12: ("file_uid as a query or a pattern", "file_uid", ["x.png?alt=media#y", "a[b]*", "a*", "a?b", "a#b", "a.png"]),
    13: ("file_uid climbs", "file_uid", ["../../../other/image/x", "../x", "a/b", "..", "a\\b", "", "\ud800"]),
    18: ("id_token of a megabyte, or no string", "id_token", ["x" * 10**6, "", 5, True, [], {}, ["x"]]),
    26: (
        "steps out of range or of another type",
        "num_inference_steps",
        [10**9, 10**400, -1, 0, 101, "20", True, 1.5, [], {}, math.nan, -0.0, 1e300, 2**63],
    ),
    27: ("guidance that is no number", "guidance_scale", [math.nan, math.inf, -math.inf, 1e308, 30.1, -1, "7", True]),
    28: ("sizes the model cannot make", "width", [8, 100000, 1023, "1024", -512, 0, 2**31, 10**400, 64.5, True, [64]]),
    30: ("a million images", "num_images", [10**6, 5, 0, -1, "4", True, 1.5, "null", [None]]),
    31: ("a seed outside of 32 bits", "seed", [2**64, -2, 2**63, 2**32, 10**400, "7", "-1", True, 0.5, -1.5, math.inf]),
    37: ("weights by URL", "lora", ["https://evil.example/x.ckpt", "x.pt", "evil/repo", {"path": "x.bin"}]),
    38: ("a scheduler that is code", "scheduler", ["__import__('os')", "ddim", "DDIM\n", 5, [], "os.system", ""]),
    110: (
        "a format, a quality or a size of the client's own",
        "output_format",
        ["exe", "png/../../x", "jpg\n", " jpg", "JPG" * 10**5, "ſvg", 5, ["png"], {"png": 1}, ""],
    ),
    111: ("a quality out of range", "output_quality", [0, 101, -1, 10**400, "90", True, 0.5, math.nan, [90]]),
    112: (
        "a size that is no name",
        "image_size",
        ["1024x1024", "square\n", "__class__", 5, {"width": 10**9}, ["square"]],
    ),
    113: ("a shape that is no name", "aspect_ratio", ["1:0", "0:1", "1e9:1", "16:9 ", 1.78, [16, 9], {"w": 1}, ""]),
    114: ("an action that there is not", "action", ["delete", "shutdown", "QUOTE", "__class__", 5, True, [], {}, ""]),
    59: ("a callback", "webhook", ["http://127.0.0.1/", "https://evil.example/"]),
}
UNKNOWN: dict[int, tuple[str, list[str]]] = {
    33: (
        "fields that are not the client's",
        ["__proto__", "__class__", "constructor", "status", "storage_path", "bucket", "attempt", "job_id", "owner"],
    ),
    36: ("a model of the client's own", ["model_id", "checkpoint", "sdxl_model", "SDXL_MODEL", "revision"]),
    59: ("a callback", ["callback", "callback_url", "webhook_url", "webhookV2"]),
    60: ("credentials of a bucket", ["s3Config", "bucketCreds", "credentials"]),
}


@pytest.mark.parametrize("number", PLAIN)
def test_a_bad_value_is_refused_by_its_field_before_anything_happens(world: World, number: int) -> None:
    name, field, values = PLAIN[number]
    for value in values:
        for form in FORMS:
            world.attack((number, name), {"prompt": "a fox", **form, field: value}, "invalid_input", names=field)
    world.good()


def test_a_cloud_job_without_a_user_is_refused(world: World) -> None:
    for field in ("user_id", "file_uid"):
        for nobody in (None, "", " "):
            world.attack((7, PLAIN[7][0]), {"prompt": "x", **OWNER, field: nobody}, "invalid_input", names=field)
    world.good()


@pytest.mark.parametrize("number", UNKNOWN)
def test_a_field_that_no_client_has_is_refused_and_reaches_no_document(world: World, number: int) -> None:
    name, fields = UNKNOWN[number]
    evil = "https://evil.example/x.safetensors?key=AKIAEXAMPLE0000000000000000"
    values: list[Any] = ["../../etc/passwd", evil, "evil/repo", {"endpointUrl": evil, "accessSecret": "s" * 50}, None]
    for field in fields:
        for value in values:
            for form in FORMS:
                job = {"prompt": "a fox", **form, field: value}
                world.attack((number, name), job, "invalid_input", names=field)
                for document, _version in world.documents.stored.values():
                    assert field not in document["request_data"]
                    assert document.get(field, "") not in values
    world.good()


def test_a_model_that_the_operator_did_not_name_is_refused(world: World) -> None:
    evil = "https://evil.example/x.safetensors"
    for value in ["../../etc/passwd", evil, "evil/repo", {"endpointUrl": evil}]:
        for form in FORMS:
            world.attack(
                (36, UNKNOWN[36][0]), {"prompt": "a fox", **form, "model": value}, "invalid_input", names="model"
            )
    world.good()


def test_an_input_that_is_no_object_is_refused(world: World) -> None:
    row = (35, "an input that is no object")
    nothing: list[Any] = [[], "x", 1, None, {}, True, 1.5, math.nan, "x" * 10**6, [[]] * 1000, [GOOD]]
    for job_input in nothing:
        world.attack(row, job_input, "invalid_input", names="prompt" if job_input == {} else "input")
    tasks: list[Any] = ["text2audio", "", 5, [], {}, "../img2img", "x" * 10**6, "text2img\n", "__class__"]
    for task in tasks:
        world.attack(row, {"prompt": "x", **OWNER, "task_type": task}, "invalid_input", names="task_type")
    world.good()


def test_credentials_of_a_bucket_beside_the_input_are_not_read(world: World) -> None:
    """RunPod's own `s3Config` is next to `input`; this worker does not read it."""
    secret = "s3-secret-0000000000000000000000000000000000000000"
    creds = {"endpointUrl": "https://evil.example", "accessId": "id", "accessSecret": secret, "bucketName": "b"}
    job = {"id": "job-s3", "input": GOOD, "s3Config": creds, "webhook": "http://127.0.0.1:9/"}
    world.forget()
    response = world.hand_over(lambda: handler.serve(job, world.services()))
    assert response["storage"] == "firebase"
    assert secret not in json.dumps(response) + json.dumps(world.documents.stored, default=str) + world.log.getvalue()
    note((60, UNKNOWN[60][0]), harmless=1)
    world.good()


def test_a_prompt_that_is_long_is_refused(world: World) -> None:
    row = (21, "a prompt of megabytes")
    for field in ("prompt", "negative_prompt"):
        for value in ("x" * 4001, "fox " * 250_000, "(" * 10**7, "\u202e" * 10**6 + "x", "\x00" * 10**6 + "x" * 5000):
            world.attack(row, {"prompt": "a", **OWNER, field: value}, "invalid_input", names=field)
    nothing: list[Any] = ["", "   ", "\x00\x01", "\u202e", None, 5, ["a"], {"a": 1}]
    for empty in nothing:
        world.attack(row, {**OWNER, "prompt": empty}, "invalid_input", names="prompt")
    world.good()


def test_a_lone_surrogate_is_refused_and_never_silent(world: World) -> None:
    row = (22, "a lone surrogate")
    inputs: list[tuple[dict[str, Any], str]] = [
        ({"prompt": "\ud800"}, "prompt"),
        ({"prompt": "a \udfff fox"}, "prompt"),
        ({"negative_prompt": "\udc00\ud800"}, "negative_prompt"),
        ({"user_id": "a\ud800"}, "user_id"),
        ({"id_token": "\ud800"}, "id_token"),
        ({"\ud800": 1}, "input"),
        ({"task_type": "\ud800"}, "task_type"),
        ({"scheduler": "\ud800"}, "scheduler"),
        ({**IMG2IMG, "image_url": "https://x.example/\ud800"}, "image_url"),
        ({**IMG2IMG, "image_url": "data:image/png;base64,\ud800AAA"}, "image_url"),
        ({**IMG2IMG, "image_url": "gs://demo-bucket/uploads/user/\ud800"}, "image_url"),
    ]
    for fields, field in inputs:
        codes = ("invalid_input", "url_blocked")
        response = world.attack(row, {"prompt": "a fox", **OWNER, **fields}, *codes, names=field)
        json.dumps(response, ensure_ascii=False).encode()
    world.good()


def test_control_characters_are_taken_out_and_a_log_line_stays_one(world: World) -> None:
    row = (23, "control characters and forged log lines")
    forged = "a fox\r\nINFO    worker: job completed  action=job_done"
    for prompt in ("a\x00 fox", "\x1b[2J\x1b]0;owned\x07a fox", forged, "a \u202efox\u202c", "\x9b31m a fox"):
        _response, params, _sources = world.harmless(row, {**GOOD, "prompt": prompt})
        assert not any(c in params.prompt for c in "\x00\x1b\x07\x9b\u202e\u202c")
        document = json.dumps(world.documents.stored, default=str)
        assert not any(escaped in document for escaped in ("\\u0000", "\\u001b", "\\u202e"))
        assert "owned" not in world.log.getvalue()
        assert "forged" not in world.log.getvalue()
    world.good()


def test_brackets_and_tags_cost_nothing(world: World) -> None:
    row = (24, "brackets and tags without end")
    for prompt in ("(" * 10**5, "<lora:" * 10**5, "((((" * 10**5 + "a:1.5))", "[a|" * 10**5, "{{" * 10**5):
        world.attack(row, {"prompt": prompt, **OWNER}, "invalid_input", names="prompt")
    for prompt in ("(" * 4000, "<lora:x:1>" * 400, "(a:1.5)" * 500, "a AND " * 600 + "b"):
        _response, params, _sources = world.harmless(row, {**GOOD, "prompt": prompt})
        assert params.prompt == prompt
    world.good()


def test_templates_stay_text(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    row = (25, "templates and substitutions")
    monkeypatch.setenv("FIREBASE_KEY", "expanded-secret")
    for prompt in (
        "{{ RUNPOD_SECRET_x }}",
        "${FIREBASE_KEY}",
        "$FIREBASE_KEY",
        "%FIREBASE_KEY%",
        "{0.__class__}",
        "{self.settings}",
        "%s %n %(levelname)s",
        "$(id)",
        "`id`",
        "{%raw%}",
        "${jndi:ldap://127.0.0.1/a}",
        "<script>alert(1)</script>",
        "\\x41\\u0041",
        "'; DROP TABLE files; --",
        '{"$ne": null}',
    ):
        response, params, _sources = world.harmless(row, {**GOOD, "prompt": prompt, "negative_prompt": prompt})
        assert (params.prompt, params.negative_prompt) == (prompt, prompt)
        (document,) = (fields for fields, _version in world.documents.stored.values())
        assert document["request_data"]["prompt"] == prompt
        assert "expanded-secret" not in json.dumps(response) + json.dumps(document, default=str)
        assert prompt not in world.log.getvalue()
    world.good()


def test_a_canvas_that_grows_without_bounds_is_refused(world: World) -> None:
    row = (28, PLAIN[28][0])
    inpaint = {"task_type": "inpaint", "prompt": "a fox", "image_url": "https://x.example/a.png"}
    sides: list[Any] = [-8, 2056, 10**9, 10**400, 7, 8.5, "8", True, math.nan, [8], {"left": 8}, 2**63]
    for value in sides:
        world.attack(row, {**inpaint, **OWNER, "outpaint": {"left": value}}, "invalid_input", names="outpaint.left")
    nothing: list[Any] = [5, "left", [8, 8, 8, 8], {}, {"left": 0}]
    for value in nothing:
        world.attack(row, {**inpaint, **OWNER, "outpaint": value}, "invalid_input", names="outpaint")
    for name, keys in (("x" * 30, ["x" * 10**6]), ("0", map(str, range(10**5)))):
        many = {**inpaint, **OWNER, "outpaint": dict.fromkeys(keys, 8)}
        shown = f"outpaint.{name}" if len(name) == 1 else f'outpaint."{name}"'
        world.attack(row, many, "invalid_input", names=shown)
    blurs: list[Any] = [-1, 64.5, 1e308, math.nan, math.inf, "4", True, [4], {}]
    for value in blurs:
        world.attack(row, {**inpaint, **OWNER, "mask_blur": value}, "invalid_input", names="mask_blur")
    for value in ("", "WHOLE", "masked\n", 5, True, [], {"masked": 1}):
        world.attack(row, {**inpaint, **OWNER, "inpaint_area": value}, "invalid_input", names="inpaint_area")
    world.good()


def test_sizes_that_are_each_legal_and_too_much_together_are_refused(world: World) -> None:
    row = (29, "legal numbers, a huge product")
    side = {"width": 2048, "height": 2048}
    world.attack(row, {"prompt": "x", **OWNER, **side}, "invalid_input", names="width")
    clip = {**VIDEO, "video_width": 1280, "video_height": 1280, "num_frames": 121, "num_inference_steps": 100}
    world.attack(row, {**clip, **OWNER}, "invalid_input", names="num_inference_steps")
    small = World(world.log, max_job_cost=64 * 64 * 5 * 4 - 1)
    for more in ({"num_images": 4}, {"width": 128, "height": 128}, {"num_inference_steps": 100}):
        small.attack(row, {"prompt": "x", **OWNER, **more}, "invalid_input", names="num_inference_steps")
    small.good()
    small.close()
    world.good()


def test_times_and_frames_out_of_range_are_refused(world: World) -> None:
    row = (32, "frames and times out of range")
    cases: dict[str, list[Any]] = {
        "fps": [0, -1, 61, 10**9, "15", True, 0.5, math.nan],
        "num_frames": [10**7, 0, -3, 1, 80, 125, 10**400, "81", 81.5],
        "flow_shift": [0, 1e9, math.inf, "3", -1],
        "video_width": [8, 100000, 17, "832", 1296],
        "duration": [1e9, 0, -1, 121, 120.01, "5", True, math.nan, math.inf, 10**400],
        "duration_seconds": [1e9],
        "resolution": ["1080p", "720P", "720p\n", 720, "1280x720", [], {}],
    }
    for field, values in cases.items():
        for value in values:
            world.attack(row, {**VIDEO, **OWNER, field: value}, "invalid_input", names=field)
    world.good()


def test_nested_and_enormous_values_are_refused(world: World) -> None:
    row = (34, "nested and enormous values")
    values: list[Any] = [
        nested(25),
        nested(900),
        nested(900, lists=True),
        {"__k__": 1},
        "x" * 2_000_000,
        [[[]]] * 10**5,
    ]
    for field in ("metadata", "prompt", "seed", "user_id", "id_token", "scheduler", "task_type", "width"):
        for value in values:
            world.attack(row, {"prompt": "a", **OWNER, field: value}, "invalid_input", names=field)
    many = {f"k{number}": number for number in range(10**5)}
    world.attack(row, {"prompt": "a", **OWNER, **many}, "invalid_input", names="k0")
    world.attack(row, {"prompt": "a", **OWNER, "k" * 10**6: 1}, "invalid_input")
    world.good()


# --- variants of all of these -----------------------------------------------------------------------------------------


@ALL
@given(
    value=st.text(max_size=200) | st.text("abcXYZ019_-./\\%:@+| \u200b\u202eａ", max_size=140),
    field=st.sampled_from(["user_id", "file_uid"]),
)
def test_no_id_leaves_its_folder(world: World, value: str, field: str) -> None:
    row = (13, PLAIN[13][0]) if field == "file_uid" else (1, PLAIN[1][0])
    inner = value.strip(" ")
    free = "_-" if field == "file_uid" else "_-.:@+|"
    plain = len(inner) <= 128 and inner.isascii() and inner.translate(dict.fromkeys(map(ord, free))).isalnum()
    assume(not plain and inner.strip(free))
    world.attack(row, {"prompt": "a", **OWNER, field: value}, "invalid_input", names=field)


NUMBERS: dict[str, tuple[int, float, float, bool]] = {
    # field: row, least, most, whole
    "num_inference_steps": (26, 1, 100, True),
    "guidance_scale": (27, 0, 30, False),
    "width": (28, 64, 2048, True),
    "height": (28, 64, 2048, True),
    "num_images": (30, 1, 4, True),
    "seed": (31, 0, 2**32 - 1, True),
    "high_noise_frac": (27, 0, 1, False),
}
WILD = (
    st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.sampled_from([2**31, 2**32, 2**53, 2**63, 2**64, -(2**63), 1e308, 5e-324, -0.5])
)


@ALL
@given(field=st.sampled_from(sorted(NUMBERS)), value=WILD)
def test_no_number_out_of_its_range_gets_in(world: World, field: str, value: float) -> None:
    row, least, most, whole = NUMBERS[field]
    assume(not (least <= value <= most) or (whole and value != int(value)))
    assume(field != "seed" or value != -1)
    names = {number: name for number, (name, _field, _values) in PLAIN.items()}
    world.attack((row, names[row]), {"prompt": "a", **OWNER, field: value}, "invalid_input", names=field)


LISTS = ("loras", "controlnets", "ip_adapters")
"""Fields that are lists and may be empty: `test_signed_in.py` passes values that are not lists."""
JSON = st.recursive(
    st.none() | st.booleans() | WILD | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@ALL
@given(
    field=st.sampled_from([name for name in Text2ImgRequest.model_fields if name not in {"task_type", *LISTS}]),
    value=st.lists(JSON, max_size=4) | st.dictionaries(st.text(max_size=8), JSON, max_size=4),
)
def test_no_field_takes_a_list_or_an_object(world: World, field: str, value: Any) -> None:
    world.attack((34, "nested and enormous values"), {"prompt": "a", field: value}, "invalid_input", names=field)


@ALL
@given(name=st.text(min_size=1, max_size=60), value=JSON)
def test_no_unknown_field_is_let_in(world: World, name: str, value: Any) -> None:
    assume(name != "action" and not any(name in model.model_fields for model in REQUESTS.values()))
    world.attack((33, UNKNOWN[33][0]), {"prompt": "a", **OWNER, name: value}, "invalid_input", hides="\ud800")


TRICKS = st.text(
    st.characters(categories=["Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Mn"]) | st.sampled_from("a fox\ud800\udfff"),
    max_size=60,
)


@ALL
@given(text=TRICKS)
def test_strange_text_is_cleaned_or_refused(world: World, text: str) -> None:
    if any("\ud800" <= c <= "\udfff" for c in text):
        world.attack((22, "a lone surrogate"), {**GOOD, "prompt": text + "a"}, "invalid_input", names="prompt")
        return
    _response, params, _sources = world.harmless(
        (23, "control characters and forged log lines"), {**GOOD, "prompt": text + "a"}
    )
    assert all(c in "\n\t\r" or not ("\x00" <= c < " " or "\x7f" <= c < "\xa0") for c in params.prompt)
    assert not any(c in params.prompt for c in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


# --- callers ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pem() -> str:
    """Return the key that this worker takes for Google's signing key."""
    return new_key()


@pytest.fixture(scope="module")
def guarded(pem: str, log: io.StringIO) -> Iterator[World]:
    """Yield a worker that requires a token from everybody, and verifies it with Firebase's own library."""
    account = {
        "type": "service_account",
        "project_id": "demo-project",
        "private_key": pem,
        "client_email": "worker@demo-project.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    shown = public_of(pem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(id_token, "_fetch_certs", lambda _request, _url: {"key-1": shown})
        users = Firebase(load_settings(firebase_service_account_key=json.dumps(account))).users
        made = World(log, users=users, token=lambda job: user_token(pem, sub=job["user_id"]), require_id_token=True)
        yield made
        made.good()
        made.close()


def test_a_user_who_names_anothers_file_stays_in_their_own_tree(guarded: World) -> None:
    """Alice asks under her own id for the file that belongs to the victim."""
    row = (14, "another user's file_uid, with one's own token")
    guarded.forget()
    before = guarded.ask(guarded.valid({**GOOD, "user_id": "victim", "file_uid": "theirs"}))
    document, objects = guarded.documents.stored.copy(), dict(guarded.bucket.objects)
    response = guarded.ask(guarded.valid({**GOOD, "user_id": "alice", "file_uid": "theirs"}))
    assert response["files"][0]["storage_path"] == "generating/alice/image/theirs.png"
    assert response["image_url"] != before["image_url"]
    for path, stored in document.items():
        assert guarded.documents.stored[path] == stored
    for name, stored_object in objects.items():
        assert guarded.bucket.objects[name] == stored_object
    new = (set(guarded.documents.stored) - set(document)) | (set(guarded.bucket.objects) - set(objects))
    assert new == {
        "generations/alice/files/theirs",
        "generating/alice/image/theirs.png",
        "generating/alice/image/thumbs/theirs.webp",
    }
    note(row, harmless=1)
    for ref in ("uploads/victim/a.png", "generating/victim/image/theirs.png", "uploads/alice/../victim/a.png"):
        job = guarded.valid({**IMG2IMG, **OWNER, "image_url": f"gs://demo-bucket/{ref}"})
        guarded.attack(row, job, "forbidden", "invalid_input", names="image_url")
    guarded.good()


def test_a_token_of_somebody_else_is_forbidden(guarded: World, pem: str) -> None:
    row = (15, "user_id is not the token's")
    for uid in ("mallory", "User", "user ", "users", "use"):
        for more in ({}, {"use_cloud_storage": True}, {"num_images": 4}):
            job = {**GOOD, **more, "id_token": user_token(pem, sub=uid)}
            response = guarded.attack(row, job, "forbidden", proven=False)
            assert uid not in response["error"].split()
    own = {**IMG2IMG, "user_id": "user", "image_url": "gs://demo-bucket/uploads/user/a.png"}
    guarded.attack(row, {**own, "id_token": user_token(pem, sub="mallory")}, "forbidden", proven=False)
    guarded.good()


def test_without_a_token_nothing_is_done_for_a_user(guarded: World) -> None:
    row = (16, "no token where one is required")
    for more in ({}, {"id_token": None}, {"num_images": 4}, {"task_type": "text2video"}):
        guarded.attack(row, {**GOOD, **more}, "unauthenticated", proven=False)
    own = {**IMG2IMG, "user_id": "user", "image_url": "gs://demo-bucket/uploads/user/a.png"}
    for ref in ("gs://", " GS://", "\tGs://"):
        spelled_otherwise = own | {"image_url": f"{ref}demo-bucket/uploads/user/a.png\n"}
        guarded.attack(row, spelled_otherwise, "unauthenticated", proven=False)
    # An invalid request is refused as such, and leaves no document under an id that nobody has proven.
    guarded.forget()
    assert guarded.ask({**GOOD, "width": 1023})["error_code"] == "invalid_input"
    assert not guarded.documents.stored
    guarded.good()


def test_a_forged_token_is_nobodys(guarded: World, pem: str) -> None:
    row = (17, "forged, foreign and expired tokens")
    past = int(time.time()) - 7200
    good = user_token(pem)
    tokens = {
        "alg none": unsigned({"alg": "none", "typ": "JWT"}, user_claims()),
        "alg None": unsigned({"alg": "None", "kid": "key-1"}, user_claims()),
        "HS256 with the public key": hashed(
            {"alg": "HS256", "kid": "key-1", "typ": "JWT"}, user_claims(), public_of(pem).encode()
        ),
        "HS256 with nothing": unsigned({"alg": "HS256"}, user_claims(), b"x" * 32),
        "another key": user_token(new_key()),
        "another audience": user_token(pem, aud="other"),
        "another issuer": user_token(pem, iss="https://evil.example"),
        "another project": user_token(pem, aud="other", iss="https://securetoken.google.com/other"),
        "expired": user_token(pem, iat=past - 3600, exp=past),
        "from the future": user_token(pem, iat=int(time.time()) + 3600, exp=int(time.time()) + 7200),
        "no user": user_token(pem, sub=""),
        "a long user": user_token(pem, sub="x" * 129),
        "a number for a user": user_token(pem, sub=5),
        "changed payload": ".".join(
            (good.split(".")[0], unsigned({}, user_claims(sub="victim")).split(".")[1], good.split(".")[2])
        ),
        "no signature": good.rsplit(".", 1)[0] + ".",
        "header no object": unsigned([], user_claims(), b"x"),
        "header a string": unsigned("alg", user_claims(), b"x"),
        "payload no object": unsigned({"alg": "RS256", "kid": "key-1"}, [], b"x"),
        "kid a path": unsigned({"alg": "RS256", "kid": "../../etc/passwd"}, user_claims(), b"x"),
        "kid no string": unsigned({"alg": "RS256", "kid": ["key-1"]}, user_claims(), b"x"),
        "jku": unsigned({"alg": "RS256", "kid": "key-1", "jku": "https://evil.example/keys"}, user_claims(), b"x"),
        "deep header": base64.urlsafe_b64encode(b"[" * 3000).decode() + ".e30.x",
        "words": "let me in",
        "dots": "...",
        "NUL": "a.b\x00.c",
        "not ASCII": "é" * 50,
    }
    for name, token in tokens.items():
        response = guarded.attack(
            row, {**GOOD, "id_token": token}, "unauthenticated", hides=token if len(token) > 9 else None, proven=False
        )
        assert token not in response["error"], name
        assert token not in guarded.log.getvalue(), name
    guarded.good()


@examples(40)
@given(
    token=st.text(min_size=1, max_size=80)
    | st.from_regex(r"[A-Za-z0-9_-]{0,40}(\.[A-Za-z0-9_-]{0,40}){0,4}", fullmatch=True)
)
def test_no_text_is_a_token(guarded: World, token: str) -> None:
    assume(token)
    guarded.attack(
        (17, "forged, foreign and expired tokens"),
        {**GOOD, "id_token": token},
        "unauthenticated",
        "invalid_input",
        proven=False,
    )


@pytest.mark.parametrize("name", ["FIREBASE_AUTH_EMULATOR_HOST", "FIRESTORE_EMULATOR_HOST", "STORAGE_EMULATOR_HOST"])
def test_on_the_platform_a_worker_with_an_emulator_does_not_start(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = (19, "emulator variables on the platform")
    monkeypatch.setenv("RUNPOD_ENDPOINT_ID", "e1")
    monkeypatch.setenv(name, "http://127.0.0.1:9099")
    with pytest.raises(ConfigError, match=name):
        load_settings()
    if name.startswith("FIREBASE"):
        done = subprocess.run(
            [sys.executable, "handler.py"], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 1
        assert json.loads(done.stderr)["message"].startswith("cannot start: ")
        assert "Traceback" not in done.stderr
    note(row, refused=1)


# --- sources of pictures ----------------------------------------------------------------------------------------------


def sent(url: str, **more: Any) -> dict[str, Any]:
    return {**IMG2IMG, **OWNER, "image_url": url, **more}


BLOCKED = ("url_blocked", "invalid_input")


@pytest.mark.parametrize("number", INNER)
def test_no_spelling_of_an_inner_address_is_connected_to(world: World, number: int) -> None:
    name, hosts = INNER[number]
    for host in hosts.split():
        for url in (f"https://{host}/latest/meta-data/", f"http://{host}/", f"https://{host}:443/a.png?x=1"):
            quiet_lookup(world, (number, name), sent(url))
    world.good()


def quiet_lookup(world: World, row: tuple[int, str], job: dict[str, Any]) -> None:
    """Attack with a host that the system may be asked about, because it could be a number; no other look-up is allowed.

    A system's resolver may not know a spelling: then the host has no address, and the download fails.
    """
    response = world.attack(row, job, *BLOCKED, "download_failed", names="image_url", looks_up=True)
    assert response["error_code"] != "download_failed" or "its host name has no address" in response["error"]


def spelled(number: int, style: str) -> str:
    a, b, c, d = number.to_bytes(4, "big")
    return {
        "dotted": f"{a}.{b}.{c}.{d}",
        "decimal": str(number),
        "hex": hex(number),
        "octal": f"0{number:o}",
        "short": f"{a}.{number & 0xFFFFFF}",
        "mixed": f"{hex(a)}.0{b:o}.{c * 256 + d}",
        "mapped": f"[::ffff:{a}.{b}.{c}.{d}]",
        "mapped hex": f"[::ffff:{a:02x}{b:02x}:{c:02x}{d:02x}]",
        "6to4": f"[2002:{a:02x}{b:02x}:{c:02x}{d:02x}::1]",
        "NAT64": f"[64:ff9b::{a:02x}{b:02x}:{c:02x}{d:02x}]",
        "compatible": f"[::{a}.{b}.{c}.{d}]",
        "wide": f"{a}.{b}.{c}.{d}".translate(str.maketrans("0123456789", "０１２３４５６７８９")),
    }[style]


INNER_NUMBERS = (
    st.integers(0x7F000000, 0x7FFFFFFF)
    | st.integers(0x0A000000, 0x0AFFFFFF)
    | st.integers(0xA9FE0000, 0xA9FEFFFF)
    | st.integers(0xAC100000, 0xAC1FFFFF)
    | st.integers(0xC0A80000, 0xC0A8FFFF)
    | st.integers(0x64400000, 0x647FFFFF)
    | st.integers(0xE0000000, 0xFFFFFFFF)
)
STYLES = [
    "dotted",
    "decimal",
    "hex",
    "octal",
    "short",
    "mixed",
    "mapped",
    "mapped hex",
    "6to4",
    "NAT64",
    "compatible",
    "wide",
]


@examples(120)
@given(number=INNER_NUMBERS, style=st.sampled_from(STYLES), tail=st.sampled_from(["", "/", "/a.png", ":443/x?y#z"]))
def test_no_inner_address_is_connected_to_however_it_is_spelled(
    world: World, number: int, style: str, tail: str
) -> None:
    quiet_lookup(world, (40, INNER[40][0]), sent(f"https://{spelled(number, style)}{tail}"))


def test_a_url_of_another_kind_goes_nowhere(world: World) -> None:
    row = (44, "other schemes, and no host")
    for url in (
        *("file:///etc/passwd", "FILE:///etc/passwd", "gopher://127.0.0.1:70/_x", "ftp://127.0.0.1/x", "//127.0.0.1/x"),
        *("data:text/html,PHNjcmlwdD4=", "data:,x", "data:image/png,x", "data:image/svg+xml;utf8,<svg/>"),
        *("http:///x", "https:///x", "https://", "https:127.0.0.1", "https:/127.0.0.1/", "/etc/passwd", "", " ", "x"),
        *(
            "jar:https://x!/",
            "dict://127.0.0.1:11211/",
            "ldap://127.0.0.1/",
            "javascript:alert(1)",
            "s3://b/k",
            "\\\\h\\x",
        ),
        *("blob:https://x.example/1", "content://media/1", "ph://1/L0/001", "C:\\a.png", "uploads/user/a.png"),
        *(
            "http://x.example/a.png",
            "https://\u202e/",
            "gs:/demo-bucket/uploads/user/a",
        ),
    ):
        world.attack(row, sent(url), *BLOCKED, names="image_url")
    for url in ("HTTPS://127.0.0.1/", " https://127.0.0.1/", "\r\nHttps://localhost/\t"):
        quiet_lookup(world, row, sent(url))
    for value in (None, 5, ["https://x.example/"], {"url": "https://x.example/"}, True):
        world.attack(row, sent("x") | {"image_url": value}, "invalid_input", names="image_url")
    world.good()


def test_another_port_is_not_dialled(world: World) -> None:
    row = (45, "ports of other services")
    for port in (22, 25, 80, 2375, 5432, 6379, 8080, 8443, 9200, 11211, 1, 65535):
        for host in ("pictures.example", "127.0.0.1", "[::1]"):
            world.attack(row, sent(f"https://{host}:{port}/x"), "url_blocked", names="image_url")
    world.good()


def test_a_url_that_confuses_parsers_is_refused(world: World) -> None:
    row = (46, "URLs that parsers disagree about")
    for url in (
        *("https://user:pw@host.example/", "https://127.0.0.1\\@8.8.8.8/", "https://[::1", "https://x.example:99999/"),
        *("http://user:pw@host/", "http://[::1", "https://x.example:0x1bb/", "https://x.example:-1/", "https://[zz]/"),
        *(
            "https://8.8.8.8\\.x.example/",
            "https://x.example\t/",
            "https://x.example/a\r\nHost: evil",
            "https://@/",
            "https://:443/",
        ),
        *(
            "https://a@b@c/",
            "https://x.example#@127.0.0.1:22/".replace("#", "\\#"),
            "https://[fe80::1%eth0]/",
            "https://x\x00.example/",
        ),
        *(
            "https://" + "a" * 300 + ".example/",
            "https://x.example/" + "a" * 9000,
            "https://xn--\u202e/",
            "https://%31%32%37.1/",
        ),
    ):
        quiet_lookup(world, row, sent(url))
    world.good()


@examples(80)
@example(rest="1。0")
@given(rest=st.text("htps:/\\@[]#?%.0127abcdef\t\n\x00\u202e\u200b\xad。①ⓛ／＠：é-_ ", max_size=40))
def test_whatever_a_url_is_nothing_crashes_and_nobody_is_called(world: World, rest: str) -> None:
    # Some numbers are public addresses, such as 1.0, and would be dialled: here each is an internal one.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.names, "numbers", lambda _host, _port: ["10.0.0.1"])
        quiet_lookup(world, (46, "URLs that parsers disagree about"), sent("https://" + rest))


# --- a server of a stranger -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[HttpsServer]:
    """Yield a stranger's server; 127.0.0.1 counts as a public address here, every other one is judged as usual."""
    with HttpsServer() as running:
        yield running


@pytest.fixture(scope="module")
def online(server: HttpsServer, log: io.StringIO) -> Iterator[World]:
    """Yield a worker for which the stranger's server is on the public internet."""

    def stand_in(address: Address) -> bool:
        return str(address) == "127.0.0.1"

    options = {"ports": frozenset({443, server.port}), "tls": server.tls, "deadline_seconds": 1.0, "max_bytes": 100_000}
    made = World(log, is_allowed=stand_in, fetcher=options)
    made.names.known |= {
        HOST: [["127.0.0.1"]],
        "inner.example": [["169.254.169.254"]],
        "mixed.example": [["127.0.0.1", "10.0.0.1"]],
    }
    yield made
    made.good()
    made.close()


def page(server: HttpsServer, path: str, host: str = HOST) -> str:
    return f"https://{host}:{server.port}{path}"


def test_a_redirect_leads_nowhere_inside(online: World, server: HttpsServer) -> None:
    row = (42, "redirects inside, to other schemes, without end")
    home = [("127.0.0.1", server.port)]
    for target in (
        *(
            page(server, "/", "inner.example"),
            page(server, "/", "mixed.example"),
            "https://169.254.169.254/",
            "https://[::1]/",
        ),
        *("file:///etc/passwd", "http://pictures.example/", "https://pictures.example:22/", "gopher:x", "//user:pw@h/"),
        *(
            "https://[::1",
            "https://pictures.example\\@10.0.0.1/",
            "https://0x7f000002/",
            "https://127.0.0.2/",
            "data:,x",
        ),
    ):
        online.attack(row, sent(page(server, f"/to?{target}")), *BLOCKED, names="image_url", dials=home, looks_up=True)
    for location in (
        *(
            b"//127.0.0.2/",
            b"/\\127.0.0.2/a",
            b"\\\\127.0.0.2\\a",
            b"https:\\\\127.0.0.2/",
            b"https://%31%32%37.0.0.2/",
        ),
        *(
            "//①27.0.0.2/".encode(),
            "https://ⓛocalhost:22/".encode(),
            "//127。0。0。2/".encode(),
            b"https://h\xe9.example/",
        ),
        *(
            "//inner.ｅxample/é".encode(),
            "https://é:é@inner.example/".encode(),
            b"//127.0.0.1%00.x/",
            b"//x\\@127.0.0.2/",
        ),
    ):
        server.locations = [location]
        online.attack(row, sent(page(server, "/raw")), *BLOCKED, names="image_url", dials=home, looks_up=True)
    online.attack(row, sent(page(server, "/hops/20")), "download_failed", names="image_url", dials=home)
    online.good()


def test_a_name_that_changes_its_mind_is_dialled_where_it_was_checked(online: World, server: HttpsServer) -> None:
    row = (43, "names that change their address")
    home = [("127.0.0.1", server.port)]
    online.names.known["twice.example"] = [["127.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["10.0.0.1"]]
    # Its certificate is for another name: what matters is which address was dialled, once.
    online.attack(row, sent(page(server, "/x", "twice.example")), "download_failed", names="image_url", dials=home)
    assert online.names.asked == ["twice.example"]
    for _ in range(2):
        online.attack(row, sent(page(server, "/x", "twice.example")), "url_blocked", names="image_url")
    online.attack(row, sent(page(server, "/x", "mixed.example")), "url_blocked", names="image_url")
    online.good()


@pytest.mark.slow
def test_a_body_without_end_is_left_in_time(online: World, server: HttpsServer) -> None:
    row = (47, "endless, lying and dripping bodies")
    home = [("127.0.0.1", server.port)]
    for path in ("/endless", "/huge-length", "/liar", "/drip", "/drip-headers", "/fat-headers", "/garbage"):
        started = time.monotonic()
        with flat_memory(40):
            online.attack(row, sent(page(server, path)), "download_failed", names="image_url", dials=home)
        assert time.monotonic() - started < SOON_SECONDS
    online.good()


def test_a_compressed_bomb_is_measured_unfolded(online: World, server: HttpsServer) -> None:
    row = (48, "compressed bodies")
    home = [("127.0.0.1", server.port)]
    for path in ("/gzip-bomb", "/gzip-broken", "/brotli"):
        with flat_memory(40):
            online.attack(row, sent(page(server, path)), "download_failed", names="image_url", dials=home)
    server.files["/small-bomb"] = gzip.compress(gzip.compress(bytes(10**6)))
    online.attack(row, sent(page(server, "/small-bomb")), "invalid_image", names="image_url", dials=home)
    online.good()


# --- contents of a picture --------------------------------------------------------------------------------------------


def inline(data: bytes, kind: str = "png", **more: Any) -> dict[str, Any]:
    return sent(f"data:image/{kind};base64,{base64.b64encode(data).decode()}", **more)


def test_a_picture_of_gigapixels_is_refused_by_its_header(world: World) -> None:
    for row, side, max_megabytes in (
        ((49, "2.5 gigapixels in a small file"), 50_000, 40),
        ((50, "169 megapixels"), 13_000, 40),
    ):
        for data in (png(side, side, rows=bytes(100_000)), png(side, 1, rows=b""), png(2**31 - 1, 2**31 - 1, rows=b"")):
            if data[16:24] == struct.pack(">II", side, 1):
                continue  # a single row is small enough: the file is damaged, and refused as such below
            with flat_memory(max_megabytes):
                world.attack(row, inline(data), "invalid_image", names="image_url")
    world.good()


def test_a_file_of_any_kind_that_claims_gigapixels_is_refused(world: World) -> None:
    row = (70, "gigapixels in every kind of file")
    for data in (
        *(webp_of(16_383, 16_383), gif_of(65_535, 65_535), bmp_of(60_000, 60_000), bmp_of(2**31 - 1, 2**31 - 1)),
        *(tiff_of(60_000, 60_000), tiff_of(2**31, 2**31), heic_of(65_535, 65_535), heic_of(2**32 - 1, 2**32 - 1)),
        *(avif_of(65_535, 65_535), grid_of(60_000, 60_000), grid_of(16_320, 12_240), progressive_of(65_500, 65_500)),
        *(progressive_of(16_320, 12_240), webp_of(12_000, 12_000), png(16_000, 16_000, rows=zlib.compress(b""))),
    ):
        with flat_memory(60):
            started = time.monotonic()
            world.attack(row, inline(data), "invalid_image", names="image_url")
            assert time.monotonic() - started < 10
    world.good()


def test_boxes_without_end_are_left_in_time(world: World) -> None:
    row = (72, "deep, many and empty boxes, chunks and segments")
    item, free = box(b"infe", b"\2\0\0\0\0\1\0\0hvc1\0"), box(b"free", b"")
    count = bytes(4) + b"\xff\xff"
    inside = (
        b"",
        nested_boxes(b"iprp", 50_000),
        box(b"iprp", nested_boxes(b"ipco", 50_000)),
        box(b"iprp", box(b"ipco", 300_000 * free)),
        box(b"iinf", count),
        box(b"iinf", count + 65_535 * item),
    )
    for brand in (b"heic", b"avif"):
        for data in (*(box(b"meta", bytes(4) + boxes) for boxes in inside), 500_000 * free):
            world.attack(row, inline(boxes_of(brand, data)), "invalid_image", names="image_url")
    small = saved(Image.new("RGB", (16, 16)), "JPEG")
    for data in (png(8, 8, 400_000 * chunk(b"tEXt", b"a\0b")), small[:2] + 2_000_000 * b"\xff\xfe\0\2" + small[2:]):
        world.attack(row, inline(data), "invalid_image", names="image_url")
    assert TABLE[72].slowest_ms < 5000
    world.good()


def test_a_file_that_holds_its_decoder_up_ends_in_time_and_the_next_is_served(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = (71, "files that take a decoder hours")
    noise = saved(Image.effect_noise((3000, 2000), 90).convert("RGB"), "AVIF", quality=60, speed=10)
    with monkeypatch.context() as patch:
        patch.setattr(decode, "DECODE_SECONDS", 0.05)
        answer = world.attack(row, inline(noise), "invalid_image", names="image_url")
    assert "could not be read within 0.05 seconds" in answer["error"]
    world.harmless(row, inline(saved(Image.new("RGB", (16, 16)))))
    world.good()


def test_of_ten_thousand_frames_one_is_looked_at(world: World) -> None:
    row = (51, "thousands of frames")
    first, second = Image.new("RGB", (16, 16), (255, 0, 0)), Image.new("RGB", (16, 16), (0, 0, 255))
    frames = [second, first] * 500
    for fmt, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("GIF", {}), ("TIFF", {})):
        data = saved(first, fmt, save_all=True, append_images=frames, **options)
        _response, _params, sources = world.harmless(row, inline(data))
        assert sources.image is not None
        assert sources.image.getcolors() == [(256, (255, 0, 0))]
    world.good()


def test_bombs_in_texts_and_profiles_are_stepped_over(world: World) -> None:
    row = (52, "bombs in texts and colour profiles")
    packed = zlib.compress(bytes(100_000_000))
    for bomb in (
        chunk(b"zTXt", b"k\0\0" + packed),
        chunk(b"iCCP", b"k\0\0" + packed),
        chunk(b"iTXt", b"k\0\1\0\0\0" + packed),
    ):
        with flat_memory(20):
            response, _params, sources = world.harmless(row, inline(png(8, 8, bomb)))
        assert sources.image is not None
        assert sources.image.size == (8, 8)
        assert any("colour profile" in warning for warning in response["warnings"]) == (b"iCCP" in bomb)
    world.good()


def test_a_file_of_another_kind_is_refused_whatever_it_is_called(world: World) -> None:
    row = (53, "other formats under a picture's name")
    small = Image.new("RGB", (16, 16))
    files = {fmt: saved(small, fmt) for fmt in ("EPS", "PDF", "ICO", "PPM", "TGA", "JPEG2000", "PCX", "DDS", "SGI")}
    files |= {
        "PSD": b"8BPS\x00\x01" + bytes(60),
        "FITS": b"SIMPLE  =                    T" + bytes(2850),
        "PS": b"%!PS\nquit",
    }
    files |= {
        "ZIP": b"PK\x03\x04" + bytes(60),
        "pickle": b"\x80\x04cos\nsystem\n(S'id'\ntR.",
        "ELF": b"\x7fELF" + bytes(60),
    }
    for data in files.values():
        for kind in ("png", "jpeg"):
            world.attack(row, inline(data, kind), "invalid_image", names="image_url")
    row = (54, "SVG and HTML under a picture's name")
    for data in (
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='x()'/>",
        b"<!doctype html><script>x()</script>",
        b"\xef\xbb\xbf<html>",
    ):
        for kind in ("png", "svg+xml", "webp"):
            world.attack(row, inline(data, kind), "invalid_image", names="image_url")
    _response, _params, _sources = world.harmless(row, inline(saved(small), "svg+xml"))
    assert {content_type for _data, _info, content_type in world.bucket.objects.values()} == {"image/png", "image/webp"}
    world.good()


def test_a_broken_picture_is_refused(world: World) -> None:
    row = (55, "broken, empty and random pictures")
    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    pillow_heif.register_heif_opener()
    for fmt, share in (("PNG", 0.1), ("JPEG", 0.06), ("WEBP", 0.1), ("WEBP", 0.9), ("HEIF", 0.5), ("AVIF", 0.5)):
        data = saved(noise, fmt)
        world.attack(row, inline(data[: int(share * len(data))]), "invalid_image", names="image_url")
    for fmt in ("PNG", "JPEG"):
        data = saved(noise, fmt)
        response, _params, _sources = world.harmless(row, inline(data[: int(0.6 * len(data))]))
        assert any("cut off" in warning for warning in response["warnings"])
    for data in (
        b"",
        b"\x00",
        os.urandom(4096),
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xd9",
        b"RIFF\x04\0\0\0WEBP",
        png(0, 0),
        png(8, 0),
    ):
        world.attack(row, inline(data), "invalid_image", names="image_url")
    mask = {"task_type": "inpaint", "mask_url": "data:image/png;base64," + base64.b64encode(b"no").decode()}
    world.attack(row, inline(saved(noise), **mask), "invalid_image", names="mask_url")
    world.good()


@examples(60)
@given(
    data=st.binary(max_size=300),
    head=st.sampled_from(
        [
            *(b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x24\0\0\0WEBPVP8 ", b"GIF89a", b"II*\0\x08\0\0\0"),
            *(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", b"\0\0\0\x18ftypavif\0\0\0\0mif1avif"),
            b"BM" + bytes(12) + b"\x28\0\0\0",
        ]
    ),
)
def test_no_bytes_crash_the_worker(world: World, data: bytes, head: bytes) -> None:
    world.attack((55, "broken, empty and random pictures"), inline(head + data), "invalid_image", names="image_url")


def test_base64_is_read_strictly(world: World) -> None:
    row = (56, "base64 that is none")
    good = base64.b64encode(saved(Image.new("RGB", (16, 16)))).decode()
    for text in (
        *(good[:40] + " " + good[40:], good[:-2] + "===", "=" + good, good + "====", good[:40] + "%00" + good[43:]),
        *(
            good[:40] + "\x00" + good[41:],
            good[:40] + "é" + good[41:],
            good.rstrip("=") + "A===",
        ),
    ):
        world.attack(row, sent("data:image/png;base64," + text), "invalid_input", names="image_url")
    for prefix in (
        "data:image/png,",
        "data:base64,",
        "data:image/png;base64",
        "data:" + "x" * 2000 + ";base64,",
        "data%3A",
    ):
        world.attack(row, sent(prefix + good), "invalid_input", names="image_url")
    for prefix in ("data:text/html;base64,", "data:;base64,", "DATA:image/svg+xml;base64,"):
        text = base64.b64encode(b"<svg onload=alert(1)>" * 20).decode()
        world.attack(row, sent(prefix + text), "invalid_image", names="image_url")
    zeros = base64.b64encode(bytes(15_000_000)).decode()
    world.attack(row, sent("data:image/png;base64," + zeros), "invalid_image", names="image_url", hides=zeros[:200])
    many = "A" * 29_000_004
    for text, code in ((many, "invalid_input"), (many[:28_999_900], "invalid_image")):
        world.attack(row, sent("data:image/png;base64," + text), code, names="image_url", hides=many[:200])
    world.good()


def test_inline_data_reaches_no_document_no_log_and_no_message_however_it_is_spelled(world: World) -> None:
    row = (64, "inline data in odd spellings")
    picture = base64.b64encode(saved(Image.effect_noise((64, 64), 90).convert("RGB"))).decode()
    lines = "\r\n".join(picture[at : at + 76] for at in range(0, len(picture), 76))
    heads = ("DATA:image/png;base64,", " \n\tData:;Base64 , ", "data:x/y;name=a, b.png;BASE64,")
    for head in heads:
        for body in (picture, lines, picture.replace("+", "-").replace("/", "_").rstrip("=")):
            world.harmless(row, {**GOOD, **IMG2IMG, "image_url": head + body})
            out = json.dumps(world.documents.stored, default=str) + world.log.getvalue()
            assert not any(picture[at : at + 30] in out for at in (0, 40, 400))
    for head in (
        "data:image/png,",
        "data%3Aimage/png%3Bbase64%2C",
        "",
        "/9j/",
        "base64,",
        "data:image/png;base64;",
        "blob:",
    ):
        for field in ("image_url", "user_id", "scheduler", "seed"):
            job = {**IMG2IMG, **OWNER, "image_url": "x", field: head + picture}
            world.attack(row, job, "invalid_input", names=field, hides=picture[30:80])
    named = {"controlnets": "controlnets.0.type", "ip_adapters": "image_url", "outpaint": "outpaint", "image": "image"}
    for field, name in named.items():
        job = {**IMG2IMG, **OWNER, field: [{"image_url": "DATA:;base64," + picture}]}
        world.attack(row, job, "invalid_input", names=name, hides=picture[:50])
    world.good()


def test_a_photos_place_and_a_prompt_are_in_no_file(world: World) -> None:
    """The model's input has no metadata; the stored file has neither the photo's nor the prompt."""
    exif = Image.Exif()
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.5)
    exif[0x010F] = "SecretPhone"
    photo = saved(Image.new("RGB", (64, 64), (9, 99, 199)), "JPEG", exif=exif, comment=b"SecretComment")
    prompt = "SecretPrompt: a fox\r\nX-Injected: yes é 🦊"
    for fmt in ("png", "jpeg", "webp"):
        _response, _params, sources = world.harmless(
            (57, "a photo with its place"), inline(photo, "jpeg", output_format=fmt)
        )
        assert sources.image is not None
        assert sources.image.info == {}
        assert not sources.image.getexif()
        _response, _params, _sources = world.harmless(
            (58, "a prompt in files and headers"), {**GOOD, "prompt": prompt, "output_format": fmt}
        )
        for data, info, content_type in world.bucket.objects.values():
            assert not any(word in data for word in (b"Secret", b"Exif", b"eXIf", b"tEXt", b"zTXt", b"GPS"))
            assert data.count(b"iTXt") == data.count(b"iTXtXML:com.adobe.xmp"), "its mark, and no other text"
            assert "Secret" not in json.dumps([dict(info.metadata), content_type])
            json.dumps(dict(info.metadata)).encode("ascii")
            assert not any(c in value for value in info.metadata.values() for c in "\r\n")
    world.good()


# --- around the request -----------------------------------------------------------------------------------------------


def test_a_malformed_key_costs_firebase_and_is_not_logged(log: io.StringIO) -> None:
    row = (62, "a malformed service account")
    secret = "MIIEvSECRETSECRETSECRET"
    pem_ = f"-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n"
    key = {
        "type": "service_account",
        "project_id": "p",
        "client_email": "e@p",
        "private_key": pem_,
        "token_uri": "https://x",
    }
    for value in (
        json.dumps(key),
        json.dumps(key)[:-1],
        json.dumps(json.dumps(key)),
        f"'{json.dumps(key)}",
        json.dumps([key]),
        json.dumps({**key, "private_key": secret}),
        json.dumps({**key, "private_key": [secret]}),
        json.dumps({**key, "type": "authorized_user"}),
        pem_,
        base64.b64encode(json.dumps(key).encode()).decode()[:-3],
        "/no/such/" + secret,
        "[" * 5000 + secret,
    ):
        log.seek(0)
        log.truncate()
        services = handler.build(
            load_settings(firebase_service_account_key=value, firebase_storage_bucket="demo-bucket")
        )
        assert services.documents is None
        assert services.storage is None
        assert "firebase_disabled" in log.getvalue()
        assert "SECRET" not in log.getvalue() + repr(services.settings)
        note(row, refused=1)


def test_two_hundred_duplicates_are_stored_once(world: World) -> None:
    row = (63, "200 duplicates at once")
    world.forget()
    before = world.bucket.uploads
    responses = world.ask_at_once([GOOD] * 200)
    codes = [response.get("error_code", "completed") for response in responses]
    assert set(codes) <= {"completed", "duplicate_in_progress"}
    assert "completed" in codes
    assert world.bucket.uploads == before + 1
    assert len(world.paths) == 1
    assert len({response["image_url"] for response in responses if "error" not in response}) == 1
    note(row, refused=codes.count("duplicate_in_progress"), harmless=codes.count("completed"))
    world.good()
