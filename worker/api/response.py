"""The JSON that goes back to the caller, and the same facts as the document keeps them.

Pure. Knows the response's fields (docs/api.md); knows no storage and no model.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from worker.api.params import Params, VideoParams, public_params
from worker.api.request import Envelope, Request
from worker.api.shapes import (
    FileEntry,
    GenerationData,
    GenerationFailure,
    GenerationResponse,
    Manifest,
    StorageKind,
    VideoInfo,
)
from worker.core.errors import Cancelled, JobError, ResultTooLarge
from worker.core.types import Usage

Result = TypeVar("Result", GenerationData, GenerationResponse)
REPLAY_WARNING = "this generation was already finished; its stored result is returned"


def manifest(params: Params, model: str) -> Manifest:
    """What is known of a result before there is one; with the files themselves it makes up `generation_data`."""
    shown = public_params(params)
    if isinstance(params, VideoParams):
        info: VideoInfo = {
            "frames": params.num_frames,
            "width": params.width,
            "height": params.height,
            "fps": params.fps,
            "duration_seconds": round(params.num_frames / params.fps, 3),
        }
        return {"video_info": info, "seed": params.seed, "model": model, "params": shown}
    return {"seed": params.seeds[0], "seeds": list(params.seeds), "model": model, "params": shown}


def generation_data(
    facts: Manifest,
    *,
    storage: StorageKind,
    uris: Sequence[str],
    files: Sequence[FileEntry],
    timings: Mapping[str, float],
    warnings: Sequence[str],
    usage: Usage | None = None,
) -> GenerationData:
    """What the document keeps of a finished job.

    Args:
        facts: the manifest.
        storage: `firebase` or `base64`; an inline result leaves its URL lists empty.
        uris: what a client opens, in order.
        files: one entry a file.
        timings: seconds per stage.
        warnings: what did not go as asked.
        usage: seconds of the card, and the job's price; None: not known any more.
    """
    urls = list(uris) if storage == "firebase" else []
    data: GenerationData = {
        **facts,  # type: ignore[typeddict-item]  # a manifest has no other fields than its own
        "storage": storage,
        "timings": dict(timings),
        "warnings": list(warnings),
        "files": list(files),
    }
    if usage is not None:
        data["usage"] = usage
    return _with_uris(data, urls)


def success(request: Request, data: GenerationData, uris: Sequence[str] | None = None) -> GenerationResponse:
    """The response of a finished job from what its document keeps; `uris` are the inline data where there are any."""
    result: GenerationResponse = {**data, "task_type": request.task_type}  # type: ignore[typeddict-item]  # as above
    if request.file_uid is not None:
        result["file_uid"] = request.file_uid
    if request.user_id is not None:
        result["user_id"] = request.user_id
    return result if uris is None else _with_uris(result, uris)


def replay(request: Request, data: Mapping[str, Any]) -> GenerationResponse:
    """The response of a generation that was finished before, from what its document says."""
    found = cast("GenerationData", data)
    return success(request, {**found, "warnings": [*found.get("warnings", []), REPLAY_WARNING]})


def failure(
    error: JobError | Cancelled,
    envelope: Envelope,
    *,
    fresh_worker: bool = False,
    usage: Usage | None = None,
) -> GenerationFailure:
    """The response of a job that failed.

    Args:
        error: why.
        envelope: whose it was.
        fresh_worker: asks RunPod to replace this one, after a GPU fault.
        usage: of a job that has used the card.
    """
    result: GenerationFailure = {
        "error": f"{error.code}: {error.message}",
        "error_code": error.code,
        "retryable": error.retryable,
        "task_type": envelope.task_type,
        "file_uid": envelope.file_uid,
        "user_id": envelope.user_id,
    }
    if usage is not None:
        result["usage"] = usage
    if fresh_worker:
        result["refresh_worker"] = True
    return result


def check_size(result: Mapping[str, Any], limit: int) -> None:
    """RunPod drops a larger result without a word, so it is never sent.

    Raises:
        ResultTooLarge: with both sizes.
    """
    size = len(json.dumps(result, ensure_ascii=False, allow_nan=False).encode())
    if size > limit:
        raise ResultTooLarge("result_too_large.response", size=size, most=limit)


def _with_uris(data: Result, uris: Sequence[str]) -> Result:
    """The same with what a client opens; of a clip there is one."""
    first = uris[0] if uris else None
    if "video_info" in data:
        return {**data, "videos": list(uris), "video_url": first}
    return {**data, "images": list(uris), "image_url": first}
