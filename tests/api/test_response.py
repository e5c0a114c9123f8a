"""The response and the document's data: exactly the contract's fields, in strict JSON that fits."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from worker.api.params import ModelDefaults, Params
from worker.api.request import Request, envelope, parse
from worker.api.resolve import resolve
from worker.api.response import check_size, failure, manifest, replay, success
from worker.api.shapes import GenerationData, Manifest
from worker.core.errors import Cancelled, GpuFault, InvalidInput, ResultTooLarge
from worker.delivery.delivered import Delivered
from worker.media.artifact import Artifact

OWNER = {"user_id": "user", "file_uid": "file"}
DEFAULTS = ModelDefaults("demo", 64, 64, num_inference_steps=4, guidance_scale=5.0)
BOTH = {"storage", "model", "params", "timings", "warnings", "files"}
IMAGE = {"images", "image_url", "seed", "seeds", "task_type"} | BOTH
VIDEO = {"videos", "video_url", "video_info", "seed", "task_type"} | BOTH
FILE = {"url", "storage_path", "content_type", "bytes", "width", "height", "seed"}
FILE |= {"thumbnail_url", "thumbnail_path", "blurhash"}
KEPT = {"seed", "files", "storage", "model", "timings"}
"""`generation_data` (docs/api.md); `params` and `warnings` are kept too, so that a replay can return them."""


def asked(**fields: Any) -> tuple[Request, Params]:
    request = parse({"prompt": "a fox", "seed": 7, **fields})
    return request, resolve(request, DEFAULTS, max_image_pixels=10**7, max_job_cost=10**10)


def files(count: int = 1, url: str | None = "https://u") -> tuple[Artifact, ...]:
    path = "p" if url else None
    return tuple(
        Artifact("image/png", 10, 64, 64, 7 + k, url=url and f"{url}/{k}", storage_path=path) for k in range(count)
    )


def stored(count: int = 1) -> Delivered:
    return Delivered.stored(NOTHING, files(count))


NOTHING: Manifest = {"seed": 7, "model": "demo", "params": {}}
INLINE = Delivered(NOTHING, files(1, None), ("data:image/png;base64,AAAA",), ("inline",))


def kept(params: Params, delivered: Delivered, **changes: Any) -> GenerationData:
    said = {"timings": {"load": 0.5}, "warnings": ["w"]} | changes
    return replace(delivered, manifest=manifest(params, "demo")).generation_data(**said)


def test_an_image_response_has_exactly_the_contracts_fields() -> None:
    request, params = asked(num_images=2, **OWNER)
    response = success(request, kept(params, stored(2)))
    assert set(response) == IMAGE | set(OWNER)
    assert response["images"] == ["https://u/0", "https://u/1"]
    assert response["image_url"] == response["images"][0]
    assert (response["seed"], response["seeds"]) == (7, [7, 8])
    assert (response["storage"], response["model"], response["warnings"]) == ("firebase", "demo", ["w"])
    assert all(set(file) == FILE for file in response["files"])
    assert response["params"] == {"width": 64, "height": 64, "num_inference_steps": 4, "guidance_scale": 5.0}


def test_a_video_response_has_exactly_the_contracts_fields() -> None:
    request, params = asked(task_type="text2video", num_frames=9, fps=4, **OWNER)
    response = success(request, kept(params, stored()))
    assert set(response) == VIDEO | set(OWNER)
    assert response["videos"] == [response["video_url"]] == ["https://u/0"]
    assert response["video_info"] == {"frames": 9, "width": 64, "height": 64, "fps": 4, "duration_seconds": 2.25}


def test_ids_stand_only_where_the_request_gave_them() -> None:
    request, params = asked()
    assert set(success(request, kept(params, stored()))) == IMAGE
    request, params = asked(user_id="user")
    assert set(success(request, kept(params, stored()))) == IMAGE | {"user_id"}


@pytest.mark.parametrize("raw", [{"prompt": "", **OWNER}, {"prompt": "x", "task_type": "nonsense"}, None])
def test_a_failure_has_exactly_the_contracts_fields(raw: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(raw)
    response = failure(caught.value, envelope(raw))
    assert set(response) == {"error", "error_code", "retryable", "task_type", "file_uid", "user_id"}
    assert response["error"] == str(caught.value)
    assert response["error"].startswith("invalid_input: ")
    assert (response["error_code"], response["retryable"]) == ("invalid_input", False)


def test_a_cancelled_job_is_answered_like_an_error() -> None:
    response = failure(Cancelled(), envelope({"prompt": "x", **OWNER}))
    assert (response["error"], response["error_code"]) == ("cancelled: the job was cancelled", "cancelled")
    assert (response["task_type"], response["file_uid"], response["user_id"]) == ("text2img", "file", "user")


def test_a_fresh_worker_is_asked_for_only_when_told() -> None:
    assert "refresh_worker" not in failure(GpuFault(), envelope({}))
    assert failure(GpuFault(), envelope({}), fresh_worker=True)["refresh_worker"] is True


def test_the_document_keeps_the_contracts_facts() -> None:
    _, image = asked(num_images=2)
    assert set(kept(image, stored(2))) == KEPT | {"images", "image_url", "seeds"} | {"params", "warnings"}
    _, video = asked(task_type="text2video")
    assert set(kept(video, stored())) == KEPT | {"videos", "video_url", "video_info"} | {"params", "warnings"}


@pytest.mark.parametrize("task", ["text2img", "text2video"])
def test_an_inline_result_stands_in_the_response_and_leaves_the_documents_lists_empty(task: str) -> None:
    request, params = asked(task_type=task)
    facts = kept(params, INLINE)
    data: dict[str, Any] = {**facts}
    many, one = ("videos", "video_url") if task == "text2video" else ("images", "image_url")
    assert (data[many], data[one], data["storage"]) == ([], None, "base64")
    assert "base64," not in json.dumps(data)
    response: dict[str, Any] = {**success(request, facts, INLINE.uris)}
    assert response[many] == [response[one]] == list(INLINE.uris)
    assert json.dumps(response).count("base64,") == 2
    assert (response["files"][0]["url"], response["files"][0]["storage_path"]) == (None, None)


def test_a_replay_is_the_stored_result_with_a_warning_more() -> None:
    request, params = asked(**OWNER)
    data = kept(params, stored())
    first, again = success(request, data), replay(request, data)
    assert again | {"warnings": []} == first | {"warnings": []}
    assert again["warnings"][:-1] == first["warnings"]
    assert "already finished" in again["warnings"][-1]
    assert data["warnings"] == ["w"]


def test_what_is_kept_is_not_changed_through_the_response() -> None:
    timings, warnings = {"load": 1.0}, ["w"]
    _, params = asked()
    data = kept(params, stored(), timings=timings, warnings=warnings)
    timings["load"], warnings[0] = 2.0, "changed"
    assert (data["timings"], data["warnings"]) == ({"load": 1.0}, ["w"])


def test_the_limit_is_in_bytes_as_they_are_sent() -> None:
    result = {"text": "ä" * 10}
    size = len(json.dumps(result, ensure_ascii=False).encode())
    check_size(result, size)
    with pytest.raises(ResultTooLarge, match=f"has {size} bytes and at most {size - 1}"):
        check_size(result, size - 1)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_only_strict_json_goes_out(number: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        check_size({"timings": {"load": number}}, 10_000)
