"""What a list shows of a file before anybody opens it: a small picture, and a few colours until that is here.

Knows pixels and encoders; knows no path and no store. Blocks: call it in a thread.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from worker.media.artifact import Artifact
from worker.media.image import encode_image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

LONGEST_SIDE = 512
"""Pixels of a thumbnail: three columns on a phone, with its density of three."""
QUALITY = 75
POSTER_SECONDS = 0.3
"""Into a clip: its first frames are often softer than the others."""
_HASH_SIDE = 32
_HASH_COMPONENTS = (4, 3)
"""What the authors of BlurHash recommend: https://github.com/woltapp/blurhash."""


def thumbnail(pixels: "NDArray[np.uint8]", xmp: bytes | None = None) -> Artifact:
    """A WebP of a picture, (height, width, 3), whose longest side has at most 512 pixels; with its `blurhash`."""
    import numpy as np
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return replace(encode_image(np.asarray(image), "webp", QUALITY, xmp), blurhash=_blurhash(image))


def poster(frames: "NDArray[np.uint8]", fps: int) -> "NDArray[np.uint8]":
    """The frame of a clip, (frames, height, width, 3), that stands for it."""
    chosen: NDArray[np.uint8] = frames[min(len(frames) - 1, round(POSTER_SECONDS * fps))]
    return chosen


def _blurhash(image: "Image.Image") -> str:
    import blurhash  # type: ignore[import-untyped]  # it has no types
    import numpy as np

    # Of so few colours a smaller picture has as many.
    small = image.copy()
    small.thumbnail((_HASH_SIDE, _HASH_SIDE))
    across, down = _HASH_COMPONENTS if image.width >= image.height else _HASH_COMPONENTS[::-1]
    return str(blurhash.encode(np.asarray(small).tolist(), across, down))
