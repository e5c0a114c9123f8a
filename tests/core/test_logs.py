"""The log: one line per event, without secrets or tracebacks."""

import asyncio
import base64
import io
import json
import logging
import logging.handlers
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from worker.core.config import REPOSITORY, load_settings
from worker.core.logs import configure, job_id, redact, where

PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvSECRETSECRET\n-----END PRIVATE KEY-----\n"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJTRUNSRVQifQ.SECRET-signature_part"
SECRETS = {
    "a key": PEM,
    "a key that is cut off": PEM[:45] + "SECRET",
    "an RSA key": PEM.replace("PRIVATE", "RSA PRIVATE"),
    "a key inside JSON": json.dumps({"private_key": PEM}),
    "a key escaped twice": json.dumps(json.dumps({"private_key": PEM})),
    "a download URL": "https://storage/v0/b/x/o/y?alt=media&token=SECRET-0000&x=1",
    "a quoted URL": 'url="https://storage/?token=SECRET" and more',
    "a URL with a password": "https://somebody:SECRET@collector.example:4318/v1",
    "a URL with a password that has an @": "https://somebody:x@SECRET@collector.example:4318/v1",
    "a bearer": "Authorization: Bearer SECRET.abc-_~+/=",
    "an ID token": f"refused {JWT} here",
    "a key in base64": base64.b64encode(b'{"type": "service_account", "private_key": "' + b"x" * 40).decode()
    + "SECRET",
    "a key without its frame": "MIIEvQIBADANBgkq" + "hkiG9w0BAQEFAASC" * 4 + "SECRET",
    "an inline image": "data:image/png;base64,SECRETiVBORw0KGgoAAAANSUhEUg==",
}


@pytest.fixture
def root() -> Iterator[None]:
    """Restore what `configure` sets afterwards."""
    logger = logging.getLogger()
    handlers, level, kind, last = logger.handlers[:], logger.level, logging.getLoggerClass(), logging.lastResort
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook
    with warnings.catch_warnings():
        yield
    sys.excepthook, sys.unraisablehook, threading.excepthook = hooks
    logging.raiseExceptions, logging.lastResort = True, last
    logging.setLoggerClass(kind)
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch, root: None) -> io.StringIO:
    monkeypatch.setenv("RUNPOD_ENDPOINT_ID", "e1")
    stream = io.StringIO()
    configure(load_settings(), stream)
    return stream


@pytest.fixture
def laptop(root: None) -> io.StringIO:
    stream = io.StringIO()
    configure(load_settings(), stream)
    return stream


def only_line(stream: io.StringIO) -> str:
    text = stream.getvalue()
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1, text
    return text.rstrip("\n")


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_is_blotted_out(kind: str) -> None:
    assert "SECRET" not in redact(SECRETS[kind])
    assert "[redacted]" in redact(SECRETS[kind])


def test_what_stands_around_a_secret_is_kept() -> None:
    assert redact(f"before {PEM}after") == "before [redacted]\\nafter"
    assert redact("GET /o?token=abc&alt=media done") == "GET /o?token=[redacted]&alt=media done"
    assert redact("data:image/png;base64," + "A" * 40 + " end") == "data:image/png;base64,[redacted] end"


