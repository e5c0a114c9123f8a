"""Settings: the contract's variables and defaults, and errors that name a variable and never reveal its value."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from worker.core.config import (
    ConfigError,
    Settings,
    has_cuda_driver,
    load_settings,
    misspelt_variables,
    named_sources,
    set_library_defaults,
    unheeded_variables,
    wrong_variables,
)
from worker.core.types import Scheduler, TaskType

DEFAULTS: dict[str, Any] = {
    "FIREBASE_SERVICE_ACCOUNT_KEY": None,
    "FIREBASE_STORAGE_BUCKET": None,
    "FIRESTORE_DATABASE": "(default)",
    "FIRESTORE_EMULATOR_HOST": None,
    "STORAGE_EMULATOR_HOST": None,
    "FIREBASE_AUTH_EMULATOR_HOST": None,
    "SDXL_MODEL": None,
    "SDXL_VAE": None,
    "SDXL_REFINER": None,
    "CONTROLNET_MODEL": None,
    "DEPTH_MODEL": None,
    "IP_ADAPTER_MODEL": None,
    "PREVIEW_MODEL": None,
    "UPSCALER_MODEL": None,
    "WAN_MODEL": None,
    "WAN_I2V_MODEL": None,
    "MODEL_DEFAULTS": None,
    "STYLES": None,
    "LORAS": None,
    "LORA_SOURCES": None,
    "MAX_LORA_BYTES": 1 << 30,
    "LORA_CACHE_BYTES": 20 << 30,
    "CIVITAI_TOKEN": None,
    "HF_TOKEN": None,
    "COMPILE": "off",
    "PRELOAD_TASKS": None,
    "TASKS": None,
    "ALLOW_DOWNLOADS": None,
    "AI_MARK": "on",
    "RETENTION_DAYS": None,
    "REQUIRE_ID_TOKEN": False,
    "JOB_TIMEOUT_SECONDS": 540,
    "MAX_IMAGE_PIXELS": 1536 * 1536,
    "MAX_UPSCALED_PIXELS": 16_777_216,
    "MAX_JOB_COST": 8_000_000_000,
    "MAX_RESULT_BYTES": 9_000_000,
    "MAX_INPUT_IMAGE_BYTES": 67_108_864,
    "MAX_INPUT_IMAGE_PIXELS": 16_777_216,
    "WORKER_CONCURRENCY": 1,
    "LOG_LEVEL": "INFO",
}
KEY = '{"type": "service_account", "private_key": "-----BEGIN PRIVATE KEY-----MIIEvSECRET"}'
BASE, URL = "OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318"
TRACES, METRICS = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
EMULATORS = {
    "FIRESTORE_EMULATOR_HOST": "127.0.0.1:8080",
    "STORAGE_EMULATOR_HOST": "http://127.0.0.1:9199",
    "FIREBASE_AUTH_EMULATOR_HOST": "127.0.0.1:9099",
}


def problem(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert caught.value.__cause__ is None
    return str(caught.value)


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_variable_of_the_contract_is_there_with_its_default(name: str) -> None:
    assert getattr(load_settings(), name.lower()) == DEFAULTS[name]


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("REQUIRE_ID_TOKEN", "true", True),
        ("REQUIRE_ID_TOKEN", "0", False),
        ("JOB_TIMEOUT_SECONDS", "120.5", 120.5),
        ("MAX_RESULT_BYTES", "10000000", 10_000_000),
        ("WORKER_CONCURRENCY", "3", 3),
        ("LOG_LEVEL", "debug", "DEBUG"),
        ("SAFETY_CHECKER", "Block", "block"),
        ("COMPILE", "Regional", "regional"),
        ("SAFETY_CHECKER", "", "off"),
        ("QUANTIZE", "INT8", "int8"),
        ("QUANTIZE", "", "none"),
        ("ATTENTION", "cuDNN", "cudnn"),
        ("WAN_I2V_MODEL", "demo", "demo"),
        ("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9199/", "http://127.0.0.1:9199"),
        ("PRELOAD_TASKS", "text2img, img2video,", ("text2img", "img2video")),
        ("PRELOAD_TASKS", ",", ()),
        ("TASKS", "Text2Img", ("text2img",)),
        ("GOOGLE_CLOUD_PROJECT", "demo-x", "demo-x"),
        ("SDXL_MODEL", ' "org/name"\n', "org/name"),
        ("WAN_MODEL", "'photo=org/name, other=/v/x.safetensors'", "photo=org/name, other=/v/x.safetensors"),
        ("WORKER_CONCURRENCY", '"3"', 3),
        ("REQUIRE_ID_TOKEN", "'true' ", True),
        ("LOG_LEVEL", "“debug”", "DEBUG"),
        ("GOOGLE_CLOUD_PROJECT", '"demo-x"', "demo-x"),
        ("FIRESTORE_DATABASE", '""', "(default)"),
        ("FIREBASE_STORAGE_BUCKET", "''", None),
        ("SDXL_VAE", " ", None),
        ("SDXL_MODEL", 'SDXL_MODEL="org/name"', "org/name"),
        ("FIREBASE_STORAGE_BUCKET", "export FIREBASE_STORAGE_BUCKET=gs://my-app/", "my-app"),
        ("FIREBASE_STORAGE_BUCKET", '$env:FIREBASE_STORAGE_BUCKET = "my-app"', "my-app"),
        ("FIREBASE_STORAGE_BUCKET", "set FIREBASE_STORAGE_BUCKET=my-app", "my-app"),
        ("FIREBASE_STORAGE_BUCKET", "FIREBASE_STORAGE_BUCKET: my-app", "my-app"),
        ("FIREBASE_STORAGE_BUCKET", "-e FIREBASE_STORAGE_BUCKET=my-app", "my-app"),
        ("SDXL_VAE", "/v/it's a 'vae'.safetensors", "/v/it's a 'vae'.safetensors"),
    ],
)
def test_a_variable_is_read_without_the_quotes_and_blanks_that_an_env_file_keeps(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, read: object
) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(load_settings(), name.lower()) == read


def test_a_secret_that_the_backend_holds_too_keeps_its_quotes_but_not_its_blanks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = "'the secret of the app's backend, 32+'"
    monkeypatch.setenv("TICKET_SECRET", f"\ufeff {secret}\r\n")  # JavaScript's trim() drops the mark as well
    read = load_settings().ticket_secret
    assert read is not None
    assert read.get_secret_value() == secret


@pytest.mark.parametrize("name", ["TICKET_SECRET", "FIREBASE_STORAGE_BUCKET", "SDXL_MODEL", "TASKS", "MODEL_DEFAULTS"])
def test_a_secret_that_runpod_did_not_fill_in_is_no_value(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As a TICKET_SECRET, anybody could guess it."""
    said = problem(monkeypatch, **{name: "{{ RUNPOD_SECRET_generation_worker }}"})
    assert said == f"{name}: is the name of a RunPod secret that RunPod did not fill in: no secret is called so"


