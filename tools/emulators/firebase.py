"""Runs the Firestore, Storage and Auth emulators in one Node process, and controls them from tests.

Knows how the emulators are started, reset and observed; knows nothing about generations or the worker.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from tools.emulators.install import find_node, install, node_environment
from tools.emulators.process import GuardedProcess

START_SECONDS = 60.0
STOP_SECONDS = 3.0
COMMAND_SECONDS = 20.0
Part = Literal["firestore", "storage", "auth"]


class EmulatorError(RuntimeError):
    """An emulator did not start or refused a command; the message carries its output."""


@dataclass(frozen=True, slots=True)
class DocumentWrite:
    """One write that Firestore accepted. `at` is the server's time in seconds since 1970.

    Fields that the server sets (a server timestamp, an increment) have the value None.
    """

    at: float
    path: str
    kind: Literal["write", "delete"]
    fields: Mapping[str, Any]


class FirebaseEmulators:
    """Context manager: Firestore (gRPC), Storage and optionally Auth, each on a free loopback port.

    `firestore_at` is the address of another Firestore to use instead; faults and writes are then not available.

    Raises:
        MissingNodeError, InstallError, EmulatorError: they cannot be started.
    """

    def __init__(
        self, *, project: str = "demo-generation-worker", auth: bool = False, firestore_at: str | None = None
    ) -> None:
        self.project = project
        self.bucket = f"{project}.firebasestorage.app"
        self._firestore_at = firestore_at
        wanted: list[Part | None] = [None if firestore_at else "firestore", "storage", "auth" if auth else None]
        self._parts = [part for part in wanted if part]
        self._ports: dict[str, int] = {}
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._lock = threading.Lock()
        self._sequence = 0

    def __enter__(self) -> Self:
        packages = install()
        options = {"project": self.project, "bucket": self.bucket, "parts": self._parts}
        main = Path(__file__).parent / "node" / "main.js"
        self._process = GuardedProcess(
            [find_node(), main, json.dumps(options)],
            env={**node_environment(), "NODE_PATH": str(packages)},
            pipes=True,
        )
        threading.Thread(target=self._read_answers, daemon=True, name="emulators").start()
        try:
            self._ports = self._next_answer(START_SECONDS)["ready"]
        except BaseException:
            self._process.close(STOP_SECONDS)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close(STOP_SECONDS)

    # -- addresses

    @property
    def firestore_address(self) -> str:
        """`127.0.0.1:port` of the gRPC server."""
        return self._firestore_at or f"127.0.0.1:{self._ports['firestore']}"

    @property
    def storage_url(self) -> str:
        """`http://127.0.0.1:port`, for the Cloud Storage API and Firebase's `/v0/` API."""
        return f"http://127.0.0.1:{self._ports['storage']}"

    @property
    def auth_host(self) -> str:
        """`127.0.0.1:port`; starts the Auth emulator on first access, unless `auth` did."""
        if "auth" not in self._ports:
            self._ports["auth"] = self._command("start", part="auth")
        return f"127.0.0.1:{self._ports['auth']}"

    @property
    def env(self) -> dict[str, str]:
        """The variables that point Google's libraries here; includes Auth once it runs."""
        variables = {
            "FIRESTORE_EMULATOR_HOST": self.firestore_address,
            "STORAGE_EMULATOR_HOST": self.storage_url,
            "GOOGLE_CLOUD_PROJECT": self.project,
            "GCLOUD_PROJECT": self.project,
            "FIREBASE_STORAGE_BUCKET": self.bucket,
        }
        return {**variables, "FIREBASE_AUTH_EMULATOR_HOST": self.auth_host} if "auth" in self._ports else variables

    # -- for tests

    def reset(self) -> None:
        """Delete all documents, objects, users, faults and recorded writes. Takes milliseconds."""
        self._command("reset")

    def writes(self, path: str | None = None) -> list[DocumentWrite]:
        """Return the writes that Firestore accepted since the last reset, in order; only those to `path` if given."""
        entries = [DocumentWrite(**entry) for entry in self._command("writes")]
        return [entry for entry in entries if path is None or entry.path == path]

    def fail_firestore(
        self,
        method: Literal["Commit", "BatchGetDocuments", "RunQuery", "BeginTransaction", "Rollback", "BatchWrite"],
        code: str | None,
        *,
        times: int | None = 1,
        when: Literal["before", "after"] = "before",
        delay: float = 0.0,
    ) -> None:
        """Make the next `times` calls of a method fail with a gRPC status name such as `UNAVAILABLE`.

        `after`: the call takes effect and only its response is lost. The call is delayed by `delay` seconds; if `code`
        is None, it is only delayed. If `times` is None, the fault lasts until `clear_firestore_faults` or `reset`.
        """
        fault = {"method": method, "code": code, "times": times, "when": when, "delay": delay}
        self._command("fault", fault=fault)

    def clear_firestore_faults(self) -> None:
        """End all faults of `fail_firestore`."""
        self._command("clearFaults")

    def tell_of_deletions(self, functions_url: str) -> None:
        """Notify these functions (`FunctionsEmulator.url`) of each user that Auth deletes from now on."""
        self._command("tellOfDeletions", url=functions_url)

    def create_user(self, uid: str, *, email: str | None = None) -> str:
        """Create a user in the Auth emulator and return an ID token, as a phone would hold it."""
        account = {"localId": uid, "email": email or f"{uid.lower()}@example.com", "password": "only-for-tests"}
        self._auth(f"projects/{self.project}/accounts", account)
        return str(self._auth("accounts:signInWithPassword", {**account, "returnSecureToken": True})["idToken"])

    @cached_property
    def documents(self) -> Any:
        """A `google.cloud.firestore.Client` that connects directly to the emulator, not through a proxy."""
        return self.documents_in(self.project)

    def documents_in(self, project: str, database: str = "(default)") -> Any:
        """As `documents`, for another project or database; the emulator accepts any."""
        from google.cloud import firestore

        with environment({"FIRESTORE_EMULATOR_HOST": self.firestore_address}):
            return firestore.Client(project=project, database=database, credentials=_anonymous())

    @cached_property
    def objects(self) -> Any:
        """A `google.cloud.storage.Bucket` that connects directly to the emulator, not through a proxy."""
        return bucket_at(self.storage_url, self.project, self.bucket)

    # -- the control channel

    def _auth(self, method: str, body: Mapping[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://{self.auth_host}/identitytoolkit.googleapis.com/v1/{method}?key=any",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": "Bearer owner"},
        )
        with urllib.request.urlopen(request, timeout=COMMAND_SECONDS) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def _read_answers(self) -> None:
        for line in self._process.stdout:
            if line.startswith("@"):
                self._answers.put(json.loads(line[1:]))
        self._answers.put(None)

    def _next_answer(self, seconds: float) -> dict[str, Any]:
        try:
            answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            raise EmulatorError(f"no answer within {seconds:.0f} s: {self._process.log[-2000:]}") from None
        if answer is None:
            raise EmulatorError(f"the emulators ended: {self._process.log[-2000:]}")
        return answer

    def _command(self, command: str, **arguments: Any) -> Any:
        with self._lock:
            self._sequence += 1
            self._process.stdin.write(json.dumps({"id": self._sequence, "command": command, **arguments}) + "\n")
            answer = self._next_answer(COMMAND_SECONDS)
            while answer.get("id") != self._sequence:
                answer = self._next_answer(COMMAND_SECONDS)
        if "error" in answer:
            raise EmulatorError(f"{command}: {answer['error']}")
        return answer["value"]


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a block: some libraries read the emulator's address only from them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def bucket_at(url: str, project: str, bucket: str) -> Any:
    """Return a `google.cloud.storage.Bucket` on a local server, without credentials."""
    from google.cloud import storage  # type: ignore[attr-defined]  # google.cloud is a namespace without annotations

    with environment({"STORAGE_EMULATOR_HOST": url}):
        return storage.Client(project=project, credentials=_anonymous()).bucket(bucket)


def _anonymous() -> Any:
    from google.auth import credentials

    return credentials.AnonymousCredentials()  # type: ignore[no-untyped-call]  # google-auth leaves it unannotated
