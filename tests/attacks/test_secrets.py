"""Every failure is provoked with marked secrets everywhere, and none of them may appear anywhere.

Values that legitimately contain a marked text are checked apart from all else: the document's `request_data` is its
owner's request, so it has the prompts and a source's URL (never the token, never an inline picture); the response and
the document of a finished job have the download URL of the job's own file, whose token opens it.
"""

import asyncio
import base64
import dataclasses
import gc
import io
import json
import logging
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.attacks.conftest import logged
from tests.support.attacked_world import note
from tests.support.clock import FIREBASE_DOWN_SECONDS
from tests.support.fakes import Hangs, HasNoModel, PaintingGenerator, Raises, Slow, is_down
from tests.support.memory_world import World
from worker.api.params import ModelDefaults, Params
from worker.api.request import Request
from worker.auth.caller import Identity, Users
from worker.auth.tickets import Tickets
from worker.core import timing
from worker.core.config import load_settings
from worker.core.errors import BackendError, Cancelled, GpuFault, Internal, OutOfMemory, Superseded, Unauthenticated
from worker.core.stop import StopSignal
from worker.core.types import Control, Sources, TaskType
from worker.delivery.own_objects import OwnObjects
from worker.engine.protocol import Generated, GeneratedImage, Placement
from worker.firebase.app import Firebase
from worker.job import runner
from worker.job.context import Job
from worker.job.services import Services
from worker.sources.http import Fetcher
from worker.sources.loader import SourceLoader
from worker.storage.results import Storage

pytestmark = pytest.mark.slow

PROMPT, NEGATIVE = "canary-prompt-5b1f", "canary-negative-77aa"
TOKEN, QUERY = "eyJhbGciOiJSUzI1NiJ9.canary-id-token-90c1.sig", "canary-query-4e2d"
INLINE = b"canary-inline-picture-3311" * 3
MESSAGE, HOST, FOLDER = "canary-message-c0de", "canary-host.example", "canary-folder-12ab"
TICKET_SECRET = "canary-ticket-secret-" + "0123456789" * 2

CANARIES = {
    "prompt": PROMPT,
    "negative prompt": NEGATIVE,
    "id_token": "canary-id-token-90c1",
    "a URL's query": QUERY,
    "an inline picture": base64.b64encode(INLINE).decode()[:40],
    "an inline picture, decoded": INLINE.decode()[:26],
    "an exception's message": MESSAGE,
    "a host": HOST,
    "another user's folder": FOLDER,
    "the ticket secret": TICKET_SECRET,
}
SPOKEN_BY_LIBRARIES = (
    f'{MESSAGE} Traceback (most recent call last): File "/runpod-volume/{MESSAGE}.py" token={QUERY} {PROMPT} '
    f"https://{HOST}/o?token={QUERY} -----BEGIN PRIVATE KEY-----\nMIIE{MESSAGE}\n-----END PRIVATE KEY-----"
)
"""The message of a library's exception."""

FORBIDDEN = re.compile(
    r"Traceback|File \"|(?<![\w.:/])/(?:work|usr|home|root|tmp|etc|app|opt|var|runpod-volume)/|PRIVATE KEY"
    r"|token=(?!\[redacted\])[^&\s\"']|\b127\.0\.0\.1|\.googleapis\.com|--- Logging error"
)
CLOUD = {
    "prompt": PROMPT + " a fox",
    "negative_prompt": NEGATIVE,
    "use_cloud_storage": True,
    "user_id": "user",
    "file_uid": "file",
    "id_token": TOKEN,
    "seed": 7,
}
SOURCE = {**CLOUD, "task_type": "img2img"}
ANSWERS = ("images", "image_url", "videos", "video_url", "files")
"""Fields that hold results: URLs with their own tokens, or the picture itself."""