def test_json_in_quotes_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_DEFAULTS", """'{"photo": {"num_inference_steps": 4}}'\n""")
    said = load_settings().model_defaults
    assert said is not None
    assert said["photo"].num_inference_steps == 4


@pytest.mark.parametrize("value", ["gs://demo-app.appspot.com/uploads", "My-App.appspot.com", KEY])
def test_what_cannot_be_a_bucket_stops_the_start_and_blames_its_own_variable(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """firebase-admin-python#280: a wrong name was only discovered far from where it was written."""
    said = problem(monkeypatch, FIREBASE_STORAGE_BUCKET=value)
    assert said.startswith("FIREBASE_STORAGE_BUCKET: ")
    assert "my-app.firebasestorage.app" in said
    assert "SECRET" not in said


def test_what_cannot_be_a_database_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    said = problem(monkeypatch, FIRESTORE_DATABASE="Photos")
    assert said.startswith("FIRESTORE_DATABASE: must be the id of a Firestore database: (default), or 4 to 63")


def test_a_model_variable_names_one_source_or_several(monkeypatch: pytest.MonkeyPatch) -> None:
    assert named_sources("org/name") == {"": "org/name"}
    assert named_sources("/models/a=b, c/x.safetensors") == {"": "/models/a=b, c/x.safetensors"}
    assert named_sources("photo=org/name, anime =/v/a=b.safetensors") == {
        "photo": "org/name",
        "anime": "/v/a=b.safetensors",
    }
    for wrong in ("photo=org/name, other/name", "photo=a/b,photo=c/d", "photo=a/b,"):
        monkeypatch.setenv("SDXL_MODEL", wrong)
        with pytest.raises(ConfigError, match="SDXL_MODEL: must be one source, or several as name=source"):
            load_settings()


