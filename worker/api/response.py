"""The JSON that goes back to the caller, and the same facts as the document keeps them.

Pure. Knows the response's fields (docs/api.md); knows no storage and no model.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from worker.api.params import Params, VideoParams, public_params
from worker.api.request import Envelope, Request
from worker.core.errors import Cancelled, JobError, ResultTooLarge

REPLAY_WARNING = "this generation was already finished; its stored result is returned"


def manifest(params: Params, model: str) -> dict[str, Any]:
    """What is known of a result before there is one; with the files themselves it makes up `generation_data`."""
    common: dict[str, Any] = {"model": model, "params": public_params(params)}
    if isinstance(params, VideoParams):
        info = {
            "frames": params.num_frames,
            "width": params.width,
            "height": params.height,
            "fps": params.fps,
            "duration_seconds": round(params.num_frames / params.fps, 3),
        }
        return {"video_info": info, "seed": params.seed, **common}
    return {"seed": params.seeds[0], "seeds": list(params.seeds), **common}


def generation_data(
    facts: Mapping[str, Any],
    *,
    storage: str,
    uris: Sequence[str],
    files: Sequence[Mapping[str, Any]],
    timings: Mapping[str, float],
    warnings: Sequence[str],
    usage: Mapping[str, float] | None = None,
) -> dict[str, Any]:
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
    many, one = _names(facts)
    return {
        many: urls,
        one: urls[0] if urls else None,
        **facts,
        "storage": storage,
        "timings": dict(timings),
        **({"usage": dict(usage)} if usage is not None else {}),
        "warnings": list(warnings),
        "files": list(files),
    }


def success(request: Request, data: Mapping[str, Any], uris: Sequence[str] | None = None) -> dict[str, Any]:
    """The response of a finished job from what its document keeps; `uris` are the inline data where there are any."""
    result = {**data, "task_type": request.task_type, **_ids(request)}
    if uris is not None:
        many, one = _names(data)
        result |= {many: list(uris), one: uris[0]}
    return result


def replay(request: Request, data: Mapping[str, Any]) -> dict[str, Any]:
    """The response of a generation that was finished before."""
    return success(request, {**data, "warnings": [*data.get("warnings", []), REPLAY_WARNING]})


def failure(
    error: JobError | Cancelled,
    envelope: Envelope,
    *,
    fresh_worker: bool = False,
    usage: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The response of a job that failed.

    Args:
        error: why.
        envelope: whose it was.
        fresh_worker: asks RunPod to replace this one, after a GPU fault.
        usage: of a job that has used the card.
    """
    result = {
        "error": f"{error.code}: {error.message}",
        "error_code": error.code,
        "retryable": error.retryable,
        "task_type": envelope.task_type,
        "file_uid": envelope.file_uid,
        "user_id": envelope.user_id,
    }
    if usage is not None:
        result["usage"] = dict(usage)
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


def _names(data: Mapping[str, Any]) -> tuple[str, str]:
    return ("videos", "video_url") if "video_info" in data else ("images", "image_url")


def _ids(request: Request) -> dict[str, str]:
    ids = {"file_uid": request.file_uid, "user_id": request.user_id}
    return {name: value for name, value in ids.items() if value is not None}
