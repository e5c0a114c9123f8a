"""The host of an app's functions: it calls their exports as Google and Firebase's emulator do."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from shutil import copy
from typing import Any

import pytest

from tests.support.clock import until
from tests.support.fixtures import missing
from tools.emulators.firebase import FirebaseEmulators
from tools.emulators.functions import FUNCTIONS, CallError, FunctionsEmulator, FunctionsError, id_token
from tools.emulators.install import InstallError, MissingNodeError

pytestmark = pytest.mark.e2e

INDEX = """
import { initializeApp } from "firebase-admin/app";
import { getFirestore, FieldValue } from "firebase-admin/firestore";
import { onDocumentCreated, onDocumentWritten } from "firebase-functions/firestore";
import { HttpsError, onCall } from "firebase-functions/https";
import { onSchedule } from "firebase-functions/scheduler";
import { defineInt } from "firebase-functions/params";
import { auth } from "firebase-functions/v1";
const limit = defineInt("LIMIT", { default: 7 });
initializeApp();
const note = (name, fields) => getFirestore().collection(name).add(fields);
export const NOT_A_FUNCTION = 5;
export const echo = onCall({ enforceAppCheck: true }, ({ auth, app, data }) => {
  if (data.refuse) throw new HttpsError("resource-exhausted", "Later.", { retryAfterSeconds: 7 });
  return { uid: auth?.uid ?? null, app: app.appId, data, said: process.env.SAID, limit: limit.value() };
});
export const changed = onDocumentWritten("generations/{uid}/files/{fileUid}", async ({ params, data, id }) => {
  const { before, after } = data;
  await note("changes", {
    ...params, id, before: before.data()?.status ?? null, after: after.data()?.status ?? null,
    deep: after.data()?.deep ?? null,
  });
});
const FILE = "generations/{uid}/files/{fileUid}";
export const created = onDocumentCreated(FILE, ({ data }) => note("creations", data.data()));
let tries = 0;
export const stubborn = onDocumentCreated({ document: "generations/{uid}/files/{fileUid}", retry: true }, () => {
  tries += 1;
  if (tries < 3) throw new Error("not yet");
  return note("tries", { tries });
});
export const nightly = onSchedule("every day 03:00", () => note("runs", { at: FieldValue.serverTimestamp() }));
export const gone = auth.user().onDelete(({ uid }) => note("gone", { uid }));
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with functions of every kind, with the example's packages."""
    folder = tmp_path_factory.mktemp("functions")
    (folder / "index.js").write_text(INDEX, encoding="utf-8")
    for name in ("package.json", "package-lock.json"):
        copy(FUNCTIONS / name, folder)
    return folder


def running(*arguments: Any, **options: Any) -> Iterator[FunctionsEmulator]:
    try:
        with FunctionsEmulator(*arguments, **options) as functions:
            yield functions
    except (MissingNodeError, InstallError) as error:
        missing(f"functions cannot be hosted: {error}")


@pytest.fixture
def functions(firebase: FirebaseEmulators, source: Path) -> Iterator[FunctionsEmulator]:
    yield from running(firebase.env, source=source, env={"SAID": "hello"})


def notes(firebase: FirebaseEmulators, collection: str) -> list[dict[str, Any]]:
    return [found.to_dict() for found in firebase.documents.collection(collection).stream()]


def test_a_callable_is_called_as_an_app_calls_it(functions: FunctionsEmulator) -> None:
    assert functions.names == ["changed", "created", "echo", "gone", "nightly", "stubborn"]
    assert functions.call("echo", {"a": [1]}, uid="auth0|bob") == {
        "uid": "auth0|bob",
        "app": "local-app",
        "data": {"a": [1]},
        "said": "hello",
        "limit": 7,
    }
    assert functions.call("echo", {}, uid=None)["uid"] is None
    with pytest.raises(CallError) as refused:
        functions.call("echo", {"refuse": True})
    error = refused.value
    assert (error.status, error.message, error.details) == ("RESOURCE_EXHAUSTED", "Later.", {"retryAfterSeconds": 7})