def test_what_is_said_of_a_model_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"num_inference_steps": 4, "guidance_scale": 0, "scheduler": "LCM"}
    monkeypatch.setenv("MODEL_DEFAULTS", json.dumps({"photo": told}))
    said = load_settings().model_defaults
    assert said is not None
    assert said["photo"].given() == {"num_inference_steps": 4, "guidance_scale": 0.0, "scheduler": Scheduler.LCM}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("steps=4", "MODEL_DEFAULTS: must be a JSON object"),
        ("[1]", "MODEL_DEFAULTS: "),
        ('{"photo": {"steps": 4}}', "MODEL_DEFAULTS.photo.steps: "),
        ('{"photo": {"num_inference_steps": 0}}', "MODEL_DEFAULTS.photo.num_inference_steps: "),
        ('{"photo": {"scheduler": "EULER"}}', "MODEL_DEFAULTS.photo.scheduler: .*K_EULER"),
    ],
)
def test_what_is_wrongly_said_of_a_model_is_named(monkeypatch: pytest.MonkeyPatch, value: str, message: str) -> None:
    monkeypatch.setenv("MODEL_DEFAULTS", value)
    with pytest.raises(ConfigError, match=message):
        load_settings()


def test_either_name_of_the_project_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCLOUD_PROJECT", "demo-y")
    assert load_settings().google_cloud_project == "demo-y"


@pytest.mark.parametrize("name", DEFAULTS)
def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "")
    assert getattr(load_settings(), name.lower()) == DEFAULTS[name]


def test_overrides_go_by_field_name_and_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_CONCURRENCY", "3")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "demo-x")
    settings = load_settings(worker_concurrency=2, google_cloud_project="demo-y")
    assert (settings.worker_concurrency, settings.google_cloud_project) == (2, "demo-y")


@pytest.mark.parametrize(
    "name",
    [
        "JOB_TIMEOUT_SECONDS",
        "MAX_IMAGE_PIXELS",
        "MAX_JOB_COST",
        "MAX_RESULT_BYTES",
        "MAX_INPUT_IMAGE_BYTES",
        "MAX_INPUT_IMAGE_PIXELS",
        "WORKER_CONCURRENCY",
        "LOG_LEVEL",
        "REQUIRE_ID_TOKEN",
        "PRELOAD_TASKS",
        "STORAGE_EMULATOR_HOST",
    ],
)
def test_a_key_pasted_into_the_wrong_variable_is_named_and_not_told(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    said = problem(monkeypatch, **{name: KEY})
    assert said.startswith(f"{name}: ")
    for part in ("SECRET", "PRIVATE KEY", "service_account"):
        assert part not in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JOB_TIMEOUT_SECONDS", "0"),
        ("JOB_TIMEOUT_SECONDS", "nan"),
        ("MAX_RESULT_BYTES", "20000001"),
        ("WORKER_CONCURRENCY", "17"),
        ("MAX_JOB_COST", "-1"),
        ("MAX_IMAGE_PIXELS", "1e6"),
    ],
)
def test_a_value_out_of_range_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    assert problem(monkeypatch, **{name: value}).startswith(f"{name}: ")


