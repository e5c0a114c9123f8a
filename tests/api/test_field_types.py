"""The values that each kind of field accepts. Whole requests are in `test_request.py`."""

import base64
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from worker.api import field_types

RIGHT: list[tuple[Any, Any, Any]] = [
    (field_types.Prompt, "  a fox ", "a fox"),
    (field_types.Prompt, "a\x00\u202e fox", "a fox"),
    (field_types.NegativePrompt, "", ""),
    (field_types.FileUid, " A-z_0 ", "A-z_0"),
    *(
        (field_types.UserId, f" {uid} ", uid)
        for uid in ("auth0|abc", "kakao:12345", "user.name", "a@b.c+d", "...", "-")
    ),
    (field_types.Seed, -1, None),
    (field_types.Seed, -1.0, None),
    *((field_types.OutputFormat, name, "jpeg") for name in ("jpg", "JPG", "jpeg", "JPEG", "Jpg")),
    (field_types.OutputFormat, "WebP", "webp"),
    (field_types.Integer, 20.0, 20),
    (field_types.ImageSide, 64, 64),
    (field_types.VideoSide, 1280, 1280),
    (field_types.FrameCount, 81, 81),
    (field_types.Strength, 1, 1.0),
    (field_types.ImageRef, "gs://bucket/uploads/u/a.png", "gs://bucket/uploads/u/a.png"),
    (field_types.ImageRef, "\t GS://bucket/uploads/u/A.png\r\n", "gs://bucket/uploads/u/A.png"),
    (field_types.ImageRef, "\xa0Https://X.example/A.png ", "https://X.example/A.png"),
    (field_types.ImageRef, "https://x.example/" + "a" * 8174, "https://x.example/" + "a" * 8174),
    (field_types.ImageRef, " Data:;base64," + "A" * 9000, "Data:;base64," + "A" * 9000),
]
WRONG: list[tuple[Any, Any, str]] = [
    (field_types.Prompt, " \x00 ", "must have 1 to 4000 characters"),
    (field_types.Prompt, "x" * 4001, r"\(got 4001\)"),
    (field_types.Prompt, "a\ud800", "lone surrogate"),
    (field_types.NegativePrompt, "x" * 4001, "at most 4000"),
    *((field_types.FileUid, text, "must be 1 to 128") for text in ("__x__", "a/b", "a\n", "a.b", "a b", "  ")),
    *((field_types.UserId, text, "must be 1 to 128") for text in ("__x__", ".", " .. ", "a/b", "a\n", "line:U1 2", "")),
    (field_types.Seed, -2, "greater than or equal to 0"),
    (field_types.Seed, True, "valid integer"),
    (field_types.OutputFormat, " png", "'png', 'jpeg' or 'webp'"),
    (field_types.Integer, "20", "valid integer"),
    (field_types.Integer, True, "valid integer"),
    (field_types.Integer, 2.0**60, "valid integer"),
    (field_types.ImageSide, 1023, r"multiple of 8 \(got 1023\)"),
    (field_types.VideoSide, 72, "multiple of 16"),
    (field_types.FrameCount, 80, "nearest are 77 and 81"),
    (field_types.FrameCount, 121.5, "valid integer"),
    (field_types.Strength, 0, "greater than 0"),
    (field_types.ImageRef, "http://x.example/a.png", "must be an https:// URL"),
    (field_types.ImageRef, "HTTP://x.example/a.png", "not http://"),
    (field_types.ImageRef, "//x.example/a.png", "put https: in front"),
    (field_types.ImageRef, "data:image/png,iVBORw0KGgo", "must have ;base64 before its comma"),
    (field_types.ImageRef, "data:image/svg+xml;utf8,<svg/>", "must have ;base64 before its comma"),
    (field_types.ImageRef, "data%3Aimage%2Fpng%3Bbase64%2CAAAA", "percent-encoded as a whole"),
    (field_types.ImageRef, "https%3A%2F%2Fx.example%2Fa.png", "percent-encoded as a whole"),
    (field_types.ImageRef, "uploads/u/a.png", "put gs:// and the bucket's name in front"),
    *(
        (field_types.ImageRef, ref, "a file of the caller's own device")
        for ref in (
            "blob:https://x.example/5f2c",
            "file:///var/mobile/Containers/Data/IMG_1.HEIC",
            "content://media/external/images/media/7",
            "ph://ED7AC36B-A150-4C38-BB8C-B6D696F4F2ED/L0/001",
            "assets-library://asset/asset.JPG?id=1",
            "/storage/emulated/0/DCIM/a.jpg",
            "/data/user/0/com.example.app/cache/ImagePicker/5b1b3c60-53ad-4d7c-b7b0-a2cdf4a8bd5e",
            "C:\\Users\\me\\a.png",
        )
    ),
    *(
        (field_types.ImageRef, base64.b64encode(start + bytes(60)).decode(), "put data:image/jpeg;base64, in front")
        for start in (b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF", b"GIF89a", b"\0\0\0\x18ftypheic", b"??")
    ),
    *(
        (field_types.ImageRef, f"{start}iVBORw0KGgo", "put data:image/jpeg;base64, in front")
        for start in ("base64,", "image/png;base64,", ";BASE64 ,")
    ),
    (field_types.ImageRef, "https://x.example/" + "a" * 8192, r"at most 8192 characters .*\(got 8210\)"),
    (field_types.ImageRef, "gs://b/uploads/u/" + "é" * 8192, "at most 8192 characters"),
    (field_types.IdToken, "x" * 8193, "at most 8192"),
]


@pytest.mark.parametrize(("kind", "value", "read"), RIGHT)
def test_a_right_value_is_read(kind: Any, value: Any, read: Any) -> None:
    assert TypeAdapter(kind).validate_python(value, strict=True) == read


@pytest.mark.parametrize(("kind", "value", "says"), WRONG)
def test_a_wrong_value_is_told_what_would_be_right(kind: Any, value: Any, says: str) -> None:
    """expo#4840, RunPod-Fooocus-API#7: a picker's base64 has no prefix, and other workers accept it like that."""
    with pytest.raises(ValidationError, match=says):
        TypeAdapter(kind).validate_python(value, strict=True)


@given(st.text() | st.text("ab-_./%\\:@+| ", max_size=140))
def test_an_id_is_one_level_of_a_path_whatever_it_is(text: str) -> None:
    for kind, more in ((field_types.user_id, ".:@+|"), (field_types.file_uid, "")):
        if (plain := kind(text)) is not None:
            assert plain == text.strip(" ")
            assert plain.isascii()
            assert 1 <= len(plain) <= 128
            assert not set(plain) - set("-_" + more) - {c for c in plain if c.isalnum()}
            assert not re.fullmatch("__.*__|[.]{1,2}", plain)


@pytest.mark.parametrize(("text", "free"), [("__", True), ("___", True), ("____", False), ("__a__", False)])
def test_firestore_reserves_two_underscores_at_both_ends(text: str, free: bool) -> None:
    assert (field_types.user_id(text) is not None) is free
    assert (field_types.file_uid(text) is not None) is free
