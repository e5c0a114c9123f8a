"""A stranger's bytes -> one picture: upright, 8-bit, sRGB, a plain mode, without metadata.

Does not know where the bytes are from, or what becomes of the picture. Whatever the bytes are, the outcome is a picture
or `InvalidImage`, with memory and time bounded; `sandbox` sees to it that nothing in them gets any further.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.core.errors import Internal, InvalidImage
from worker.media import sandbox
from worker.media.kinds import kind_of
from worker.media.reader import Clear, Limits

if TYPE_CHECKING:
    from PIL import Image

MAX_DECLARED_PIXELS = 1 << 28
"""What phones of 200 megapixels take, and somewhat more."""
DECODE_SECONDS = 30.0
"""For one picture. The slowest that are let in, 48 megapixels of HEIC, take some 5 s of one core."""
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
"""What a client is told of a picture that was read all the same; the field's name stands in front."""

log = logging.getLogger(__name__)
_places = threading.BoundedSemaphore(_AT_ONCE)


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture, and what its sender should know of how it was read."""

    image: "Image.Image"
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    """How long it took: what another picture of the same job has less."""


def start() -> None:
    """Get the decoder's process ready for the first picture, beside what else goes on. A job says so if it fails."""
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
) -> Picture:
    """A picture as RGB in sRGB: first frame, upright, transparency on `clear`, no metadata.

    A mask is L, 255 = repaint, soft values kept. Transparent counts as black there: apps paint white on a clear canvas.

    Args:
        data: the file.
        what: the field that it is from.
        max_pixels: what the picture may have in the end; a larger one is made smaller by a whole factor.
        max_declared_pixels: what the file may have.
        mask: whether it is one.
        clear: what transparency becomes; in a mask always black.
        seconds: how long reading it may take.
        raise_if_stopped: asked several times a second; what it raises is passed on.

    Raises:
        InvalidImage: no picture, damaged, or over the limits; the message starts with `what`.
        Internal: the decoder cannot be started.
    """
    limits = Limits(max_pixels, max_declared_pixels, sandbox.MEMORY_BYTES)
    kind = kind_of(data, what)
    with _place(raise_if_stopped):
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
    return Picture(answer.image, tuple(f"{what}: {_SAYS[note]}" for note in answer.notes if note in _SAYS), took)


def _ended(how: str, kind: str) -> None:
    log.warning(how, extra={"action": "decoder_ended", "kind": kind})


@contextlib.contextmanager
def _place(raise_if_stopped: Callable[[], None]) -> Iterator[None]:
    """One of the places for a picture; the others wait, and no time is counted for it."""
    while not _places.acquire(timeout=_ASK_EVERY_SECONDS):
        raise_if_stopped()
    try:
        yield
    finally:
        _places.release()