def test_every_wrong_variable_is_named_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    said = problem(monkeypatch, WORKER_CONCURRENCY="many", PRELOAD_TASKS="text2music", LOG_LEVEL="LOUD")
    for name in ("WORKER_CONCURRENCY", "PRELOAD_TASKS", "LOG_LEVEL"):
        assert f"{name}: " in said
    assert ", ".join(tuple(TaskType)) in said
    assert "Value error" not in said


def test_a_storage_emulator_needs_its_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "scheme" in problem(monkeypatch, STORAGE_EMULATOR_HOST="127.0.0.1:9199")


@pytest.mark.parametrize("name", EMULATORS)
def test_an_emulator_on_the_platform_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    said = problem(monkeypatch, RUNPOD_ENDPOINT_ID="e1", **{name: EMULATORS[name]})
    assert name in said
    assert EMULATORS[name] not in said


def test_an_emulator_that_google_calls_by_an_empty_name_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's clients take an empty variable for a host: it is removed before they read it."""
    for name in EMULATORS:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("RUNPOD_ENDPOINT_ID", "e1")
    set_library_defaults()
    assert load_settings().uses_emulators is False
    assert not set(EMULATORS) & os.environ.keys()


def test_an_emulators_address_is_without_quotes_for_googles_clients_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", '"127.0.0.1:8080" ')
    set_library_defaults()
    assert os.environ["FIRESTORE_EMULATOR_HOST"] == load_settings().firestore_emulator_host == "127.0.0.1:8080"


def test_what_libraries_read_themselves_is_as_it_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import get_token

    for pasted in ('"hf_abc"', " hf_abc\n", "HF_TOKEN=hf_abc", "export HF_TOKEN='hf_abc'"):
        monkeypatch.setenv("HF_TOKEN", pasted)
        set_library_defaults()
        token = load_settings().hf_token
        assert token is not None
        assert get_token() == token.get_secret_value() == "hf_abc"
    monkeypatch.setenv("HF_HOME", "")
    set_library_defaults()
    assert "HF_HOME" not in os.environ, "empty, it would be the folder that the worker runs in"


@pytest.mark.parametrize("name", [BASE, TRACES, METRICS])
def test_where_traces_and_metrics_go_is_a_url(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    said = problem(monkeypatch, **{name: "collector:4318"})
    assert said == f"{name}: must be a URL with its scheme, http:// or https://"


@pytest.mark.parametrize(
    ("variables", "sent"),
    [
        ({}, {}),
        ({BASE: URL}, {"traces": BASE, "metrics": BASE}),
        ({BASE: f" {URL}\n"}, {"traces": BASE, "metrics": BASE}),
        ({TRACES: URL}, {"traces": TRACES}),
        ({METRICS: URL}, {"metrics": METRICS}),
        ({BASE: URL, TRACES: URL}, {"traces": TRACES, "metrics": BASE}),
        ({BASE: URL, TRACES: ""}, {"traces": BASE, "metrics": BASE}),
        ({BASE: URL, "OTEL_TRACES_EXPORTER": "None"}, {"metrics": BASE}),
        ({BASE: URL, METRICS: URL, "OTEL_METRICS_EXPORTER": '"none"'}, {"traces": BASE}),
        ({TRACES: URL, "OTEL_TRACES_EXPORTER": "none"}, {}),
        ({BASE: URL, "OTEL_TRACES_EXPORTER": "zipkin"}, {"traces": BASE, "metrics": BASE}),
        ({BASE: URL, TRACES: URL, "OTEL_SDK_DISABLED": "TRUE"}, {}),
        ({BASE: URL, "OTEL_SDK_DISABLED": "1"}, {"traces": BASE, "metrics": BASE}),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, {}),
    ],
)
def test_what_is_sent_to_a_collector_is_what_opentelemetrys_variables_say(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], sent: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert load_settings().signals == sent


