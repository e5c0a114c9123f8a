"""Reads the environment once, into one frozen `Settings` object. No other module reads it.

A wrong value raises `ConfigError`, which names the variable and never its content: it may hold a key. Knows variable
names, types, ranges and defaults; knows no use of them, and opens only files that continue a variable's value (`@file`,
a folder of LoRAs).
"""

import difflib
import functools
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from worker.core.lora_source import lora_source
from worker.core.pasted import bucket_name, database_id, tidy
from worker.core.types import Allowed, Attention, ControlType, Level, Quantized, Scheduler, TaskType

REPOSITORY = Path(__file__).resolve().parents[2]
RUNPOD_VOLUME = Path("/runpod-volume")
MIN_SECRET_CHARACTERS = 32
"""RFC 7518, section 3.2: an HS256 key is at least as long as the hash, 256 bits."""
EMULATOR_VARIABLES = ("FIRESTORE_EMULATOR_HOST", "STORAGE_EMULATOR_HOST", "FIREBASE_AUTH_EMULATOR_HOST")
_SIGNALS = ("traces", "metrics")
_READ_BY_LIBRARIES = ("HF_TOKEN", "HF_HOME", "OTEL_EXPORTER_OTLP_HEADERS")
_OPENTELEMETRYS = re.compile(
    r"OTEL_LOGS_EXPORTER|OTEL_EXPORTER_OTLP_(?:(?:TRACES|METRICS|LOGS)_)?"
    r"(?:ENDPOINT|HEADERS|TIMEOUT|PROTOCOL|COMPRESSION|INSECURE|CERTIFICATE|CLIENT_KEY|CLIENT_CERTIFICATE)"
)
"""Variables that resemble those of `Settings` and are not misspelt."""
_NO_LOGS = "log lines are not sent: they are on stderr, each with the trace_id of its job"
_PAIRS = r"[\w.%/-]+\s*=[^,]*(,\s*[\w.%/-]+\s*=[^,]*)*,?"
_EFFECTS = tuple(
    (re.compile(names), re.compile(right, re.IGNORECASE), text)
    for names, right, text in (
        ("OTEL_SDK_DISABLED", "true|false", "only true switches telemetry off, and this is taken as false"),
        ("OTEL_(TRACES|METRICS)_EXPORTER", "otlp|none", "only otlp and none are known here, and this is taken as otlp"),
        (
            "OTEL_EXPORTER_OTLP_((TRACES|METRICS)_)?PROTOCOL",
            "http/protobuf",
            "only http/protobuf is spoken, for which a collector has a port of its own, usually 4318",
        ),
        (
            "OTEL_EXPORTER_OTLP_((TRACES|METRICS)_)?TIMEOUT",
            r"\d{0,3}(\.\d*)?",
            "is taken as a number of seconds, not of milliseconds; the default is 10",
        ),
        (
            "OTEL_TRACES_SAMPLER",
            "(parentbased_)?(always_on|always_off|traceidratio)",
            "is no sampler that is known here: each job is traced",
        ),
        ("OTEL_TRACES_SAMPLER_ARG", r"0?\.\d+|[01](\.0*)?", "is no share between 0 and 1"),
        (
            "OTEL_RESOURCE_ATTRIBUTES|OTEL_EXPORTER_OTLP_((TRACES|METRICS)_)?HEADERS",
            _PAIRS,
            "is to be name=value, separated by commas; the rest is left out",
        ),
        (
            "OTEL_EXPORTER_OTLP_((TRACES|METRICS)_)?COMPRESSION",
            "none|gzip|deflate",
            "is none, gzip or deflate, and this is taken as none",
        ),
        (
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
            "cumulative|delta|lowmemory",
            "is cumulative, delta or lowmemory, and this is taken as cumulative",
        ),
        ("OTEL_(METRIC_EXPORT|BSP)_.+", r"-?\d+(\.\d*)?", "is no number, so its default holds"),
        ("OTEL_LOGS_EXPORTER", "none", _NO_LOGS),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "", _NO_LOGS),
        ("OTEL_CONFIG_FILE", "", "no file is read: only variables are"),
        ("OTEL_PYTHON_EXPORTER_OTLP_HTTP_(.+_)?CREDENTIAL_PROVIDER", "", "is not used: OTEL_EXPORTER_OTLP_HEADERS is"),
    )
)
"""Variables of OpenTelemetry, the values that have the effect of the specification, and what holds for any other."""

