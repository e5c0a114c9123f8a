"""Free loopback ports for programs that must be told theirs before they bind it."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """Yield a free port that the system gives to nobody else before the block ends.

    On Linux the port stays bound: a server that names it binds it as well, since it also sets SO_REUSEADDR and this
    socket never listens. Other systems refuse that, so there the port is only known to have been free.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port = int(holder.getsockname()[1])
        if sys.platform != "linux":
            holder.close()
        yield port
