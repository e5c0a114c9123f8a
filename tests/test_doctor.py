"""The doctor: a row for everything that a worker needs, red where it would fail, and never a secret in any of them."""

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoint_headers import SDXL, put_header
from tests.support.collector import collector
from tests.support.fakes import MemoryBucket, is_down
from tests.support.model_folders import put_ip_adapter
from tools.emulators.firebase import FirebaseEmulators, environment
from worker import doctor
from worker.core.config import REPOSITORY, load_settings, set_library_defaults
from worker.core.errors import BackendError
from worker.doctor import Finding
from worker.engine.memory import device
from worker.engine.models.registry import ModelRegistry
from worker.firebase.app import Firebase

KEY = json.dumps({"type": "service_account", "private_key": "-----BEGIN PRIVATE KEY-----\nMIIEvVERYSECRET\n"})
TICKET_SECRET = "the secret of the app's backend, 32+"


@pytest.fixture(autouse=True)
def _logging_is_as_it_was() -> Iterator[None]:
    yield
    logging.disable(logging.NOTSET)


def one(findings: Iterable[Finding]) -> Finding:
    (only,) = findings
    return only


def named(rows: Iterable[Finding], name: str) -> Finding:
    return one(row for row in rows if row.name == name)


def everything() -> list[Finding]:
    return [row for _, rows in doctor.examine() for row in rows]


def states(rows: Iterable[Finding]) -> dict[str, str]:
    return {row.name: row.state for row in rows}


# --- As a command ---------------------------------------------------------------------------------------------------


def test_a_laptop_without_gpu_firebase_or_account_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([]) == 0
    told = capsys.readouterr().out
    assert told.count("not configured: results go back as base64") == 4
    assert "none: the CPU" in told
    assert told.endswith("all is well\n")


def test_the_table_is_100_columns_wide_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.main([])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100
    long = Finding("a name of many words, all of them short", "fail", "/a/path" * 40, "and words " * 40)
    assert max(map(len, doctor.table("Section", [long]).splitlines())) <= 100


@pytest.mark.e2e
def test_without_a_card_torch_is_not_imported() -> None:
    code = "import sys; from worker.doctor import main; code = main([]); sys.exit(code or 'torch' in sys.modules)"
    variables = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=variables, capture_output=True, check=False
    )
    assert ended.returncode == 0, ended


def test_a_red_row_is_an_exit_code_for_ci_and_json_says_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WAN_I2V_MODEL", "/nowhere")
    assert doctor.main(["--json"]) == 1
    red = [row for row in json.loads(capsys.readouterr().out) if row["state"] == "fail"]
    assert [(row["section"], row["name"]) for row in red] == [("Models", "/nowhere: img2video")]


def test_a_check_that_breaks_is_a_red_row_behind_what_it_had_found() -> None:
    def breaks() -> Iterator[Finding]:
        yield Finding("first", "ok", "")
        raise ZeroDivisionError("with a path or a key in it")

    rows = doctor.rows("second", breaks)
    assert states(rows) == {"first": "ok", "second": "fail"}
    assert "ZeroDivisionError" in rows[1].detail
    assert "a key in it" not in rows[1].detail


# --- Environment ----------------------------------------------------------------------------------------------------


def test_each_wrong_variable_is_red_and_all_other_checks_still_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "loud")
    monkeypatch.setenv("JOB_TIMEOUT_SECONDS", "soon")
    monkeypatch.setenv("SDXL_MODEL", "demo")
    monkeypatch.setenv("SDXL_REFINR", "demo")
    monkeypatch.setenv("MODEL_DEFAULTS", '{"demo": {"num_inference_steps": 9}}')
    rows = everything()
    assert named(rows, "MODEL_DEFAULTS").detail == "{'demo': {'num_inference_steps': 9}}"
    assert states(rows).items() >= {
        "LOG_LEVEL": "fail", "JOB_TIMEOUT_SECONDS": "fail", "SDXL_MODEL": "ok", "SDXL_REFINR": "warn", "card": "ok"
    }.items()  # fmt: skip
    assert named(rows, "SDXL_MODEL").detail == "demo"
    assert "SDXL_REFINER" in named(rows, "SDXL_REFINR").remedy