@pytest.mark.parametrize(
    "text", ["job completed", "token=", "eyJ is no token", "width: 1023", "https://host/a@b", "https://host?to=a@b"]
)
def test_plain_words_are_left_alone(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("place", ["message", "fact", "nested"])
def test_on_the_platform_every_line_is_json_without_secrets(platform: io.StringIO, kind: str, place: str) -> None:
    secret = SECRETS[kind]
    places: dict[str, dict[str, Any]] = {
        "message": {},
        "fact": {"url": secret},
        "nested": {"facts": {"urls": [secret]}},
    }
    extra = places[place]
    logging.getLogger("worker.x").warning(
        "seen %s", secret if place == "message" else "it", extra={"action": "a", **extra}
    )
    line = json.loads(only_line(platform))
    assert (line["level"], line["logger"], line["action"]) == ("WARNING", "worker.x", "a")
    assert line["message"].startswith("seen ")
    assert "SECRET" not in platform.getvalue()


def test_facts_keep_their_types_on_the_platform(platform: io.StringIO) -> None:
    facts = {"action": "job_done", "timings": {"load": 0.5}, "count": 3, "ok": True, "none": None, "at": 1.5}
    logging.getLogger("worker.x").info("done", extra=facts)
    line = json.loads(only_line(platform))
    assert facts.items() <= line.items()


def test_elsewhere_a_line_is_for_people(laptop: io.StringIO) -> None:
    logging.getLogger("worker").info("job %s", "completed", extra={"action": "job_done", "job_id": "j1"})
    assert only_line(laptop) == "INFO    worker: job completed  action=job_done job_id=j1"


@pytest.mark.parametrize("breaker", ["\n", "\r\n", "\x0b", "\x0c", "\x85", "\u2028", "\u2029", "\x1b[2J", "\x00"])
@pytest.mark.parametrize("kind", ["platform", "laptop"])
def test_no_text_of_a_client_starts_a_second_line(request: pytest.FixtureRequest, kind: str, breaker: str) -> None:
    stream: io.StringIO = request.getfixturevalue(kind)
    text = f"a{breaker}ERROR worker: forged"
    logging.getLogger("worker.x").info("%s", text, extra={"action": text})
    line = only_line(stream)
    assert breaker not in line


def test_an_error_is_logged_as_its_type_and_place(laptop: io.StringIO) -> None:
    def inner() -> None:
        raise ValueError("/srv/secret/path SECRET")

    try:
        inner()
    except ValueError:
        logging.getLogger("worker.x").exception("failed", extra={"action": "a"})
    line = only_line(laptop)
    assert "failed (ValueError in " in line
    assert "test_logs.inner:" in line
    for private in ("SECRET", "/srv", "Traceback", ".py"):
        assert private not in line


def test_where_has_no_path_and_no_message() -> None:
    try:
        json.loads("{SECRET")
    except ValueError as error:
        said = where(error)
    assert said.startswith("JSONDecodeError in test_logs.test_where_has_no_path_and_no_message:")
    assert "decoder.raw_decode:" in said
    for private in ("SECRET", "/", ".py"):
        assert private not in said
    assert where(ValueError("never raised")) == "ValueError in an unknown place"


def test_the_level_is_the_operators_and_chatty_libraries_stay_quiet(root: None) -> None:
    stream = io.StringIO()
    configure(load_settings(log_level="INFO"), stream)
    logging.getLogger("worker").debug("small talk")
    for library in ("httpx", "httpx2", "google.auth.transport", "one.that.comes.tomorrow"):
        logging.getLogger(library).info("GET https://host/path")
    assert stream.getvalue() == ""
    configure(load_settings(log_level="ERROR"), stream)
    with_its_own_level = logging.getLogger("urllib3")
    with_its_own_level.setLevel(logging.WARNING)  # as runpod does it
    with_its_own_level.warning("retrying host")
    logging.getLogger("worker").warning("never mind")
    assert stream.getvalue() == ""


def test_what_a_library_warns_of_is_logged_by_its_place(platform: io.StringIO) -> None:
    logging.getLogger("urllib3.pool").warning("retrying %s", "https://host/path?sig=SECRET", extra={"url": "SECRET"})
    line = json.loads(only_line(platform))
    assert line == {
        "level": "WARNING",
        "logger": "urllib3.pool",
        "message": line["message"],
    }
    assert line["message"].startswith("said in test_logs.test_what_a_library_warns_of_is_logged_by_its_place:")


@pytest.mark.parametrize("first", ["handler", "propagate"])
def test_a_library_that_writes_its_own_lines_leaves_them_to_the_worker(
    platform: io.StringIO, capsys: pytest.CaptureFixture[str], first: str
) -> None:
    """As torch, diffusers and transformers do it when they are imported."""
    library = logging.getLogger(f"library_{first}")
    if first == "handler":
        library.addHandler(logging.StreamHandler())
        library.propagate = False
    else:
        library.propagate = False
        library.addHandler(logging.StreamHandler())
    logging.getLogger(f"library_{first}.part").error("SECRET of /a/path")
    line = json.loads(only_line(platform))
    assert (line["level"], line["logger"]) == ("ERROR", f"library_{first}.part")
    assert line["message"].startswith("said in test_logs.")
    assert capsys.readouterr() == ("", "")


def test_a_librarys_other_handlers_and_what_it_keeps_to_itself_stay(platform: io.StringIO) -> None:
    library, seen = logging.getLogger("library_alone"), logging.handlers.BufferingHandler(9)
    library.addHandler(seen)
    library.propagate = False
    library.error("SECRET")
    assert [record.msg for record in seen.buffer] == ["SECRET"]
    assert platform.getvalue() == ""


def test_the_local_api_says_where_it_listens_and_on_the_platform_nothing_does(
    laptop: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = io.StringIO()
    logging.getLogger("uvicorn.local").addHandler(logging.StreamHandler(said))
    logging.getLogger("uvicorn.local").warning("listening")
    assert said.getvalue() == "listening\n"
    monkeypatch.setenv("RUNPOD_ENDPOINT_ID", "e1")
    configure(load_settings(), io.StringIO())
    logging.getLogger("uvicorn.platform").addHandler(logging.StreamHandler(said))
    logging.getLogger("uvicorn.platform").warning("SECRET")
    assert said.getvalue() == "listening\n"


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/srv/lib/python3.11/site-packages/torch/nn/functional.py", "torch.nn.functional:12"),
        ("/srv/app/worker/x.py", "x:12"),
        ("<string>", "<string>:12"),
        ("", ":12"),
    ],
)
def test_a_warning_is_logged_as_its_class_and_place(platform: io.StringIO, path: str, place: str) -> None:
    warnings.showwarning("SECRET of /a/path", FutureWarning, path, 12)
    line = json.loads(only_line(platform))
    assert (line["level"], line["action"]) == ("WARNING", "library_warned")
    assert line["message"] == f"FutureWarning in {place}"