def test_a_page_of_another_address_may_call(functions: FunctionsEmulator) -> None:
    address = f"{functions.url}/{functions.project}/us-central1/echo"
    asked = {
        "Origin": "http://127.0.0.1:5173",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-firebase-appcheck",
    }
    with urllib.request.urlopen(urllib.request.Request(address, headers=asked, method="OPTIONS"), timeout=10) as answer:
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Origin"] == "http://127.0.0.1:5173"
        assert "authorization" in answer.headers["Access-Control-Allow-Headers"]
    headers = {
        "Origin": "http://127.0.0.1:5173",
        "Content-Type": "application/json",
        "Authorization": f"Bearer {id_token('alice', functions.project)}",
    }
    request = urllib.request.Request(address, data=b'{"data": {}}', headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == "http://127.0.0.1:5173"
        assert json.load(answer)["result"]["uid"] == "alice"


def test_the_changes_of_a_document_come_with_before_and_after(
    functions: FunctionsEmulator, firebase: FirebaseEmulators
) -> None:
    document = firebase.documents.document("generations/alice/files/f1")
    elsewhere = firebase.documents.document("other/alice/files/f1")
    elsewhere.set({"status": "queued"})

    def seen() -> set[tuple[str | None, str | None]]:
        return {(one["before"], one["after"]) for one in notes(firebase, "changes")}

    deep = {"a": [1, 2.5, None, {"b": b"bytes"}], "c": True}
    document.set({"status": "processing", "deep": deep})
    until(lambda: (None, "processing") in seen())
    document.update({"status": "completed"})
    until(lambda: ("processing", "completed") in seen())
    document.delete()
    until(lambda: ("completed", None) in seen())
    assert len(notes(firebase, "changes")) == 3
    assert until(lambda: notes(firebase, "creations")) == [{"status": "processing", "deep": deep}]
    assert {(one["uid"], one["fileUid"]) for one in notes(firebase, "changes")} == {("alice", "f1")}
    assert [one["deep"] for one in notes(firebase, "changes") if one["after"]] == [deep, deep]
    assert until(lambda: notes(firebase, "tries")) == [{"tries": 3}]


def test_what_was_there_before_is_no_change(firebase: FirebaseEmulators, source: Path) -> None:
    firebase.documents.document("generations/alice/files/old").set({"status": "completed"})
    for _ in running(firebase.env, source=source):
        firebase.documents.document("generations/alice/files/new").set({"status": "queued"})
        until(lambda: notes(firebase, "changes"))
        assert [one["fileUid"] for one in notes(firebase, "changes")] == ["new"]


def test_a_change_may_come_twice_and_late(firebase: FirebaseEmulators, source: Path) -> None:
    for functions in running(firebase.env, source=source, times=2, late_seconds=0.5):
        for number in range(5):
            firebase.documents.document(f"generations/alice/files/f{number}").set({"status": "queued"})
        until(lambda: len(notes(firebase, "changes")) == 10)
        assert len({one["id"] for one in notes(firebase, "changes")}) == 5, "the same event, not another one"
        functions.user_deleted("alice")
        assert [one["uid"] for one in notes(firebase, "gone")] == ["alice", "alice"]


def test_a_schedule_and_a_deleted_user_are_told_at_once(
    functions: FunctionsEmulator, firebase: FirebaseEmulators
) -> None:
    functions.run("nightly")
    functions.user_deleted("kakao:1")
    assert len(notes(firebase, "runs")) == 1
    assert notes(firebase, "gone") == [{"uid": "kakao:1"}]
    with pytest.raises(FunctionsError, match="404"):
        functions.run("echo")


def test_a_user_who_deletes_themselves_is_told_of(functions: FunctionsEmulator, firebase: FirebaseEmulators) -> None:
    token = firebase.create_user("leaver")
    firebase.tell_of_deletions(functions.url)
    request = urllib.request.Request(
        f"http://{firebase.auth_host}/identitytoolkit.googleapis.com/v1/accounts:delete?key=any",
        data=json.dumps({"idToken": token}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
    assert until(lambda: notes(firebase, "gone")) == [{"uid": "leaver"}]


def test_an_app_that_has_to_prove_itself_is_refused_without_a_token(firebase: FirebaseEmulators, source: Path) -> None:
    for functions in running(firebase.env, source=source, app_check=True):
        with pytest.raises(CallError, match="UNAUTHENTICATED"):
            functions.call("echo", {})


def test_functions_that_do_not_load_say_why(firebase: FirebaseEmulators, source: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("package.json", "package-lock.json"):
        copy(source / name, broken)
    (broken / "index.js").write_text("import './missing.js';", encoding="utf-8")
    with pytest.raises(FunctionsError, match=r"missing\.js"):
        for _ in running(firebase.env, source=broken):
            pass


def test_the_example_is_hosted_as_it_is(firebase: FirebaseEmulators) -> None:
    for functions in running(firebase.env):
        assert "generate" in functions.names
        with pytest.raises(CallError, match="UNAUTHENTICATED: Sign in first"):
            functions.call("generate", {}, uid=None)
