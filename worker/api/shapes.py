"""The shapes of what a worker answers and writes, as types that the code which makes them is checked against.

What docs/api.md says in words; `python -m tools.schema` makes schema/ and the types for apps of them. What an app
cannot rely on in every answer and every document is `NotRequired`: of a result that did not fit into its document the
least is kept (`document.schema.lighter`). Words and objects may grow; readers ignore what they do not know.
"""

from datetime import datetime
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from worker.api.field_types import FormatName
from worker.core.types import Level, ProgressData, Scheduler, TaskType, Usage

StorageKind = Literal["firebase", "base64"]
"""Where a result is: in the bucket, or in the answer itself."""
Status = Literal["queued", "processing", "completed", "failed"]


class FileEntry(TypedDict):
    """One file of a result."""

    url: str | None
    """None: the result went inline, and the other URLs and paths are null too."""
    storage_path: str | None
    content_type: str
    bytes: int
    width: int
    height: int
    """Both in pixels."""
    seed: int
    thumbnail_url: str | None
    thumbnail_path: str | None
    blurhash: str | None
    """Colours to show until the thumbnail has loaded: https://blurha.sh."""
    poster_url: NotRequired[str | None]
    """For a clip: the same as `thumbnail_url`."""
    poster_path: NotRequired[str | None]
    nsfw: NotRequired[bool]
    """Whether the content safety check flagged the file, if it ran."""


class VideoInfo(TypedDict):
    """A clip in numbers."""

    frames: int
    width: int
    height: int
    fps: int
    duration_seconds: float


class Manifest(TypedDict):
    """What is known of a result before there is one."""

    seed: int
    seeds: NotRequired[list[int]]
    """Of images: one each."""
    video_info: NotRequired[VideoInfo]
    model: str
    params: dict[str, Any]
    """What really ran: the public fields of `params.ImageParams` or `params.VideoParams`."""


class GenerationData(TypedDict):
    """A finished result as the document keeps it: images, or a clip."""

    images: NotRequired[list[str]]
    """Download URLs; empty if the result went inline."""
    image_url: NotRequired[str | None]
    """The first of them."""
    videos: NotRequired[list[str]]
    video_url: NotRequired[str | None]
    video_info: NotRequired[VideoInfo]
    seed: NotRequired[int]
    seeds: NotRequired[list[int]]
    model: NotRequired[str]
    params: NotRequired[dict[str, Any]]
    storage: StorageKind
    timings: NotRequired[dict[str, float]]
    """Seconds for each stage."""
    usage: NotRequired[Usage]
    warnings: NotRequired[list[str]]
    """What did not go as asked."""
    files: NotRequired[list[FileEntry]]


class GenerationResponse(GenerationData):
    """The answer of a job that has a result; if it went inline, its URLs are `data:` URIs."""

    task_type: TaskType
    user_id: NotRequired[str]
    file_uid: NotRequired[str]


class GenerationFailure(TypedDict):
    """The answer of a job that has no result."""

    error: str
    """`error_code: message`, in one sentence."""
    error_code: str
    retryable: bool
    """Whether the same request may succeed if it is sent again."""
    task_type: TaskType | None
    file_uid: str | None
    user_id: str | None
    usage: NotRequired[Usage]
    refresh_worker: NotRequired[bool]
    """Asks RunPod to replace the worker."""


class DocumentError(TypedDict):
    """Why a document is `failed`."""

    code: str
    message: str
    retryable: bool


class RequestData(TypedDict, total=False):
    """What a document keeps of the request: all fields except `id_token`, with placeholders for inline pictures."""

    task_type: TaskType
    prompt: str
    negative_prompt: str
    model: str | None
    style: str | None
    seed: int | None
    left_out: bool
    """True: there was no room for the rest."""


class GenerationDocument(TypedDict):
    """`generations/{user_id}/files/{file_uid}`; times are the server's."""

    status: Status
    user_id: NotRequired[str]
    file_uid: NotRequired[str]
    job_id: NotRequired[str]
    worker_id: NotRequired[str]
    trace_id: NotRequired[str]
    """The job's trace, as the worker's log and traces have it."""
    attempt: NotRequired[int]
    request_data: NotRequired[RequestData]
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime]
    completed_at: NotRequired[datetime]
    progress: NotRequired[ProgressData]
    heartbeat_at: NotRequired[datetime]
    expires_at: NotRequired[datetime]
    """Past it the job is dead."""
    delete_at: NotRequired[datetime]
    """When the document expires, if the operator set a retention."""
    usage: NotRequired[Usage]
    generation_data: NotRequired[GenerationData]
    error: NotRequired[DocumentError]
    claim: NotRequired[dict[str, Any]]
    """Internal to the worker."""
    cancel_requested: NotRequired[bool]
    """Written by the app, like the fields below; true stops the job."""
    favorite: NotRequired[bool]
    hidden: NotRequired[bool]
    labels: NotRequired[list[str]]


class Quote(TypedDict):
    """What a request would cost."""

    units: int
    """The price, which does not depend on the card."""
    estimated_seconds: float | None
    """On this worker's card; None: not known yet."""
    params: dict[str, Any]


class ServedModel(TypedDict):
    """A model that serves a task. Some fields exist for image tasks only, others for video tasks only."""

    name: str
    width: int
    height: int
    size_multiple: int
    num_inference_steps: int
    guidance_scale: float
    few_steps: bool
    accelerations: list[Level]
    aspect_ratios: dict[str, list[int]]
    """Width and height of each."""
    scheduler: NotRequired[str | None]
    """None: the model's own."""
    schedulers: NotRequired[list[Scheduler]]
    has_refiner: NotRequired[bool]
    has_ip_adapter: NotRequired[bool]
    makes_depth: NotRequired[bool]
    upscaler: NotRequired[str | None]
    """None: Lanczos."""
    image_sizes: NotRequired[dict[str, list[int]]]
    num_frames: NotRequired[int]
    fps: NotRequired[int]
    end_image: NotRequired[Literal["no", "optional", "required"]]


class ServedStyle(TypedDict):
    """One of the operator's styles."""

    name: str
    tasks: list[TaskType]


class ServedLora(TypedDict):
    """One of the operator's LoRAs, as far as an app may show it."""

    name: str
    family: Literal["sdxl", "wan"] | None
    trigger_words: list[str]
    licence: str | None


class SizePresets(TypedDict):
    """The names that the size fields take."""

    image_size: list[str]
    aspect_ratio: list[str]
    resolution: list[str]


class Limits(TypedDict):
    """The most that this worker accepts."""

    prompt_characters: int
    image_pixels: int
    upscaled_pixels: int
    job_cost: int
    input_image_bytes: int
    input_image_pixels: int
    result_bytes: int
    job_timeout_seconds: float


class Versions(TypedDict):
    """The versions of the contract, the worker and the fingerprint of requests."""

    contract: int
    worker: str
    fingerprint: str


class Capabilities(TypedDict):
    """What a worker serves."""

    tasks: list[TaskType]
    models: dict[str, list[ServedModel]]
    """For each task, the default first."""
    styles: list[ServedStyle]
    loras: list[ServedLora]
    controlnet_types: list[str]
    upscale_factors: list[int]
    size_presets: SizePresets
    schedulers: list[Scheduler]
    output_formats: list[FormatName]
    preview: bool
    """Whether documents show live previews."""
    limits: Limits
    versions: Versions
