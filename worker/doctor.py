"""Checks what an endpoint needs before it costs money, and prints a table with a remedy for each problem.

    python -m worker.doctor          exit code 1 if a row is red, for CI
    python -m worker.doctor --json   the rows as JSON

Each check is a small function that yields findings; a check that raises becomes a red row. The only things it writes
are one object and one document under `doctor/`, and it deletes both. It shows no key, no secret and no token.
"""

import argparse
import contextlib
import functools
import importlib.util
import json
import logging
import os
import shutil
import sys
import sysconfig
import tempfile
import textwrap
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from worker.api.params import ModelDefaults
from worker.api.styles import check_styles, tasks_of
from worker.core import timing
from worker.core.config import (
    ConfigError,
    OwnDefaults,
    Settings,
    load_settings,
    misspelt_variables,
    opentelemetry_problem,
    set_library_defaults,
    unheeded_variables,
    wrong_variables,
)
from worker.core.errors import BackendError, JobError, ModelUnavailable
from worker.core.logs import redact, where
from worker.core.lora_source import LocalFile, lora_source
from worker.core.pasted import tidy
from worker.core.types import Owner, TaskType
from worker.document.schema import document_path
from worker.engine.memory import device
from worker.engine.memory.cache import HOST_RESERVE
from worker.engine.memory.footprint import spec_bytes
from worker.engine.memory.placement import GIB, Demand, Resident, decide, set_aside
from worker.engine.memory.room import Size, room, upscaler_layout
from worker.engine.models import hub
from worker.engine.models.registry import ModelRegistry, ModelSpec, WeightSource, wan_layout
from worker.engine.speed.attention import missing
from worker.firebase.app import Firebase
from worker.firebase.firestore import FirestoreStore
from worker.media.credentials import Signer
from worker.media.video import ffmpeg_path
from worker.sources.lora_cache import cache_folder
from worker.storage.results import SERVICE, object_path
from worker.storage.store import Bucket

T = TypeVar("T")
State = Literal["ok", "warn", "fail", "skipped"]