class Anybody:
    """`Users` for whom every token is the user's, or which fail with a message full of secrets."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def uid(self, id_token: str) -> str:
        if self.error is not None:
            raise self.error
        return "user"


class Failing(World):
    """A worker that fails in some way."""

    def __init__(self, generator: PaintingGenerator | None = None, users: Users | None = None, **settings: Any) -> None:
        super().__init__(generator, log_level="DEBUG", **settings)
        self._users = users or Anybody()
        self.responses: list[dict[str, Any]] = []

    def services(self) -> Services:
        services = super().services()
        read = OwnObjects(services.storage, services.documents) if services.storage else None
        fetcher = Fetcher(1_000_000, deadline_seconds=1, resolve=self._resolve)
        return dataclasses.replace(
            services,
            sources=SourceLoader(self.settings, read, fetcher),
            identity=Identity(self._users, Tickets(TICKET_SECRET), required=True),
        )

    def _resolve(self, host: str, port: int) -> list[str]:
        if host == HOST:
            raise OSError(SPOKEN_BY_LIBRARIES)
        return [host]

    async def run(self, job_input: object, job_id: str = "job-1", stop: StopSignal | None = None) -> dict[str, Any]:
        response = await super().run(job_input, job_id, stop)
        self.responses.append(response)
        return response


def noisy(*calls: str) -> Callable[[str, str], None]:
    """Return a hook that fails these calls with an error that nothing translates."""

    def fail(call: str, _path: str) -> None:
        if not calls or call in calls:
            raise RuntimeError(SPOKEN_BY_LIBRARIES)

    return fail


class CannotDescribe(PaintingGenerator):
    """Fails when asked for its defaults."""

    def describe(self, task_type: TaskType, model: str | None = None) -> ModelDefaults:
        raise KeyError(SPOKEN_BY_LIBRARIES)


class CannotLoad(PaintingGenerator):
    """Fails to load."""

    def prepare(self, request: Request, params: Params, control: Control) -> Placement:
        raise OSError(2, SPOKEN_BY_LIBRARIES, f"/runpod-volume/{MESSAGE}")


class PaintsNonsense(PaintingGenerator):
    """Returns pixels that no encoder accepts."""

    def generate(self, request: Request, params: Params, sources: Sources, control: Control) -> Iterator[Generated]:
        yield GeneratedImage(0, 7, np.array([MESSAGE] * 4))


def chained() -> Exception:
    """Return an error with a cause and notes, all full of secrets."""
    error = RuntimeError(SPOKEN_BY_LIBRARIES)
    error.__cause__ = ValueError(SPOKEN_BY_LIBRARIES)
    error.add_note(SPOKEN_BY_LIBRARIES)
    return error


Scenario = Callable[[], Awaitable[Failing]]


async def asked(world: Failing, *job_inputs: object) -> Failing:
    for number, job_input in enumerate(job_inputs):
        await world.run(job_input, f"job-{number}")
    return world


async def with_firebase(
    documents: Callable[[str, str], None] | None, bucket: Callable[[str, str], None] | None
) -> Failing:
    world = Failing()
    world.documents.before = documents or world.documents.before
    world.bucket.before = bucket or world.bucket.before
    return await asked(world, CLOUD)


async def midway(world: Failing, do: Callable[[Failing, StopSignal], None], job: dict[str, Any] = CLOUD) -> Failing:
    """Interfere while the model is at its third step."""
    stop = StopSignal()
    running = asyncio.create_task(world.run(job, stop=stop))
    while world.generator.steps_done < 3:
        await asyncio.sleep(0.01)
    do(world, stop)
    await running
    return world


async def hung() -> Failing:
    generator = Hangs()
    world = await asked(Failing(generator, job_timeout_seconds=0.3), CLOUD)
    generator.release.set()
    return world


async def blocked_while_claim_fails() -> Failing:
    """Let two things fail at once: only one can be the outcome, and the other must not end up in the log either."""
    world = Failing()
    world.documents.before = noisy("read")
    world.bucket.before = noisy("info")
    return await asked(world, {**SOURCE, "image_url": f"https://127.0.0.1/{MESSAGE}?token={QUERY}"})


async def refused_while_sources_fail() -> Failing:
    world = await asked(Failing(), CLOUD)
    return await asked(world, {**SOURCE, "image_url": f"https://{HOST}/a?token={QUERY}"})


def inline_data(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


OTHERS = f"gs://demo-bucket/uploads/{FOLDER}/a.png"
LONG = "x" * 24
SCENARIOS: dict[str, tuple[str | None, Scenario]] = {
    # name: the expected code, and how to provoke it
    "finished": (None, lambda: asked(Failing(), CLOUD)),
    "finished inline": (None, lambda: asked(Failing(), {**CLOUD, "use_cloud_storage": False})),
    "asked again": (None, lambda: asked(Failing(), CLOUD, CLOUD)),
    "asked again with another prompt": ("idempotency_mismatch", lambda: asked(Failing(), CLOUD, {**CLOUD, "seed": 8})),
    "a bad field": ("invalid_input", lambda: asked(Failing(), {**CLOUD, "width": 1023})),
    "a long prompt": ("invalid_input", lambda: asked(Failing(), {**CLOUD, "prompt": PROMPT * 1000})),
    "a prompt that is no string": (
        "invalid_input",
        lambda: asked(Failing(), {**CLOUD, "prompt": [PROMPT, {"a": PROMPT}]}),
    ),
    "a bad id": ("invalid_input", lambda: asked(Failing(), {**CLOUD, "user_id": f"{LONG}/../{FOLDER}"})),
    "a bad URL": ("invalid_input", lambda: asked(Failing(), {**SOURCE, "image_url": f"http://{LONG}?{QUERY}"})),
    "a long token": ("invalid_input", lambda: asked(Failing(), {**CLOUD, "id_token": TOKEN * 1000})),
    "a token that is no string": ("invalid_input", lambda: asked(Failing(), {**CLOUD, "id_token": {"token": TOKEN}})),
    "an unknown field": (
        "invalid_input",
        lambda: asked(Failing(), {**CLOUD, "apiKey": QUERY, "s3Config": {"secret": QUERY}}),
    ),
    "a blocked URL": (
        "url_blocked",
        lambda: asked(Failing(), {**SOURCE, "image_url": f"https://10.0.0.1/?token={QUERY}"}),
    ),
    "a URL with a password": (
        "url_blocked",
        lambda: asked(Failing(), {**SOURCE, "image_url": f"https://u:{QUERY}@{HOST}/"}),
    ),
    "an unknown host": (
        "download_failed",
        lambda: asked(Failing(), {**SOURCE, "image_url": f"https://{HOST}/?token={QUERY}"}),
    ),
    "a broken inline picture": (
        "invalid_image",
        lambda: asked(Failing(), {**SOURCE, "image_url": inline_data(INLINE)}),
    ),
    "broken base64": ("invalid_input", lambda: asked(Failing(), {**SOURCE, "image_url": inline_data(INLINE) + "!"})),
    "another user's folder": ("forbidden", lambda: asked(Failing(), {**SOURCE, "image_url": OTHERS})),
    "no such object": (
        "download_failed",
        lambda: asked(Failing(), {**SOURCE, "image_url": f"gs://demo-bucket/uploads/user/{FOLDER}.png"}),
    ),
    "an expired token": ("unauthenticated", lambda: asked(Failing(users=Anybody(Unauthenticated())), CLOUD)),
    "a token nobody could check": (
        "internal",
        lambda: asked(Failing(users=Anybody(BackendError("auth", "unreachable"))), CLOUD),
    ),
    "a check that broke": ("internal", lambda: asked(Failing(users=Anybody(RuntimeError(SPOKEN_BY_LIBRARIES))), CLOUD)),
    "no token": ("unauthenticated", lambda: asked(Failing(), {**CLOUD, "id_token": None})),
    "no model": ("model_unavailable", lambda: asked(Failing(HasNoModel()), CLOUD)),
    "a model that cannot say what it is": ("internal", lambda: asked(Failing(CannotDescribe()), CLOUD)),
    "a model that cannot be loaded": ("internal", lambda: asked(Failing(CannotLoad()), CLOUD)),
    "a model that breaks": ("internal", lambda: asked(Failing(Raises(RuntimeError(SPOKEN_BY_LIBRARIES))), CLOUD)),
    "a model that breaks with causes": ("internal", lambda: asked(Failing(Raises(chained())), CLOUD)),
    "a model with an error of ours": (
        "internal",
        lambda: asked(Failing(Raises(Internal("internal.no_picture"))), CLOUD),
    ),
    "pixels of nonsense": ("internal", lambda: asked(Failing(PaintsNonsense()), CLOUD)),
    "host memory": ("internal", lambda: asked(Failing(Raises(MemoryError(SPOKEN_BY_LIBRARIES))), CLOUD)),
    "card memory": ("out_of_memory", lambda: asked(Failing(Raises(OutOfMemory())), CLOUD)),
    "a broken card": ("gpu_fault", lambda: asked(Failing(Raises(GpuFault())), CLOUD)),
    "a step that hangs": ("timeout", hung),
    "a timeout": ("timeout", lambda: asked(Failing(Slow(steps=50), job_timeout_seconds=0.4), CLOUD)),
    "cancelled": ("cancelled", lambda: midway(Failing(Slow(steps=30)), lambda _, stop: stop.request(Cancelled()))),
    "superseded": ("superseded", lambda: midway(Failing(Slow(steps=30)), lambda _, stop: stop.request(Superseded()))),
    "deleted": (
        "deleted",
        lambda: midway(
            Failing(Slow(steps=60)), lambda world, _: world.documents.write_as_app("generations/user/files/file", None)
        ),
    ),
    "a result that does not fit": (
        "result_too_large",
        lambda: asked(
            Failing(PaintingGenerator(side=256), max_result_bytes=10_000),
            {**CLOUD, "use_cloud_storage": False, "task_type": "text2video", "num_frames": 33},
        ),
    ),
    "an upload that fails": (None, lambda: with_firebase(None, is_down("storage", "refused"))),
    "an upload that breaks": ("internal", lambda: with_firebase(None, noisy("upload"))),
    "a look that breaks": ("internal", lambda: with_firebase(None, noisy("info"))),
    "a document that cannot be had": (None, lambda: with_firebase(is_down("firestore", "refused"), None)),
    "a document that breaks": ("internal", lambda: with_firebase(noisy(), None)),
    "a document that breaks at the end": ("internal", lambda: with_firebase(noisy("update"), None)),
    "everything down": (None, lambda: with_firebase(is_down("firestore", "refused"), is_down("storage", "refused"))),
    "two failures at once": ("internal", blocked_while_claim_fails),
    "a refusal and a failed source at once": ("idempotency_mismatch", refused_while_sources_fail),
}


@pytest.fixture(scope="module", autouse=True)
def _old_objects_are_left_alone() -> Iterator[None]:
    """Exclude objects from before these tests from every `gc.collect`, which would otherwise go through them all."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(params=["platform", "laptop"])
