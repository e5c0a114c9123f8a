"""The base of both proxies: a loopback listener in front of an upstream that can be closed, reopened and reset.

Setting up a connection takes no time here; only `latency` seconds are added, each way.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from abc import ABC, abstractmethod
from typing import Self

from tools.emulators.background import BackgroundLoop

BUFFER_BYTES = 1 << 20
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, zero seconds: close sends RST instead of FIN


class Proxy(ABC):
    """Base of `HttpProxy` and `TcpProxy`: a context manager that listens on a free loopback port."""

    def __init__(self, upstream: str, *, latency: float = 0.0) -> None:
        """Listen in front of `upstream` (`host:port`). `latency` is in seconds each way, and may be set at any time."""
        host, _, port = upstream.removeprefix("http://").rpartition(":")
        self.latency = latency
        self._upstream = (host, int(port))
        self._port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    def __enter__(self) -> Self:
        self._loop = BackgroundLoop(type(self).__name__)
        self._loop.run(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run(self._close_listener())
        self._loop.run(self._reset_all())
        self._loop.close()

    @property
    def address(self) -> str:
        """`127.0.0.1:port`, the same for as long as the proxy lives."""
        return f"127.0.0.1:{self._port}"

    def refuse(self) -> None:
        """Refuse connections from now on, and reset the live ones, as if the service were down."""
        self._loop.run(self._close_listener())
        self._loop.run(self._reset_all())

    def accept(self) -> None:
        """Accept connections again after `refuse`."""
        self._loop.run(self._listen())

    def reset_connections(self) -> None:
        """Reset every live connection; new ones are accepted."""
        self._loop.run(self._reset_all())

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(
                self._connected, "127.0.0.1", self._port, limit=BUFFER_BYTES, reuse_address=True
            )
            self._port = self._server.sockets[0].getsockname()[1]

    async def _close_listener(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _reset_all(self) -> None:
        for writer in list(self._writers):
            reset(writer)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            self._writers.discard(writer)
            writer.close()

    @abstractmethod
    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until either side ends it."""

    async def _open_upstream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self._upstream, limit=BUFFER_BYTES)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with RST, so that the other side sees "connection reset by peer"."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    writer.transport.abort()