INLINE = "not configured: results go back as base64"
FIRESTORE = "https://firestore.googleapis.com"
DOWNLOADS_GIB, EXTRAS_GIB = 40, 10
"""Disk space, with a margin, for the largest default model as published, and for the small models beside one."""
PHONES_DECODERS = {"HEIC": "pillow_heif", "AVIF": "PIL._avif"}
"""Image format -> the module that decodes it."""
SPOOL_GIB = 2
"""The size limit of the spool."""
COLLECTOR_SECONDS = 2.0
LONGEST_VALUE = 120
NOT_HERE = "not on this machine: "
REMEDY = "bake it, put it on the volume, or name its task in PRELOAD_TASKS: docs/deploy.md, Models"
BAKE = "bake it, or put it on the volume"
ALLOW = "; ALLOW_DOWNLOADS=true lets jobs download"


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the table: the subject of a check, its state, what was found, and the remedy."""

    name: str
    state: State
    detail: str
    remedy: str = ""


Check = Callable[[], Iterable[Finding]]


def examine() -> Iterator[tuple[str, list[Finding]]]:
    """Yield each section of the table with its rows, as soon as it is complete."""
    wrong = wrong_variables()
    spoilt = {place.partition(".")[0].lower() for place in wrong}
    usable = {name: Settings.model_fields[name].default for name in spoilt & set(Settings.model_fields)}
    try:
        settings = load_settings(**usable)
    except ConfigError:
        yield "Environment", [*_wrong(wrong), Finding("everything else", "skipped", "the worker would not start")]
        return
    yield "Environment", rows("variables", lambda: environment(settings, wrong, spoilt))
    yield "Firebase", [*_of_firebase(settings)]
    yield "Telemetry", rows("telemetry", lambda: telemetry(settings))
    registry = ModelRegistry(settings)
    yield (
        "Models",
        [
            *rows("models", lambda: models(settings, registry)),
            *rows("ControlNet", lambda: iter((controlnet(registry),))),
            *rows("IP-Adapter", lambda: ip_adapter(registry)),
            *rows("depth", lambda: iter((depth(registry),))),
            *rows("live previews", lambda: iter((previews(registry),))),
            *rows("upscaler", lambda: upscaler(registry)),
            *rows("safety checker", lambda: safety(registry)),
        ],
    )
    yield "Machine", [*_of_machine(settings, registry)]


def rows(name: str, check: Check) -> list[Finding]:
    """Return the findings of a check; if it raises, the error is the last row."""
    found: list[Finding] = []
    try:
        for finding in check():
            found.append(finding)  # noqa: PERF402 - keeps what was found before an error
    except JobError as error:
        found.append(Finding(name, "fail", error.message))
    except Exception as error:  # noqa: BLE001 - one broken check must not hide the others
        found.append(Finding(name, "fail", f"the check itself broke: {where(error)}", "please report this"))
    return found


# --- Environment ----------------------------------------------------------------------------------------------------


def environment(settings: Settings, wrong: Mapping[str, str], spoilt: Collection[str]) -> Iterator[Finding]:
    """Show each variable that is set, with its value as the worker understands it."""
    yield from _wrong(wrong)
    for name, ours in sorted(misspelt_variables().items()):
        yield Finding(name, "warn", "nobody reads this variable", f"is {ours} meant?")
    given = [name for name in Settings.model_fields if name in settings.model_fields_set and name not in spoilt]
    for name in given:
        yield Finding(name.upper(), "ok", _shown(getattr(settings, name)))
    for name, lora in (settings.loras or {}).items():
        source = lora_source(lora.source, lora.weight_name)
        if isinstance(source, LocalFile) and not source.path.exists():
            remedy = "requests that name it fail; mount the volume, or correct its path in LORAS"
            yield Finding(f"LoRA {name}", "fail", "its file is not on this machine", remedy)
    try:
        check_styles(settings.styles or {}, settings.loras or {})
    except ConfigError as error:
        yield Finding("STYLES", "fail", str(error), "the worker does not start like this")
    try:
        if settings.ai_mark == "on" and Signer.of(settings) is not None:
            yield Finding("content credentials", "ok", "a file was signed and read back")
    except ConfigError as error:
        yield Finding("content credentials", "fail", str(error), "the worker does not start like this")
    secret = settings.ticket_secret.get_secret_value() if settings.ticket_secret else ""
    if tidy(secret) != secret:
        remedy = "take them off, unless the backend's secret has them too: an env file keeps quotes"
        yield Finding("TICKET_SECRET", "warn", "the quotes around it are taken as part of it", remedy)
    others = len(Settings.model_fields) - len(given) - len(spoilt)
    yield Finding("all others", "ok", f"{others} are not set: their defaults are in docs/deploy.md")


def _wrong(wrong: Mapping[str, str]) -> Iterator[Finding]:
    for name, problem in sorted(wrong.items()):
        yield Finding(name, "fail", problem, "the worker does not start like this; empty counts as not set")


def _shown(value: object) -> str:
    # Secrets are `SecretStr`s, which print as asterisks.
    if isinstance(value, dict):
        # Show only the names of LoRAs and styles: the source of a LoRA may hold a key.
        value = {name: own.given() if isinstance(own, OwnDefaults) else "..." for name, own in value.items()}
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        value = value.partition("?")[0]  # what follows may be a key
    text = redact(", ".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


# --- Firebase -------------------------------------------------------------------------------------------------------


def key(settings: Settings, connected: list[Firebase]) -> Iterator[Finding]:
    """Check the service account key; if it works, append the Firebase that uses it to `connected`."""
    name = "service account key"
    if not _configured(settings):
        lost = settings.firebase_storage_bucket is not None
        remedy = "FIREBASE_SERVICE_ACCOUNT_KEY is the other half of FIREBASE_STORAGE_BUCKET" if lost else ""
        yield Finding(name, "warn" if lost else "skipped", INLINE, remedy)
        return
    try:
        firebase = Firebase(settings)
        firebase.connect()
    except ConfigError as error:
        yield Finding(name, "fail", str(error), "its path, its JSON, or base64 of it: docs/firebase.md, The key")
        return
    connected.append(firebase)
    who = f"{firebase.account}" if firebase.account else "emulators ask for none"
    yield Finding(name, "ok", f"{who}; {firebase}")


def _configured(settings: Settings) -> bool:
    return settings.firebase_service_account_key is not None or settings.uses_emulators


def _of_firebase(settings: Settings) -> Iterator[Finding]:
    connected: list[Firebase] = []
    yield from rows("service account key", lambda: key(settings, connected))
    yield from rows("who may ask", lambda: callers(settings, connected))
    yield from rows("revoked users", lambda: revoked(settings, connected))
    if not connected:
        why = "not asked before the key works" if _configured(settings) else INLINE
        yield from (Finding(name, "skipped", why) for name in ("bucket", "Firestore", "rules"))
        return
    firebase = connected[0]
    account, objects, store = firebase.account, firebase.bucket, firebase.documents
    if objects is None:
        yield Finding("bucket", "warn", INLINE, "set FIREBASE_STORAGE_BUCKET to the name that the Firebase console has")
    else:
        path = quote(object_path(_nobody(), video=False, suffix=".png", index=0, count=1), safe="")
        url = f"{settings.storage_emulator_host or SERVICE}/v0/b/{objects.name}/o/{path}"
        yield from _with_rules(rows("bucket", lambda: bucket(objects, account)), "Storage rules", url)
    if store is None:
        yield Finding("Firestore", "skipped", "only the Storage emulator is configured")
    else:
        emulator = settings.firestore_emulator_host
        database = settings.firestore_database
        root = f"v1/projects/{firebase.project}/databases/{database}/documents"
        url = f"{f'http://{emulator}' if emulator else FIRESTORE}/{root}/{document_path(_nobody())}"
        yield from _with_rules(rows("Firestore", lambda: documents(store, account, database)), "Firestore rules", url)


def _with_rules(found: list[Finding], name: str, url: str) -> Iterator[Finding]:
    yield from found
    if found[0].state == "ok":
        yield from rows(name, lambda: rules(name, url))
    else:  # a missing database or bucket answers 404 and would look open
        yield Finding(name, "skipped", f"not asked before {found[0].name} works")


def callers(settings: Settings, connected: Sequence[Firebase]) -> Iterator[Finding]:
    """Check how the worker identifies the users of jobs."""
    ways = [way for way, there in (("ID tokens", connected), ("tickets", settings.ticket_secret)) if there]
    if not settings.require_id_token:
        said = "whoever may call the endpoint, for any user: REQUIRE_ID_TOKEN is false"
        remedy = "REQUIRE_ID_TOKEN=true, before an app's users come: docs/client.md, Tickets" if ways else ""
        yield Finding("who may ask", "warn" if ways else "ok", said, remedy)
    elif not ways:
        remedy = "set a readable FIREBASE_SERVICE_ACCOUNT_KEY, or a TICKET_SECRET"
        yield Finding("who may ask", "fail", "REQUIRE_ID_TOKEN is true and nothing can check one", remedy)
    else:
        yield Finding("who may ask", "ok", f"users with {' or '.join(ways)}")


def revoked(settings: Settings, connected: Sequence[Firebase]) -> Iterator[Finding]:
    """Look up a user that does not exist, as `CHECK_REVOKED` looks up the user of each ID token."""
    if not settings.check_revoked or not connected:
        return
    firebase, steps = connected[0], _Steps()
    if settings.uses_emulators and not settings.firebase_auth_emulator_host:
        yield Finding("revoked users", "skipped", "FIREBASE_AUTH_EMULATOR_HOST is not set")
        return
    steps.take("look a user up", lambda: firebase.users.knows(f"doctor-{uuid.uuid4().hex}"))
    if steps.failed:
        account = firebase.account or "the account"
        detail, error = steps.failed
        remedy = _remedy(error, {}, f"give {account} the role Firebase Authentication Viewer, or CHECK_REVOKED=false")
        if type(error.__cause__).__name__ == "ConfigurationNotFoundError":
            remedy = "the project has no Authentication: the Firebase console, Authentication, Get started"
        yield Finding("revoked users", "fail", detail, remedy)
    else:
        yield Finding("revoked users", "ok", "a user was looked for")


class _Steps:
    """Successive calls to a service; `failed` is the first failure, as its description and error."""

    def __init__(self) -> None:
        self.failed: tuple[str, BackendError] | None = None

    def take(self, step: str, call: Callable[[], T]) -> T | None:
        """Return the result of `call`; None if it failed."""
        try:
            return call()
        except BackendError as error:
            self.failed = self.failed or (f"cannot {step}: {_why(error)}", error)
            return None


def bucket(store: Bucket, account: str | None) -> Iterator[Finding]:
    """Write a small object, read it back and delete it."""
    name, steps, path = store.name, _Steps(), f"doctor/{uuid.uuid4()}"
    content, deadline = b"written by python -m worker.doctor", time.monotonic() + timing.UPLOAD_SECONDS
    write = functools.partial(store.upload, path, content, content_type="text/plain", metadata={}, replaces=0)
    put = steps.take(f"write to {name}", lambda: write(deadline=deadline))
    same = False
    if put is not None:
        read = functools.partial(store.read, path, max_bytes=len(content), deadline=deadline)
        found = steps.take(f"read from {name}", read)
        same = found is not None and found[1] == content
        as_left = {"generation": put.generation, "metageneration": put.metageneration}
        steps.take(f"take it back from {name}", lambda: store.delete(path, **as_left, deadline=deadline))
    remedies = {
        404: f"there is no bucket {name}: FIREBASE_STORAGE_BUCKET is to be the name that the Firebase console has "
        "under Storage, with or without gs://",
        403: f"give {account or 'the account'} the role Storage Object User on this bucket",
    }
    if steps.failed:
        detail, error = steps.failed
        yield Finding("bucket", "fail", detail, _remedy(error, remedies))
    elif not same:
        yield Finding("bucket", "fail", f"{name} does not give back what was written")
    else:
        yield Finding("bucket", "ok", f"{name}: an object was written, read and deleted")


def documents(store: FirestoreStore, account: str | None, database: str = "(default)") -> Iterator[Finding]:
    """Write a document, read it back and delete it; then run the reaper's queries."""
    steps, path, seconds = _Steps(), f"doctor/{uuid.uuid4()}", 5 * timing.CALL_SECONDS
    fields = {"written_by": "python -m worker.doctor"}
    found = None
    if steps.take("write a document", lambda: store.create(path, fields, timeout=seconds)) is not None:
        found = steps.take("read a document", lambda: store.read(path, timeout=seconds))
        steps.take("delete a document", lambda: store.delete(path, timeout=seconds))
    remedies = {
        404: f"the project has no database {database}: the Firebase console, Firestore Database, Create database; "
        "or FIRESTORE_DATABASE is to name the one that is there",
        403: f"enable the Firestore API, and give {account or 'the account'} the role Cloud Datastore User",
    }
    if steps.failed:
        detail, error = steps.failed
        yield Finding("Firestore", "fail", detail, _remedy(error, remedies))
        return
    if found is None or found.fields != fields:
        yield Finding("Firestore", "fail", "a document is not there as it was written")
        return
    yield Finding("Firestore", "ok", f"{database}: a document was written, read and deleted")
    now = datetime.now(UTC)
    for what, status, field in (
        ("find documents of lost workers", "processing", "expires_at"),
        ("find order slips that nobody took", "queued", "created_at"),
    ):
        steps.take(what, functools.partial(store.older, status, field, now, limit=1, timeout=seconds))
    if steps.failed:
        detail, error = steps.failed
        remedies[400] = "firebase deploy --only firestore (firestore.indexes.json); an index takes minutes to be built"
        yield Finding("Firestore index", "fail", detail, _remedy(error, remedies))
    else:
        yield Finding("Firestore index", "ok", "the reaper's queries over all users are answered")


