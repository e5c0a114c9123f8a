"""Builds the response, and the document's `generation_data`.

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
    """Return what is known of a result before it exists; together with its files it becomes `generation_data`."""
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
    """Return the document's `generation_data`.

    Args:
        facts: the manifest.
        storage: `firebase` or `base64`; the URL lists of an inline result are empty.
        uris: the URLs, in order.
        files: one entry per file.
        timings: seconds per stage.
        warnings: the job's warnings.
        usage: GPU seconds and price; None: no longer known.
    """
    urls = list(uris) if storage == "firebase" else []
    data: GenerationData = {
        **facts,  # type: ignore[typeddict-item]  # a manifest has only fields of GenerationData
        "storage": storage,
        "timings": dict(timings),
        "warnings": list(warnings),
        "files": list(files),
    }
    if usage is not None:
        data["usage"] = usage
    return _with_uris(data, urls)


def success(request: Request, data: GenerationData, uris: Sequence[str] | None = None) -> GenerationResponse:
    """Return the response of a finished job from its `generation_data`; `uris` are those of an inline result."""
    result: GenerationResponse = {**data, "task_type": request.task_type}  # type: ignore[typeddict-item]  # as above
    if request.file_uid is not None:
        result["file_uid"] = request.file_uid
    if request.user_id is not None:
        result["user_id"] = request.user_id
    return result if uris is None else _with_uris(result, uris)


def replay(request: Request, data: Mapping[str, Any]) -> GenerationResponse:
    """Return the response of a generation that was finished before, from its document."""
    found = cast("GenerationData", data)
    return success(request, {**found, "warnings": [*found.get("warnings", []), REPLAY_WARNING]})


def failure(
    error: JobError | Cancelled,
    envelope: Envelope,
    *,
    fresh_worker: bool = False,
    usage: Usage | None = None,
) -> GenerationFailure:
    """Return the response of a failed job.

    Args:
        error: the reason.
        envelope: the request's ids.
        fresh_worker: ask RunPod to replace this worker, after a GPU fault.
        usage: of a job that has used the GPU.
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
    """Refuse a result that is too large to send: RunPod would drop it silently.

    Raises:
        ResultTooLarge: with both sizes.
    """
    size = len(json.dumps(result, ensure_ascii=False, allow_nan=False).encode())
    if size > limit:
        raise ResultTooLarge("result_too_large.response", size=size, most=limit)


def _with_uris(data: Result, uris: Sequence[str]) -> Result:
    """Return the data with its URLs, under the names for images or for a clip."""
    first = uris[0] if uris else None
    if "video_info" in data:
        return {**data, "videos": list(uris), "video_url": first}
    return {**data, "images": list(uris), "image_url": first}