def test_a_style_whose_model_is_not_here_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDXL_MODEL", "photo=demo, anime=demo")
    styles = {"ink": {"model": "anime"}, "film": {"model": "photos"}, "clip": {"model": "photo", "fps": 12}}
    monkeypatch.setenv("STYLES", json.dumps(styles))
    rows = [row for row in everything() if row.name.startswith("style ")]
    assert states(rows) == {"style film": "fail", "style clip": "fail"}
    assert rows[0].detail == "no model of its tasks is called 'photos'"


def test_a_mix_of_variables_that_no_worker_starts_with_is_all_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNPOD_ENDPOINT_ID", "e")
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", "127.0.0.1:8080")
    assert states(everything()) == {"environment": "fail", "everything else": "skipped"}


def test_no_secret_is_ever_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {
        "FIREBASE_SERVICE_ACCOUNT_KEY": KEY,
        "TICKET_SECRET": TICKET_SECRET,
        "FIREBASE_STORAGE_BUCKET": KEY,  # pasted into the wrong field
        "SDXL_MODEL": "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl",
    }.items():
        monkeypatch.setenv(name, value)
    for arguments in ([], ["--json"]):
        doctor.main(arguments)
        told = capsys.readouterr()
        for secret in ("VERYSECRET", TICKET_SECRET, "c2lnbmF0dXJl"):
            assert secret not in told.out + told.err
        assert "**********" in told.out


def test_a_secret_in_quotes_is_thought_about_and_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKET_SECRET", f'"{TICKET_SECRET}"')
    asked = [row for row in everything() if row.name == "TICKET_SECRET"]
    assert [row.state for row in asked] == ["ok", "warn"]
    assert TICKET_SECRET not in str(asked)


def test_a_certificate_that_nothing_can_be_signed_with_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("C2PA_KEY", "half of it")
    found = named(everything(), "content credentials")
    assert (found.state, "C2PA_CERTIFICATE" in found.detail) == ("fail", True)
    monkeypatch.setenv("AI_MARK", "off")
    assert "content credentials" not in states(everything()), "nothing is signed"


# --- Telemetry ------------------------------------------------------------------------------------------------------


def asked(seconds: float = 120.0) -> list[Finding]:
    return list(doctor.telemetry(load_settings(), seconds))


def test_without_a_collector_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(asked()) == Finding("traces, metrics", "skipped", "not sent: OTEL_EXPORTER_OTLP_ENDPOINT is not set")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert one(asked()) == Finding("traces, metrics", "skipped", "not sent: they are switched off")


def test_a_collector_that_takes_a_batch_is_well_and_gets_what_the_worker_would_send_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with collector() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=SECRET")
        rows = asked()
    assert states(rows) == {"traces": "ok", "metrics": "ok"}
    assert (found.bodies, found.spans, found.metrics) == ([b"", b""], [], [])
    assert {headers["x-key"] for headers in found.headers} == {"SECRET"}
    assert "SECRET" not in str(rows)


@pytest.mark.parametrize(
    ("status", "detail", "remedy"),
    [
        (301, "redirected, which OpenTelemetry does not follow (HTTP 301)", "https:// instead of http://"),
        (400, "an empty batch was not taken (HTTP 400)", "OTLP over HTTP"),
        (401, "refused (HTTP 401)", "OTEL_EXPORTER_OTLP_HEADERS is to hold the collector's key"),
        (404, "nothing takes metrics at that path (HTTP 404)", "OTEL_METRICS_EXPORTER=none"),
        (503, "the collector has a problem of its own (HTTP 503)", "try again"),
    ],
)
def test_a_collector_that_takes_no_metrics_is_thought_about(
    monkeypatch: pytest.MonkeyPatch, status: int, detail: str, remedy: str
) -> None:
    with collector() as found:
        found.answers = {"/v1/metrics": status}
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.endpoint)
        rows = asked()
    assert states(rows) == {"traces": "ok", "metrics": "warn"}
    assert named(rows, "metrics").detail == detail
    assert remedy in named(rows, "metrics").remedy


