"""Emulates RunPod's side of a serverless worker on loopback: jobs, results, progress, pings and stop signals.

Implements the protocol of `runpod` 1.12 (rp_job, rp_http, rp_ping and rp_scale in runpod/serverless/modules). Knows
nothing about what a job does; `runpod_api` has the endpoints that a backend calls, such as /run.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from aiohttp import web

from tools.emulators.background import BackgroundLoop
from tools.emulators.runpod_api import RunPodApi

POLL_STEP_SECONDS = 0.01
MAX_POST_BYTES = 64 << 20
State = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED"]


@dataclass(frozen=True, slots=True)
class Post:
    """One POST of a worker, as it arrived. `at` is `time.time()`.

    `payload` is the decoded JSON; None: the body was not strict JSON (RunPod would drop it). `answered` is the status
    code of the response: a result that did not get 200 does not count for the job.
    """

    at: float
    job_id: str
    worker_id: str
    kind: Literal["result", "progress", "stream"]
    payload: dict[str, Any] | None
    body: bytes
    answered: int


@dataclass(frozen=True, slots=True)
class Ping:
    """One heartbeat: `job_ids` are the jobs that the worker reports as running, `params` the whole query."""

    at: float
    worker_id: str
    job_ids: tuple[str, ...]
    params: Mapping[str, str]


class Verbatim(str):
    """An `input` sent as this exact JSON text, which Python's encoder or parser may reject."""

    __slots__ = ()


