"""Firebase's adapter: keys in every shape they arrive in, users by their tokens, and what an outage costs a job."""

import base64
import json
import logging
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import firebase_admin
import pytest
from google.auth import exceptions as google_auth
from google.oauth2 import id_token

from tests.support.clock import FIREBASE_DOWN_SECONDS
from tests.support.faulty_firebase import Fault, FaultyFirebase
from tests.support.faulty_world import World, cloud
from tests.support.tokens import new_key, public_of, unsigned, user_claims, user_token
from tools import showing
from tools.emulators.firebase import FirebaseEmulators
from worker.core.config import ConfigError, load_settings
from worker.core.errors import BackendError, Unauthenticated
from worker.firebase.app import Firebase, FirebaseUsers
from worker.firebase.credentials import read_key
from worker.firebase.firestore import FirestoreStore

# -- the key


@pytest.fixture(scope="module")
def pem() -> str:
    return new_key(1024)  # each reader checks its primes


@pytest.fixture(scope="module")
def account(pem: str) -> dict[str, str]:
    return {
        "type": "service_account",
        "project_id": "demo-project",
        "private_key_id": "0123456789abcdef",
        "private_key": pem,
        "client_email": "worker@demo-project.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": "https://oauth2.googleapis.com/token",
    }


SHAPES: dict[str, Callable[[dict[str, str]], str]] = {
    "JSON": json.dumps,
    "JSON on many lines": lambda account: json.dumps(account, indent=2),
    "in single quotes": lambda account: f"'{json.dumps(account)}'",
    "in double quotes, with spaces": lambda account: f' "{json.dumps(account)}"\n',
    "base64": lambda account: base64.b64encode(json.dumps(account).encode()).decode(),
    "base64 on many lines": lambda account: base64.encodebytes(json.dumps(account).encode()).decode(),
    "real newlines inside the JSON": lambda account: json.dumps(account).replace("\\n", "\n"),
    "newlines escaped once more": lambda account: json.dumps(account).replace("\\n", "\\\\n"),
    "newlines escaped twice more": lambda account: json.dumps(account).replace("\\n", "\\\\\\\\n"),
    "every newline of a multi-line JSON escaped": lambda account: json.dumps(account, indent=2).replace("\n", "\\n"),
    "CRLF": lambda account: json.dumps({**account, "private_key": account["private_key"].replace("\n", "\r\n")}),
    "CRLF around the fields": lambda account: json.dumps(account, indent=2).replace("\n", "\r\n"),
    "the key itself in quotes": lambda account: json.dumps({**account, "private_key": f'"{account["private_key"]}"'}),
    "no newline at the key's end": lambda account: json.dumps(
        {**account, "private_key": account["private_key"].strip()}
    ),
    "the key's newlines as blanks": lambda account: json.dumps(
        {**account, "private_key": account["private_key"].replace("\n", " ")}
    ),
    "the key without newlines": lambda account: json.dumps(
        {**account, "private_key": account["private_key"].replace("\n", "")}
    ),
    "a byte order mark": lambda account: "\ufeff" + json.dumps(account),
    "a byte order mark misread": lambda account: "ï»¿" + json.dumps(account),
    "a comma behind it": lambda account: json.dumps(account) + ",\n",
    "a comma behind its last field": lambda account: json.dumps(account, indent=2).removesuffix("\n}") + ",\n}",
    "its quotes escaped": lambda account: json.dumps(json.dumps(account)),
    "its quotes escaped, with none around": lambda account: json.dumps(json.dumps(account))[1:-1],
    "typographic quotes": lambda account: re.sub('"([^"]*)"', r"“\1”", json.dumps(account)),
    "blanks of a web page": lambda account: json.dumps(account, separators=(",", ":\u00a0")),
    "a block of YAML": lambda account: "|\n  " + json.dumps(account, indent=2).replace("\n", "\n  "),
    "a line of PowerShell": lambda account: f"$env:GOOGLE_KEY = '{json.dumps(account)}'",
    "a constant of a script": lambda account: f"const serviceAccount = {json.dumps(account, indent=2)};",
    "as Python prints it": str,
    "base64 of UTF-16": lambda account: base64.b64encode(json.dumps(account).encode("utf-16")).decode(),
    "base64 of UTF-16 without a mark": lambda account: base64.b64encode(
        json.dumps(account).encode("utf-16-le")
    ).decode(),
    "base64 with a byte order mark in it": lambda account: base64.b64encode(
        json.dumps(account).encode("utf-8-sig")
    ).decode(),
    "base64 for URLs": lambda account: base64.urlsafe_b64encode(json.dumps({**account, "x": "ÿþ?>"}).encode()).decode(),
    "base64 without padding": lambda account: base64.b64encode(json.dumps(account).encode()).decode().rstrip("="),
    "base64 with CRLF and quotes": lambda account: (
        '"' + base64.encodebytes(json.dumps(account).encode()).decode().replace("\n", "\r\n") + '"'
    ),
    "base64 with escaped newlines": lambda account: (
        base64.encodebytes(json.dumps(account).encode()).decode().replace("\n", "\\n")
    ),
    "base64 as certutil frames it": lambda account: (
        "-----BEGIN CERTIFICATE-----\r\n"
        + base64.encodebytes(json.dumps(account).encode()).decode()
        + "-----END CERTIFICATE-----\r\n"
    ),
    "a data URI": lambda account: (
        "data:application/json;base64," + base64.b64encode(json.dumps(account).encode()).decode()
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_key_is_read_in_whatever_shape_it_arrives_and_google_takes_it(account: dict[str, str], shape: str) -> None:
    key = read_key(SHAPES[shape](account))
    assert key | {"private_key": "", "x": ""} == account | {"private_key": "", "x": ""}
    assert "\\" not in key["private_key"]
    certificate = firebase_admin.credentials.Certificate(key)
    assert certificate.project_id == "demo-project"
    assert certificate.get_credential().sign_bytes(b"x")


@pytest.mark.parametrize("shape", ["JSON", "JSON on many lines", "base64", "newlines escaped once more"])
def test_a_key_is_read_from_a_file(account: dict[str, str], shape: str, tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    if shape == "base64":
        # Not a file's content: the content of a variable of less than 1024 characters.
        short = {name: account[name] for name in ("type", "project_id", "client_email", "token_uri")}
        short["private_key"] = "k"
        assert read_key(base64.b64encode(json.dumps(short).encode()).decode())["project_id"] == "demo-project"
        return
    path.write_text(SHAPES[shape](account))
    key = read_key(str(path))
    assert firebase_admin.credentials.Certificate(key).project_id == "demo-project"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "base64"])
def test_a_key_file_is_read_as_windows_writes_it(account: dict[str, str], encoding: str, tmp_path: Path) -> None:
    """PowerShell's `>` writes UTF-16, Notepad a byte order mark, both CRLF; `base64 key.json > key` leaves base64."""
    text = json.dumps(account, indent=2).replace("\n", "\r\n")
    path = tmp_path / "my key.json"
    path.write_bytes(base64.encodebytes(text.encode()) if encoding == "base64" else text.encode(encoding))
    for pasted in (str(path), f'"{path}"\n', f"file://{path}"):
        assert firebase_admin.credentials.Certificate(read_key(pasted)).project_id == "demo-project"


OTHER_FILES = {
    "google-services.json": '{"project_info": {"project_id": "demo"}, "client": [], "configuration_version": "1"}',
    "GoogleService-Info.plist": '<?xml version="1.0"?><plist version="1.0"><dict><key>API_KEY</key></dict></plist>',
    "a web app": 'const firebaseConfig = {\n  apiKey: "AIzaSyXXXXXXXX",\n  authDomain: "demo.firebaseapp.com",\n};',
    "of a web app": '{"apiKey": "AIzaSyXXXXXXXX", "projectId": "demo"}',
    "configuration of a web app": "AIzaSyXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX",
    "a person's own login": '{"type": "authorized_user", "client_id": "x", "client_secret": "y", "refresh_token": "z"}',
    "a login that stands for": '{"type": "impersonated_service_account", "source_credentials": {}}',
    "without its key": '{"type": "external_account", "service_account_impersonation_url": "https://x"}',
    "an OAuth client": '{"installed": {"client_id": "x", "client_secret": "y"}}',
    "no secret is called so": "{{ RUNPOD_SECRET_firebase_key }}",
    "the private key alone": "-----BEGIN PRIVATE KEY-----\nMIIEvSECRET\n-----END PRIVATE KEY-----\n",
}


@pytest.mark.parametrize("what", OTHER_FILES)
def test_another_file_in_the_keys_place_is_called_by_its_name(what: str, tmp_path: Path) -> None:
    """The downloads of the Firebase console look alike: the error names this one, and where to find the right one."""
    file = tmp_path / "key.json"
    file.write_text(OTHER_FILES[what])
    for value in (OTHER_FILES[what], str(file), base64.b64encode(OTHER_FILES[what].encode()).decode()):
        with pytest.raises(ConfigError) as caught:
            read_key(value)
        assert str(caught.value).startswith("FIREBASE_SERVICE_ACCOUNT_KEY: is not the key of a service account but ")
        assert what in str(caught.value)
        assert "Generate new private key" in str(caught.value)
        for part in ("XXXX", "SECRET\n", '"y"', str(tmp_path)):
            assert part not in str(caught.value)


def test_only_the_first_line_of_a_key_is_told_from_nonsense() -> None:
    """Docker's env file keeps that much of JSON on many lines."""
    with pytest.raises(ConfigError, match="only its first part arrived"):
        read_key("{")


@pytest.mark.parametrize("field", ["project_id", "client_email", "private_key", "token_uri"])
def test_a_field_that_is_missing_is_named(account: dict[str, str], field: str) -> None:
    with pytest.raises(ConfigError, match=f"it lacks {field}") as caught:
        read_key(json.dumps({name: value for name, value in account.items() if name != field}))
    assert "MII" not in str(caught.value)


def _garbled(pem: str) -> str:
    lines = pem.splitlines()
    return "\n".join([lines[0], *reversed(lines[1:-1]), lines[-1]])


BROKEN: dict[str, Callable[[dict[str, str]], str]] = {
    "cut off": lambda account: json.dumps(account)[:900],
    "cut off base64": lambda account: SHAPES["base64"](account)[:-50] + "!",
    "not an object": lambda account: json.dumps([account["private_key"]]),
    "only the key": lambda account: account["private_key"],
    "another kind of key": lambda account: json.dumps({**account, "type": "authorized_user"}),
    "a key that is none": lambda account: json.dumps({**account, "private_key": _garbled(account["private_key"])}),
    "a key that is a number": lambda account: json.dumps({**account, "private_key": 5}),
    "half a key": lambda account: json.dumps({**account, "private_key": account["private_key"][:800]}),
    "no key": lambda account: json.dumps({**account, "private_key": ""}),
    "a missing file": lambda _account: "/nowhere/key.json",
    "a folder": lambda _account: "/",
    "an unknown home": lambda _account: "~nobody-of-that-name/key.json",
    "a null byte": lambda _account: "/a\0b",
    "noise": lambda _account: "\u202e\ud7ff" * 40,
    "deep nesting": lambda _account: '{"a":' * 100_000,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_key_is_a_clear_error_that_holds_nothing_of_it(
    account: dict[str, str], kind: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    value = BROKEN[kind](account)
    with pytest.raises(ConfigError) as caught:
        Firebase(load_settings(firebase_service_account_key=value, firebase_storage_bucket="demo-bucket")).connect()
    assert str(caught.value).startswith("FIREBASE_SERVICE_ACCOUNT_KEY: ")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    said = str(caught.value) + repr(caught.value) + caplog.text + "".join(capfd.readouterr())
    body = account["private_key"].splitlines()[1:-1]
    for part in ("PRIVATE KEY", *body, account["client_email"], "/nowhere", "nobody-of-that-name"):
        assert part not in said


def test_a_path_that_is_another_machines_is_told_from_a_file_that_is_closed(tmp_path: Path) -> None:
    said = {
        "/nowhere/key.json": "names a file that is not there; a path is one",
        str(tmp_path): "cannot be read; a path",
    }
    for path, words in said.items():
        with pytest.raises(ConfigError, match=words):
            Firebase(load_settings(firebase_service_account_key=path))


def test_without_a_key_there_is_nothing_to_connect() -> None:
    with pytest.raises(ConfigError, match="is not set"):
        Firebase(load_settings())


def test_a_good_key_makes_the_clients_without_asking_anybody(account: dict[str, str]) -> None:
    firebase = Firebase(
        load_settings(firebase_service_account_key=json.dumps(account), firebase_storage_bucket="demo-bucket")
    )
    assert firebase.project == "demo-project"
    firebase.connect()
    assert isinstance(firebase.documents, FirestoreStore)
    assert firebase.bucket is not None
    assert firebase.bucket.name == "demo-bucket"


def test_without_a_bucket_there_are_documents_only(account: dict[str, str]) -> None:
    firebase = Firebase(load_settings(firebase_service_account_key=json.dumps(account)))
    firebase.connect()
    assert (firebase.bucket, firebase.documents is None) == (None, False)


@pytest.mark.parametrize(
    ("variables", "there"),
    [
        ({"FIRESTORE_EMULATOR_HOST": "127.0.0.1:1"}, (True, False)),
        ({"STORAGE_EMULATOR_HOST": "http://127.0.0.1:1"}, (False, True)),
    ],
)
def test_one_emulator_alone_never_leads_to_the_real_other_one(
    variables: dict[str, str], there: tuple[bool, bool], account: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    key = json.dumps(account)
    firebase = Firebase(load_settings(firebase_storage_bucket="demo-bucket", firebase_service_account_key=key))
    assert (firebase.documents is not None, firebase.bucket is not None) == there


def test_a_broken_private_key_is_blamed_on_the_key_and_a_bucket_beside_it_on_nothing(account: dict[str, str]) -> None:
    """firebase-admin-python#280: a bucket written as gs://name was reported as an unreadable key."""
    broken = json.dumps({**account, "private_key": _garbled(account["private_key"])})
    settings = load_settings(firebase_service_account_key=broken, firebase_storage_bucket="gs://demo-app.appspot.com/")
    for ask in (Firebase(settings).connect, lambda: Firebase(settings).documents, lambda: Firebase(settings).bucket):
        with pytest.raises(ConfigError, match="FIREBASE_SERVICE_ACCOUNT_KEY: its private key cannot be read"):
            ask()


@pytest.mark.parametrize(
    ("field", "value", "variable", "left"),
    [
        ("firebase_storage_bucket", "gs://demo-app.appspot.com/", "FIREBASE_STORAGE_BUCKET", (True, False)),
        ("firestore_database", 7, "FIRESTORE_DATABASE", (False, True)),
    ],
)
def test_what_googles_library_refuses_costs_itself_alone(
    account: dict[str, str],
    field: str,
    value: object,
    variable: str,
    left: tuple[bool, bool],
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = load_settings(firebase_service_account_key=json.dumps(account), firebase_storage_bucket="demo-bucket")
    firebase = Firebase(settings.model_copy(update={field: value}))  # bypasses the check at start
    firebase.connect()
    assert (firebase.documents is not None, firebase.bucket is not None) == left
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{variable}: ")


@pytest.mark.parametrize("database", ["(default)", "default", "photos"])
def test_documents_are_in_the_database_that_is_named(account: dict[str, str], database: str) -> None:
    """firebase-admin-python#718: it was always (default)."""
    key = json.dumps(account)
    firebase = Firebase(load_settings(firebase_service_account_key=key, firestore_database=database))
    assert firebase.documents is not None
    assert firebase.documents.client._database == database
    assert str(firebase) == f"project demo-project, database {database}, bucket none"


@pytest.mark.parametrize("project", [None, "demo-elsewhere"])
@pytest.mark.parametrize("database", ["(default)", "photos"])
def test_with_emulators_documents_land_in_the_named_database_of_the_keys_project_or_the_one_that_is_named_first(
    firebase: FirebaseEmulators,
    account: dict[str, str],
    project: str | None,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variables = {**firebase.env, "FIREBASE_SERVICE_ACCOUNT_KEY": json.dumps({**account, "private_key": "not needed"})}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GCLOUD_PROJECT")
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT")
    if project:
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", project)
    monkeypatch.setenv("FIRESTORE_DATABASE", database)
    connected = Firebase(load_settings())
    connected.connect()
    store = connected.documents
    assert store is not None
    expected = project or "demo-project"
    assert (connected.project, connected.account) == (expected, None)
    lost = {"status": "processing", "expires_at": datetime(2020, 1, 1, tzinfo=UTC)}
    assert store.create("generations/user/files/file", lost, timeout=5) is not None
    assert store.older("processing", "expires_at", datetime.now(UTC), limit=9, timeout=5) == [
        "generations/user/files/file"
    ]
    places = [(name, id_) for name in (expected, firebase.project) for id_ in ("(default)", "photos", "default")]
    found = [at for at in places if firebase.documents_in(*at).document("generations/user/files/file").get().exists]
    assert found == [(expected, database)]


def test_emulators_need_no_key_and_with_a_named_project_read_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", "127.0.0.1:1")
    assert Firebase(load_settings()).project == "demo-worker"
    broken = load_settings(firebase_service_account_key="{", google_cloud_project="demo-x")
    assert Firebase(broken).project == "demo-x"
    with pytest.raises(ConfigError, match="FIREBASE_SERVICE_ACCOUNT_KEY: "):
        Firebase(load_settings(firebase_service_account_key="{"))


# -- users


@pytest.fixture
def users(firebase: FirebaseEmulators, monkeypatch: pytest.MonkeyPatch) -> FirebaseUsers:
    firebase.create_user("starter")  # the Auth emulator starts when it is first needed
    for name, value in firebase.env.items():
        monkeypatch.setenv(name, value)
    return Firebase(load_settings()).users


def test_a_valid_token_tells_its_user(firebase: FirebaseEmulators, users: FirebaseUsers) -> None:
    assert users.uid(firebase.create_user("alice")) == "alice"


NESTED = base64.urlsafe_b64encode(b"[" * 5000).decode()


@pytest.mark.parametrize(
    "token",
    ["x", "a.b.c", "", "eyJhbGciOiJub25lIn0.e30.", "é" * 50, "W10.e30.", "NQ.NQ.x", "bnVsbA.W10.", "\ud800.\ud800.x",
     f"{NESTED}.e30.x", f"eyJhbGciOiJub25lIn0.{NESTED}."],
)  # fmt: skip
def test_garbage_is_nobody(users: FirebaseUsers, token: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        users.uid(token)
    assert caught.value.message == "the id_token is not valid for this project"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"aud": "other", "iss": "https://securetoken.google.com/other"}, "not valid for this project"),
        ({"iss": "https://evil.example"}, "not valid for this project"),
        ({"sub": ""}, "not valid for this project"),
        ({"sub": "x" * 129}, "not valid for this project"),
    ],
    ids=["other project", "other issuer", "no user", "long user"],
)
def test_a_token_that_is_not_for_us_is_refused(
    firebase: FirebaseEmulators, users: FirebaseUsers, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(Unauthenticated, match=says):
        users.uid(unsigned({"alg": "none", "typ": "JWT"}, user_claims(firebase.project, **changes)))


@pytest.fixture
def production(account: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> FirebaseUsers:
    """Return users without the Auth emulator: tokens are signed, and `account`'s own key stands for Google's."""
    monkeypatch.setattr(id_token, "_fetch_certs", lambda _request, _url: {"key-1": public_of(account["private_key"])})
    return Firebase(load_settings(firebase_service_account_key=json.dumps(account))).users


def test_a_signed_token_tells_its_user(production: FirebaseUsers, pem: str) -> None:
    assert production.uid(user_token(pem)) == "user"


def test_a_token_that_has_expired_says_so(production: FirebaseUsers, pem: str) -> None:
    past = int(time.time()) - 3600
    with pytest.raises(Unauthenticated, match="has expired; sign in again"):
        production.uid(user_token(pem, iat=past - 3600, exp=past))
    assert production.uid(user_token(pem, iat=past, exp=int(time.time()) - 2)) == "user", "clocks may differ by seconds"


def test_a_token_signed_by_anybody_else_is_nobody(production: FirebaseUsers, pem: str) -> None:
    for token in (
        user_token(new_key()),
        user_token(pem)[:-8] + "AAAAAAAA",
        unsigned({"alg": "none", "typ": "JWT"}, user_claims()),
    ):
        with pytest.raises(Unauthenticated, match="not valid for this project"):
            production.uid(token)


@pytest.mark.parametrize("token", ["W10.e30.x", "NQ.NQ.x", "bnVsbA.W10.x", "\ud800.\ud800.x", f"{NESTED}.e30.x"])
def test_garbage_is_nobody_in_production_too(production: FirebaseUsers, token: str) -> None:
    with pytest.raises(Unauthenticated, match="not valid for this project"):
        production.uid(token)


def test_revocation_is_asked_for_where_the_operator_wants_it(
    firebase: FirebaseEmulators, users: FirebaseUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signed out everywhere, disabled, deleted: refused with CHECK_REVOKED, by the emulator's own account."""
    monkeypatch.setenv("CHECK_REVOKED", "true")
    strict = Firebase(load_settings())
    token = firebase.create_user("zoe")
    assert strict.users.uid(token) == "zoe"
    assert (strict.users.knows("zoe"), strict.users.knows("nobody")) == (True, False)
    firebase_admin.auth.update_user("zoe", disabled=True, app=strict._app)
    with pytest.raises(Unauthenticated, match="disabled"):
        strict.users.uid(token)
    firebase_admin.auth.delete_user("zoe", app=strict._app)
    with pytest.raises(Unauthenticated, match="deleted"):
        strict.users.uid(token)


def test_a_user_who_cannot_be_looked_up_is_no_verdict(
    account: dict[str, str], production: FirebaseUsers, pem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key's own token address is closed: without access to Google nothing is known about revocation."""
    key = {**account, "token_uri": "http://127.0.0.1:9/token"}
    strict = Firebase(load_settings(firebase_service_account_key=json.dumps(key), check_revoked=True)).users
    started = time.monotonic()
    with pytest.raises(BackendError, match="auth unreachable"):
        strict.uid(user_token(pem))
    assert time.monotonic() - started < 30


def test_keys_that_cannot_be_fetched_are_no_verdict(
    production: FirebaseUsers, pem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(_request: object, _url: object) -> None:
        raise google_auth.TransportError("no route")  # type: ignore[no-untyped-call]  # google-auth is partly typed

    monkeypatch.setattr(id_token, "_fetch_certs", unreachable)
    with pytest.raises(BackendError, match="auth unreachable"):
        production.uid(user_token(pem))


# -- whole jobs through the real adapters, with something broken between


STORAGE_DOWN: dict[str, Callable[[FaultyFirebase], None]] = {
    "refused": lambda firebase: firebase.storage_proxy.refuse(),
    "hang": lambda firebase: firebase.storage_proxy.add(Fault("hang", times=None)),
    "503, then hang": lambda firebase: firebase.storage_proxy.add(
        Fault("status", times=5, status=503), Fault("hang", times=None)
    ),
}
FIRESTORE_DOWN: dict[str, Callable[[FaultyFirebase], None]] = {
    "refused": lambda firebase: firebase.firestore_proxy.refuse(),
    "black hole": lambda firebase: firebase.firestore_proxy.black_hole(),
    "503 forever": lambda firebase: firebase.fail_firestore("BatchGetDocuments", "UNAVAILABLE", times=None),
}


OUTAGES = [
    pytest.param("503, then hang", None, id="storage 503, then hang"),
    pytest.param(None, "503 forever", id="firestore 503 forever"),
    pytest.param("refused", "refused", id="both refused"),
    pytest.param("hang", "black hole", id="both silent"),
]


@pytest.mark.e2e
@pytest.mark.parametrize(("storage", "firestore"), OUTAGES)
async def test_a_dead_firebase_costs_a_job_seconds_and_never_its_result(
    faulty_firebase: FaultyFirebase, tmp_path: Path, storage: str | None, firestore: str | None
) -> None:
    world = World(faulty_firebase, tmp_path / "ledger")
    if storage:
        STORAGE_DOWN[storage](faulty_firebase)
    if firestore:
        FIRESTORE_DOWN[firestore](faulty_firebase)
    started = time.monotonic()
    response = await world.serve(cloud("down"))
    assert time.monotonic() - started < FIREBASE_DOWN_SECONDS
    showing.check_image(showing.content(response["image_url"]), 64, 64)
    assert response["storage"] == ("base64" if storage else "firebase")
    assert any("the upload failed" in warning for warning in response["warnings"]) is bool(storage)
    assert any("firestore_synced: false" in warning for warning in response["warnings"]) is bool(firestore)
    if not firestore:
        document = world.document("down")
        assert document is not None
        assert document["status"] == "completed"
        assert (document["generation_data"]["storage"], document["generation_data"]["images"]) == ("base64", [])