@pytest.mark.parametrize(
    ("name", "path", "remedy"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "/v1/traces", "OTEL_EXPORTER_OTLP_ENDPOINT without /v1/traces"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "", "usually ends in /v1/traces"),
    ],
)
def test_an_address_with_the_wrong_path_is_told_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, path: str, remedy: str
) -> None:
    with collector() as found:
        found.answers = {"/v1/traces/v1/traces": 404, "/v1/traces/v1/metrics": 404, "/": 404}
        monkeypatch.setenv(name, found.endpoint + path)
        assert remedy in named(asked(), "traces").remedy


@contextlib.contextmanager
def listening(first: bytes | None) -> Iterator[int]:
    """Yield a port on which nothing but `first` is ever sent; None: nobody accepts."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            with contextlib.suppress(OSError):
                while first is not None:
                    line, _ = server.accept()
                    with line:
                        line.sendall(first)

        threading.Thread(target=greet, daemon=True).start()
        yield int(server.getsockname()[1])


HTTP2 = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00@\x00"
"""The first bytes of a gRPC server."""


@pytest.mark.parametrize(
    ("scheme", "first", "detail", "remedy"),
    [
        ("http", None, "no answer within 2 s", "public"),
        ("http", HTTP2, "what listens there does not answer as HTTP does", "usually 4318 (4317 is for gRPC)"),
        ("https", b"HTTP/1.1 400 Bad Request\r\n\r\n", "no connection by TLS", "http:// if the collector has none"),
    ],
)
def test_what_is_no_collector_is_thought_about_within_seconds(
    monkeypatch: pytest.MonkeyPatch, scheme: str, first: bytes | None, detail: str, remedy: str
) -> None:
    with listening(first) as port:
        monkeypatch.setenv(
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{scheme}://somebody:SECRET@127.0.0.1:{port}/?key=SECRET"
        )
        found = one(asked() if first else asked(doctor.COLLECTOR_SECONDS))
    assert (found.state, found.detail) == ("warn", detail)
    assert "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" in found.remedy
    assert remedy in found.remedy
    assert "SECRET" not in str(found)


@pytest.mark.parametrize(
    ("address", "detail"),
    [
        ("http://127.0.0.1:9", "nothing listens there"),
        ("http://collector.invalid:4318", "there is no such host"),
        ("http://", "that is no address"),
    ],
)
def test_an_address_that_leads_nowhere_is_thought_about(
    monkeypatch: pytest.MonkeyPatch, address: str, detail: str
) -> None:
    def resolve(host: str, *_: object, **__: object) -> Any:
        if host == "collector.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")  # at once, whatever the machine's
        return there(host, *_, **__)

    there: Any = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", address)
    found = one(asked())
    assert (found.state, found.detail) == ("warn", detail)
    assert "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT" in found.remedy


def test_a_file_of_certificates_that_is_not_there_is_thought_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/SECRET.pem")
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    found = one(asked())
    assert (found.state, found.detail) == ("warn", "a file of certificates cannot be read")
    assert "OTEL_EXPORTER_OTLP_CERTIFICATE" in found.remedy
    assert "SECRET" not in str(found)


def test_a_variable_of_opentelemetry_with_which_no_worker_starts_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "-17")
    monkeypatch.delenv("OTEL_SPAN_EVENT_COUNT_LIMIT", raising=False)
    set_library_defaults()
    with collector() as seen:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", seen.endpoint)
        found = one(asked())
    assert (found.name, found.state, seen.headers) == ("OpenTelemetry", "fail", [])
    names = found.detail.removeprefix("one of ").removesuffix(" holds what OpenTelemetry does not take")
    assert names == "OTEL_BSP_MAX_EXPORT_BATCH_SIZE, OTEL_EXPORTER_OTLP_ENDPOINT", "what the operator set"


def test_a_variable_of_opentelemetry_without_effect_is_thought_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=SECRET")
    rows = [row for row in everything() if row.name.startswith("OTEL_")]
    assert states(rows) == {"OTEL_EXPORTER_OTLP_HEADERS": "warn"}
    assert "SECRET" not in str(rows)


def test_a_key_in_an_address_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://somebody:SECRET@127.0.0.1:9/base?key=SECRET")
    found = named(everything(), "OTEL_EXPORTER_OTLP_ENDPOINT")
    assert found.detail == "http://[redacted]@127.0.0.1:9/base"


# --- Firebase -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["{", "/no/such/file.json", KEY])
def test_a_key_that_cannot_be_read_is_red_and_says_what_it_may_be(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("FIREBASE_SERVICE_ACCOUNT_KEY", key)
    rows = everything()
    found = named(rows, "service account key")
    assert found.state == "fail"
    assert "JSON" in found.remedy
    assert states(rows)["bucket"] == "skipped"


def test_a_bucket_that_cannot_be_one_is_red_under_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIREBASE_STORAGE_BUCKET", "My App")
    found = named(everything(), "FIREBASE_STORAGE_BUCKET")
    assert found.state == "fail"
    assert "my-app.firebasestorage.app" in found.detail


def test_a_bucket_without_a_key_is_a_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIREBASE_STORAGE_BUCKET", "my-app.firebasestorage.app")
    assert named(everything(), "service account key").state == "warn"


def test_callers_that_nobody_could_check_are_red() -> None:
    required = load_settings(require_id_token=True)
    assert one(doctor.callers(required, [])).state == "fail"
    assert one(doctor.callers(load_settings(require_id_token=True, ticket_secret=TICKET_SECRET), [])).state == "ok"
    assert one(doctor.callers(load_settings(), [])).state == "ok"
    unused = one(doctor.callers(load_settings(ticket_secret=TICKET_SECRET), []))
    assert (unused.state, "REQUIRE_ID_TOKEN=true" in unused.remedy) == ("warn", True)


def test_a_bucket_that_works_is_left_as_it_was() -> None:
    store = MemoryBucket()
    assert one(doctor.bucket(store, None)).state == "ok"
    assert (store.objects, store.uploads) == ({}, 1)


@pytest.mark.parametrize(("call", "step"), [("upload", "write"), ("read", "read"), ("delete", "take it back")])
def test_a_bucket_that_refuses_one_step_is_red_and_names_the_step(call: str, step: str) -> None:
    store = MemoryBucket()
    store.before = is_down("storage", "refused", calls=[call])
    found = one(doctor.bucket(store, "worker@my-app.iam"))
    assert found.state == "fail"
    assert f"cannot {step}" in found.detail
    assert found.remedy
    assert bool(store.objects) == (call == "delete"), "what was written is taken back where that can be"


def test_a_bucket_that_may_not_be_written_names_the_role_and_the_account() -> None:
    class Forbidden(Exception):
        code = 403

    def refuse(_call: str, _path: str) -> None:
        raise BackendError("storage", "refused") from Forbidden()

    store = MemoryBucket()
    store.before = refuse
    found = one(doctor.bucket(store, "worker@my-app.iam"))
    assert "HTTP 403" in found.detail
    assert "worker@my-app.iam" in found.remedy
    assert "Storage Object User" in found.remedy


@contextlib.contextmanager
def answering(status: int) -> Iterator[str]:
    """Yield the URL of a service that responds to everything with this status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v0/b/bucket/o/object"
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "state"), [(403, "ok"), (401, "ok"), (200, "fail"), (404, "fail"), (429, "warn"), (503, "warn")]
)
def test_rules_that_let_strangers_read_are_red(status: int, state: str) -> None:
    with answering(status) as url:
        found = one(doctor.rules("Storage rules", url))
    assert found.state == state
    assert ("firebase deploy --only storage" in found.remedy) == (state == "fail")


