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
    """None: it went inline, as the others that may be."""
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
    """Colours to show until the thumbnail is here: https://blurha.sh."""
    poster_url: NotRequired[str | None]
    """Of a clip: its thumbnail."""
    poster_path: NotRequired[str | None]
    nsfw: NotRequired[bool]
    """What the content safety check said, where there is one."""


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
    """A finished result, as the document keeps it: of images or of a clip."""

    images: NotRequired[list[str]]
    """Download URLs; empty where the result went inline."""
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
    """Seconds of each stage."""
    usage: NotRequired[Usage]
    warnings: NotRequired[list[str]]
    """What did not go as asked."""
    files: NotRequired[list[FileEntry]]


class GenerationResponse(GenerationData):
    """The answer of a job that has a result; inline, its URLs are `data:` URIs."""

    task_type: TaskType
    user_id: NotRequired[str]
    file_uid: NotRequired[str]


class GenerationFailure(TypedDict):
    """The answer of a job that has none."""

    error: str
    """`error_code: message`, in one sentence."""
    error_code: str
    retryable: bool
    """Whether the same request may succeed when it is sent again."""
    task_type: TaskType | None
    file_uid: str | None
    user_id: str | None
    usage: NotRequired[Usage]
    refresh_worker: NotRequired[bool]
    """For RunPod: the worker is replaced."""


class DocumentError(TypedDict):
    """Why a document is `failed`."""

    code: str
    message: str
    retryable: bool


class RequestData(TypedDict, total=False):
    """What a document keeps of the request: all of its fields but `id_token`, with placeholders for inline pictures."""

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
    """Of the worker's log and traces."""
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
    """From when on it may be deleted, where the operator keeps nothing for ever."""
    usage: NotRequired[Usage]
    generation_data: NotRequired[GenerationData]
    error: NotRequired[DocumentError]
    claim: NotRequired[dict[str, Any]]
    """The worker's own."""
    cancel_requested: NotRequired[bool]
    """The app's, as what follows."""
    favorite: NotRequired[bool]
    hidden: NotRequired[bool]
    labels: NotRequired[list[str]]


class Quote(TypedDict):
    """What a request would cost."""

    units: int
    """On any card."""
    estimated_seconds: float | None
    """On this worker's; None: not known yet."""
    params: dict[str, Any]


class ServedModel(TypedDict):
    """A model that serves a task; the fields of images and those of clips are the other's `NotRequired`."""

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
    """None: its own."""
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
    """The names that the fields of sizes take."""

    image_size: list[str]
    aspect_ratio: list[str]
    resolution: list[str]


class Limits(TypedDict):
    """What this worker takes at most."""

    prompt_characters: int
    image_pixels: int
    upscaled_pixels: int
    job_cost: int
    input_image_bytes: int
    input_image_pixels: int
    result_bytes: int
    job_timeout_seconds: float


class Versions(TypedDict):
    """Of the contract, the worker and the fingerprint of requests."""

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
    """Whether documents show what is being made."""
    limits: Limits
    versions: Versions
