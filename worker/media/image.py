"""Pixels -> PNG, JPEG or WebP bytes.

Knows encoders. Does not know whose picture it is, what it was made from (nothing of that is written into a file; its
mark is the caller's) or where it goes. Every file says that its colours are sRGB: some viewers show what says nothing
in the display's own. Blocks: call it in a thread, encoders leave the interpreter free. The levels are chosen by
`benchmarks/encoders.py`.
"""

import io
from typing import TYPE_CHECKING

from worker.api.field_types import FormatName
from worker.media import srgb
from worker.media.artifact import CONTENT_TYPES, Artifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

JPEG_QUALITY = 95

WEBP_QUALITY = 90


def encode_image(
    pixels: "NDArray[np.uint8]", fmt: FormatName, quality: int | None = None, xmp: bytes | None = None
) -> Artifact:
    """Encode one picture; the file carries pixels, that they are sRGB, the mark, and nothing else.

    Args:
        pixels: (height, width, 3), RGB.
        fmt: `png` (lossless; `quality` is ignored), `jpeg` (4:4:4) or `webp`.
        quality: 1 ... 100, by default 95 for JPEG and 90 for WebP; 100 in WebP means lossless.
        xmp: the mark, a packet of `media.mark`.

    The same pixels give the same bytes.
    """
    from PIL import Image

    if fmt == "png":
        from worker.media.png import encode_png, text_chunk

        chunks = [(b"sRGB", b"\0")]  # perceptual, as for photos: PNG specification (W3C), 11.3.2.5
        if xmp is not None:
            chunks.append(text_chunk("XML:com.adobe.xmp", xmp.decode()))
        height, width, _ = pixels.shape
        return Artifact.encoded(encode_png(pixels, chunks), CONTENT_TYPES[fmt], width, height)
    image = Image.fromarray(pixels)
    out = io.BytesIO()
    # Pillow's JPEG encoder takes an `xmp` that is there for one, None included.
    marked = {} if xmp is None else {"xmp": xmp}
    match fmt:
        case "jpeg":
            image.save(
                out, "JPEG", quality=quality or JPEG_QUALITY, subsampling=0, icc_profile=srgb.profile(), **marked
            )
        case "webp" if quality == 100:
            # Here "quality" is effort. With less of it the file is larger than the PNG, with more it hardly shrinks.
            image.save(out, "WEBP", lossless=True, quality=20, method=1, icc_profile=srgb.profile(), **marked)
        case "webp":
            image.save(out, "WEBP", quality=quality or WEBP_QUALITY, method=4, icc_profile=srgb.profile(), **marked)
    return Artifact.encoded(out.getvalue(), CONTENT_TYPES[fmt], image.width, image.height)
