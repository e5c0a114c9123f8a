"""In-memory fakes behind the worker's own Protocols, which misbehave on request.

Each implements the real interface; `test_contracts.py` runs the same tests over these and over the emulators.
"""

import base64
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import google_crc32c
import numpy as np

from tests.support.firestore_limits import problems
from worker.api.params import ImageParams, ModelDefaults, Params
from worker.api.request import Request
from worker.api.validation_errors import short
from worker.core.errors import BackendError, FieldProblem, InvalidInput, ModelUnavailable, Unauthenticated
from worker.core.types import Control, Progress, Sources, TaskType
from worker.document.store import FieldValue, Snapshot
from worker.engine.estimate import Estimate
from worker.engine.protocol import Generated, GeneratedClip, GeneratedImage, Placement
from worker.storage.store import ObjectInfo, ObjectTooLarge


class MemoryDocumentStore:
    """`Documents` in memory. `history` keeps every state of a document, as a listener would see them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._versions = itertools.count(1)
        self.stored: dict[str, tuple[dict[str, Any], int]] = {}
        self.history: dict[str, list[dict[str, Any]]] = {}
        self._written: dict[object, datetime] = {}
        self.tells_time = True
        """Whether the server's time is known from an earlier response."""
        self.before: Callable[[str, str], None] = lambda _call, _path: None
        self.after: Callable[[str, str], None] = lambda _call, _path: None

    def read(self, path: str, *, timeout: float) -> Snapshot:
        self.before("read", path)
        with self._lock:
            fields, version = self.stored.get(path, (None, None))
            return Snapshot(dict(fields) if fields is not None else None, version, datetime.now(UTC))

    def create(self, path: str, fields: Mapping[str, Any], *, timeout: float) -> object | None:
        self.before("create", path)
        with self._lock:
            if path in self.stored:
                return None
            version = self._put(path, {}, fields)
        self.after("create", path)
        return version

    def update(self, path: str, fields: Mapping[str, Any], *, unchanged: object, timeout: float) -> object | None:
        self.before("update", path)
        with self._lock:
            if path not in self.stored or self.stored[path][1] != unchanged:
                return None
            version = self._put(path, self.stored[path][0], fields)
        self.after("update", path)
        return version

    def now(self) -> datetime | None:
        return datetime.now(UTC) if self.tells_time else None

    def written_at(self, version: object) -> datetime:
        return self._written[version]

    def write_as_app(self, path: str, fields: Mapping[str, Any] | None) -> None:
        """Write as a phone or a console does: no precondition, other fields kept; None deletes."""
        with self._lock:
            if fields is None:
                self.stored.pop(path, None)
            else:
                self._put(path, self.stored.get(path, ({}, 0))[0], fields)

    def _put(self, path: str, old: Mapping[str, Any], fields: Mapping[str, Any]) -> int:
        merged = {**old, **fields}
        state = {
            key: datetime.now(UTC) if value is FieldValue.SERVER_TIME else value
            for key, value in merged.items()
            if value is not FieldValue.REMOVE
        }
        if any(problems(path, state)):
            raise BackendError("firestore", "invalid")
        version = next(self._versions)
        self._written[version] = datetime.now(UTC)
        self.stored[path] = (state, version)
        self.history.setdefault(path, []).append(state)
        return version


class MemoryBucket:
    """`Bucket` in memory, with preconditions and generations."""

    name = "demo-bucket"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._generations = itertools.count(1000)
        self.objects: dict[str, tuple[bytes, ObjectInfo, str]] = {}
        self.uploaded: list[str] = []
        self.before: Callable[[str, str], None] = lambda _call, _path: None
        self.after: Callable[[str, str], None] = lambda _call, _path: None

    @property
    def uploads(self) -> int:
        """Return the number of uploaded results; thumbnails are not counted."""
        return sum("/thumbs/" not in path for path in self.uploaded)

    def info(self, path: str, *, deadline: float) -> ObjectInfo | None:
        self.before("info", path)
        with self._lock:
            return self.objects[path][1] if path in self.objects else None

    def upload(
        self,
        path: str,
        data: bytes,
        *,
        content_type: str,
        metadata: Mapping[str, str],
        replaces: int,
        deadline: float,
        delete_at: datetime | None = None,
    ) -> ObjectInfo | None:
        self.before("upload", path)
        with self._lock:
            current = self.objects[path][1].generation if path in self.objects else 0
            if current != replaces:
                return None
            generation, checksum = next(self._generations), self.crc32c(data)
            info = ObjectInfo(generation, len(data), checksum, dict(metadata), content_type, delete_at=delete_at)
            self.objects[path] = (data, info, content_type)
            self.uploaded.append(path)
        self.after("upload", path)
        return info

    def take_over(
        self,
        path: str,
        metadata: Mapping[str, str],
        *,
        seen: ObjectInfo,
        deadline: float,
        delete_at: datetime | None = None,
    ) -> ObjectInfo | None:
        self.before("take_over", path)
        with self._lock:
            if path not in self.objects or self.objects[path][1] != seen:
                return None
            data, info, content_type = self.objects[path]
            merged = {**info.metadata, **metadata}
            until = max((at for at in (info.delete_at, delete_at) if at is not None), default=None)
            changed = replace(info, metadata=merged, metageneration=info.metageneration + 1, delete_at=until)
            self.objects[path] = (data, changed, content_type)
            return changed

    def delete(self, path: str, *, generation: int, metageneration: int, deadline: float) -> None:
        self.before("delete", path)
        with self._lock:
            found = self.objects.get(path)
            if found and (found[1].generation, found[1].metageneration) == (generation, metageneration):
                del self.objects[path]

    def read(self, path: str, *, max_bytes: int, deadline: float) -> tuple[ObjectInfo, bytes] | None:
        self.before("read", path)
        if path not in self.objects:
            return None
        data, info, _ = self.objects[path]
        if len(data) > max_bytes:
            raise ObjectTooLarge
        return info, data

    def crc32c(self, data: bytes) -> str:
        checksum: int = google_crc32c.value(data)
        return base64.b64encode(checksum.to_bytes(4, "big")).decode()