def test_rules_that_cannot_be_asked_are_no_verdict() -> None:
    assert one(doctor.rules("Firestore rules", "http://127.0.0.1:9/v1/projects/p")).state == "skipped"


def test_a_working_firebase_is_all_green_and_left_as_it_was(
    firebase: FirebaseEmulators, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in firebase.env.items():
        monkeypatch.setenv(name, value)
    rows = everything()
    said = states(rows)
    for name in ("service account key", "bucket", "Storage rules", "Firestore", "Firestore index"):
        assert said[name] == "ok", named(rows, name)
    assert said["Firestore rules"] == "skipped", "this emulator has neither rules nor REST"
    assert list(firebase.objects.list_blobs()) == []
    assert [write.kind for write in firebase.writes()] == ["write", "delete"]


def test_what_is_in_use_is_said_as_it_was_read(firebase: FirebaseEmulators, monkeypatch: pytest.MonkeyPatch) -> None:
    pasted = {"FIREBASE_STORAGE_BUCKET": f'"gs://{firebase.bucket}/"', "FIRESTORE_DATABASE": "photos "}
    for name, value in {**firebase.env, **pasted}.items():
        monkeypatch.setenv(name, value)
    rows = everything()
    in_use = f"project {firebase.project} (emulators), database photos, bucket {firebase.bucket}"
    assert named(rows, "service account key").detail == f"emulators ask for none; {in_use}"
    assert named(rows, "bucket").detail.startswith(f"{firebase.bucket}: an object was written")
    assert named(rows, "Firestore").detail.startswith("photos: a document was written")
    assert named(rows, "FIRESTORE_DATABASE").detail == "photos"


def test_a_wrong_bucket_is_red_for_whoever_runs_the_command(firebase: FirebaseEmulators) -> None:
    variables = {**os.environ, **firebase.env, "FIREBASE_STORAGE_BUCKET": "gs://not-there"}
    command = [sys.executable, "-m", "worker.doctor"]
    ended = subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "FAIL  bucket" in ended.stdout
    assert "HTTP 404" in ended.stdout
    assert "without gs://" in " ".join(ended.stdout.split())
    assert "-     Storage rules" in ended.stdout, "a bucket that is not there has no rules that could be open"
    assert ended.stderr == ""


@pytest.mark.parametrize(
    ("method", "code", "row", "says"),
    [
        ("Commit", "PERMISSION_DENIED", "Firestore", "Cloud Datastore User"),
        ("Commit", "NOT_FOUND", "Firestore", "Create database"),
        ("BatchGetDocuments", "UNAVAILABLE", "Firestore", "try again"),
        ("RunQuery", "FAILED_PRECONDITION", "Firestore index", "firebase deploy --only firestore"),
    ],
)
def test_a_firestore_that_refuses_is_red_with_its_cure(
    firebase: FirebaseEmulators, method: Any, code: str, row: str, says: str
) -> None:
    firebase.fail_firestore(method, code, times=None)
    with environment(firebase.env):
        store = Firebase(load_settings()).documents
        assert store is not None
        found = named(doctor.documents(store, None, "photos"), row)
    assert found.state == "fail"
    assert says in found.remedy
    assert code != "NOT_FOUND" or "photos" in found.remedy


def test_a_look_at_users_that_is_not_allowed_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(**values: Any) -> list[Finding]:
        settings = load_settings(firestore_emulator_host="127.0.0.1:9", **values)
        return list(doctor.revoked(settings, [Firebase(settings)]))

    assert row() == []
    assert one(row(check_revoked=True)).state == "skipped"
    with answering(403) as url:
        monkeypatch.setenv("FIREBASE_AUTH_EMULATOR_HOST", url.split("/")[2])
        found = one(row(check_revoked=True))
    assert found.state == "fail"
    assert "Firebase Authentication Viewer" in found.remedy


# --- Models ---------------------------------------------------------------------------------------------------------


def models(cuda: bool = False, **settings: Any) -> list[Finding]:
    chosen = load_settings(**settings)
    return list(doctor.models(chosen, ModelRegistry(chosen, cuda=cuda, where=())))


def test_each_model_is_one_row_with_its_tasks_its_place_and_its_size() -> None:
    images, videos = models()
    assert images.name == "text2img, img2img, inpaint, upscale"
    assert videos.name == "text2video, img2video"
    assert "worker/demo_models/sdxl" in images.detail
    assert "iB" in images.detail


def test_a_model_that_is_asked_for_and_missing_is_red(tmp_path: Path) -> None:
    found = named(models(sdxl_model=str(tmp_path / "nothing.safetensors")), "text2img, img2img, inpaint, upscale")
    assert found.state == "fail"
    assert "SDXL_MODEL" in found.detail


def test_a_task_that_nobody_asked_for_is_no_red_row() -> None:
    rows = models(cuda=True, sdxl_model="demo", sdxl_vae="demo", wan_model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
    assert named(rows, "img2video").state == "warn"
    wanted = models(cuda=True, wan_model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers", preload_tasks="text2video,img2video")
    assert named(wanted, "img2video").state == "fail"


def test_a_model_that_has_to_be_downloaded_says_so() -> None:
    found = named(models(wan_model="Wan-AI/Wan2.2-TI2V-5B-Diffusers"), "text2video, img2video")
    assert found.state == "warn"
    assert "not on this machine" in found.detail
    assert found.remedy


def test_an_acceleration_that_has_no_effect_is_thought_about() -> None:
    assert named(models(acceleration="high"), "ACCELERATION").state == "warn"
    levels = {"regular": {"num_inference_steps": 8}}
    rows = models(acceleration="regular", accelerations={"sdxl": levels, "demo": levels, "phto": levels})
    found = named(rows, "ACCELERATIONS")
    assert (found.state, "'phto'" in found.detail) == ("warn", True)
    assert "ACCELERATION" not in states(rows)


def test_a_model_that_no_job_may_download_is_red_unless_the_start_fetches_it() -> None:
    wan: dict[str, Any] = {"sdxl_model": "demo", "wan_model": "Wan-AI/Wan2.2-TI2V-5B-Diffusers"}
    found = named(models(**wan), "text2video, img2video")
    assert found.state == "fail", "another named model is here, so the worker refuses its jobs"
    assert "no job may download it" in found.detail
    assert "ALLOW_DOWNLOADS" in found.remedy
    answers: tuple[dict[str, Any], ...] = ({"allow_downloads": True}, {"preload_tasks": "text2video"})
    for answer in answers:
        assert named(models(**wan, **answer), "text2video, img2video").state == "warn"
    assert one(models(cuda=True, allow_downloads=False, tasks="text2video")[:1]).state == "fail"


def test_one_file_whose_configuration_no_job_may_download_is_red(tmp_path: Path) -> None:
    put_header(tmp_path / "photo.safetensors", SDXL)
    photo: dict[str, Any] = {"sdxl_model": str(tmp_path / "photo.safetensors")}
    states_of = [models(**photo, allow_downloads=allowed)[0].state for allowed in (None, True, False)]
    assert states_of == ["warn", "warn", "fail"]
    assert models(**photo, allow_downloads=False, preload_tasks="text2img")[0].state == "warn"


def test_a_task_that_the_operator_left_out_is_no_red_row_and_one_that_they_named_is() -> None:
    rows = models(tasks="text2img,upscale", sdxl_model="demo")
    assert states(rows) == {"text2img, upscale": "ok", "img2img, inpaint, text2video, img2video": "skipped"}
    assert states(models(sdxl_model="demo"))["text2video, img2video"] == "skipped"
    preloaded = models(tasks="text2img", sdxl_model="demo", preload_tasks="text2img,text2video")
    assert (named(preloaded, "PRELOAD_TASKS").state, "text2video" in named(preloaded, "PRELOAD_TASKS").detail) == (
        "fail",
        True,
    )
    wan = models(cuda=True, tasks="text2video,img2video", wan_model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
    assert named(wan, "img2video").state == "fail", "TASKS names it"


def test_what_goes_beside_a_model_is_red_where_no_job_may_download_it_or_it_is_not_there(tmp_path: Path) -> None:
    def rows(**values: Any) -> dict[str, str]:
        registry = ModelRegistry(load_settings(sdxl_model="org/photo", **values), cuda=True, where=())
        asked = [*doctor.ip_adapter(registry), doctor.controlnet(registry), *doctor.upscaler(registry)]
        for row in (doctor.depth, doctor.previews):
            asked += doctor.rows(row.__name__, lambda row=row: iter((row(registry),)))  # type: ignore[misc]
        return states(asked)

    none = rows()
    assert set(none.values()) == {"skipped"}
    named_ones = {f"{name}_model": "org/name" for name in ("ip_adapter", "controlnet", "upscaler", "depth", "preview")}
    assert rows(**named_ones) == dict.fromkeys(none, "warn")
    assert rows(**named_ones, allow_downloads=False) == dict.fromkeys(none, "fail")
    nowhere = str(tmp_path / "nowhere")
    missing = rows(depth_model=nowhere, preview_model=nowhere)
    assert (missing["depth"], missing["previews"]) == ("fail", "fail")


def test_a_model_that_cannot_be_had_is_red_once(tmp_path: Path) -> None:
    registry = ModelRegistry(load_settings(sdxl_model=str(tmp_path / "nowhere")), cuda=True, where=())
    assert doctor.controlnet(registry).state == "skipped"


def test_a_checkpoint_in_one_file_says_what_it_is_and_each_of_several_has_its_row(tmp_path: Path) -> None:
    put_header(tmp_path / "noob-lightning-4step.safetensors", SDXL | {"v_pred": ("F16", [])})
    put_header(tmp_path / "lora.safetensors", {"lora_unet_x.lora_up.weight": ("F16", [4])})
    sources = {"noob": "noob-lightning-4step", "style": "lora"}
    named_ones = ", ".join(f"{name}={tmp_path / file}.safetensors" for name, file in sources.items())
    rows = models(sdxl_model=f"photo=demo, {named_ones}")
    photo, noob, style = (
        named(rows, f"{name}: text2img, img2img, inpaint, upscale") for name in ("photo", "noob", "style")
    )
    assert photo.state == "ok"
    assert "4 steps, guidance 0, made for so few steps, v_prediction" in noob.detail
    assert noob.state == "warn", "its tokenizers are not on this machine"
    assert (style.state, "LoRA" in style.detail) == ("fail", True)


def test_a_safety_checker_that_is_asked_for_and_missing_is_red(tmp_path: Path) -> None:
    settings = load_settings(safety_checker="block", safety_model=str(tmp_path))
    rows = doctor.rows("safety checker", lambda: doctor.safety(ModelRegistry(settings, cuda=False)))
    assert one(rows).state == "fail"
    assert "SAFETY_MODEL" in one(rows).detail


def test_an_ip_adapter_is_found_fits_no_demo_and_is_missed_by_nobody(tmp_path: Path) -> None:
    def row(**values: str) -> Finding:
        registry = ModelRegistry(load_settings(**values), cuda=True, where=())
        return one(doctor.rows("IP-Adapter", lambda: doctor.ip_adapter(registry)))

    assert row().state == "skipped"
    folder = str(put_ip_adapter(tmp_path / "adapter"))
    assert (row(ip_adapter_model=folder).state, row(ip_adapter_model="h94/IP-Adapter").state) == ("ok", "warn")
    wrong = row(ip_adapter_model=folder, sdxl_model="demo")
    assert (wrong.state, "IP_ADAPTER_MODEL" in wrong.detail) == ("fail", True)
    assert row(ip_adapter_model="demo", sdxl_model="demo").detail == "demo"


# --- Machine --------------------------------------------------------------------------------------------------------


def test_a_worker_on_the_platform_without_a_card_is_red() -> None:
    settings = load_settings(runpod_pod_id="pod")
    assert one(doctor.card(settings, ModelRegistry(settings, cuda=False))).state == "fail"


def test_a_card_that_computes_says_what_drives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = device.Gpu("NVIDIA L40S", 45 * 2**30, "580.95.05", "2.13.0+cu130", "13.0", "91501")
    monkeypatch.setattr(device, "try_gpu", lambda: None)
    monkeypatch.setattr(device, "describe_gpu", lambda: found)
    settings = load_settings()
    row = one(doctor.card(settings, ModelRegistry(settings, cuda=True)))
    assert (row.state, row.detail) == ("ok", str(found))


@pytest.mark.slow
def test_a_card_that_does_not_compute_is_red_in_words() -> None:
    settings = load_settings()
    found = one(doctor.card(settings, ModelRegistry(settings, cuda=True)))
    assert found.state == "fail"
    assert "CUDA 13" in found.remedy


@pytest.mark.parametrize(("gib", "state", "mode"), [(24, "ok", "resident"), (0.02, "fail", "refused")])
def test_each_model_says_where_the_card_would_have_it(
    gib: float, state: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "memory", lambda *, cuda: (int(gib * 2**30),) * 2)
    demo = load_settings(sdxl_model="demo", wan_model="demo", wan_i2v_model="demo")
    rows = list(doctor.placement(ModelRegistry(demo, cuda=True, where=())))
    assert states(rows) == {"sdxl: demo": state, "wan: demo": state}
    assert all(row.detail.startswith(mode) for row in rows)
    assert all(row.remedy for row in rows) == (state == "fail")


def test_a_model_that_is_not_here_yet_is_placed_nowhere() -> None:
    settings = load_settings(wan_model="Wan-AI/Wan2.2-TI2V-5B-Diffusers")
    rows = doctor.placement(ModelRegistry(settings, cuda=False, where=()))
    assert named(rows, "wan: Wan2.2-TI2V-5B-Diffusers").state == "skipped"


def test_a_spool_that_the_worker_may_not_write_is_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(outbox_dir=tmp_path / "outbox")
    registry = ModelRegistry(settings, cuda=False)
    assert named(doctor.disk(settings, registry), "spool").state != "fail"
    monkeypatch.setattr(os, "access", lambda *_: False)  # tests may run as root, who may write everywhere
    assert named(doctor.disk(settings, registry), "spool").state == "fail"


def test_a_volume_that_takes_no_loras_is_thought_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(**loras: str) -> list[Finding]:
        settings = load_settings(loras=loras, lora_cache_dir=tmp_path / "loras")
        return [row for row in doctor.disk(settings, ModelRegistry(settings, cuda=False)) if row.name == "LoRAs"]

    assert rows(own="/runpod-volume/own.safetensors") == [], "nothing is downloaded"
    assert "GiB free" in one(rows(ghibli="org/name")).detail
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = one(rows(ghibli="org/name"))
    assert (found.state, "each worker downloads them anew" in found.detail) == ("warn", True)


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ({}, "skipped"),
        ({"safety_checker": "block"}, "fail"),
        ({"preview_model": "org/name"}, "skipped"),
        ({"preview_model": "org/name", "allow_downloads": True}, "fail"),
        ({"wan_model": "org/wan"}, "skipped"),
        ({"wan_model": "org/wan", "preload_tasks": "text2video"}, "fail"),
    ],
)
def test_room_is_looked_for_where_something_will_be_downloaded(
    values: dict[str, Any], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(sdxl_model="demo", **values)
    monkeypatch.setattr(os, "access", lambda *_: False)
    rows = doctor.disk(settings, ModelRegistry(settings, cuda=False, where=()))
    assert named(rows, "disk for downloads").state == state


def test_what_cannot_be_read_of_phones_pictures_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(doctor.pictures()).detail == "HEIC and AVIF can be read"
    monkeypatch.setattr(doctor, "PHONES_DECODERS", {"HEIC": "no_such_module", "AVIF": "json"})
    found = one(doctor.pictures())
    assert (found.state, found.detail) == ("warn", "HEIC cannot be read")


def test_a_findings_mark_is_coloured_on_a_terminal_only() -> None:
    red = Finding("card", "fail", "broken")
    assert "\x1b[" not in doctor.table("Machine", [red])
    assert "\x1b[31" in doctor.table("Machine", [red, replace(red, state="ok")], colour=True)


def compiler(cuda: bool, **settings: Any) -> Finding:
    return one(doctor.compiler(load_settings(**settings), ModelRegistry(load_settings(), cuda=cuda, where=())))


def test_a_compiler_is_asked_for_only_where_something_is_to_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiler(False).state == "skipped"
    monkeypatch.setenv("PATH", "/nowhere")
    for cuda, name in ((False, "g++"), (True, "gcc")):
        missing = compiler(cuda, compile="regional")
        assert missing.state == "warn"
        assert name in missing.detail


def test_a_compiler_without_pythons_headers_is_half_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gcc").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(tmp_path))
    assert "Python.h" in compiler(True, compile="full").detail
    (tmp_path / "Python.h").touch()
    assert "Python.h" not in compiler(True, compile="full").detail
