"""Files of weights brought into the machine's page cache while Python is busy importing; imports no torch."""

import contextlib
import threading
from collections.abc import Iterable
from pathlib import Path

PIECE = 8 << 20
"""Bytes of one read, in which no lock of Python's is held."""


def read_ahead(files: Iterable[Path], most_bytes: int) -> threading.Thread:
    """Read files in their order, in a thread of their own, as far as whole ones fit into so many bytes.

    What was read is forgotten here; the kernel keeps it as long as nobody needs the memory. The kernel is not merely
    told that it will be needed (`posix_fadvise`): it takes that as a wish for one piece.
    """

    def read() -> None:
        buffer, left = bytearray(PIECE), most_bytes
        for path in files:
            with contextlib.suppress(OSError):  # whoever loads it says what is wrong with it
                left -= path.stat().st_size
                if left < 0:
                    return
                with path.open("rb", buffering=0) as file:
                    while file.readinto(buffer):
                        pass

    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    return thread