def is_down(service: str, kind: str = "unreachable", calls: Sequence[str] = ()) -> Callable[[str, str], None]:
    """Return a `before` or `after` hook under which the service does not respond (to these calls)."""

    def fail(call: str, _path: str) -> None:
        if not calls or call in calls:
            raise BackendError(service, kind)

    return fail


def fails_times(count: int, hook: Callable[[str, str], None]) -> Callable[[str, str], None]:
    """Return the hook, active for its first `count` failures only."""
    left = [count]

    def fail(call: str, path: str) -> None:
        if left[0] > 0:
            try:
                hook(call, path)
            except BackendError:
                left[0] -= 1
                raise

    return fail


class TokenUsers:
    """`Users` that knows tokens of the form `token-of-{uid}`."""

    def uid(self, id_token: str) -> str:
        if not id_token.startswith("token-of-"):
            raise Unauthenticated("unauthenticated.token_invalid")
        return id_token.removeprefix("token-of-")


PATIENCE = 10.0
"""Seconds until a test fails for something that never happens."""


class PaintingGenerator:
    """`Generator` that paints seeded noise in a few steps; no torch. Subclasses misbehave."""

    step_seconds = 0.0
    lingers = False
    """Whether the second step lasts until the job is asked to stop, for at most `PATIENCE`."""

    def __init__(self, *, side: int = 64, steps: int = 4) -> None:
        self.side, self.steps = side, steps
        self.generated = 0
        self.running = 0
        self.most_running = 0
        self.steps_done = 0
        self.stepped, self.painted = threading.Event(), threading.Event()

    def controlnet_types(self) -> Sequence[str]:
        return "canny", "tile"

    def use_idle_moment(self) -> bool:
        return False

    def models(self, task_type: TaskType) -> Sequence[str]:
        return ("fake",)

    def describe(self, task_type: TaskType, model: str | None = None) -> ModelDefaults:
        if model not in {None, "fake"}:
            raise InvalidInput([FieldProblem("model", "invalid_input.one_of", choices="fake", got=short(model))])
        return ModelDefaults(
            name="fake",
            width=self.side,
            height=self.side,
            num_inference_steps=self.steps,
            guidance_scale=5.0,
            size_multiple=8,
            has_refiner=False,
        )

    def estimate(self, request: Request, params: Params) -> Estimate | None:
        return None

    def check(self, request: Request, sources: Sources) -> None:
        pass

    def prepare(self, request: Request, params: Params, control: Control) -> Placement:
        control.raise_if_stopped()
        return Placement("resident", "painting needs no room")

    def preload(self, tasks: Sequence[TaskType] | None, control: Control) -> Sequence[str]:
        return tuple(tasks or ())

    def health(self) -> Sequence[str]:
        return ("text2img",)

    def generate(self, request: Request, params: Params, sources: Sources, control: Control) -> Iterator[Generated]:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if isinstance(params, ImageParams):
                for index, seed in enumerate(params.seeds):
                    self._steps(params, control, index, len(params.seeds))
                    pixels = np.random.default_rng(seed).integers(
                        0, 256, (params.height, params.width, 3), dtype=np.uint8
                    )
                    self.generated += 1
                    yield GeneratedImage(index, seed, pixels)
            else:
                self._steps(params, control, 0, 1)
                shape = (params.num_frames, params.height, params.width, 3)
                frames = np.random.default_rng(params.seed).integers(0, 256, shape, dtype=np.uint8)
                self.generated += 1
                yield GeneratedClip(params.seed, frames)
            self.painted.set()
        finally:
            self.running -= 1

    def _steps(self, params: Params, control: Control, index: int, count: int) -> None:
        total = params.num_inference_steps * count
        for step in range(params.num_inference_steps):
            control.raise_if_stopped()
            time.sleep(self.step_seconds)
            self.steps_done += 1
            self.stepped.set()
            control.report(Progress("generating", index * params.num_inference_steps + step + 1, total))
            if self.lingers and step == 0:
                self._linger(control)

    def _linger(self, control: Control) -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            control.raise_if_stopped()
            time.sleep(0.01)


class Slow(PaintingGenerator):
    """Takes a tenth of a second a step."""

    step_seconds = 0.1


class Raises(PaintingGenerator):
    """Raises the given error at the given step."""

    def __init__(self, error: BaseException, *, at_step: int = 2) -> None:
        super().__init__()
        self.error: BaseException | None = error
        self.at_step = at_step

    def _steps(self, params: Params, control: Control, index: int, count: int) -> None:
        super()._steps(params, control, index, count)
        if self.error is not None:
            raise self.error


class HasNoModel(PaintingGenerator):
    """Serves no task."""

    def describe(self, task_type: TaskType, model: str | None = None) -> ModelDefaults:
        raise ModelUnavailable("model_unavailable.folder_missing", variable="SDXL_MODEL")


class Hangs(PaintingGenerator):
    """Stops answering in the middle of a step, until `release` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()

    def _steps(self, params: Params, control: Control, index: int, count: int) -> None:
        self.release.wait(30)
