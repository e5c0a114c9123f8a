"""Runs the example requests against Firebase: the configured one, or else local emulators, which this script starts.

    python test_cloud_storage.py ["a red star on a blue background"]

Sends a text2video and a text2img request with cloud storage, and one whose result cannot be stored. Watches each
document live as a phone would and prints every change, downloads the files from their URLs, and asserts that response,
document and objects agree. Exits non-zero if an assertion fails.
"""

import asyncio
import contextlib
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import handler
from tools import showing
from tools.emulators.firebase import FirebaseEmulators, environment
from worker.core.config import Settings, load_settings
from worker.core.types import Owner
from worker.document.schema import document_path
from worker.firebase.app import Firebase
from worker.firebase.firestore import FirestoreStore
from worker.job.services import Services

USER = "example-user"
EXAMPLES: dict[str, dict[str, Any]] = {
    "text2video": {
        "task_type": "text2video",
        "video_width": 832,
        "video_height": 480,
        "num_frames": 49,
        "fps": 15,
    },
    "text2img": {"width": 1024, "height": 1024, "num_images": 2},
}
FALLBACK: dict[str, Any] = {"num_images": 1}
Out = Callable[[str], None]


@contextlib.contextmanager
def firebase(out: Out) -> Iterator[None]:
    """Use the configured Firebase, or start emulators for the duration of the block."""
    settings = load_settings()
    if settings.firebase_service_account_key is not None or settings.uses_emulators:
        out(f"using the Firebase that the environment names: {Firebase(settings)}")
        yield
        return
    out("FIREBASE_SERVICE_ACCOUNT_KEY is not set: starting local emulators")
    with FirebaseEmulators() as emulators, environment(emulators.env):
        yield


class Listener:
    """Watches one document as a phone does; keeps every state, in order, and prints it as it arrives."""

    def __init__(self, services: Services, owner: Owner, out: Out) -> None:
        assert isinstance(services.documents, FirestoreStore)
        self.states: list[dict[str, Any]] = []
        self._out, self._started = out, time.monotonic()
        document = services.documents.client.document(document_path(owner))
        self._watch = document.on_snapshot(self._changed)

    def _changed(self, snapshots: Any, _changes: Any, _read_at: Any) -> None:
        for snapshot in snapshots:
            if not snapshot.exists:
                continue
            state = snapshot.to_dict()
            self.states.append(state)
            progress = state.get("progress") or {}
            what = f"{progress['stage']} {progress['percent']}%" if progress else ""
            error = (state.get("error") or {}).get("code", "")
            self._out(f"  {time.monotonic() - self._started:6.1f} s  {state['status']:<10} {what}{error}")

    async def finished(self) -> dict[str, Any]:
        """Return the terminal state, as soon as the listener has seen it."""
        for _ in range(100):
            if self.states and self.states[-1]["status"] in {"completed", "failed"}:
                break
            await asyncio.sleep(0.1)
        self._watch.unsubscribe()
        return self.states[-1]


async def send(services: Services, name: str, job_input: dict[str, Any], out: Out) -> list[object]:
    """Send one request, assert that response, document and files agree, and return its row of the table."""
    file_uid = f"{name}-{uuid.uuid4().hex[:8]}"
    owner = {"user_id": USER, "file_uid": file_uid, "use_cloud_storage": True}
    out(f"\n{name}: {job_input}")
    listener, started = Listener(services, Owner(USER, file_uid), out), time.monotonic()
    response = await handler.serve({"id": f"example-{file_uid}", "input": {**job_input, **owner}}, services)
    seconds = time.monotonic() - started
    document = await listener.finished()
    assert "error" not in response, f"{name}: {response['error']}"
    assert listener.states[0]["status"] == "processing", "the document was not there before the work"
    assert document["status"] == "completed", f"{name}: the document says {document['status']}"
    percents = [state["progress"]["percent"] for state in listener.states if state.get("progress")]
    assert percents == sorted(percents), f"{name}: progress went backwards: {percents}"
    data = document["generation_data"]
    assert data["storage"] == response["storage"]
    assert (response["user_id"], response["file_uid"]) == (USER, file_uid)
    files = [showing.content(uri) for uri in showing.uris(response)]
    if response["storage"] == "firebase":
        for field in ("files", "seed", "video_url" if "videos" in response else "images"):
            assert data[field] == response[field], f"{name}: {field} differs between document and response"
    for said, content in zip(response["files"], files, strict=True):
        assert said["bytes"] == len(content), f"{name}: the URL serves {len(content)} bytes, not {said['bytes']}"
        if "videos" in response:
            info = response["video_info"]
            showing.check_video(content, info["width"], info["height"], info["frames"], info["fps"])
        else:
            showing.check_image(content, said["width"], said["height"])
    size = f"{response['files'][0]['width']}x{response['files'][0]['height']}"
    return [name, size, len(files), response["storage"], sum(map(len, files)), f"{seconds:.1f}", len(listener.states)]


def without_bucket(settings: Settings) -> Settings:
    """Return the settings without a bucket; to a job it looks like a refused or missing bucket."""
    return settings.model_copy(update={"firebase_storage_bucket": None})


async def run_all(prompt: str, out: Out) -> list[list[object]]:
    """Run the examples, then the fallback to an inline result."""
    settings = load_settings()
    services = handler.build(settings)
    assert services.documents is not None, "Firebase is configured, but its key cannot be used"
    assert services.storage is not None, "FIREBASE_STORAGE_BUCKET is not set"
    rows = [await send(services, name, {"prompt": prompt, **job}, out) for name, job in EXAMPLES.items()]
    assert [row[3] for row in rows] == ["firebase", "firebase"], "a result was not stored in Firebase"
    bucketless = handler.build(without_bucket(settings))
    rows.append(await send(bucketless, "fallback", {"prompt": prompt, **FALLBACK}, out))
    assert rows[-1][3] == "base64", "the fallback did not come back inline"
    return rows


def main(argv: list[str], out: Out = print) -> int:
    """Run everything; return 0 if every assertion held."""

    def show(prompt: str) -> str:
        with firebase(out):
            rows = asyncio.run(run_all(prompt, out))
        heads = ["request", "size", "files", "storage", "bytes", "seconds", "document states"]
        out("\n" + showing.table(rows, heads))
        return "response, document and objects agree"

    return showing.script(__doc__, argv, out, show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
