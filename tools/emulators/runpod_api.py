"""Emulates RunPod's API for backends (run, runsync, status and cancel of an endpoint) over a control plane's jobs.

Knows HTTP and RunPod's terms for a job; the control plane has the jobs, their queue and their workers.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from tools.emulators.control_plane import ControlPlane

POLL_STEP_SECONDS = 0.02
RUNSYNC_MS = 90_000
"""Default wait of /runsync; `?wait=` sets another, from 1 s to 5 minutes."""
TERMINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED"})


class RunPodApi:
    """The routes of /v2/{endpoint}, for any endpoint name and any key that is not empty."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def routes(self) -> list[web.RouteDef]:
        """Return the routes for an aiohttp application."""
        return [
            web.post("/v2/{endpoint}/run", self._run),
            web.post("/v2/{endpoint}/runsync", self._runsync),
            web.get("/v2/{endpoint}/status/{job}", self._status),
            web.post("/v2/{endpoint}/status/{job}", self._status),
            web.post("/v2/{endpoint}/cancel/{job}", self._cancel),
        ]

    async def _run(self, request: web.Request) -> web.Response:
        job_id = await self._submitted(request)
        return web.json_response({"id": job_id, "status": "IN_QUEUE"})

    async def _runsync(self, request: web.Request) -> web.Response:
        milliseconds = min(max(int(request.query.get("wait", RUNSYNC_MS)), 1_000), 300_000)
        job_id = await self._submitted(request)
        deadline = time.monotonic() + milliseconds / 1000
        while time.monotonic() < deadline and request.transport is not None:
            if self._answer(job_id)["status"] in TERMINAL:
                break
            await asyncio.sleep(POLL_STEP_SECONDS)
        return web.json_response(self._answer(job_id))

    async def _status(self, request: web.Request) -> web.Response:
        _check_key(request)
        return web.json_response(self._answer(request.match_info["job"]))

    async def _cancel(self, request: web.Request) -> web.Response:
        _check_key(request)
        job_id = request.match_info["job"]
        if self._answer(job_id)["status"] not in TERMINAL:
            self._plane.stop(job_id)
        return web.json_response(self._answer(job_id))

    async def _submitted(self, request: web.Request) -> str:
        _check_key(request)
        try:
            asked = await request.json()
        except ValueError:
            raise web.HTTPBadRequest(text="the body is not JSON") from None
        if not isinstance(asked, dict) or not isinstance(asked.get("input"), dict):
            raise web.HTTPBadRequest(text="the body needs an `input` object")
        ttl = (asked.get("policy") or {}).get("ttl")
        beside = {name: value for name, value in asked.items() if name not in {"input", "policy"}}
        return self._plane.submit(asked["input"], ttl_seconds=None if ttl is None else ttl / 1000, **beside)

    def _answer(self, job_id: str) -> dict[str, Any]:
        """Return the response of /status; 404 for an unknown job, or one whose time to live is over."""
        try:
            state = self._plane.state(job_id)
        except KeyError:
            raise web.HTTPNotFound(text="job not found") from None
        answer: dict[str, Any] = {"id": job_id, "status": state}
        workers = self._plane.workers_of(job_id)
        if workers:
            answer["workerId"] = workers[-1]
        if state in {"COMPLETED", "FAILED"}:
            answer |= {name: value for name, value in self._plane.results(job_id)[-1].items() if name != "status"}
        elif state == "IN_PROGRESS" and (posts := self._plane.progress(job_id)) and posts[-1].payload:
            answer["output"] = posts[-1].payload.get("output")
        return answer


def _check_key(request: web.Request) -> None:
    if not request.headers.get("Authorization", "").removeprefix("Bearer").strip():
        raise web.HTTPUnauthorized(text="an API key is needed")
