"""Encodes a preview as text that fits into a document: a data URI of a small WebP.

Knows pixels and how long the text may be; knows nobody who reads it. Blocks: call it in a thread.
"""

import base64
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

MAX_CHARACTERS = 8192
"""Limit of the whole text: listeners receive the whole document on each change."""
_PREFIX = "data:image/webp;base64,"
_QUALITIES = (80, 65, 50, 35, 20, 5)


def preview_uri(image: "Image.Image", xmp: bytes | None = None) -> str:
    """Encode `image`, RGB, as a data URI of at most 8 KB: at the best quality that fits, or else smaller.

    Args:
        image: at most a few hundred pixels a side.
        xmp: the mark, a packet of `media.mark`.
    """
    marked = {} if xmp is None else {"xmp": xmp}
    while True:
        for quality in _QUALITIES:
            out = io.BytesIO()
            # Without a colour profile, for lack of room: phones and browsers treat untagged pictures as sRGB.
            image.save(out, "WEBP", quality=quality, method=4, **marked)
            uri = _PREFIX + base64.b64encode(out.getvalue()).decode()
            if len(uri) <= MAX_CHARACTERS:
                return uri
        image = image.reduce(2)
