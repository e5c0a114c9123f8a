"""The world of the fault tests: a Firebase that fails on command, and workers in this process or in their own.

`Truth` reads past every proxy. `World` serves jobs in this process with the real adapters; `Endpoint` runs worker
processes under RunPod's stand-in.
"""

import base64
import dataclasses
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import google_crc32c

import handler
from tests.support.clock import until
from tests.support.faulty_firebase import FaultyFirebase
from tests.support.painting_worker import Painter, Script
from tools.emulators.control_plane import ControlPlane
from tools.emulators.firebase import DocumentWrite, environment
from tools.emulators.process import group_members
from tools.emulators.worker_process import ROOT, WorkerProcess, clean_environment
from worker.core.config import load_settings

USER = "user-1"
SCRIPT = Path(__file__).with_name("painting_worker.py")
MAX_POST_BYTES = 10_000_000
"""RunPod drops larger results (invariant I7)."""


def path_of(file_uid: str, user: str = USER) -> str:
    return f"generations/{user}/files/{file_uid}"


def cloud(file_uid: str, prompt: str = "a fox", /, **fields: Any) -> dict[str, Any]:
    """Return a small request for cloud storage."""
    owner = {"user_id": USER, "file_uid": file_uid, "use_cloud_storage": True}
    return {**owner, "prompt": prompt, "seed": 7, **fields}


