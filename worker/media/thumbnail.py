"""Makes thumbnails, posters and their BlurHashes, which lists show before a file is opened.

Blocking: call it in a thread. Knows pixels and encoders; knows no path and no store.
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
"""Longest side of a thumbnail in pixels: three columns on a phone, at a pixel density of three."""
QUALITY = 75
POSTER_SECONDS = 0.3
"""Position of the poster in a clip: the first frames are often softer than the others."""
_HASH_SIDE = 32
_HASH_COMPONENTS = (4, 3)
"""The components that BlurHash's authors recommend: https://github.com/woltapp/blurhash."""


def thumbnail(pixels: "NDArray[np.uint8]", xmp: bytes | None = None) -> Artifact:
    """Return a WebP of `pixels`, (height, width, 3), with a longest side of at most 512, and its `blurhash`."""
    import numpy as np
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return replace(encode_image(np.asarray(image), "webp", QUALITY, xmp), blurhash=_blurhash(image))


def poster(frames: "NDArray[np.uint8]", fps: int) -> "NDArray[np.uint8]":
    """Return the frame of a clip, (frames, height, width, 3), that becomes its poster."""
    chosen: NDArray[np.uint8] = frames[min(len(frames) - 1, round(POSTER_SECONDS * fps))]
    return chosen


def _blurhash(image: "Image.Image") -> str:
    import blurhash  # type: ignore[import-untyped]  # it has no types
    import numpy as np

    # A smaller picture suffices for so few colours.
    small = image.copy()
    small.thumbnail((_HASH_SIDE, _HASH_SIDE))
    across, down = _HASH_COMPONENTS if image.width >= image.height else _HASH_COMPONENTS[::-1]
    return str(blurhash.encode(np.asarray(small).tolist(), across, down))