@pytest.mark.e2e
def test_nothing_that_python_writes_by_itself_is_beside_the_log() -> None:
    code = (
        "import logging, threading, warnings; from worker.core import config, logs; "
        "logs.configure(config.load_settings(runpod_endpoint_id='e1'))\n"
        "def fail(prompt): raise ValueError(prompt)\n"
        "class Closed:\n    def __del__(self): fail('SECRET')\n"
        "warnings.warn('SECRET')\n"
        "thread = threading.Thread(target=fail, args=['SECRET']); thread.start(); thread.join()\n"
        "closed = Closed(); del closed\n"
        "alone = logging.getLogger('alone'); alone.propagate = False; alone.error('SECRET')\n"
        "logging.getLogger('library').error('SECRET %d', 'no number')\n"
        "fail('SECRET')\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    actions = ["library_warned", "thread_ended", "unraisable", None, "process_ended"]
    assert [line.get("action") for line in lines] == actions
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "SECRET" not in ran.stderr
    assert "/" not in ran.stderr


def test_each_line_names_the_job_that_it_is_of(platform: io.StringIO) -> None:
    token = job_id.set("job-1")
    logging.getLogger("worker.x").warning("small", extra={"action": "a"})
    logging.getLogger("library").warning("SECRET")
    logging.getLogger("worker.x").warning("of another", extra={"action": "a", "job_id": "job-2"})
    job_id.reset(token)
    logging.getLogger("worker.x").warning("of none", extra={"action": "a"})
    lines = [json.loads(line) for line in platform.getvalue().splitlines()]
    assert [line.get("job_id") for line in lines] == ["job-1", "job-1", "job-2", None]


async def test_a_callback_that_fails_is_logged_without_its_arguments(platform: io.StringIO) -> None:
    def fail(prompt: str) -> None:
        raise ValueError(prompt)

    asyncio.get_running_loop().call_soon(fail, "SECRET")
    await asyncio.sleep(0.01)
    line = only_line(platform)
    assert "ValueError in " in line
    assert "test_logs.fail:" in line
    for private in ("SECRET", "/"):
        assert private not in line


def test_logs_go_to_stderr_and_not_into_a_result(root: None, capsys: pytest.CaptureFixture[str]) -> None:
    configure(load_settings(), sys.stderr)
    logging.getLogger("worker.x").warning("hello")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "WARNING worker.x: hello\n")
