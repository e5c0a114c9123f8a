"""A TCP proxy for gRPC that forwards bytes unread, late, one way only, or not at all."""

from __future__ import annotations

import asyncio
import contextlib

from tests.support.proxy import Proxy, reset

CHUNK_BYTES = 65536


class TcpProxy(Proxy):
    """Forwards bytes both ways until told otherwise. Held bytes are kept, and sent when the way is open again."""

    def __init__(self, upstream: str, *, latency: float = 0.0) -> None:
        super().__init__(upstream, latency=latency)
        self._requests_pass = asyncio.Event()
        self._answers_pass = asyncio.Event()
        self._requests_pass.set()
        self._answers_pass.set()

    def black_hole(self) -> None:
        """Accept connections and bytes, and let nothing through in either direction."""
        self._loop.run(self._set(requests=False, answers=False))

    def hold_answers(self) -> None:
        """Forward requests and hold the responses: with `reset_connections`, responses are lost after a commit."""
        self._loop.run(self._set(requests=True, answers=False))

    def pass_through(self) -> None:
        """Forward everything again, listening if it was not, and send what was held."""
        self.accept()
        self._loop.run(self._set(requests=True, answers=True))

    async def _set(self, *, requests: bool, answers: bool) -> None:
        for event, passes in ((self._requests_pass, requests), (self._answers_pass, answers)):
            if passes:
                event.set()
            else:
                event.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await self._open_upstream()
        pumps = [
            asyncio.create_task(self._pump(reader, upstream_writer, self._requests_pass)),
            asyncio.create_task(self._pump(upstream_reader, writer, self._answers_pass)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            reset(upstream_writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, may_pass: asyncio.Event) -> None:
        # A queue of delays, not a sleep per chunk: chunks that follow each other closely are late together.
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)
        delivery = asyncio.create_task(self._deliver(line, writer, may_pass))
        clock = asyncio.get_running_loop().time
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                await line.put((clock() + self.latency, chunk))
            await line.put((0.0, b""))
            with contextlib.suppress(ConnectionError):
                await delivery
        finally:
            delivery.cancel()

    async def _deliver(
        self, line: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, may_pass: asyncio.Event
    ) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due, chunk = await line.get()
            await asyncio.sleep(max(0.0, due - clock()))
            await may_pass.wait()
            if not chunk:
                return
            writer.write(chunk)
            await writer.drain()
