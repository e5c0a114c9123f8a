"""Defines the types of a worker's responses and documents, against which the code that builds them is type-checked.

docs/api.md describes them in prose; `python -m tools.schema` generates schema/ and the types for apps from them. A
field that some response or document may lack is `NotRequired`: a result that does not fit into its document is reduced
to a minimum (`document.schema.lighter`). Word lists and objects may grow; readers ignore what they do not know.
"""

from datetime import datetime
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from worker.api.field_types import FormatName
from worker.core.types import Level, ProgressData, Scheduler, TaskType, Usage

StorageKind = Literal["firebase", "base64"]
"""Where a result is: in the bucket, or inline in the response."""
Status = Literal["queued", "processing", "completed", "failed"]


class FileEntry(TypedDict):
    """One file of a result."""

    url: str | None
    """None: the result was returned inline, and the other URLs and paths are null too."""
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
    """For a video: the same as `thumbnail_url`."""
    poster_path: NotRequired[str | None]
    nsfw: NotRequired[bool]
    """Whether the content safety check flagged the file, if it ran."""


class VideoInfo(TypedDict):
    """The properties of a video."""

    frames: int
    width: int
    height: int
    fps: int
    duration_seconds: float


class Manifest(TypedDict):
    """What is known of a result before it exists."""

    seed: int
    seeds: NotRequired[list[int]]
    """For images: one seed per image."""
    video_info: NotRequired[VideoInfo]
    model: str
    params: dict[str, Any]
    """The values in use: the public fields of `params.ImageParams` or `params.VideoParams`."""


class GenerationData(TypedDict):
    """A finished result as the document keeps it: images or a video."""

    images: NotRequired[list[str]]
    """Download URLs; empty if the result was returned inline."""
    image_url: NotRequired[str | None]
    """The first URL in `images`."""
    videos: NotRequired[list[str]]
    video_url: NotRequired[str | None]
    video_info: NotRequired[VideoInfo]
    seed: NotRequired[int]
    seeds: NotRequired[list[int]]
    model: NotRequired[str]
    params: NotRequired[dict[str, Any]]
    storage: StorageKind
    timings: NotRequired[dict[str, float]]
    """Seconds per stage."""
    usage: NotRequired[Usage]
    warnings: NotRequired[list[str]]
    """Where the result departs from the request."""
    files: NotRequired[list[FileEntry]]


class GenerationResponse(GenerationData):
    """The response of a job with a result; if that is returned inline, its URLs are `data:` URIs."""

    task_type: TaskType
    user_id: NotRequired[str]
    file_uid: NotRequired[str]


class GenerationFailure(TypedDict):
    """The response of a failed job."""

    error: str
    """`error_code: message`, as one sentence."""
    error_code: str
    retryable: bool
    """Whether the same request may succeed if sent again."""
    task_type: TaskType | None
    file_uid: str | None
    user_id: str | None
    usage: NotRequired[Usage]
    refresh_worker: NotRequired[bool]
    """Asks RunPod to replace the worker."""


class DocumentError(TypedDict):
    """The error of a document that is `failed`."""

    code: str
    message: str
    retryable: bool


class RequestData(TypedDict, total=False):
    """The request in a document: all fields except `id_token`, with placeholders for inline images."""

    task_type: TaskType
    prompt: str
    negative_prompt: str
    model: str | None
    style: str | None
    seed: int | None
    left_out: bool
    """True: other fields were left out, since they did not fit."""


class GenerationDocument(TypedDict):
    """The document `generations/{user_id}/files/{file_uid}`; the server sets its times."""

    status: Status
    user_id: NotRequired[str]
    file_uid: NotRequired[str]
    job_id: NotRequired[str]
    worker_id: NotRequired[str]
    trace_id: NotRequired[str]
    """The id of the job's trace in the worker's log and traces."""
    attempt: NotRequired[int]
    request_data: NotRequired[RequestData]
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime]
    completed_at: NotRequired[datetime]
    progress: NotRequired[ProgressData]
    heartbeat_at: NotRequired[datetime]
    expires_at: NotRequired[datetime]
    """When the worker's lease ends: if it is not renewed until then, the job counts as lost."""
    delete_at: NotRequired[datetime]
    """When the document expires, if the operator set a retention."""
    usage: NotRequired[Usage]
    generation_data: NotRequired[GenerationData]
    error: NotRequired[DocumentError]
    claim: NotRequired[dict[str, Any]]
    """Internal to the worker."""
    cancel_requested: NotRequired[bool]
    """Written by the app, as are the fields below; true stops the job."""
    favorite: NotRequired[bool]
    hidden: NotRequired[bool]
    labels: NotRequired[list[str]]


class Quote(TypedDict):
    """The price of a request."""

    units: int
    """The price, which does not depend on the GPU."""
    estimated_seconds: float | None
    """Estimated seconds on this worker's GPU; None: not known yet."""
    params: dict[str, Any]


class ServedModel(TypedDict):
    """A model that serves a task. Some fields exist only for image tasks, others only for video tasks."""

    name: str
    width: int
    height: int
    size_multiple: int
    num_inference_steps: int
    guidance_scale: float
    few_steps: bool
    accelerations: list[Level]
    aspect_ratios: dict[str, list[int]]
    """Aspect ratio -> width and height."""
    scheduler: NotRequired[str | None]
    """None: the model's own scheduler."""
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
    """The names that the size fields accept."""

    image_size: list[str]
    aspect_ratio: list[str]
    resolution: list[str]


class Limits(TypedDict):
    """The limits of this worker."""

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
    """Task -> its models, the default first."""
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