class Truth:
    """The actual contents of Firestore and the bucket."""

    def __init__(self, firebase: FaultyFirebase) -> None:
        self.firebase = firebase

    def document(self, file_uid: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.firebase.documents.document(path_of(file_uid)).get().to_dict()
        return found

    def status(self, file_uid: str) -> str | None:
        return (self.document(file_uid) or {}).get("status")

    def writes(self, file_uid: str) -> list[DocumentWrite]:
        return self.firebase.writes(path_of(file_uid))

    def statuses(self, file_uid: str) -> list[str]:
        """Return the statuses that were written, in order."""
        return [str(write.fields["status"]) for write in self.writes(file_uid) if "status" in (write.fields or {})]

    def write_as_app(self, file_uid: str, fields: Mapping[str, Any]) -> None:
        self.firebase.documents.document(path_of(file_uid)).set(dict(fields), merge=True)

    def let_lease_run_out(self, file_uid: str) -> None:
        """Let ninety seconds pass in which nobody renews the document's lease."""
        past = datetime.now(UTC) - timedelta(seconds=1)
        self.firebase.documents.document(path_of(file_uid)).update({"expires_at": past, "heartbeat_at": past})

    def objects(self, file_uid: str | None = None) -> dict[str, Any]:
        """Return the objects by name, of one generation if given."""
        blobs = {blob.name: blob for blob in self.firebase.objects.list_blobs()}
        return {name: blob for name, blob in blobs.items() if file_uid is None or is_of(name, file_uid)}

    def results(self, file_uid: str | None = None) -> dict[str, Any]:
        """As `objects`, without thumbnails."""
        return {name: blob for name, blob in self.objects(file_uid).items() if "/thumbs/" not in name}

    def generations(self, file_uid: str) -> list[int]:
        return [blob.generation for blob in self.results(file_uid).values()]

    def uploads(self, kind: str | None = None) -> int:
        """Return the number of upload requests that reached the bucket's proxy (and met this fault)."""
        seen = [request for request in self.firebase.storage_proxy.requests if "/upload/" in request.path]
        return len([request for request in seen if kind is None or request.fault == kind])

    def check_completed(self, file_uid: str, response: Mapping[str, Any], *, count: int = 1) -> dict[str, Any]:
        """Check that response, document, objects and URLs agree on a result (I1, I3, I6); return the document."""
        assert "error" not in response, response
        assert response["storage"] == "firebase", response
        document = self.document(file_uid)
        assert document is not None
        assert document["status"] == "completed", document
        data = document["generation_data"]
        assert (data["images"], data["files"]) == (response["images"], response["files"])
        self.check_files(file_uid, data, count=count)
        return document

    def check_files(
        self, file_uid: str, data: Mapping[str, Any], *, count: int = 1, objects: Mapping[str, Any] | None = None
    ) -> None:
        """Check that every file of a stored result and its thumbnail is there, whole and served by its URL, and nothing
        else.

        `objects` are those of the generation, if they were listed already.
        """
        objects = self.objects(file_uid) if objects is None else objects
        thumbnails = {file["thumbnail_path"]: file["thumbnail_url"] for file in data["files"] if file["thumbnail_path"]}
        assert sorted([*(file["storage_path"] for file in data["files"]), *thumbnails]) == sorted(objects)
        assert len(data["files"]) == count
        assert all((fetch(url) or b"")[:4] == b"RIFF" for url in thumbnails.values())
        for file in data["files"]:
            blob = objects[file["storage_path"]]
            content = fetch(file["url"])
            assert content is not None, "the URL does not serve its file"
            assert len(content) == blob.size == file["bytes"]
            checksum = google_crc32c.value(content).to_bytes(4, "big")
            assert blob.crc32c == base64.b64encode(checksum).decode()
            assert content[:4] in {b"\x89PNG", b"RIFF", b"\xff\xd8\xff\xe0"} or content[4:8] == b"ftyp"

    def check_failed(self, file_uid: str, response: Mapping[str, Any] | None, code: str, *, retryable: bool) -> None:
        """Check that document and response failed with this code, and that no object is left."""
        document = self.document(file_uid)
        assert document is not None
        assert document["status"] == "failed", document
        assert (document["error"]["code"], document["error"]["retryable"]) == (code, retryable)
        assert "generation_data" not in document
        assert self.objects(file_uid) == {}
        if response is not None:
            assert (response["error_code"], response["retryable"]) == (code, retryable), response
            assert response["error"] == f"{code}: {document['error']['message']}"

    def nothing_outside(self) -> bool:
        """Whether only documents of generations and objects under `generating/` were written (I6)."""
        documents = all(write.path.startswith("generations/") for write in self.firebase.writes())
        return documents and all(name.startswith("generating/") for name in self.objects())


def is_of(name: str, file_uid: str) -> bool:
    stem = name.rsplit("/", 1)[1].rsplit(".", 1)[0]
    return stem == file_uid or (stem.startswith(f"{file_uid}_") and stem.removeprefix(f"{file_uid}_").isdigit())


def fetch(url: str) -> bytes | None:
    """Return what a client gets from a download URL; None where it is not served."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            content: bytes = answer.read()
    except urllib.error.HTTPError:
        return None
    return content


class Ledger:
    """The record of what painters painted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def events(self) -> list[dict[str, Any]]:
        """Return `{"event": "begin" | "painted" | "end", "at", "worker", "pid", "file_uid"}`, in order."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def begun(self, file_uid: str) -> int:
        """Return how often a generation began."""
        return self._count(file_uid, "begin")

    def painted(self, file_uid: str) -> int:
        """Return how often a generation was painted to its end; an unwanted one stops at a step."""
        return self._count(file_uid, "painted")

    def _count(self, file_uid: str, what: str) -> int:
        return sum(1 for event in self.events() if (event["file_uid"], event["event"]) == (file_uid, what))

    def overlaps(self) -> int:
        """Return how often a process began a generation before its previous one had ended (I5).

        When workers are killed and started for an hour, the system reuses process ids.
        """
        running: dict[tuple[str, int], bool] = {}
        count = 0
        for event in self.events():
            process = event["worker"], event["pid"]
            count += event["event"] == "begin" and running.get(process, False)
            running[process] = event["event"] != "end"
        return count


class World(Truth):
    """One worker inside this process: `handler.build` and `handler.serve` with a painter."""

    def __init__(
        self, firebase: FaultyFirebase, ledger: Path, script: Script | None = None, **settings: object
    ) -> None:
        super().__init__(firebase)
        self.ledger = Ledger(ledger)
        self.painter = Painter(dataclasses.replace(script or Script(), ledger=str(ledger)))
        with environment(firebase.env):
            built = handler.build(load_settings(**settings))
        self.services = dataclasses.replace(built, generator=self.painter)

    async def serve(self, job_input: Mapping[str, Any], job_id: str = "job-1") -> dict[str, Any]:
        response = await handler.serve({"id": job_id, "input": dict(job_input)}, self.services)
        body = json.dumps(response, allow_nan=False).encode()
        assert len(body) < MAX_POST_BYTES
        return response

    async def lives(self) -> None:
        """Check that the same worker takes another job and succeeds."""
        name = f"after-{time.monotonic_ns()}"
        self.check_completed(name, await self.serve(cloud(name), name))


class Endpoint(Truth):
    """Painting workers, the control plane that feeds them, and the Firebase behind them."""

    def __init__(self, firebase: FaultyFirebase, folder: Path) -> None:
        super().__init__(firebase)
        self.ledger = Ledger(folder / "ledger.jsonl")
        self._stack = ExitStack()
        self.plane = self._stack.enter_context(ControlPlane())
        self.workers: list[WorkerProcess] = []

    def close(self) -> None:
        self._stack.close()

    def start(self, worker_id: str = "worker-1", env: Mapping[str, str] | None = None, **script: Any) -> WorkerProcess:
        """Start a worker without waiting until it is ready."""
        painter = json.dumps({"ledger": str(self.ledger.path), **script})
        variables = {**self.firebase.env, "PAINTER": painter, "PYTHONPATH": str(ROOT), **(env or {})}
        worker = WorkerProcess(self.plane, variables, script=SCRIPT, worker_id=worker_id)
        self.workers.append(self._stack.enter_context(worker))
        return worker

    def ready(self, worker_id: str = "worker-1", env: Mapping[str, str] | None = None, **script: Any) -> WorkerProcess:
        """Start a worker and wait until it takes jobs."""
        return self.start(worker_id, env, **script).wait_ready()

    def answer(self, job: str, *, count: int = 1, seconds: float = 60.0) -> dict[str, Any]:
        """Return the response to a job as its client sees it."""
        posted = self.plane.wait(job, seconds, count=count)
        output: dict[str, Any] = posted["output"]
        # RunPod's SDK moves `error` out of the response and puts it next to it.
        return {**output, "error": posted["error"]} if "error" in posted else output

    def serve(self, job_input: Mapping[str, Any], seconds: float = 60.0) -> dict[str, Any]:
        return self.answer(self.plane.submit(dict(job_input)), seconds=seconds)

    def lives(self, worker: WorkerProcess | None = None) -> None:
        """Check that the same process (by default the newest) takes another job and succeeds."""
        worker = worker or self.workers[-1]
        assert worker.returncode is None, f"the worker ended with {worker.returncode}"
        name = f"after-{time.monotonic_ns()}"
        job = self.plane.submit(cloud(name))
        self.check_completed(name, self.answer(job))
        assert self.plane.workers_of(job) == [worker.worker_id]

    def wait_processing(self, file_uid: str) -> None:
        until(lambda: self.status(file_uid) == "processing", what=f"claim of {file_uid}")

    def check_posts(self) -> None:
        """Check that nothing was posted that RunPod would drop (I7), or written where it must not be (I6)."""
        for post in self.plane.posts:
            assert post.payload is not None, "a post is not strict JSON"
            assert len(post.body) < MAX_POST_BYTES
        assert self.nothing_outside()
        assert self.ledger.overlaps() == 0


def reap(firebase: FaultyFirebase) -> str:
    """Run the reaper as cron does; returns its log."""
    command = [sys.executable, "-m", "worker.reaper"]
    done = subprocess.run(
        command,
        env=clean_environment() | firebase.env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def children(worker: WorkerProcess) -> list[int]:
    """Return the processes of a worker's group that still run."""
    return [pid for pid in group_members(worker.pid) if pid != os.getpid()]
