"""Reads weight files into the page cache while Python imports libraries; imports no torch."""

import contextlib
import threading
from collections.abc import Iterable
from pathlib import Path

PIECE = 8 << 20
"""Bytes per read, during which the GIL is released."""


def read_ahead(files: Iterable[Path], most_bytes: int) -> threading.Thread:
    """Read files in order, in a thread, as many whole files as fit into the byte limit.

    The content is discarded; the kernel caches it. `posix_fadvise` would not suffice: the kernel reads only one piece
    ahead for it.
    """

    def read() -> None:
        buffer, left = bytearray(PIECE), most_bytes
        for path in files:
            with contextlib.suppress(OSError):  # loading the file reports the error
                left -= path.stat().st_size
                if left < 0:
                    return
                with path.open("rb", buffering=0) as file:
                    while file.readinto(buffer):
                        pass

    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    return thread