def rules(name: str, url: str) -> Iterator[Finding]:
    """Request what could be a user's file, without credentials: the rules must refuse it, whether or not it exists."""
    service = name.partition(" ")[0]
    request = urllib.request.Request(url, headers={"User-Agent": "worker.doctor"})  # noqa: S310 - Google, or an emulator
    try:
        with urllib.request.urlopen(request, timeout=2.5 * timing.CALL_SECONDS) as answer:  # noqa: S310 - as above
            status = int(answer.status)
    except urllib.error.HTTPError as error:
        status = error.code
    except (OSError, HTTPException) as error:
        yield Finding(name, "skipped", f"cannot be asked: {type(error).__name__}, such as where an emulator has none")
        return
    if status in {401, 403}:
        yield Finding(name, "ok", f"who is not signed in is refused (HTTP {status})")
    elif status in {200, 404}:
        remedy = f"firebase deploy --only {service.lower()} ({service.lower()}.rules)"
        yield Finding(name, "fail", f"who is not signed in may read users' files (HTTP {status})", remedy)
    else:
        yield Finding(name, "warn", f"no answer that tells anything (HTTP {status})", "try again later")


def _nobody() -> Owner:
    return Owner("doctor", uuid.uuid4().hex)


def _code(error: BackendError) -> int | None:
    code = getattr(error.__cause__, "code", None)
    return int(code) if isinstance(code, int) else None