_SPAN_EVENTS = {"OTEL_SPAN_EVENT_COUNT_LIMIT": "1000"}
"""OpenTelemetry's default limit is 128, and a job of four images has more steps."""

_ASSIGNS = r"(?:(?:export|set|env|-e|--env)\s+|\$env:)?"
"""The prefix of an assignment in a shell, PowerShell, a Dockerfile or `docker run`."""
_OBJECT = "must be a JSON object"
_WORDS = {"model_type": _OBJECT, "dict_type": _OBJECT, "extra_forbidden": "is not known here", "missing": "is missing"}
"""pydantic's type of a problem -> what is said of it, where its own message has classes and fields of Python in it."""
_UNFILLED = re.compile(r"\{\{\s*RUNPOD_SECRET")
_CALLED = {
    "GOOGLE_APPLICATION_CREDENTIALS": "FIREBASE_SERVICE_ACCOUNT_KEY",
    "FIREBASE_CREDENTIALS": "FIREBASE_SERVICE_ACCOUNT_KEY",
    "FIREBASE_CONFIG": "FIREBASE_SERVICE_ACCOUNT_KEY",
    "FIREBASE_KEY": "FIREBASE_SERVICE_ACCOUNT_KEY",
    "FIREBASE_SERVICE_ACCOUNT_JSON": "FIREBASE_SERVICE_ACCOUNT_KEY",
    "FIREBASE_BUCKET": "FIREBASE_STORAGE_BUCKET",
    "GCS_BUCKET": "FIREBASE_STORAGE_BUCKET",
    "STORAGE_BUCKET": "FIREBASE_STORAGE_BUCKET",
    "FIRESTORE_DATABASE_ID": "FIRESTORE_DATABASE",
    "HUGGINGFACE_TOKEN": "HF_TOKEN",
    "HF_API_TOKEN": "HF_TOKEN",
    "CIVITAI_API_TOKEN": "CIVITAI_TOKEN",
    "CIVITAI_API_KEY": "CIVITAI_TOKEN",
}
"""Names that other programs use -> our variable for the same value."""
_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9 _.-]{0,63}?)\s*=\s*(\S.*?)\s*\Z")

_LISTED_NAME = re.compile(r"(?!\s)[^/\x00-\x1f\x7f-\x9f]{1,200}(?<!\s)")
_LORA_HOST = re.compile(r"hub|civitai|\.?(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]")


class ConfigError(Exception):
    """The environment holds a value with which the worker cannot start."""


def _as_meant(name: str, value: str) -> str:
    """Return the intended value: without surrounding quotes and whitespace, and without a pasted `NAME=` prefix."""
    return tidy(re.sub(rf"\A{_ASSIGNS}{name}\s*[=:]", "", tidy(value), flags=re.IGNORECASE))


Side = Annotated[int, Field(ge=64, le=2048, multiple_of=8)]
Guidance = Annotated[float, Field(ge=0, le=30)]
Share = Annotated[float, Field(gt=0, le=1)]
_Factor = Annotated[float, Field(ge=-10, le=10)]
_Row = Annotated[tuple[_Factor, _Factor, _Factor], Field(strict=False)]
PreviewFactors = Annotated[tuple[_Row, ...], Field(strict=False, min_length=2, max_length=129)]


