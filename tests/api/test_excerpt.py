"""A document's copy of a request has no inline data in it, and fits, whatever the request holds."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.firestore_limits import problems, value_bytes
from worker.api.excerpt import MAX_BYTES, excerpt, stored_bytes
from worker.api.request import parse

DATA = base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(range(256)) * 40).decode()
"""A picture, as far as base64 shows."""
SPELLINGS = [
    f"data:image/jpeg;base64,{DATA}",
    f"DATA:image/jpeg;base64,{DATA}",
    f"Data:;base64,{DATA}",
    f" \t\r\n data:image/jpeg;base64,{DATA}",
    f"\ufeffdata:application/octet-stream;base64,{DATA}",
    f"data:image/jpeg;name=a b.jpg;BASE64 ,{DATA}",
    f"data:image/svg+xml,%3Csvg%3E{DATA}",
    f"data:,{DATA}",
    f"data%3Aimage%2Fjpeg%3Bbase64%2C{DATA}",
    f'"data:image/jpeg;base64,{DATA}"',
    DATA,
    "\n".join(DATA[at : at + 76] for at in range(0, len(DATA), 76)),
    f"_9j_{DATA}",
    f"%2F9j%2F{DATA}",
    f"Qk02EAAAAAAADYA{DATA}",
    f"url(data:image/jpeg;base64,{DATA})",
    f"https://x.example/?u=data:image/jpeg;base64,{DATA[:5000]}",
]


def holds_data(kept: Any) -> bool:
    text = json.dumps(kept).replace("\\n", "")
    return any(DATA[at : at + 60] in text for at in (0, 40, 4000, 9000))


@pytest.mark.parametrize("text", SPELLINGS)
def test_inline_data_is_kept_as_a_short_placeholder_wherever_it_stands(text: str) -> None:
    """ai-dynamo/dynamo#14424, browser-use#5808: a lower-case test in one place let pictures into a database."""
    request = {
        "prompt": f"a fox {text}",
        "image_url": text,
        "controlnets": [{"type": "canny", "image_url": text, "more": {"deep": [{"a": text}]}}],
        "ip_adapters": [text],
    }
    kept = excerpt(request, whole=("prompt",))
    assert not holds_data(kept)
    assert kept["prompt"].startswith("a fox ")
    assert "(inline image, " in kept["image_url"]
    assert kept["controlnets"][0]["type"] == "canny"
    assert len(json.dumps(kept)) < 12_000


@pytest.mark.parametrize("ref", [spelling for spelling in SPELLINGS if spelling.lstrip()[:5].lower() == "data:"][:4])
def test_the_document_has_no_picture_however_its_data_uri_is_spelled(ref: str) -> None:
    """excalidraw#4839: a document may have 1 MiB."""
    data = parse({"task_type": "inpaint", "prompt": "x", "image_url": ref, "mask_url": ref}).public()
    assert data["image_url"] == data["mask_url"] == f"(inline image, {len(ref.strip())} characters)"


@pytest.mark.parametrize(
    "text",
    [
        "x" * 4000,
        "🦊" * 4000,
        "Data: an android, standing. Data: a base64 fan",
        "(" * 4000,
        "/9j/ and iVBOR",
        "é\n" * 9,
    ],
)
def test_what_a_person_wrote_is_kept_whole(text: str) -> None:
    kept = parse({"prompt": text, "negative_prompt": text}).public()
    assert (kept["prompt"], kept["negative_prompt"]) == (text.strip(), text.strip())


def test_a_reference_is_kept_as_it_is_while_there_is_room() -> None:
    url = "https://x.example/" + "a" * 8000
    inpaint = {"task_type": "inpaint", "prompt": "x", "image_url": url, "mask_url": url}
    assert parse(inpaint).public()["image_url"] == url


def test_the_largest_request_fits_with_its_texts_whole() -> None:
    url, text = "https://x.example/" + "🦊" * 8174, "🦊" * 4000
    inpaint = {"task_type": "inpaint", "image_url": url, "mask_url": url, "prompt": text, "negative_prompt": text}
    kept = parse(inpaint).public()
    assert value_bytes(kept) <= MAX_BYTES
    assert (kept["prompt"], kept["negative_prompt"]) == (text, text)
    assert kept["image_url"].startswith(url[:1000])
    assert kept["image_url"].endswith("(8192 characters)")


STRANGE = st.text(st.characters(), max_size=20) | st.sampled_from(
    ["\ud800", "__x__", "", "x" * 2000, "🦊" * 20_000, "DATA:;base64," + DATA, "a.b", "`", "\x00"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(10**400), 10**400) | st.floats() | STRANGE,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(STRANGE, inner, max_size=5)
        | st.builds(lambda item, times: [item] * times, inner, st.sampled_from([101, 3000]))
    ),
    max_leaves=25,
)


@examples(100)
@given(st.dictionaries(STRANGE | st.sampled_from(["prompt", "image_url"]), JSON, max_size=8))
def test_whatever_a_request_holds_firestore_takes_what_is_kept(request: dict[str, Any]) -> None:
    kept = excerpt(request, whole=("prompt",))
    assert list(problems("generations/u/files/f", {"request_data": kept})) == []
    assert stored_bytes(kept) == value_bytes(kept) <= MAX_BYTES
    json.dumps(kept, allow_nan=False)
    assert not holds_data(kept)


def test_no_depth_and_no_width_is_too_much() -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = {"a": deep}
    wide = {f"k{number}": ["x"] * 100 for number in range(5000)}
    for value in (deep, wide, [wide] * 50, [[["x"]]], "x" * 10_000_000):
        kept = excerpt({"task_type": "img2img", "extra": value})
        assert kept["task_type"] == "img2img"
        assert list(problems("generations/u/files/f", {"request_data": kept})) == []
        assert stored_bytes(kept) <= MAX_BYTES