def _why(error: BackendError) -> str:
    code, cause = _code(error), type(error.__cause__).__name__ if error.__cause__ else ""
    return error.kind + (f" (HTTP {code}, {cause})" if code else f" ({cause})" if cause else "")


def _remedy(
    error: BackendError,
    by_code: Mapping[int, str],
    other: str = "look at the account's roles in the Google Cloud console",
) -> str:
    if type(error.__cause__).__name__ == "RefreshError":
        return "Google does not take the key: it was deleted, its account disabled, or this machine's clock is wrong"
    if error.kind == "unreachable":
        return "try again; is *.googleapis.com reachable from here?"
    return by_code.get(_code(error) or 0, other)


# --- Telemetry ------------------------------------------------------------------------------------------------------


def telemetry(settings: Settings, seconds: float = COLLECTOR_SECONDS) -> Iterator[Finding]:
    """Send an empty batch of each signal as the worker would. What is wrong is no error, because jobs run without."""
    for name, effect in unheeded_variables(settings).items():
        yield Finding(name, "warn", effect)
    sent = settings.signals
    if not sent:
        why = "they are switched off" if settings.names_a_collector else "OTEL_EXPORTER_OTLP_ENDPOINT is not set"
        yield Finding("traces, metrics", "skipped", f"not sent: {why}")
        return
    from worker.telemetry.otlp import Otlp, ask

    try:
        Otlp("doctor", sent).close()  # without a job nothing is sent
    except ValueError:
        yield Finding("OpenTelemetry", "fail", opentelemetry_problem(), "the worker does not start like this")
        return
    ended = ask(sent, seconds)
    for signal, variable in sent.items():
        yield _collector(signal, variable, getattr(settings, variable.lower()), ended[signal])


def _collector(signal: str, variable: str, address: str, ended: int | Exception | None) -> Finding:
    """Say how a collector answered to an empty batch; its address is not told, because it may hold a key."""
    if isinstance(ended, int):
        if ended < HTTPStatus.MULTIPLE_CHOICES:
            return Finding(signal, "ok", f"an empty batch was taken (HTTP {ended})")
        detail, remedy = _refused(signal, variable, address, ended)
        return Finding(signal, "warn", f"{detail} (HTTP {ended})", remedy)
    kinds = {"Timeout"} if ended is None else _kinds(ended)
    for kind, detail, remedy in _UNREACHED:
        if kind in kinds:
            return Finding(signal, "warn", detail, remedy.format(variable=variable))
    if "RequestException" not in kinds:
        remedy = "OTEL_EXPORTER_OTLP_CERTIFICATE, _CLIENT_CERTIFICATE and _CLIENT_KEY name files"
        return Finding(signal, "warn", "a file of certificates cannot be read", remedy)
    return Finding(signal, "warn", f"cannot be sent: {type(ended).__name__}", f"correct {variable}")


_UNREACHED = (
    ("gaierror", "there is no such host", "correct {variable}"),
    ("ConnectionRefusedError", "nothing listens there", "correct {variable}: the usual port for HTTP is 4318"),
    (
        "SSLError",
        "no connection by TLS",
        "{variable} with http:// if the collector has none; if its certificate is your own, "
        "OTEL_EXPORTER_OTLP_CERTIFICATE names its authority's file",
    ),
    (
        "Timeout",
        f"no answer within {COLLECTOR_SECONDS:g} s",
        "a worker on RunPod is in none of your private networks: the host and port of {variable} are to be public",
    ),
    (
        "ConnectionError",
        "what listens there does not answer as HTTP does",
        "{variable} with the port for HTTP, usually 4318 (4317 is for gRPC), and https:// if the collector has TLS",
    ),
    ("InvalidHeader", "no header can be like that", "OTEL_EXPORTER_OTLP_HEADERS is name=value, separated by commas"),
    ("InvalidURL", "that is no address", "correct {variable}: https://, a host and a port"),
)
"""Classes of errors, what they mean, and the remedy; the first that fits counts."""


def _kinds(error: BaseException) -> set[str]:
    """Return the names of the classes of an error and of the errors that it came from."""
    found, rest = [error], [error]
    while rest:
        one = rest.pop()
        causes = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
        new = [cause for cause in causes if isinstance(cause, BaseException) and cause not in found]
        found += new
        rest += new
    return {kind.__name__ for one in found for kind in type(one).__mro__}


