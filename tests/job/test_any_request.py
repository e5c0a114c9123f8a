"""For any input with valid ids, the app finds a document that has ended, within Firestore's limits."""

import asyncio
import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.firestore_limits import MAX_DOCUMENT_BYTES, document_bytes, problems, value_bytes
from tests.support.memory_world import CLOUD, PATH, World, data_uri
from worker.api.request import REQUESTS
from worker.document.lease import FULL, UNREACHED
from worker.document.schema import LEFT_OUT
from worker.job.runner import UNSYNCED

FIELDS = sorted({name for model in REQUESTS.values() for name in model.model_fields} - {"id_token"})
"""All fields except the token, which decides whether the caller may have this document written at all."""
TOMORROW = ["controlnets", "ip_adapters", "outpaint", "loras", "end_image_url", "metadata"]
DATA = base64.b64encode(bytes(range(256)) * 12).decode()
PICTURE = data_uri()
HUGE: dict[str, Any] = {
    "a megabyte": "x" * 1_000_000,
    "emoji": "🦊" * 400_000,
    "a picture's worth": "DATA:image/jpeg;base64," + DATA * 300,
    "escaped": "data%3Aimage/png;base64%2C" + DATA * 30,
    "bare base64": "/9j/" + DATA * 300,
    "surrogates": "\ud800" * 300_000,
    "zeros": "\x00" * 300_000,
    "a list": [0] * 200_000,
    "lists": [[[1]]] * 50_000,
    "keys": {f"k{number}": number for number in range(50_000)},
    "a key": {"k" * 1_000_000: {"__x__": 1, "": 2}},
    "a number": 10**4000,
    "references": [{"image_url": " Data:;base64," + DATA * 100}] * 40,
}
SMALL: list[Any] = [
    *("", " ", "a fox", "\ud800", "__x__", "DATA:;base64," + DATA, "\tDATA:image/png;base64," + DATA, DATA, "gs://b/x"),
    *(
        "GS://demo-bucket/uploads/user/a.png",
        "https://127.0.0.1/" + "é" * 4000,
        PICTURE,
        PICTURE.replace("data", "Data"),
    ),
    *("🦊" * 4000, "\x00\u202e", "blob:x", "img2img", "inpaint", "img2video", "text2video"),
    *(None, True, False, 0, -1, 7, 64, 2**53, 2**63, -(2**64), 0.5, float("nan"), float("inf"), 1e308),
]
LEAVES = st.sampled_from(SMALL) | st.integers() | st.floats() | st.text(max_size=10)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
NAMES = (
    st.sampled_from([*FIELDS, *TOMORROW, "action"])
    | st.text(max_size=8)
    | st.sampled_from(["k" * 5000, "\ud800", "__x__", "a.b"])
)
REQUEST = st.fixed_dictionaries(
    {},
    optional={
        "task_type": st.sampled_from([*REQUESTS, "x"]),
        "prompt": st.sampled_from(["a fox", "🦊" * 4000]) | JSON,
        "image_url": st.sampled_from([PICTURE, f" {PICTURE.replace('data:image/png', 'DATA:')}\n"]) | JSON,
        "mask_url": st.just(PICTURE) | JSON,
        "num_frames": st.just(5),
    },
)
OWNER = {"user_id": "user", "file_uid": "file", "use_cloud_storage": True}


def check_ends_in_a_document(job_input: dict[str, Any]) -> None:
    world = World()
    response = asyncio.run(world.run(job_input))
    json.dumps(response, allow_nan=False).encode()
    document = world.document
    assert document["status"] == ("failed" if "error" in response else "completed")
    for state in world.documents.history[PATH]:
        assert list(problems(PATH, state)) == []
        assert value_bytes(state["request_data"]) <= 64 << 10
        text = json.dumps(state, default=str)
        assert len(text) < 300_000
        assert DATA[:60] not in text
        assert PICTURE[-60:] not in text
    if "error" in response:
        assert response["error_code"] not in {"internal", "storage_unavailable"}
        assert document["error"]["code"] == response["error_code"]