class OwnDefaults(BaseModel):
    """An operator's settings for one model, from `MODEL_DEFAULTS` or from a file beside the model.

    They override what the model's own files say; a key that is left out keeps the model's value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str | None = None
    width: Side | None = None
    height: Side | None = None
    num_frames: Annotated[int, Field(ge=5, le=121)] | None = None
    fps: Annotated[int, Field(ge=1, le=60)] | None = None
    num_inference_steps: Annotated[int, Field(ge=1, le=100)] | None = None
    guidance_scale: Guidance | None = None
    guidance_scale_2: Guidance | None = None
    guidance_rescale: Annotated[float, Field(ge=0, le=1)] | None = None
    flow_shift: Annotated[float, Field(ge=0.1, le=20)] | None = None
    negative_prompt: Annotated[str, Field(max_length=4000)] | None = None
    scheduler: Annotated[Scheduler, Field(strict=False)] | None = None
    prediction_type: Literal["epsilon", "v_prediction", "sample"] | None = None
    timestep_spacing: Literal["leading", "trailing", "linspace"] | None = None
    zero_snr: bool | None = None
    few_steps: bool | None = None
    micro_conditioning: Literal["native", "requested"] | None = None
    size_multiple: Annotated[int, Field(ge=8, le=64)] | None = None
    draft_strength: Share | None = None
    hold_end_image: bool | None = None
    """For a TI2V model: whether its last latent frame may be fixed to an image, as the first is."""
    preview_factors: PreviewFactors | None = None
    """One row per latent channel: its weight for red, green and blue (-1 ... 1). The last row is the bias."""
    warnings: Annotated[tuple[str, ...], Field(strict=False)] | None = None

    def given(self) -> dict[str, Any]:
        """The keys that were given."""
        return {name: getattr(self, name) for name in self.model_fields_set if getattr(self, name) is not None}


class ListedLora(BaseModel):
    """A LoRA that the operator offers under a name."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    source: Annotated[str, Field(min_length=1, max_length=2048)]
    """`org/name`, `org/name@revision`, an `https://` URL, or a local file or folder."""
    weight_name: Annotated[str, Field(pattern=r"\.safetensors$", max_length=200)] | None = None
    """The file to use, if the repository or folder has several."""
    scale: Annotated[float, Field(ge=-4, le=4)] = 1.0
    """The scale that a request's scale of 1 maps to."""
    family: Literal["sdxl", "wan"] | None = None
    """The model family it was trained for; None: read from its file."""
    trigger_words: Annotated[tuple[str, ...], Field(strict=False)] = ()
    licence: str | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """The expected hash of the file; None: not checked."""

    @model_validator(mode="before")
    @classmethod
    def _bare_source(cls, value: object) -> object:
        if isinstance(value, dict | ListedLora):
            return value
        if isinstance(value, str):
            return {"source": value}
        raise ValueError("must be a source, or a JSON object with one")

    @model_validator(mode="after")
    def _some_source(self) -> "ListedLora":
        lora_source(self.source, self.weight_name)
        return self


class AcceleratingLora(BaseModel):
    """A listed LoRA that an acceleration applies."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    path: str
    """Its name in `LORAS`."""
    scale: Annotated[float, Field(ge=-4, le=4)] = 1.0


class CachedSteps(BaseModel):
    """A step cache: denoising steps of Wan that are not computed in full."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["first_block", "sea"]
    threshold: Annotated[float, Field(ge=0, le=1)]
    """The largest change, since the last step computed in full, that still reuses it."""