def _refused(signal: str, variable: str, address: str, status: int) -> tuple[str, str]:
    """Say what an answer means, and the remedy."""
    if status < HTTPStatus.BAD_REQUEST:
        remedy = f"{variable} is to be the address that it leads to, such as https:// instead of http://"
        return "redirected, which OpenTelemetry does not follow", remedy
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return "refused", "OTEL_EXPORTER_OTLP_HEADERS is to hold the collector's key, as name=value"
    if status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
        remedy = f"{variable} is taken as it is, and usually ends in /v1/{signal}"
        if variable == "OTEL_EXPORTER_OTLP_ENDPOINT":
            ends = "/v1/" in address
            remedy = f"{variable} without /v1/{signal}, which is added to it" if ends else ""
            remedy += f"{'; ' if remedy else ''}OTEL_{signal.upper()}_EXPORTER=none if the collector takes none"
        return f"nothing takes {signal} at that path", remedy
    if status < HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.TOO_MANY_REQUESTS:
        remedy = "is it a receiver of OTLP over HTTP, with protobuf, and has the address https:// if it has TLS?"
        return "an empty batch was not taken", remedy
    return "the collector has a problem of its own", "try again, and look into the collector's log"


# --- Models ---------------------------------------------------------------------------------------------------------


def models(settings: Settings, registry: ModelRegistry) -> Iterator[Finding]:
    """Check each model, in one row for all tasks that it serves."""
    yield from _without_effect(settings, registry)
    served: dict[ModelSpec, list[str]] = {}
    what: dict[ModelSpec, str] = {}
    unserved: dict[tuple[str, str], list[str]] = {}
    for task, model in _models(registry):
        try:
            spec, defaults = registry.spec(task, model), registry.describe(task, model)
        except ModelUnavailable as error:
            one_of_several = len(registry.models(task)) > 1
            unserved.setdefault((_called(model if one_of_several else None), error.message), []).append(task)
        else:
            served.setdefault(spec, []).append(task)
            what.setdefault(spec, _kind(spec, defaults))
    at_start = _preloaded(settings, registry)
    for spec, tasks in served.items():
        missing = any(part.kind == "hub" and not part.optional for part in spec.all)
        alone = registry.lacks_configs(spec)
        when = "the start downloads it" if spec in at_start else _when(registry)
        parts = "; ".join(_described(part, when, registry.closed(part)) for part in spec.all)
        may = spec in at_start or settings.allow_downloads is not False
        parts += f"; SDXL base's configuration {NOT_HERE}{_when(registry, may=may)}" if alone else ""
        weight = "" if missing else f"; {_size(sum(spec_bytes(spec, cuda=registry.cuda).values()))} as it is loaded"
        refused = (missing and spec not in at_start and not registry.may_download) or (alone and not may)
        state: State = "fail" if refused else "warn" if missing or alone else "ok"
        said = f"{what[spec]}; {parts}{weight}"
        remedy = "" if state == "ok" else REMEDY + (ALLOW if refused else "")
        yield Finding(_called(spec.main.called) + ", ".join(tasks), state, said, remedy)
    for (called, problem), tasks in unserved.items():
        # A worker without one task still serves the others; it is an error only if the operator asked for that task.
        wanted = not served or any(_asked_for(settings, TaskType(task)) for task in tasks)
        yield Finding(called + ", ".join(tasks), "fail" if wanted else "warn", problem)
    if others := [task for task in TaskType if task not in registry.tasks]:
        why = "TASKS does not name it" if settings.tasks else "other models are named, and none for it"
        yield Finding(", ".join(others), "skipped", f"not served: {why}")
    for task in settings.preload_tasks or ():
        if task not in registry.tasks:
            yield Finding("PRELOAD_TASKS", "fail", f"{task} is not served", "name it in TASKS, or a model for it")


def _without_effect(settings: Settings, registry: ModelRegistry) -> Iterator[Finding]:
    """Warn of settings for models that are not configured."""
    unmatched = {"MODEL_DEFAULTS": registry.unmatched_defaults(), "ACCELERATIONS": registry.unmatched_accelerations()}
    for variable, names in unmatched.items():
        for name in names:
            yield Finding(variable, "warn", f"no model is called {name!r}", "name a model as its own row below does")
    if settings.acceleration != "none" and not settings.accelerations:
        yield Finding("ACCELERATION", "warn", "has no effect", "ACCELERATIONS is to say what it stands for")
    for name, style in (settings.styles or {}).items():
        wanted, its_tasks = style.get("model"), tasks_of(style, settings.loras or {})
        if wanted is not None and not any(wanted in registry.models(task) for task in its_tasks):
            remedy = "requests that name it fail; give it a model as its own row below does, or none"
            yield Finding(f"style {name}", "fail", f"no model of its tasks is called {wanted!r}", remedy)


def _asked_for(settings: Settings, task: TaskType) -> bool:
    variable = {TaskType.TEXT2VIDEO: settings.wan_model, TaskType.IMG2VIDEO: settings.wan_i2v_model}
    named = (*(settings.tasks or ()), *(settings.preload_tasks or ()))
    return task in named or bool(variable.get(task, settings.sdxl_model))


def _preloaded(settings: Settings, registry: ModelRegistry) -> set[ModelSpec]:
    """Return the models that are fetched at the start, even if jobs may not download any."""
    found = set()
    for task in settings.preload_tasks or ():
        with contextlib.suppress(ModelUnavailable):
            found.add(registry.spec(task))
    return found


def _when(registry: ModelRegistry, *, may: bool | None = None) -> str:
    """Say whether a job may download missing weights."""
    may = registry.may_download if may is None else may
    return "a job downloads it" if may else "no job may download it"