@examples(150)
@given(REQUEST, st.dictionaries(NAMES, JSON, max_size=5))
def test_any_request_ends_in_a_document(request: dict[str, Any], more: dict[str, Any]) -> None:
    check_ends_in_a_document({**request, **more, **OWNER})


@pytest.mark.slow
@examples(60)
@given(REQUEST, st.dictionaries(NAMES, st.sampled_from(sorted(HUGE)), min_size=1, max_size=10))
def test_a_request_of_megabytes_ends_in_a_document(request: dict[str, Any], more: dict[str, str]) -> None:
    """RunPod accepts 10 MB (https://docs.runpod.io/serverless/endpoints/send-requests)."""
    check_ends_in_a_document({**request, **{name: HUGE[kind] for name, kind in more.items()}, **OWNER})


@pytest.mark.parametrize("kind", HUGE)
@pytest.mark.parametrize("field", ["image_url", "prompt", "controlnets", "task_type", "id_token"])
def test_a_huge_value_of_any_field_ends_in_a_document(kind: str, field: str) -> None:
    """ai-dynamo/dynamo#14424, browser-use#5808, excalidraw#4839: a large value must not cost the app its response."""
    check_ends_in_a_document({"task_type": "img2img", "prompt": "x", **OWNER, field: HUGE[kind]})


@pytest.mark.parametrize("task", ["img2img", "inpaint"])
@pytest.mark.parametrize("size", [35_000, 960_000, 5_000_000])
def test_a_picture_in_capitals_is_read_and_its_document_holds_none_of_it(task: str, size: int) -> None:
    """ai-dynamo/dynamo#14424, excalidraw#4839: 35 kB of it were in the document; with 960 kB there was no document."""
    raw = base64.b64decode(PICTURE.partition(",")[2])
    padded = "DATA:image/jpeg;base64," + base64.b64encode(raw + bytes(size)).decode()
    world = World()
    job = {**CLOUD, "task_type": task, "image_url": padded, "mask_url": padded}
    response = asyncio.run(world.run(job if task == "inpaint" else {k: v for k, v in job.items() if k != "mask_url"}))
    assert response["storage"] == "firebase"
    assert UNREACHED not in response["warnings"]
    assert world.document["request_data"]["image_url"] == f"(inline image, {len(padded)} characters)"
    assert document_bytes(PATH, world.document) < 5000


def full(world: World, room: int) -> None:
    """Fill the document with an app's own fields so that so many bytes are left."""
    own = {"status": "queued", "notes": ""}
    notes = "x" * (MAX_DOCUMENT_BYTES - room - document_bytes(PATH, own))
    world.documents.write_as_app(PATH, {**own, "notes": notes})


@pytest.mark.parametrize(("room", "says"), [(10_000, {LEFT_OUT}), (3000, {LEFT_OUT}), (50, {FULL, UNSYNCED})])
def test_what_a_full_document_did_not_take_is_said(room: int, says: set[str]) -> None:
    world = World()
    full(world, room)
    response = asyncio.run(world.run({**CLOUD, "prompt": "🦊" * 3000}))
    assert set(response["warnings"]) == says
    assert UNREACHED not in response["warnings"]
    assert len(response["images"]) == 1
    assert world.document["status"] == ("queued" if UNSYNCED in says else "completed")
    assert len(world.document["notes"]) > 1_000_000


@pytest.mark.parametrize("room", [10_000, 3000, 1500])
def test_a_refusal_reaches_a_full_document(room: int) -> None:
    world = World()
    full(world, room)
    response = asyncio.run(world.run({**CLOUD, **{f"field{number}": 1 for number in range(100)}}))
    assert response["error_code"] == "invalid_input"
    assert (world.document["status"], world.document["error"]["code"]) == ("failed", "invalid_input")
