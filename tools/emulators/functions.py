"""Runs the app's backend, `examples/functions`, on loopback, as Firebase's functions emulator hosts it.

Knows how functions are hosted and called; knows nothing about what they do.
"""

from __future__ import annotations

import base64
import json
import queue
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any, Self

from tools.emulators.install import find_node, install, node_environment
from tools.emulators.process import GuardedProcess

FUNCTIONS = Path(__file__).parents[2] / "examples" / "functions"
REGION = "us-central1"
HOST = "127.0.0.1"
START_SECONDS = 60.0
STOP_SECONDS = 3.0
CALL_SECONDS = 90.0


class FunctionsError(RuntimeError):
    """The functions did not start or failed; the message carries their output."""


class CallError(RuntimeError):
    """A callable returned an error: `status` such as `RESOURCE_EXHAUSTED`, a message and optional details."""

    def __init__(self, status: str, message: str, details: Any = None) -> None:
        super().__init__(f"{status}: {message}")
        self.status, self.message, self.details = status, message, details


class FunctionsEmulator:
    """Context manager: the functions of a folder, on a free loopback port.

    `firebase` points to the emulators (`FirebaseEmulators.env`); `env` has the functions' parameters and secrets. With
    `app_check`, calls without an App Check token are refused, as in production; otherwise they count as the app's. Each
    Firestore change is delivered `times` times, each up to `late_seconds` late, and therefore in any order.

    Raises:
        MissingNodeError, InstallError, FunctionsError: they cannot be started.
    """

    def __init__(
        self,
        firebase: Mapping[str, str],
        *,
        env: Mapping[str, str] | None = None,
        source: Path = FUNCTIONS,
        port: int = 0,
        app_check: bool = False,
        times: int = 1,
        late_seconds: float = 0.0,
    ) -> None:
        self.project = firebase["GCLOUD_PROJECT"]
        self._source = source
        self._options = {
            "project": self.project,
            "port": port,
            "env": {**firebase, **(env or {})},
            "appCheck": app_check,
            "deliver": {"times": times, "lateMs": late_seconds * 1000},
        }
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def __enter__(self) -> Self:
        packages = install(self._source, development=True)
        # ES modules find packages only beside themselves, and the packages are outside the checkout.
        self._folder = tempfile.TemporaryDirectory(prefix="functions-")
        source = Path(self._folder.name) / "functions"
        copytree(self._source, source, ignore=ignore_patterns("node_modules", "test"))
        (source / "node_modules").symlink_to(packages)
        main = Path(__file__).parent / "node" / "functions.js"
        self._process = GuardedProcess(
            [find_node(), main, json.dumps({**self._options, "source": str(source)})],
            env=node_environment(),
            pipes=True,
        )
        threading.Thread(target=self._read_answers, daemon=True, name="functions").start()
        try:
            ready = self._ready()
        except BaseException:
            self.__exit__()
            raise
        self.port: int = ready["port"]
        self.names: list[str] = ready["functions"]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close(STOP_SECONDS)
        self._folder.cleanup()

    @property
    def url(self) -> str:
        """`http://127.0.0.1:port`; an app calls `connectFunctionsEmulator(functions, "127.0.0.1", port)`."""
        return f"http://{HOST}:{self.port}"

    @property
    def log(self) -> str:
        """The functions' output so far."""
        return self._process.log

    def call(self, name: str, data: Any, *, uid: str | None = "alice") -> Any:
        """Call a callable as a signed-in user (None: nobody) and return its result.

        Raises:
            CallError: it returned an error.
        """
        headers = {} if uid is None else {"Authorization": f"Bearer {id_token(uid, self.project)}"}
        status, answer = self._post(f"/{self.project}/{REGION}/{name}", {"data": data}, headers)
        if "error" in answer:
            error = answer["error"]
            raise CallError(error.get("status", str(status)), error.get("message", ""), error.get("details"))
        return answer.get("result")

    def user_deleted(self, uid: str) -> None:
        """Notify the functions of a deleted user, and wait until they are done."""
        self._expect(*self._post("/local/user-deleted", {"uid": uid}))

    def run(self, name: str) -> None:
        """Run a scheduled function now, and wait until it is done."""
        self._expect(*self._post("/local/run", {"name": name}))

    def _expect(self, status: int, _: dict[str, Any]) -> None:
        if status != 200:
            raise FunctionsError(f"answered {status}: {self.log[-2000:]}")

    def _post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(
            f"{self.url}{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **(headers or {})},
        )
        # Not through a proxy.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=CALL_SECONDS) as response:
                status, text = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        try:
            answer = json.loads(text or b"{}")
        except ValueError:
            answer = {}
        return status, answer if isinstance(answer, dict) else {}

    def _read_answers(self) -> None:
        for line in self._process.stdout:
            if line.startswith("@"):
                self._answers.put(json.loads(line[1:]))
        self._answers.put(None)

    def _ready(self) -> dict[str, Any]:
        try:
            answer = self._answers.get(timeout=START_SECONDS)
        except queue.Empty:
            answer = None
        if answer is None:
            raise FunctionsError(f"the functions did not start: {self.log[-2000:]}")
        ready: dict[str, Any] = answer["ready"]
        return ready


def id_token(uid: str, project: str) -> str:
    """Return an ID token without a valid signature: the emulators read tokens and do not verify them."""

    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    claims = {"sub": uid, "user_id": uid, "aud": project}
    return f"{part({'alg': 'RS256', 'typ': 'JWT'})}.{part(claims)}.{part('unsigned')}"