def _kind(spec: ModelSpec, defaults: ModelDefaults) -> str:
    """Describe a model by its own files, so that a wrongly detected one is noticed."""
    frames = f"x{defaults.num_frames}" if spec.family == "wan" else ""
    size = f"{defaults.width}x{defaults.height}{frames}"
    if spec.family == "upscaler":
        return "enlarges, draws nothing"
    family = {"sdxl": "SDXL", "wan": f"Wan {wan_layout(spec.main) or ''}".strip()}[spec.family]
    said = [family, size, f"{defaults.num_inference_steps} steps", f"guidance {defaults.guidance_scale:g}"]
    said += ["made for so few steps"] if defaults.few_steps else []
    said += [defaults.prediction_type] if defaults.prediction_type else []
    return ", ".join(said)


def _called(name: str | None) -> str:
    return f"{name}: " if name else ""


def _described(part: WeightSource, when: str, closed: Path | None) -> str:
    names = {"vae": "VAE ", "refiner": "refiner "}
    role = names.get(part.role, "")
    if part.path is None:
        hidden = f" ({closed} may not be read by user {os.geteuid()})" if closed else ""
        return f"{role}{part.name} {NOT_HERE}{when}{hidden}"
    return f"{role}{part.path}" if part.kind == "file" else f"{role}{part.name} in {part.path}"


def ip_adapter(registry: ModelRegistry) -> Iterator[Finding]:
    """Check the IP-Adapter (reference images) for each image model."""
    task = next((task for task in registry.tasks if not task.is_video), None)
    found: dict[str, Finding] = {}
    for model in registry.models(task) if task is not None else ():
        with contextlib.suppress(ModelUnavailable):  # the model has a row of its own
            main = registry.spec(task or TaskType.TEXT2IMG, model).main
            one = _ip_adapter(registry, main)
            found[one.detail] = one
    yield from found.values()


def _ip_adapter(registry: ModelRegistry, main: WeightSource) -> Finding:
    try:
        weights = registry.ip_adapter(main)
    except ModelUnavailable as error:
        return Finding("IP-Adapter", "fail", error.message, "docs/deploy.md, IP-Adapter")
    without = "IP_ADAPTER_MODEL is not set: no request may give a picture to take after"
    return _extra("IP-Adapter", weights, registry, without)


def _extra(name: str, weights: WeightSource | None, registry: ModelRegistry, without: str) -> Finding:
    """Check weights that some jobs use beside a model; PRELOAD_TASKS does not fetch them."""
    if weights is None:
        return Finding(name, "skipped", without)
    if weights.kind == "demo":
        return Finding(name, "ok", "demo")
    said, may = _described(weights, _when(registry), registry.closed(weights)), registry.may_download
    if weights.path is None:
        return Finding(name, "warn" if may else "fail", said, BAKE if may else BAKE + ALLOW)
    return Finding(name, "ok", said)


def depth(registry: ModelRegistry) -> Finding:
    """Check the model that estimates depth for ControlNet."""
    return _extra("depth", registry.depth(), registry, "DEPTH_MODEL is not set: control pictures of depth come made")


def previews(registry: ModelRegistry) -> Finding:
    """Check the small decoder that draws previews."""
    without = "PREVIEW_MODEL is not set: a linear map draws them"
    return _extra("live previews", registry.preview(), registry, without)


def controlnet(registry: ModelRegistry) -> Finding:
    """Check the ControlNets of the image model."""
    images = next((task for task in registry.tasks if not task.is_video), None)
    try:
        if images is not None:
            registry.spec(images)
    except ModelUnavailable:
        return Finding("ControlNet", "skipped", "not asked before its model is here")
    try:
        types = registry.served_controlnets()
    except ModelUnavailable as error:
        return Finding("ControlNet", "fail", error.message, "docs/deploy.md, ControlNet")
    if not types:
        return Finding("ControlNet", "skipped", "CONTROLNET_MODEL is not set: no request may give a control picture")
    away = [weights for weights in types.values() if weights.kind == "hub"]
    if away:
        return _extra("ControlNet", away[0], registry, "")
    return Finding("ControlNet", "ok", ", ".join(types))


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count > GIB / 10 else f"{count / 2**20:.0f} MiB"


def upscaler(registry: ModelRegistry) -> Iterator[Finding]:
    """Check the network that enlarges finished images."""
    try:
        spec = registry.upscaler()
    except ModelUnavailable as error:
        yield Finding("upscaler", "fail", error.message)
        return
    if spec is None:
        yield Finding(
            "upscaler", "skipped", "UPSCALER_MODEL is not set: Lanczos enlarges, the image model draws details"
        )
    elif spec.main.path is None and spec.main.kind == "hub":
        yield _extra("upscaler", spec.main, registry, "")
    else:
        found = upscaler_layout(spec)
        yield Finding("upscaler", "ok", f"{spec.main.name}: {found.kind}, x{found.scale}, {found.features} features")


def safety(registry: ModelRegistry) -> Iterator[Finding]:
    """Check the safety checker that every result must pass."""
    checker = registry.safety()
    if checker is None:
        yield Finding("safety checker", "skipped", "SAFETY_CHECKER is off: nothing is checked")
    elif checker.path is None:
        yield Finding(
            "safety checker", "warn", _described(checker, "every start downloads it", registry.closed(checker)), BAKE
        )
    else:
        yield Finding("safety checker", "ok", _described(checker, "", None))


# --- Machine --------------------------------------------------------------------------------------------------------


def _of_machine(settings: Settings, registry: ModelRegistry) -> Iterator[Finding]:
    yield from rows("card", lambda: card(settings, registry))
    yield from rows("attention", lambda: attention(settings, registry))
    yield from rows("placement", lambda: placement(registry))
    yield from rows("compiler", lambda: compiler(settings, registry))
    yield from rows("phones' pictures", pictures)
    yield from rows("ffmpeg", ffmpeg)
    yield from rows("disk", lambda: disk(settings, registry))