def log(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Yield everything that any logger writes, in the worker's own two formats, at DEBUG."""
    settings = load_settings(log_level="DEBUG")
    monkeypatch.setattr(timing, "STOP_GRACE_SECONDS", 0.3)
    where = {"runpod_endpoint_id": "e1" if request.param == "platform" else None}
    with logged(settings.model_copy(update=where)) as stream:
        yield stream


def check(kind: str, text: str) -> None:
    for name, canary in CANARIES.items():
        assert canary not in text, f"{name} is in the {kind}: {text[max(0, text.index(canary) - 300) :][:600]}"
    found = FORBIDDEN.search(text)
    assert found is None, f"{found} in the {kind}: {text[max(0, found.start() - 300) :][:600]}"


def check_all(world: World, responses: list[dict[str, Any]], log: io.StringIO, printed: str) -> None:
    for response in responses:
        rest = {name: value for name, value in response.items() if name not in ANSWERS}
        check("response", json.dumps(rest))
    for states in world.documents.history.values():
        for state in states:
            rest = {name: value for name, value in state.items() if name not in {"request_data", "generation_data"}}
            data = {name: value for name, value in state.get("generation_data", {}).items() if name not in ANSWERS}
            check("document", json.dumps([rest, data], default=str))
            own = json.dumps(state["request_data"])
            kept = {"prompt": PROMPT, "negative prompt": NEGATIVE, "a URL's query": QUERY, "a host": HOST}
            kept |= {"another user's folder": FOLDER, "an exception's message": MESSAGE}  # from the URL that was sent
            for name, canary in CANARIES.items():
                assert name in kept or canary not in own, f"{name} is in request_data"
    for _data, info, content_type in world.bucket.objects.values():
        metadata = {name: value for name, value in info.metadata.items() if name != "firebaseStorageDownloadTokens"}
        check("object", json.dumps([metadata, content_type]))
    said = log.getvalue()
    check("log", said)
    check("output", printed)
    for token in re.findall(r"token=([\w-]{36})", json.dumps(responses)):
        assert token not in said
        assert token not in printed
    assert all(line.startswith(("{", "DEBUG", "INFO", "WARNING", "ERROR")) for line in said.splitlines())


@pytest.mark.parametrize("name", SCENARIOS)
async def test_no_failure_tells_what_it_should_not(
    name: str, log: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    code, scenario = SCENARIOS[name]
    world = await scenario()
    gc.collect()  # asyncio now reports the tasks that nobody awaited, with all it knows
    await asyncio.sleep(0)
    printed = capfd.readouterr()
    assert world.responses[-1].get("error_code") == code, world.responses[-1]
    check_all(world, world.responses, log, printed.out + printed.err)
    assert "job_done" in log.getvalue()
    note((61, "every failure, searched for secrets"), **{"refused" if code else "harmless": 1})


# --- with Google's real clients ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("log", ["platform"], indirect=True)
async def test_a_real_client_that_gets_no_access_says_nothing_of_its_key(
    log: io.StringIO, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is real and its token endpoint does not respond: google-auth, requests and urllib3 all complain."""
    options = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(*options).decode()
    account = {
        "type": "service_account",
        "project_id": "demo-project",
        "private_key_id": "canary-key-id-0000",
        "private_key": pem,
        "client_email": "canary-email@demo-project.iam.gserviceaccount.com",
        "token_uri": "http://127.0.0.1:9/canary-token-uri",
    }
    settings = load_settings(
        firebase_service_account_key=json.dumps(account), firebase_storage_bucket="canary-bucket", log_level="DEBUG"
    )
    bucket = Firebase(settings).bucket
    assert bucket is not None
    world = Failing()
    services = dataclasses.replace(world.services(), storage=Storage(bucket), settings=settings)
    monkeypatch.setattr(timing, "UPLOAD_SECONDS", 2.0)
    started = time.monotonic()
    response = await runner.run(Job("job-1", CLOUD), services, StopSignal())
    assert time.monotonic() - started < FIREBASE_DOWN_SECONDS
    assert response["storage"] == "base64"
    gc.collect()
    printed = capfd.readouterr()
    check_all(world, [response], log, printed.out + printed.err)
    said = log.getvalue() + printed.out + printed.err + json.dumps(response)
    for secret in (
        *pem.splitlines()[1:-1],
        "canary-key-id",
        "canary-email",
        "canary-token-uri",
        str(settings.model_dump()),
    ):
        assert secret not in said
    assert "canary" not in (repr(settings) + str(settings.model_dump())).replace("canary-bucket", "")


def test_a_logger_that_is_used_wrongly_tells_nothing(log: io.StringIO, capfd: pytest.CaptureFixture[str]) -> None:
    """A log call that cannot be formatted would be printed by Python itself, with its arguments."""

    class Unprintable:
        def __str__(self) -> str:
            raise ValueError(SPOKEN_BY_LIBRARIES)

    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if getattr(handler, "stream", None) is log]
    library = logging.getLogger("library")
    library.warning("%s and %s", *[SPOKEN_BY_LIBRARIES])
    library.warning("%d", SPOKEN_BY_LIBRARIES)
    library.warning("%s", Unprintable())
    library.warning("x", extra={"fact": Unprintable()})
    printed = capfd.readouterr()
    check("output", printed.out + printed.err)
    check("log", log.getvalue())


async def test_a_task_that_nobody_waits_for_tells_nothing(log: io.StringIO) -> None:
    """asyncio reports it with the task, its file and the unredacted exception."""

    async def fail() -> None:
        raise RuntimeError(SPOKEN_BY_LIBRARIES)

    lost = asyncio.create_task(fail())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del lost
    gc.collect()
    assert "asyncio" in log.getvalue()
    assert "RuntimeError in" in log.getvalue()
    check("log", log.getvalue())


def test_a_thread_that_ends_with_an_error_tells_nothing(log: io.StringIO, capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise RuntimeError(SPOKEN_BY_LIBRARIES)

    thread = threading.Thread(target=fail, name="lost")
    thread.start()
    thread.join()
    printed = capfd.readouterr()
    assert "a thread ended with RuntimeError in" in log.getvalue()
    check("output", printed.out + printed.err)
    check("log", log.getvalue())