@pytest.mark.parametrize(
    ("variables", "names"),
    [
        ({}, {}),
        (
            {BASE: URL, "OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "NONE", "OTEL_SDK_DISABLED": "false"},
            {},
        ),
        ({BASE: URL, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_TIMEOUT": "2.5"}, {}),
        ({BASE: URL, "OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_LOGS_EXPORTER": "none"}, {}),
        ({BASE: URL, "OTEL_EXPORTER_OTLP_HEADERS": "x-key=a b==, Authorization=Basic%20c2Q="}, {}),
        ({BASE: URL, "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=prod,host.name=a", "OTEL_BSP_MAX_X": "5"}, {}),
        ({BASE: URL, "OTEL_TRACES_SAMPLER_ARG": "0.25", "OTEL_EXPORTER_OTLP_COMPRESSION": "GZIP"}, {}),
        ({BASE: URL, "OTEL_SDK_DISABLED": "1"}, {"OTEL_SDK_DISABLED": "taken as false"}),
        (
            {BASE: URL, "OTEL_EXPORTER_OTLP_HEADERS": "Authorization: Bearer a="},
            {"OTEL_EXPORTER_OTLP_HEADERS": "name="},
        ),
        ({BASE: URL, "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "a"}, {"OTEL_EXPORTER_OTLP_TRACES_HEADERS": "name=value"}),
        ({BASE: URL, "OTEL_RESOURCE_ATTRIBUTES": "prod"}, {"OTEL_RESOURCE_ATTRIBUTES": "name=value"}),
        ({BASE: URL, "OTEL_TRACES_SAMPLER_ARG": "25%"}, {"OTEL_TRACES_SAMPLER_ARG": "between 0 and 1"}),
        ({BASE: URL, "OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"}, {"OTEL_EXPORTER_OTLP_COMPRESSION": "taken as none"}),
        ({BASE: URL, "OTEL_METRIC_EXPORT_INTERVAL": "60s"}, {"OTEL_METRIC_EXPORT_INTERVAL": "default"}),
        ({BASE: URL, "OTEL_TRACES_EXPORTER": "console"}, {"OTEL_TRACES_EXPORTER": "taken as otlp"}),
        ({BASE: URL, "OTEL_METRICS_EXPORTER": "otlp,prometheus"}, {"OTEL_METRICS_EXPORTER": "taken as otlp"}),
        ({BASE: URL, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, {"OTEL_EXPORTER_OTLP_PROTOCOL": "4318"}),
        ({BASE: URL, "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "10000"}, {"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "seconds"}),
        ({BASE: URL, "OTEL_TRACES_SAMPLER": "always"}, {"OTEL_TRACES_SAMPLER": "each job is traced"}),
        ({BASE: URL, "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": URL}, {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "not sent"}),
        ({BASE: URL, "OTEL_CONFIG_FILE": "/otel.yaml"}, {"OTEL_CONFIG_FILE": "no file is read"}),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "a=b"}, {"OTEL_EXPORTER_OTLP_HEADERS": "no effect"}),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, {"OTEL_TRACES_EXPORTER": "says where"}),
        ({TRACES: URL, "OTEL_METRICS_EXPORTER": "otlp"}, {"OTEL_METRICS_EXPORTER": "says where"}),
        ({BASE: URL, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_SDK_DISABLED": "true"}, {}),
    ],
)
def test_a_variable_of_opentelemetry_without_its_effect_is_named_with_what_holds_instead(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], names: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = unheeded_variables(load_settings())
    assert set(found) == set(names)
    for name, part in names.items():
        assert part in found[name]


def test_opentelemetrys_own_variables_are_not_called_misspelt(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry.sdk import environment_variables

    names = {value for name, value in vars(environment_variables).items() if name.startswith("OTEL_")}
    assert len(names) > 50
    for name in (*names, "OTEL_EXPORTER_OTLP_ENDPONT", "OTEL_TRACE_EXPORTER", "OTEL_EXPORTER_OTLP_HEADER"):
        monkeypatch.setenv(name, "x")
    assert misspelt_variables() == {
        "OTEL_EXPORTER_OTLP_ENDPONT": BASE,
        "OTEL_TRACE_EXPORTER": "OTEL_TRACES_EXPORTER",
        "OTEL_EXPORTER_OTLP_HEADER": "OTEL_EXPORTER_OTLP_HEADERS",
    }


def test_an_empty_variable_of_opentelemetry_is_not_set_and_a_quoted_one_is_what_it_quotes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "'always_off'")
    set_library_defaults()
    assert "OTEL_METRIC_EXPORT_INTERVAL" not in os.environ
    assert os.environ["OTEL_TRACES_SAMPLER"] == "always_off"


def test_a_word_that_is_none_of_a_few_is_answered_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTIZE", "off")
    assert wrong_variables() == {"QUANTIZE": "Input should be 'none', 'int8' or 'fp8'"}


def test_the_key_does_not_print(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIREBASE_SERVICE_ACCOUNT_KEY", KEY)
    settings = load_settings()
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert "SECRET" not in shown
    assert settings.firebase_service_account_key is not None
    assert settings.firebase_service_account_key.get_secret_value() == KEY


def test_settings_cannot_be_changed() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.max_job_cost = 1  # type: ignore[misc]  # the test expects the refusal


def test_where_the_jobs_come_from_and_whom_the_clients_talk_to(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (load_settings().on_platform, load_settings().uses_emulators) == (False, False)
    monkeypatch.setenv("RUNPOD_WEBHOOK_GET_JOB", "http://127.0.0.1/job-take")
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", "127.0.0.1:8080")
    assert (load_settings().on_platform, load_settings().uses_emulators) == (True, True)


def test_a_card_is_seen_without_torch_and_only_where_it_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    if not any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg")):
        assert has_cuda_driver() is False
    monkeypatch.setattr(Path, "exists", lambda _path: True)
    for visible, seen in (("0", True), ("", False), ("-1", False)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        has_cuda_driver.cache_clear()
        assert has_cuda_driver() is seen
    has_cuda_driver.cache_clear()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LORAS", '{"ink": 5}', {"LORAS.ink": "must be a source, or a JSON object with one"}),
        ("STYLES", '{"ink": 5}', {"STYLES.ink": "must be a JSON object"}),
        ("LORAS", '{"ink": {"source": "org/name", "scal": 1}}', {"LORAS.ink.scal": "is not known here"}),
        ("LORAS", '{"ink": {}}', {"LORAS.ink.source": "is missing"}),
    ],
)
def test_what_is_wrong_inside_a_variable_is_told_in_the_words_of_its_value(
    name: str, value: str, said: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in those of the classes that read it."""
    monkeypatch.setenv(name, value)
    assert wrong_variables() == said


def test_library_defaults_never_overrule_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNPOD_LOG_LEVEL", "ERROR")
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    set_library_defaults()
    assert (os.environ["RUNPOD_LOG_LEVEL"], os.environ["GRPC_VERBOSITY"]) == ("ERROR", "ERROR")


def test_every_field_is_one_of_the_contract_or_names_a_place_on_this_machine() -> None:
    own = {name for name in Settings.model_fields if name.endswith("_dir")} | {"google_cloud_project"}
    own |= {"safety_checker", "safety_model", "log_prompts"}
    own |= {"acceleration", "accelerations", "quantize", "attention", "read_ahead"}
    own |= {name for name in Settings.model_fields if name.startswith("otel_")}
    own |= {"check_revoked", "ticket_secret", "max_declared_image_pixels"}
    own |= {"c2pa_certificate", "c2pa_key"}
    platform = {name for name in Settings.model_fields if name.startswith("runpod_")}
    assert set(Settings.model_fields) - own - platform == {name.lower() for name in DEFAULTS}


def test_every_wrong_variable_is_named_with_what_would_be_right(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wrong_variables() == {}
    monkeypatch.setenv("TICKET_SECRET", "too short, and never shown")
    monkeypatch.setenv("LOG_LEVEL", "loud")
    wrong = wrong_variables()
    assert set(wrong) == {"TICKET_SECRET", "LOG_LEVEL"}
    assert "at least 32 characters" in wrong["TICKET_SECRET"]
    assert "never shown" not in str(wrong)
    assert "loud" not in str(wrong)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("GOOGLE_APPLICATION_CREDENTIALS", "FIREBASE_SERVICE_ACCOUNT_KEY"),
        ("FIREBASE_CREDENTIALS", "FIREBASE_SERVICE_ACCOUNT_KEY"),
        ("STORAGE_BUCKET", "FIREBASE_STORAGE_BUCKET"),
        ("HUGGINGFACE_TOKEN", "HF_TOKEN"),
        ("CIVITAI_API_KEY", "CIVITAI_TOKEN"),
    ],
)
def test_what_other_programs_call_a_variable_leads_to_ours(
    monkeypatch: pytest.MonkeyPatch, name: str, ours: str
) -> None:
    monkeypatch.setenv(name, "/key.json")
    assert misspelt_variables()[name] == ours


def test_a_variable_that_nobody_reads_is_known_by_the_one_that_it_looks_like(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SDXL_MODLE", "FIREBASE_STORGE_BUCKET", "SDXL_MODEL", "HF_TOKEN", "MODEL", "RUNPOD_POD_IDS"):
        monkeypatch.setenv(name, "x")
    assert misspelt_variables() == {"SDXL_MODLE": "SDXL_MODEL", "FIREBASE_STORGE_BUCKET": "FIREBASE_STORAGE_BUCKET"}


def test_loras_have_names_and_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = {"ghibli": "org/name@v1", "pixel": {"source": "https://x.example/p", "scale": 0.5, "trigger_words": ["px"]}}
    file = tmp_path / "loras.json"
    file.write_text(json.dumps(told))
    for value in (json.dumps(told), f"@{file}"):
        monkeypatch.setenv("LORAS", value)
        loras = load_settings().loras
        assert loras is not None
        assert list(loras) == ["ghibli", "pixel"]
        assert (loras["ghibli"].source, loras["pixel"].trigger_words) == ("org/name@v1", ("px",))


def test_a_folder_of_loras_offers_each_file_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("b.safetensors", "a.safetensors", "readme.md"):
        (tmp_path / name).touch()
    monkeypatch.setenv("LORAS", str(tmp_path))
    loras = load_settings().loras
    assert loras is not None
    assert {name: one.source for name, one in loras.items()} == {
        "a": str(tmp_path / "a.safetensors"),
        "b": str(tmp_path / "b.safetensors"),
    }


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("ghibli=org/name", "LORAS: must be a JSON object"),
        ("[1]", "LORAS: must be a JSON object"),
        ("@/nowhere/loras.json", "the file cannot be read"),
        ("/nowhere", "LORAS: names a folder that is not there"),
        ('{"a": "secret"}', "LORAS.a: must be a hub id"),
        ('{"a": {"source": "org/name", "weight": 1}}', "LORAS.a.weight: "),
        ('{"a": {"source": "https://secret.example/x", "weight_name": "x.safetensors"}}', "LORAS.a: weight_name"),
        ('{"a": {"source": "org/name", "sha256": "secret"}}', "LORAS.a.sha256: "),
        ('{"a/b": "org/name"}', "LORAS: must give names"),
        ('{" a": "org/name"}', "LORAS: must give names"),
    ],
)
def test_wrong_loras_stop_the_start_and_are_not_shown(monkeypatch: pytest.MonkeyPatch, value: str, said: str) -> None:
    message = problem(monkeypatch, LORAS=value)
    assert said in message
    assert "secret" not in message


def test_sources_of_loras_are_words_and_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_SOURCES", "hub, Civitai, files.example.com, .example.org,")
    assert load_settings().lora_sources == ("hub", "civitai", "files.example.com", ".example.org")
    for wrong in ("https://files.example.com", "*", "localhost", "10.0.0.1", "a b.example"):
        assert "LORA_SOURCES: must list hub, civitai or host names" in problem(monkeypatch, LORA_SOURCES=wrong)