def card(settings: Settings, registry: ModelRegistry) -> Iterator[Finding]:
    """Run a small computation on the GPU."""
    if not registry.cuda:
        hosted = settings.runpod_pod_id or settings.runpod_endpoint_id
        remedy = "the endpoint needs a GPU, and the image its two NVIDIA_ variables" if hosted else ""
        yield Finding("card", "fail" if hosted else "ok", "none: the CPU", remedy)
        return
    try:
        device.try_gpu()
        yield Finding("card", "ok", str(device.describe_gpu()))
    except JobError as error:
        remedy = "take another host; allow only drivers that know CUDA 13 (allowedCudaVersions): docs/deploy.md"
        yield Finding("card", "fail", error.message, remedy)


def attention(settings: Settings, registry: ModelRegistry) -> Iterator[Finding]:
    """Check the attention backend, if the operator chose one."""
    if settings.attention != "auto":
        problem = missing(settings.attention, cuda=registry.cuda)
        remedy = "" if problem is None else "docs/deploy.md, Attention"
        yield Finding("attention", "ok" if problem is None else "warn", problem or settings.attention, remedy)


def placement(registry: ModelRegistry) -> Iterator[Finding]:
    """Decide where each model would be placed for a job of its native size, with the models before it loaded."""
    free, total = device.memory(cuda=registry.cuda)
    host = device.memory(cuda=False)[0] - HOST_RESERVE
    residents: list[Resident] = []
    seen: set[str] = set()
    for order, (task, model, spec) in enumerate(_specs(registry)):
        if spec.name in seen:
            continue
        seen.add(spec.name)
        title = f"{spec.family}: {spec.main.called or spec.main.name.rpartition('/')[2]}"
        if any(part.path is None for part in spec.all if not part.optional):
            yield Finding(title, "skipped", "not known before its weights are here")
            continue
        networks = spec_bytes(spec, cuda=registry.cuda)
        size = Size.native(task, registry.describe(task, model))
        demand = Demand(spec.name, networks, room(spec, size, cuda=registry.cuda))
        placed = decide(demand, residents, free=free, total=total, host=host, can_offload=registry.cuda)
        aside = set_aside(networks, placed.mode)
        stays = sum(size for network, size in networks.items() if network not in aside)
        host -= demand.aside(placed.mode)
        free += sum(resident.bytes for resident in residents if resident.name in placed.evicted) - stays
        residents = [resident for resident in residents if resident.name not in placed.evicted]
        residents.append(Resident(spec.name, stays, order))
        states: dict[str, State] = {"resident": "ok", "partly": "ok", "refused": "fail"}
        remedy = "a card with more memory, or a smaller model" if placed.mode == "refused" else ""
        yield Finding(title, states.get(placed.mode, "warn"), f"{placed.mode}: {placed.reason}", remedy)


def _models(registry: ModelRegistry) -> Iterator[tuple[TaskType, str | None]]:
    """Yield each served task with each of its models; with None for a task without models, to report why."""
    for task in (task for task in TaskType if task in registry.tasks):
        for model in registry.models(task) or (None,):
            yield task, model


def _specs(registry: ModelRegistry) -> Iterator[tuple[TaskType, str | None, ModelSpec]]:
    for task, model in _models(registry):
        with contextlib.suppress(ModelUnavailable):
            yield task, model, registry.spec(task, model)


def compiler(settings: Settings, registry: ModelRegistry) -> Iterator[Finding]:
    """Check what `COMPILE` needs: a C compiler and headers of libc and Python for Triton, a C++ compiler for a CPU."""
    if settings.compile == "off":
        yield Finding("compiler", "skipped", "COMPILE is off: nothing is compiled")
        return
    compilers = ("gcc", "clang", "cc") if registry.cuda else ("g++", "clang++", "c++")
    found = next((path for name in compilers if (path := shutil.which(name))), None)
    headers = Path(sysconfig.get_path("include")) / "Python.h", Path("/usr/include/stdlib.h")
    missing = [path.name for path in headers if not path.is_file()] if registry.cuda else []
    if found is None or missing:
        lacks = " and ".join([*(() if found else (compilers[0],)), *missing])
        remedy = "apt-get install gcc libc6-dev (of Python its headers), or COMPILE=off"
        yield Finding(
            "compiler", "warn", f"COMPILE={settings.compile}, and {lacks} is not here: jobs run as it is", remedy
        )
    else:
        yield Finding("compiler", "ok", found)


def pictures() -> Iterator[Finding]:
    """Check the decoders for the photo formats of phones besides JPEG."""
    missing = [kind for kind, module in PHONES_DECODERS.items() if importlib.util.find_spec(module) is None]
    if missing:
        detail = f"{' and '.join(missing)} cannot be read"
        yield Finding("phones' pictures", "warn", detail, "pip install -r requirements.txt -c constraints.txt")
    else:
        yield Finding("phones' pictures", "ok", f"{' and '.join(PHONES_DECODERS)} can be read")


def ffmpeg() -> Iterator[Finding]:
    """Check the program that encodes videos."""
    try:
        yield Finding("ffmpeg", "ok", ffmpeg_path())
    except JobError as error:
        remedy = "pip install -r requirements.txt -c constraints.txt brings one along"
        yield Finding("ffmpeg", "fail", error.message, remedy)


