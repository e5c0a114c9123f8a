"""Decodes a stranger's bytes into one picture: upright, 8-bit, sRGB, a plain mode, without metadata.

For any bytes the outcome is a picture or `InvalidImage`, within bounded memory and time; `sandbox` contains whatever
the bytes do. Does not know where the bytes are from, or what the picture is for.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.core.errors import Internal, InvalidImage
from worker.media import sandbox
from worker.media.kinds import kind_of
from worker.media.reader import Clear, Limits

if TYPE_CHECKING:
    from PIL import Image

MAX_DECLARED_PIXELS = 1 << 28
"""Enough for phones with 200 megapixels."""
DECODE_SECONDS = 30.0
"""Time limit for one picture. The slowest allowed ones, 48 megapixels of HEIC, take about 5 s of one core."""
_AT_ONCE = 2
_ASK_EVERY_SECONDS = 0.1

_SAYS = {
    "cut_off": "the file is cut off; what is missing was filled with one colour",
    "cut_off_details": "the file is cut off; it was read as far as it goes, and fine details are missing",
    "profile": "its colour profile cannot be read; its colours were taken as sRGB",
    "hdr": "is an HDR picture; its brightness was mapped to that of an ordinary one",
    "hole": (
        "is a picture with a transparent hole; here white is repainted and transparent is kept: "
        "send white where it shall be drawn"
    ),
}
"""Warnings about pictures that were read with reservations; the field's name precedes them."""

log = logging.getLogger(__name__)
_places = threading.BoundedSemaphore(_AT_ONCE)


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture, and warnings about how it was read."""

    image: "Image.Image"
    warnings: tuple[str, ...] = ()


def start() -> None:
    """Start the decoder's process in the background. A failure is reported by the first job that needs it."""
    with contextlib.suppress(Internal):
        sandbox.shared().start()


def decode_image(
    data: bytes,
    what: str,
    max_pixels: int,
    max_declared_pixels: int = MAX_DECLARED_PIXELS,
    *,
    mask: bool = False,
    clear: Clear = "white",
    seconds: float = DECODE_SECONDS,
    raise_if_stopped: Callable[[], None] = lambda: None,
    timed: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> Picture:
    """Decode a picture to RGB in sRGB: first frame, upright, transparency on `clear`, no metadata.

    A mask becomes L, 255 = repaint, with soft values; transparent parts are black: apps paint white on a clear canvas.

    Args:
        data: the file.
        what: the request field.
        max_pixels: pixel limit of the result; a larger picture is reduced by a whole factor.
        max_declared_pixels: pixel limit of the file.
        mask: whether the picture is a mask.
        clear: what transparency becomes; in a mask always black.
        seconds: time limit.
        raise_if_stopped: called several times a second; its errors propagate.
        timed: entered while the picture is decoded, not while it waits for others.

    Raises:
        InvalidImage: not a picture, damaged, or over a limit; the message begins with `what`.
        Internal: the decoder cannot be started.
    """
    limits = Limits(max_pixels, max_declared_pixels, sandbox.MEMORY_BYTES)
    kind = kind_of(data, what)
    with _place(raise_if_stopped), timed():
        started = time.monotonic()
        try:
            answer = sandbox.shared().read(
                data,
                kind,
                what,
                limits,
                mask=mask,
                clear=clear,
                seconds=seconds,
                raise_if_stopped=raise_if_stopped,
            )
        except sandbox.TimeIsOverError:
            _ended("a picture was not read in time", kind)
            raise InvalidImage("invalid_image.too_slow", field=what, seconds=round(seconds, 2)) from None
        except sandbox.EndedError:
            _ended("a picture ended its decoder", kind)
            raise InvalidImage("invalid_image.reader_ended", field=what, kind=kind) from None
        took = time.monotonic() - started
    width, height = answer.size
    facts = {"action": "decoded", "kind": kind, "megapixels": round(width * height / 1e6, 1), "seconds": round(took, 3)}
    log.info("a picture was decoded", extra=facts)
    return Picture(answer.image, tuple(f"{what}: {_SAYS[note]}" for note in answer.notes if note in _SAYS))


def _ended(how: str, kind: str) -> None:
    log.warning(how, extra={"action": "decoder_ended", "kind": kind})


@contextlib.contextmanager
def _place(raise_if_stopped: Callable[[], None]) -> Iterator[None]:
    """Hold one of the decoder's places; waiting for one does not count against any limit."""
    while not _places.acquire(timeout=_ASK_EVERY_SECONDS):
        raise_if_stopped()
    try:
        yield
    finally:
        _places.release()
