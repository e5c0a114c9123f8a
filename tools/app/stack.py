"""Starts emulators, RunPod's side, a worker with the demo models, the backend functions and the page, on loopback.

The worker and the functions are the real ones, with the settings of docs/deploy.md: they require tickets and charge
credits. Nothing outlives the context.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from http.client import HTTPException
from pathlib import Path
from typing import Any, Self

from tools.app.page import FileServer, Page
from tools.emulators.control_plane import ControlPlane
from tools.emulators.firebase import FirebaseEmulators
from tools.emulators.functions import FunctionsEmulator, id_token
from tools.emulators.google_firestore import GoogleFirestore
from tools.emulators.process import uninterrupted
from tools.emulators.worker_process import WorkerProcess

ROOT = Path(__file__).parents[2]
PROJECT = "demo-generation-app"
STYLES = {
    "Night": {"prompt": "{prompt}, on black"},
    "Snow": {"prompt": "{prompt}, on white"},
    "Meadow": {"prompt": "{prompt}, on green"},
    "Dusk": {"prompt": "{prompt}, on purple"},
}
"""Styles that the demo models can draw: backgrounds."""


class LocalApp:
    """Context manager: the app at `url`. `say` receives a line for each part that starts.

    `worker_env` and `functions_env` override the settings of the worker and the functions.

    Raises:
        RuntimeError: a part is missing or does not start; each part raises its own subclass, with a message.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        say: Callable[[str], None] = lambda _: None,
        worker_env: Mapping[str, str] | None = None,
        functions_env: Mapping[str, str] | None = None,
    ) -> None:
        self._port, self._say = port, say
        self._worker_env, self._functions_env = dict(worker_env or {}), dict(functions_env or {})

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, stack: ExitStack) -> None:
        secret = secrets.token_hex(32)
        firestore = GoogleFirestore(project=PROJECT, rules=ROOT / "firestore.rules")
        self._say("Firestore, Storage and Auth ...")
        with uninterrupted():
            stack.enter_context(firestore)
        self.firebase = stack.enter_context(
            FirebaseEmulators(project=PROJECT, auth=True, firestore_at=firestore.address)
        )
        firestore.wait_ready()
        warm = threading.Thread(target=self._warm_up, args=(firestore,), daemon=True)
        warm.start()  # while slower parts start
        self._say("the worker with its demo models ...")
        self.plane = stack.enter_context(ControlPlane())
        with uninterrupted():
            self.worker = stack.enter_context(WorkerProcess(self.plane, self._for_the_worker(secret)))
        self._say("the backend's functions ...")
        self.functions = stack.enter_context(
            FunctionsEmulator(self.firebase.env, env=self._for_the_functions(secret), app_check=True)
        )
        self.firebase.tell_of_deletions(self.functions.url)
        self._say("the page ...")
        folder = stack.enter_context(Page()).build(self._for_the_page())
        served = stack.enter_context(FileServer(folder, self._port))
        self.url, self.port = served.url, served.port
        self.worker.wait_ready()
        warm.join()

    @staticmethod
    def _warm_up(firestore: GoogleFirestore) -> None:
        # A failure does no harm: the first page waits longer.
        with contextlib.suppress(OSError, HTTPException, ValueError, LookupError):
            firestore.listen_once("wallets/nobody", id_token("nobody", PROJECT))

    def _for_the_worker(self, secret: str) -> dict[str, str]:
        return {
            **self.firebase.env,
            "TICKET_SECRET": secret,
            "REQUIRE_ID_TOKEN": "true",
            "STYLES": json.dumps(STYLES),
            # Threads that spin while waiting slow down each other and the browser.
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
            **self._worker_env,
        }

    def _for_the_functions(self, secret: str) -> dict[str, str]:
        return {
            "RUNPOD_URL": self.plane.url,
            "RUNPOD_ENDPOINT": "local",
            "RUNPOD_API_KEY": secrets.token_hex(16),
            "TICKET_SECRET": secret,
            "CREDITS": "on",
            "FREE_CREDITS": "500",
            "CREDITS_PER_1000_UNITS": "100",
            "MAX_UNITS": "200, text2video=2000, img2video=2000",
            "JOBS_PER_MINUTE": "60",
            "QUOTES_PER_MINUTE": "120",
            "FIRESTORE_DATABASE": "(default)",
            "STORAGE_BUCKET": self.firebase.bucket,
            "PUSH": "off",
            **self._functions_env,
        }

    def _for_the_page(self) -> dict[str, Any]:
        return {
            "VITE_FIREBASE": {
                "apiKey": "local",
                "projectId": PROJECT,
                "appId": "1:1:web:1",
                "authDomain": "127.0.0.1",
                "storageBucket": self.firebase.bucket,
            },
            "VITE_EMULATORS": {
                "firestore": _port_of(self.firebase.firestore_address),
                "storage": _port_of(self.firebase.storage_url),
                "auth": _port_of(self.firebase.auth_host),
                "functions": self.functions.port,
            },
        }


def _port_of(address: str) -> int:
    return int(address.rpartition(":")[2])