def disk(settings: Settings, registry: ModelRegistry) -> Iterator[Finding]:
    """Check the disk space for downloads, for encoding videos, for LoRAs and for the spool."""
    cache = hub.default_places(settings.models_dir)[-1].root
    if gib := _gib_to_download(settings, registry):
        yield _space("disk for downloads", cache, gib, "HF_HOME names a folder with room that it may write")
    else:
        yield Finding("disk for downloads", "skipped", "nothing has to be downloaded")
    yield _space("disk for clips", Path(tempfile.gettempdir()), 1, "TMPDIR names a folder with room")
    listed = [lora_source(lora.source, lora.weight_name) for lora in (settings.loras or {}).values()]
    if settings.lora_sources or any(not isinstance(source, LocalFile) for source in listed):
        wanted, kept = settings.lora_cache_dir, cache_folder(settings.lora_cache_dir)
        if kept != wanted and wanted.parent.is_dir():
            remedy = f"make {wanted} writable for user {os.getuid()}: docs/deploy.md, Network volume and spool"
            yield Finding("LoRAs", "warn", f"{wanted} cannot be written: each worker downloads them anew", remedy)
        else:
            yield _space("LoRAs", kept, SPOOL_GIB, "LORA_CACHE_DIR names a folder with room")
    if not settings.outbox_dir.parent.is_dir():
        detail = f"{settings.outbox_dir.parent} is not there: what can be neither stored nor returned is lost"
        yield Finding("spool", "skipped", detail)
    else:
        remedy = f"make {settings.outbox_dir} writable for user {os.getuid()}: docs/deploy.md, Network volume and spool"
        yield _space("spool", settings.outbox_dir, SPOOL_GIB, remedy)


def _gib_to_download(settings: Settings, registry: ModelRegistry) -> int:
    """Return the GiB needed for downloads by the start or by jobs; 0: nothing is downloaded."""
    at_start = _preloaded(settings, registry)
    specs = [spec for _, _, spec in _specs(registry) if registry.may_download or spec in at_start]
    if any(part.kind == "hub" for spec in specs for part in spec.all):
        return DOWNLOADS_GIB
    asked: list[Callable[[], Iterable[WeightSource | None]]] = [lambda: (registry.safety(),)]
    if registry.may_download:
        asked += [lambda: (registry.depth(), registry.preview()), lambda: registry.served_controlnets().values()]
        asked += [lambda: (upscaler.main for upscaler in (registry.upscaler(),) if upscaler is not None)]
        asked += [lambda: (registry.ip_adapter(spec.main) for spec in specs if spec.family == "sdxl")]
    extras: list[WeightSource | None] = []
    for ask in asked:
        with contextlib.suppress(ModelUnavailable):  # each has a row of its own
            extras += ask()
    return EXTRAS_GIB if any(extra is not None and extra.kind == "hub" for extra in extras) else 0


def _space(name: str, folder: Path, wanted: int, remedy: str) -> Finding:
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free / GIB
    if not os.access(there, os.W_OK):
        return Finding(name, "fail", f"{folder} cannot be written", remedy)
    detail = f"{free:.0f} GiB free for {folder}"
    return Finding(name, "ok", detail) if free >= wanted else Finding(name, "warn", detail, remedy)


# --- The table ------------------------------------------------------------------------------------------------------

_MARKS: dict[State, tuple[str, str]] = {
    "ok": ("ok", "32"),
    "warn": ("warn", "33"),
    "fail": ("FAIL", "31;1"),
    "skipped": ("-", "90"),
}
_NAME, _DETAIL = 28, 62
"""Column widths; with the mark and the gaps a line has 100 columns."""


def table(title: str, findings: Iterable[Finding], *, colour: bool = False) -> str:
    """Format one section, 100 columns wide, optionally in ANSI colours."""
    lines = ["", title]
    for finding in findings:
        mark, code = _MARKS[finding.state]
        shown = f"\x1b[{code}m{mark:<4}\x1b[0m" if colour else f"{mark:<4}"
        names = textwrap.wrap(finding.name, _NAME) or [""]
        details = textwrap.wrap(finding.detail, _DETAIL, break_on_hyphens=False) or [""]
        details += textwrap.wrap(finding.remedy, _DETAIL, initial_indent="-> ", subsequent_indent="   ")
        for index in range(max(len(names), len(details))):
            name, detail = (part[index] if index < len(part) else "" for part in (names, details))
            lines.append(f"  {shown if index == 0 else '    '}  {name:<{_NAME}}  {detail}".rstrip())
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Run all checks and print them; return 1 if a row is red, else 0."""
    parser = argparse.ArgumentParser(prog="python -m worker.doctor", description="Look at all that the worker needs.")
    parser.add_argument("--json", action="store_true", help="the rows as JSON")
    as_json = parser.parse_args(argv).json
    set_library_defaults()
    logging.disable(logging.CRITICAL)  # the table reports the errors
    everything: list[dict[str, Any]] = []
    for title, findings in examine():
        everything += [{"section": title, **asdict(finding)} for finding in findings]
        if not as_json:
            sys.stdout.write(table(title, findings, colour=sys.stdout.isatty()) + "\n")
            sys.stdout.flush()
    red = sum(row["state"] == "fail" for row in everything)
    if as_json:
        sys.stdout.write(json.dumps(everything, indent=2) + "\n")
    else:
        yellow = sum(row["state"] == "warn" for row in everything)
        verdict = "all is well" if not red + yellow else f"{red} red, {yellow} to think about"
        sys.stdout.write(f"\n{verdict}\n")
    return 1 if red else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