class Acceleration(BaseModel):
    """How a model runs at one acceleration level: the distillation LoRAs, and the steps and guidance that suit them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    num_inference_steps: Annotated[int, Field(ge=1, le=100)]
    guidance_scale: Guidance | None = None
    guidance_scale_2: Guidance | None = None
    flow_shift: Annotated[float, Field(ge=0.1, le=20)] | None = None
    scheduler: Annotated[Scheduler, Field(strict=False)] | None = None
    timestep_spacing: Literal["leading", "trailing", "linspace"] | None = None
    original_inference_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    """For LCM: length of the schedule from which the few steps are chosen."""
    step_cache: CachedSteps | None = None
    loras: Annotated[tuple[AcceleratingLora, ...], Field(strict=False)] = ()
    high_noise_loras: Annotated[tuple[AcceleratingLora, ...], Field(strict=False)] = ()
    low_noise_loras: Annotated[tuple[AcceleratingLora, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _few_of_enough(self) -> "Acceleration":
        if self.original_inference_steps is not None and self.original_inference_steps < self.num_inference_steps:
            raise ValueError("original_inference_steps: the num_inference_steps are chosen from them, so not fewer")
        return self

    def lora_names(self) -> list[str]:
        """Return the names of all its LoRAs."""
        return [one.path for one in (*self.loras, *self.high_noise_loras, *self.low_noise_loras)]

    def given(self) -> dict[str, Any]:
        """The keys that were given."""
        return {name: getattr(self, name) for name in self.model_fields_set if getattr(self, name) is not None}


class Settings(BaseSettings):
    """One field per variable in docs/deploy.md, and a few for paths on this machine."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", case_sensitive=False, populate_by_name=True)

    firebase_service_account_key: SecretStr | None = None
    firebase_storage_bucket: str | None = None
    firestore_database: str = "(default)"
    firestore_emulator_host: str | None = None
    storage_emulator_host: str | None = None
    firebase_auth_emulator_host: str | None = None
    google_cloud_project: str | None = Field(
        None, validation_alias=AliasChoices("GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT")
    )
    """With emulators: the project, taking precedence over the key's. Without emulators the key's project is used."""

    sdxl_model: str | None = None
    sdxl_vae: str | None = None
    sdxl_refiner: str | None = None
    controlnet_model: str | None = None
    depth_model: str | None = None
    ip_adapter_model: str | None = None
    preview_model: str | None = None
    upscaler_model: str | None = None
    wan_model: str | None = None
    wan_i2v_model: str | None = None
    model_defaults: Annotated[dict[str, OwnDefaults] | None, NoDecode] = None
    loras: Annotated[dict[str, ListedLora] | None, NoDecode] = None
    lora_sources: Annotated[tuple[str, ...] | None, NoDecode] = None
    max_lora_bytes: int = Field(1 << 30, ge=1 << 20)
    lora_cache_bytes: int = Field(20 << 30, ge=1 << 20)
    lora_cache_dir: Path = RUNPOD_VOLUME / "loras"
    """Cache of downloaded LoRAs. If its parent folder does not exist, a temporary folder is used instead."""
    civitai_token: SecretStr | None = None
    hf_token: SecretStr | None = None
    styles: Annotated[dict[str, dict[str, Any]] | None, NoDecode] = None
    acceleration: Allowed = "none"
    accelerations: Annotated[dict[str, dict[Level, Acceleration]] | None, NoDecode] = None
    quantize: Literal["none", Quantized] = "none"
    compile: Literal["off", "regional", "full"] = "off"
    compile_cache_dir: Path = RUNPOD_VOLUME / "compiled"
    """Cache of compiled code for later starts; used only if its parent folder exists."""
    attention: Attention = "auto"
    read_ahead: bool = False
    preload_tasks: Annotated[tuple[TaskType, ...] | None, NoDecode] = None
    tasks: Annotated[tuple[TaskType, ...] | None, NoDecode] = None
    allow_downloads: bool | None = None

    safety_checker: Literal["off", "flag", "block"] = "off"
    safety_model: str | None = None
    ai_mark: Literal["on", "off"] = "on"
    c2pa_certificate: str | None = None
    """PEM, or the path of a PEM file: the signing certificate, followed by its chain."""
    c2pa_key: SecretStr | None = None

    retention_days: int | None = Field(None, ge=1, le=36_500)
    """Days that a finished generation is kept; None: until someone deletes it."""

    require_id_token: bool = False
    check_revoked: bool = False
    ticket_secret: SecretStr | None = None
    job_timeout_seconds: float = Field(540, gt=0, le=7 * 24 * 3600)
    max_image_pixels: int = Field(2_359_296, ge=64 * 64)
    max_upscaled_pixels: int = Field(16_777_216, ge=64 * 64)
    max_job_cost: int = Field(8_000_000_000, ge=1)
    max_result_bytes: int = Field(9_000_000, ge=10_000, le=20_000_000)
    max_input_image_bytes: int = Field(67_108_864, ge=1024)
    max_input_image_pixels: int = Field(16_777_216, ge=64 * 64)
    max_declared_image_pixels: int = Field(268_435_456, ge=64 * 64)
    worker_concurrency: int = Field(1, ge=1, le=16)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"

    log_prompts: bool = False
    """Whether prompts are logged in full; otherwise only their length and hash."""

    models_dir: Path = Path("/models")
    """Models baked into the Docker image, as `{org}--{name}` folders."""

    outbox_dir: Path = RUNPOD_VOLUME / "outbox"
    """The spool: results that can be neither uploaded nor returned. Used only if its parent folder exists."""

    otel_exporter_otlp_endpoint: str | None = None
    """Base address of the receiver of traces and metrics; OpenTelemetry reads its other variables itself."""
    otel_exporter_otlp_traces_endpoint: str | None = None
    """Where traces go instead: the whole address."""
    otel_exporter_otlp_metrics_endpoint: str | None = None
    otel_traces_exporter: str = "otlp"
    otel_metrics_exporter: str = "otlp"
    otel_sdk_disabled: str = "false"

    runpod_endpoint_id: str | None = None
    runpod_pod_id: str | None = None
    runpod_webhook_get_job: str | None = None
    runpod_webhook_post_output: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_pasted(cls, values: dict[str, Any]) -> dict[str, Any]:
        def tidied(name: str, value: object) -> object:
            # The backend holds this secret too, and may count quotes as part of it: leave it unchanged.
            if not isinstance(value, str) or name.lower() == "ticket_secret":
                return value
            return _as_meant(name, value)

        read = {name: tidied(name, value) for name, value in values.items()}
        return {name: value for name, value in read.items() if value != ""}

    @field_validator("firebase_storage_bucket")
    @classmethod
    def _bucket(cls, value: str | None) -> str | None:
        return bucket_name(value) if value else None

    @field_validator("firestore_database")
    @classmethod
    def _database(cls, value: str) -> str:
        return database_id(value)

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator(
        "safety_checker",
        "ai_mark",
        "quantize",
        "compile",
        "attention",
        "otel_traces_exporter",
        "otel_metrics_exporter",
        "otel_sdk_disabled",
        mode="before",
    )
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("ticket_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        # A secret store or a shell may have added a newline or a byte order mark on one side only.
        secret = value.get_secret_value().strip().strip("\ufeff").strip()
        if len(secret) < MIN_SECRET_CHARACTERS:
            raise ValueError(
                f"must have at least {MIN_SECRET_CHARACTERS} characters, such as from `openssl rand -hex 32`"
            )
        return SecretStr(secret)

    @field_validator("preload_tasks", "tasks", mode="before")
    @classmethod
    def _task_list(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        names = tuple(name.strip().lower() for name in value.split(",") if name.strip())
        unknown = [name for name in names if name not in set(TaskType)]
        if unknown:
            raise ValueError(f"must list tasks out of {', '.join(TaskType)}, separated by commas")
        return names

    @field_validator("tasks")
    @classmethod
    def _some_task(cls, value: tuple[TaskType, ...] | None) -> tuple[TaskType, ...] | None:
        if value == ():
            raise ValueError("must list at least one task; leave it out for all that have a model")
        return value

    @field_validator("sdxl_model", "wan_model", "wan_i2v_model")
    @classmethod
    def _sources(cls, value: str | None) -> str | None:
        named_sources(value or "")
        return value

    @field_validator("controlnet_model")
    @classmethod
    def _control_types(cls, value: str | None) -> str | None:
        if set(named_sources(value or "")) - {"", *get_args(ControlType)}:
            raise ValueError(f"must be one source, or type=source, type=source, of {', '.join(get_args(ControlType))}")
        return value

    @field_validator("model_defaults", mode="before")
    @classmethod
    def _json_object(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("must be a JSON object: the name of a model, and what is to be said of it") from None

    @field_validator("loras", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value.startswith("/"):
            return _files_of(Path(value))
        return _json_or_file(value, "a LoRA, and where it comes from")

    @field_validator("styles", mode="before")
    @classmethod
    def _style_sheet(cls, value: object) -> object:
        return _json_or_file(value, "a style, and its fields") if isinstance(value, str) else value

    @field_validator("accelerations", mode="before")
    @classmethod
    def _set_up(cls, value: object) -> object:
        wanted = "a model, sdxl or wan, and what regular and high stand for"
        return _json_or_file(value, wanted) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _accelerated_by_listed_loras(self) -> "Settings":
        for model, levels in (self.accelerations or {}).items():
            for level, entry in levels.items():
                if model == "sdxl" and (entry.high_noise_loras or entry.low_noise_loras):
                    raise ValueError(f"ACCELERATIONS.{model}.{level}: SDXL has one expert; its LoRAs stand in loras")
                if missing := [one for one in entry.lora_names() if one not in (self.loras or {})]:
                    raise ValueError(f"ACCELERATIONS.{model}.{level}: {', '.join(missing)}: LORAS has no such name")
        return self

    @field_validator("loras")
    @classmethod
    def _names(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if any(not _LISTED_NAME.fullmatch(name) for name in value or ()):
            raise ValueError(
                "must give names of 1 to 200 characters without blanks around them that are no URL, path or hub id"
            )
        return value

    @field_validator("lora_sources", mode="before")
    @classmethod
    def _source_list(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        names = tuple(name.strip().lower() for name in value.split(",") if name.strip())
        if any(not _LORA_HOST.fullmatch(name) for name in names):
            raise ValueError(
                "must list hub, civitai or host names such as files.example.com (.example.com: with all below it), "
                "separated by commas"
            )
        return names

    @field_validator(
        "storage_emulator_host",
        "otel_exporter_otlp_endpoint",
        "otel_exporter_otlp_traces_endpoint",
        "otel_exporter_otlp_metrics_endpoint",
    )
    @classmethod
    def _with_scheme(cls, value: str | None) -> str | None:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must be a URL with its scheme, http:// or https://")
        return value.rstrip("/") if value else None

    @field_validator("*", mode="before")
    @classmethod
    def _filled_in(cls, value: object, info: ValidationInfo) -> object:
        # Pydantic runs the last defined validator first. An unfilled template as a secret is one that anyone can guess.
        # The service account key, which the worker can do without, has its own message in worker/firebase.
        if isinstance(value, str) and _UNFILLED.search(value) and info.field_name != "firebase_service_account_key":
            raise ValueError("is the name of a RunPod secret that RunPod did not fill in: no secret is called so")
        return value

    @model_validator(mode="after")
    def _no_emulators_on_the_platform(self) -> "Settings":
        # With the auth emulator's variable set, firebase-admin accepts unsigned tokens.
        named = [name for name in EMULATOR_VARIABLES if getattr(self, name.lower())]
        if self.runpod_endpoint_id and named:
            raise ValueError(f"{', '.join(named)} must not be set on RunPod; emulators are for local work")
        return self

    @property
    def served_tasks(self) -> tuple[TaskType, ...]:
        """The tasks of this endpoint: those in `TASKS`; else those with a configured model; else all."""
        models = {TaskType.TEXT2VIDEO: self.wan_model, TaskType.IMG2VIDEO: self.wan_i2v_model or self.wan_model}
        models[TaskType.UPSCALE] = self.upscaler_model or self.sdxl_model
        named = tuple(task for task in TaskType if models.get(task, self.sdxl_model))
        return self.tasks or named or tuple(TaskType)

    @property
    def retention(self) -> timedelta | None:
        """`retention_days` as a `timedelta`."""
        return timedelta(days=self.retention_days) if self.retention_days is not None else None

    @property
    def on_platform(self) -> bool:
        """Whether jobs come from RunPod, not from a test input or the local API."""
        return bool(self.runpod_webhook_get_job)

    @property
    def names_a_collector(self) -> bool:
        """Whether a variable says where traces or metrics go."""
        own = (self.otel_exporter_otlp_traces_endpoint, self.otel_exporter_otlp_metrics_endpoint)
        return any((self.otel_exporter_otlp_endpoint, *own))

    @property
    def signals(self) -> dict[str, str]:
        """What is sent to an OpenTelemetry collector, each with the variable that says where; empty: nothing."""
        found = {}
        for signal in _SIGNALS if self.otel_sdk_disabled != "true" else ():
            own = f"otel_exporter_otlp_{signal}_endpoint"
            named = [name.upper() for name in (own, "otel_exporter_otlp_endpoint") if getattr(self, name)]
            if named and getattr(self, f"otel_{signal}_exporter") != "none":
                found[signal] = named[0]
        return found

    @property
    def uses_emulators(self) -> bool:
        """Whether Google's clients talk to local emulators, which need no key."""
        return bool(self.firestore_emulator_host or self.storage_emulator_host)


def load_settings(**overrides: object) -> Settings:
    """Read the environment. `overrides` (by field name) take precedence; an empty variable counts as not set.

    Raises:
        ConfigError: variables are wrong; it names each one and what is expected, never its value.
    """
    try:
        return Settings(_env_ignore_empty=True, **overrides)  # type: ignore[arg-type]  # values are validated by pydantic
    except ValidationError as error:
        raise ConfigError("; ".join(f"{name}: {problem}" for name, problem in _problems(error))) from None


def default_settings() -> Settings:
    """Return the defaults, for the time until the environment is read; only where the worker runs is taken from it."""
    return Settings.model_construct(runpod_endpoint_id=os.environ.get("RUNPOD_ENDPOINT_ID"))


def wrong_variables() -> dict[str, str]:
    """Map each wrong variable to what is expected, never its value. Key `environment`: a wrong combination."""
    try:
        Settings(_env_ignore_empty=True)
    except ValidationError as error:
        return dict(_problems(error))
    return {}


def misspelt_variables() -> dict[str, str]:
    """Map each variable that nothing reads to the variable of ours that it resembles.

    Variables that only RunPod's SDK or OpenTelemetry reads are skipped.
    """
    ours = set(_READ_BY_LIBRARIES) | {
        str(choice).upper()
        for name, field in Settings.model_fields.items()
        for choice in getattr(field.validation_alias, "choices", [name])
    }
    theirs = {name for name in os.environ if name.startswith("RUNPOD_") or _OPENTELEMETRYS.fullmatch(name)}
    strangers = [name for name in os.environ if name.upper() not in ours and name not in theirs]
    likest = {name: difflib.get_close_matches(name.upper(), ours, 1, cutoff=0.88) for name in strangers}
    alike = {name: found[0] for name, found in likest.items() if found}
    called = {name: _CALLED[name.upper()] for name in strangers if name.upper() in _CALLED}
    return {name: meant for name, meant in called.items() if meant not in os.environ} | alike


def _opentelemetry_variables() -> list[str]:
    """Return the names of OpenTelemetry's variables that the operator set."""
    given = (name for name, value in os.environ.items() if value and _SPAN_EVENTS.get(name) != value)
    return sorted(name for name in given if name.startswith("OTEL_"))


def opentelemetry_problem() -> str:
    """Return the message about a variable that OpenTelemetry does not accept; it names those that the operator set."""
    return f"one of {', '.join(_opentelemetry_variables())} holds what OpenTelemetry does not take"


def unheeded_variables(settings: Settings) -> dict[str, str]:
    """Map each variable of OpenTelemetry without the effect that its specification gives it to what holds instead.

    https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
    """
    if settings.otel_sdk_disabled == "true":
        return {}
    found = {}
    for name in _opentelemetry_variables():
        value, signal = os.environ[name].strip(), name.removeprefix("OTEL_").removesuffix("_EXPORTER").lower()
        effects = [text for names, right, text in _EFFECTS if names.fullmatch(name) and not right.fullmatch(value)]
        if not settings.names_a_collector and name.startswith("OTEL_EXPORTER_OTLP_"):
            effects = ["has no effect without OTEL_EXPORTER_OTLP_ENDPOINT"]
        if signal in _SIGNALS and signal not in settings.signals and value.lower() != "none":
            own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
            effects = [f"{signal} are not sent: neither OTEL_EXPORTER_OTLP_ENDPOINT nor {own} says where"]
        if effects:
            found[name] = effects[0]
    return found


def _problems(error: ValidationError) -> Iterator[tuple[str, str]]:
    for detail in error.errors(include_input=False, include_url=False):
        problem = _WORDS.get(detail["type"]) or detail["msg"].removeprefix("Value error, ")
        yield _place(detail["loc"]) or "environment", problem


def named_sources(value: str) -> dict[str, str]:
    """Parse `photo=source, anime=source` into name -> source, in order; the key of a single unnamed source is "".

    Raises:
        ValueError: there are several sources, and one has no name or two have the same.
    """
    if not _NAME.match(value):
        return {"": value} if value else {}
    sources: dict[str, str] = {}
    for part in value.split(","):
        match = _NAME.match(part)
        if match is None or match[1] in sources:
            raise ValueError("must be one source, or several as name=source, name=source, each of its own name")
        sources[match[1]] = match[2]
    return sources


def _json_or_file(value: str, of_what: str) -> object:
    """Load the JSON object in a variable, or in the file that it names as `@file`.

    Raises:
        ValueError: the file cannot be read, or the text is not a JSON object.
    """
    wanted = f"must be a JSON object, or @ and the path of a file with one: the name of {of_what}"
    try:
        text = Path(value[1:]).read_text(encoding="utf-8") if value.startswith("@") else value
        found = json.loads(text)
    except OSError:
        raise ValueError(f"{wanted}; the file cannot be read") from None
    except ValueError:
        raise ValueError(wanted) from None
    if not isinstance(found, dict):
        raise ValueError(wanted)  # noqa: TRY004 - pydantic expects ValueError from a validator
    return found


def _files_of(folder: Path) -> dict[str, str]:
    """Map each LoRA in a folder, by file name without the suffix, to its path.

    Raises:
        ValueError: the folder does not exist.
    """
    if not folder.is_dir():
        raise ValueError("names a folder that is not there")
    return {path.stem: str(path) for path in sorted(folder.glob("*.safetensors"))}


def _place(location: tuple[int | str, ...]) -> str:
    """Return the variable, followed by the keys that lead to the wrong part of its value."""
    return ".".join(str(part) if depth else str(part).upper() for depth, part in enumerate(location))


@functools.cache
def has_cuda_driver() -> bool:
    """Whether this machine has an NVIDIA device that torch could use; does not import torch."""
    return (
        any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg"))
        and bool(importlib.util.find_spec("torch"))
        and os.environ.get("CUDA_VISIBLE_DEVICES") not in {"", "-1"}
    )


def set_library_defaults() -> None:
    """Set quieter defaults for libraries where the operator set none. Call it before they are imported.

    RunPod's SDK logs whole results at its default level; Google's storage client looks up the bucket in the background.
    """
    for name, value in {
        "RUNPOD_LOG_LEVEL": "INFO",
        "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        # These libraries print their errors themselves, with paths and with request URLs, including the signature.
        "HF_HUB_VERBOSITY": "critical",
        "TRANSFORMERS_VERBOSITY": "critical",
        "DIFFUSERS_VERBOSITY": "critical",
        "TOKENIZERS_PARALLELISM": "false",
        # Threads that spin while they wait for each other are several times slower as soon as they share a core.
        "OMP_WAIT_POLICY": "PASSIVE",
        **_SPAN_EVENTS,
        "GRPC_VERBOSITY": "ERROR",
        # With fork support on, a forked child sometimes dies before it executes its program (grpc/grpc#43055).
        "GRPC_ENABLE_FORK_SUPPORT": "false",
    }.items():
        os.environ.setdefault(name, value)
    opentelemetrys = [name for name in os.environ if name.startswith("OTEL_")]
    for name in (*EMULATOR_VARIABLES, *_READ_BY_LIBRARIES, *opentelemetrys):
        # Libraries read these too, and take an empty value for a host or a folder, and quotes for a part of it.
        if meant := _as_meant(name, os.environ.pop(name, "")):
            os.environ[name] = meant
