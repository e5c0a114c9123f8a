"""An HTTP/1.1 proxy for Storage that fails on command and remembers every request.

Knows messages and connections, not Cloud Storage: a regular expression selects the requests.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from tests.support.proxy import Proxy, reset

Kind = Literal[
    "status",  # answer with `status`, do not forward
    "status_after",  # forward, then respond with `status`: it took effect, the caller sees a failure
    "lose_answer",  # forward, then reset the connection: it took effect, the caller gets no response
    "reset",  # reset the connection after `after_bytes` of the request's body, do not forward
    "cut_answer",  # forward, reset the connection after `after_bytes` of the response's body
    "corrupt",  # forward with one byte in the middle of the body changed
    "delay",  # wait `seconds`, then forward
    "hang",  # never respond
]


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, its requests (regular expressions on method and decoded path with query), and how often it occurs."""

    kind: Kind
    method: str = ""
    path: str = ""
    times: int | None = 1  # None: until `clear`
    status: int = 503
    seconds: float = 0.0
    after_bytes: int = 0

    def matches(self, method: str, path: str) -> bool:
        """Whether the fault applies to a request."""
        return bool(re.search(self.method, method) and re.search(self.path, path))


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """One request as it arrived; `at` is `time.time()`, `path` decoded with its query, no credentials in `headers`."""

    at: float
    method: str
    path: str
    headers: Mapping[str, str]
    body_bytes: int
    fault: Kind | None


@dataclass(frozen=True, slots=True)
class _Message:
    start: str
    raw_head: bytes
    headers: Mapping[str, str]
    body: bytes = b""


class HttpProxy(Proxy):
    """Forwards requests to an HTTP server, except where a fault says otherwise."""

    def __init__(self, upstream: str, *, latency: float = 0.0) -> None:
        super().__init__(upstream, latency=latency)
        self._faults: list[tuple[Fault, list[int | None]]] = []
        self._seen: list[SeenRequest] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """`http://127.0.0.1:port`."""
        return f"http://{self.address}"

    @property
    def requests(self) -> list[SeenRequest]:
        """All requests since the start or the last `clear`, in order of arrival."""
        with self._lock:
            return list(self._seen)

    def add(self, *faults: Fault) -> None:
        """Add faults. The first matching one that is not used up applies to a request."""
        with self._lock:
            self._faults += [(fault, [fault.times]) for fault in faults]

    def clear(self) -> None:
        """Forget all faults and requests."""
        with self._lock:
            self._faults.clear()
            self._seen.clear()

    def _take(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault, left in self._faults:
                if left[0] != 0 and fault.matches(method, path):
                    if left[0] is not None:
                        left[0] -= 1
                    return fault
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = await self._open_upstream()
        try:
            while True:
                head = await _read_head(reader)
                method, target, _ = head.start.split(" ", 2)
                path = unquote(target)
                fault = self._take(method, path)
                if fault and fault.kind == "reset":
                    await _read_some(reader, fault.after_bytes)
                    self._remember(head, method, path, fault.after_bytes, fault)
                    return reset(writer)
                body = await _read_body(reader, head.headers, is_answer=False)
                self._remember(head, method, path, len(body), fault)
                if fault and fault.kind == "hang":
                    await reader.read(-1)  # until the caller gives up
                    return None
                await self._answer(method, head, body, fault, writer, upstream)
        finally:
            reset(upstream[1])

    def _remember(self, head: _Message, method: str, path: str, size: int, fault: Fault | None) -> None:
        shown = {name: value for name, value in head.headers.items() if name != "authorization"}
        request = SeenRequest(time.time(), method, path, shown, size, fault.kind if fault else None)
        with self._lock:
            self._seen.append(request)

    async def _answer(
        self,
        method: str,
        head: _Message,
        body: bytes,
        fault: Fault | None,
        writer: asyncio.StreamWriter,
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        kind = fault.kind if fault else None
        if fault and kind == "delay":
            await asyncio.sleep(fault.seconds)
        if fault and kind == "status":
            await asyncio.sleep(2 * self.latency)
            return await _write_status(writer, fault.status)
        if kind == "corrupt" and body:
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 0x01]) + body[middle + 1 :]
        await asyncio.sleep(self.latency)
        upstream[1].write(head.raw_head + body)
        await upstream[1].drain()
        answer = await _read_head(upstream[0])
        empty = not _has_body(method, answer.start)
        answer_body = b"" if empty else await _read_body(upstream[0], answer.headers, is_answer=True)
        await asyncio.sleep(self.latency)
        if kind == "lose_answer":
            return reset(writer)
        if fault and kind == "status_after":
            return await _write_status(writer, fault.status)
        if fault and kind == "cut_answer":
            writer.write(answer.raw_head + answer_body[: fault.after_bytes])
            await writer.drain()
            await asyncio.sleep(0.05)  # RST discards unread data: let the first bytes arrive
            return reset(writer)
        writer.write(answer.raw_head + answer_body)
        await writer.drain()
        return None


def _has_body(method: str, start: str) -> bool:
    code = start.split(" ", 2)[1]
    return method != "HEAD" and code not in {"204", "304"}


async def _read_head(reader: asyncio.StreamReader) -> _Message:
    raw = await reader.readuntil(b"\r\n\r\n")
    start, *lines = raw[:-4].decode("latin-1").split("\r\n")
    pairs = (line.split(":", 1) for line in lines)
    return _Message(start, raw, {name.strip().lower(): value.strip() for name, value in pairs})


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str], *, is_answer: bool) -> bytes:
    """Read a body by its framing; a response without a length ends with its connection."""
    if "chunked" in headers.get("transfer-encoding", ""):
        return await _read_chunks(reader)
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    return await reader.read(-1) if is_answer else b""


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        parts += [line, await reader.readexactly(size + 2)]
        if size == 0:
            return b"".join(parts)


async def _read_some(reader: asyncio.StreamReader, count: int) -> None:
    left = count
    while left > 0 and (chunk := await reader.read(left)):
        left -= len(chunk)


async def _write_status(writer: asyncio.StreamWriter, status: int) -> None:
    body = json.dumps({"error": {"code": status, "message": "injected fault"}}).encode()
    head = f"HTTP/1.1 {status} Injected\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
