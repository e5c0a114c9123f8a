"""The JSON that goes back to the caller, and the same facts as the document keeps them.

Pure. Knows the response's fields (section 2 of the contract); knows no storage and no model.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from worker.api.params import Params, VideoParams, public_params
from worker.api.request import Envelope, Request
from worker.core.errors import Cancelled, JobError, ResultTooLarge

if TYPE_CHECKING:
    from worker.media.image import Encoded

REPLAY_WARNING = "this generation was already finished; its stored result is returned"


@dataclass(frozen=True, slots=True)
class File:
    """One delivered file. Inline, `url` and `storage_path` are null: the data stands in `images` or `videos`, once."""

    url: str | None
    storage_path: str | None
    content_type: str
    bytes: int
    width: int
    height: int
    seed: int
    nsfw: bool | None = None
    """Whether the content safety check flagged it; None, and not among the response's fields: none ran."""

    @classmethod
    def of(
        cls,
        encoded: "Encoded",
        seed: int,
        *,
        url: str | None = None,
        storage_path: str | None = None,
        nsfw: bool | None = None,
    ) -> "File":
        """A file that was just encoded, and where it is served if it is."""
        return cls(
            url=url,
            storage_path=storage_path,
            content_type=encoded.content_type,
            bytes=len(encoded.data),
            width=encoded.width,
            height=encoded.height,
            seed=seed,
            nsfw=nsfw,
        )


@dataclass(frozen=True, slots=True)
class Delivered:
    """Where a job's files are now. `uris` are what a client opens: URLs, or `data:` URIs when `storage` is base64."""

    storage: str
    uris: tuple[str, ...]
    files: tuple[File, ...]
    warnings: tuple[str, ...] = ()


def flagged(files: Sequence[File]) -> tuple[str, ...]:
    """A warning for each file that the content safety check flagged."""
    return tuple(f"content safety: file {index} was flagged" for index, file in enumerate(files) if file.nsfw)


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
    facts: Mapping[str, Any], delivered: Delivered, *, timings: Mapping[str, float], warnings: Sequence[str]
) -> dict[str, Any]:
    """What the document keeps of a finished job, from its manifest. An inline result leaves its URL lists empty."""
    uris = list(delivered.uris) if delivered.storage == "firebase" else []
    many, one = _names(facts)
    return {
        many: uris,
        one: uris[0] if uris else None,
        **facts,
        "storage": delivered.storage,
        "timings": dict(timings),
        "warnings": list(warnings),
        "files": [_file(file) for file in delivered.files],
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


def failure(error: JobError | Cancelled, envelope: Envelope, *, fresh_worker: bool = False) -> dict[str, Any]:
    """The response of a job that failed; `fresh_worker` asks RunPod to replace this one, after a GPU fault."""
    result = {
        "error": f"{error.code}: {error.message}",
        "error_code": error.code,
        "retryable": error.retryable,
        "task_type": envelope.task_type,
        "file_uid": envelope.file_uid,
        "user_id": envelope.user_id,
    }
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


def _file(file: File) -> dict[str, Any]:
    fields = asdict(file)
    if file.nsfw is None:
        del fields["nsfw"]
    return fields


def _names(data: Mapping[str, Any]) -> tuple[str, str]:
    return ("videos", "video_url") if "video_info" in data else ("images", "image_url")


def _ids(request: Request) -> dict[str, str]:
    ids = {"file_uid": request.file_uid, "user_id": request.user_id}
    return {name: value for name, value in ids.items() if value is not None}