@dataclass(slots=True)
class _Job:
    payload: dict[str, Any]
    state: State = "IN_QUEUE"
    workers: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The JSON that a worker receives."""
        values = {
            name: value if isinstance(value, Verbatim) else json.dumps(value) for name, value in self.payload.items()
        }
        return "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in values.items()) + "}"


class ControlPlane:
    """Context manager: the endpoints that a worker needs, on a free loopback port.

    `poll_seconds` is how long an empty job-take or job-stop poll is held open. It bounds how long an idle worker takes
    to exit after SIGTERM, since the SDK waits for its polls.
    """

    def __init__(self, *, poll_seconds: float = 1.0, ping_seconds: int = 1) -> None:
        self._poll_seconds = poll_seconds
        self._ping_seconds = ping_seconds
        self._changed = threading.Condition()
        self._jobs: dict[str, _Job] = {}
        self._waiting: deque[str] = deque()
        self._overdue: list[tuple[float, str]] = []
        self._stops: defaultdict[str, deque[str]] = defaultdict(deque)
        self._answers: deque[int] = deque()
        self._posts: list[Post] = []
        self._pings: list[Ping] = []
        self._polls: list[tuple[float, str]] = []
        self._numbers = itertools.count(1)
        self._paused = False

    def __enter__(self) -> Self:
        self._loop = BackgroundLoop("control-plane")
        self._loop.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run(self._runner.cleanup())
        self._loop.close()

    @property
    def url(self) -> str:
        """The base URL of RunPod's API for a backend: `http://127.0.0.1:port/v2`."""
        return f"http://127.0.0.1:{self._port}/v2"

    @property
    def env(self) -> dict[str, str]:
        """The variables that make the SDK a worker of this endpoint.

        The SDK's own fitness checks (GPU, network, disk) are off: they are meant for a data-centre machine.
        RUNPOD_ENDPOINT_ID is left out, because a worker on the platform refuses emulators.
        """
        base = f"{self.url}/local"
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID",
            "RUNPOD_PING_INTERVAL": str(self._ping_seconds * 1000),
            "RUNPOD_AI_API_KEY": "local-control-plane",
            "RUNPOD_POD_ID": "worker-1",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    # -- for clients of the endpoint

    def submit(
        self, job_input: Any, job_id: str | None = None, *, ttl_seconds: float | None = None, **extra: Any
    ) -> str:
        """Queue a job and return its id. A known `job_id` is delivered once more (see `deliver_again`).

        After `ttl_seconds` the job is forgotten, queued or running; a worker that runs it gets a stop signal. `extra`
        is added beside `input`, like RunPod's `webhook` and `s3Config`.
        """
        with self._changed:
            job_id = job_id or f"job-{next(self._numbers)}-local"
            self._jobs[job_id] = _Job({"id": job_id, "input": job_input, **extra})
            self._waiting.append(job_id)
            if ttl_seconds is not None:
                heapq.heappush(self._overdue, (time.monotonic() + ttl_seconds, job_id))
        return job_id

    def deliver_again(self, job_id: str) -> None:
        """Deliver a known job once more, unchanged, as RunPod does when it considers a worker lost."""
        with self._changed:
            self._jobs[job_id].state = "IN_QUEUE"
            self._waiting.append(job_id)

    def stop(self, job_id: str) -> None:
        """Cancel a job: remove it from the queue, or send a stop signal to its worker."""
        with self._changed:
            job = self._jobs[job_id]
            if job_id in self._waiting:
                self._waiting.remove(job_id)
            elif job.workers:
                self._stops[job.workers[-1]].append(job_id)
            job.state = "CANCELLED"
            self._changed.notify_all()

    def wait(self, job_id: str, timeout: float = 60.0, *, count: int = 1) -> dict[str, Any]:
        """Wait for the result that the worker posts: `{"output": …}` and, on failure, `{"error": …}`.

        `count` waits for that many results and returns the last, for a job that is delivered several times.

        Raises:
            TimeoutError: they have not arrived after `timeout` seconds.
        """
        self._wait_for(lambda: len(self.results(job_id)) >= count, timeout, f"result of {job_id}")
        return self.results(job_id)[count - 1]

    def state(self, job_id: str) -> State:
        """Return the job's state as RunPod's /status would show it.

        Raises:
            KeyError: there never was such a job, or its time to live is over.
        """
        with self._changed:
            self._forget_overdue()
            return self._jobs[job_id].state

    # -- for tests: inspect and control

    @property
    def posts(self) -> list[Post]:
        """All posts of workers, in order of arrival."""
        with self._changed:
            return list(self._posts)

    @property
    def pings(self) -> list[Ping]:
        """All heartbeats, in order of arrival."""
        with self._changed:
            return list(self._pings)

    def results(self, job_id: str) -> list[dict[str, Any]]:
        """Return the accepted results of a job, in order."""
        posts = [post for post in self.posts if post.job_id == job_id and post.kind == "result"]
        return [post.payload for post in posts if post.payload is not None and post.answered == 200]

    def progress(self, job_id: str) -> list[Post]:
        """Return a job's progress posts, in order of arrival."""
        return [post for post in self.posts if post.job_id == job_id and post.kind == "progress"]

    def workers_of(self, job_id: str) -> list[str]:
        """Return the ids of the workers that received a job, one per delivery."""
        with self._changed:
            return list(self._jobs[job_id].workers)

    def answer_results(self, *codes: int) -> None:
        """Respond to the next result posts with these status codes, then with 200 again."""
        with self._changed:
            self._answers.extend(codes)

    def pause(self, paused: bool = True) -> None:
        """Deliver no jobs until `pause(False)`."""
        with self._changed:
            self._paused = paused

    def wait_taken(self, job_id: str, timeout: float = 60.0, *, count: int = 1) -> None:
        """Wait until a worker has taken the job (`count` times)."""
        self._wait_for(lambda: len(self.workers_of(job_id)) >= count, timeout, f"worker for {job_id}")

    def wait_progress(self, job_id: str, matches: Callable[[Any], bool], timeout: float = 60.0) -> Post:
        """Wait for a progress post whose `output` matches, and return it."""

        def found() -> list[Post]:
            return [post for post in self.progress(job_id) if post.payload and matches(post.payload.get("output"))]

        self._wait_for(lambda: bool(found()), timeout, f"progress of {job_id}")
        return found()[0]

    def wait_worker(self, worker_id: str, timeout: float = 60.0, *, since: float = 0.0) -> None:
        """Wait until a worker polls for jobs (after `since`, a `time.time()`)."""

        def asked() -> bool:
            return any(worker == worker_id and at >= since for at, worker in self._polls)

        self._wait_for(asked, timeout, f"worker {worker_id}")

    def _forget_overdue(self) -> None:
        """Drop the jobs whose time to live is over; the lock is held."""
        while self._overdue and self._overdue[0][0] <= time.monotonic():
            _, job_id = heapq.heappop(self._overdue)
            job = self._jobs.pop(job_id, None)
            if job is None:
                continue
            if job_id in self._waiting:
                self._waiting.remove(job_id)
            elif job.state == "IN_PROGRESS":
                self._stops[job.workers[-1]].append(job_id)

    def _wait_for(self, done: Callable[[], bool], timeout: float, what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(done, timeout):
                raise TimeoutError(f"no {what} within {timeout:.0f} s")

    # -- the endpoints

    async def _start(self) -> None:
        app = web.Application(client_max_size=MAX_POST_BYTES)
        app.router.add_routes(RunPodApi(self).routes())
        app.router.add_get("/v2/local/job-take/{worker}", self._take_one)
        app.router.add_get("/v2/local/job-take-batch/{worker}", self._take_batch)
        app.router.add_get("/v2/local/job-stop/{worker}", self._take_stops)
        app.router.add_get("/v2/local/ping/{worker}", self._take_ping)
        app.router.add_post("/v2/local/job-done/{worker}/{job}", self._take_post)
        app.router.add_post("/v2/local/job-stream/{worker}/{job}", self._take_post)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port: int = self._runner.addresses[0][1]

    async def _take_one(self, request: web.Request) -> web.Response:
        jobs = await self._take(request, 1)
        return _json(jobs[0].text) if jobs else web.Response(status=204)

    async def _take_batch(self, request: web.Request) -> web.Response:
        jobs = await self._take(request, int(request.query.get("batch_size", "1")))
        return _json("[" + ", ".join(job.text for job in jobs) + "]") if jobs else web.Response(status=204)

    async def _take(self, request: web.Request, most: int) -> list[_Job]:
        worker = request.match_info["worker"]
        with self._changed:
            self._polls.append((time.time(), worker))
            self._changed.notify_all()
        deadline = time.monotonic() + self._poll_seconds
        while time.monotonic() < deadline and request.transport is not None:
            with self._changed:
                self._forget_overdue()
                ready = min(most, 0 if self._paused else len(self._waiting))
                jobs = [self._jobs[self._waiting.popleft()] for _ in range(ready)]
                for job in jobs:
                    job.workers.append(worker)
                    job.state = "IN_PROGRESS"
                if jobs:
                    self._changed.notify_all()
                    return jobs
            await asyncio.sleep(POLL_STEP_SECONDS)
        return []

    async def _take_stops(self, request: web.Request) -> web.Response:
        stops = self._stops[request.match_info["worker"]]
        deadline = time.monotonic() + self._poll_seconds
        while not stops and time.monotonic() < deadline and request.transport is not None:
            await asyncio.sleep(POLL_STEP_SECONDS)
            with self._changed:
                self._forget_overdue()
        with self._changed:
            ids = [stops.popleft() for _ in range(len(stops))]
        return web.json_response({"jobsToStop": ids}) if ids else web.Response(status=204)

    async def _take_ping(self, request: web.Request) -> web.Response:
        ids = tuple(filter(None, request.query.get("job_id", "").split(",")))
        ping = Ping(time.time(), request.match_info["worker"], ids, dict(request.query))
        with self._changed:
            self._pings.append(ping)
            self._changed.notify_all()
        return web.Response(text="ok")

    async def _take_post(self, request: web.Request) -> web.Response:
        body = await request.read()
        job_id, worker = request.match_info["job"], request.match_info["worker"]
        payload = _strict_json(body)
        kind: Literal["result", "progress", "stream"] = "result"
        if "/job-stream/" in request.path:
            kind = "stream"
        elif payload is not None and payload.get("status") == "IN_PROGRESS":
            kind = "progress"
        with self._changed:
            code = self._answers.popleft() if kind == "result" and self._answers else 200
            code = 400 if payload is None and code == 200 else code
            self._posts.append(Post(time.time(), job_id, worker, kind, payload, body, code))
            job = self._jobs.get(job_id)
            if job and kind == "result" and code == 200 and payload is not None and job.state != "CANCELLED":
                job.state = "FAILED" if payload.get("error") else "COMPLETED"
            self._changed.notify_all()
        return web.Response(status=code)


def _json(text: str) -> web.Response:
    # As bytes: `text` is ASCII, with any lone surrogate as an escape for the worker to handle.
    return web.Response(body=text.encode(), content_type="application/json")


def _strict_json(body: bytes) -> dict[str, Any] | None:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        payload = json.loads(body, parse_constant=refuse)
    except ValueError:
        return None
    return payload if isinstance(payload, dict) else None
