"""Encodes pictures as PNG, JPEG or WebP.

Every file declares sRGB, because some viewers show untagged pictures in the display's own colours. Encoder settings
come from `benchmarks/encoders.py`. Blocking: call it in a thread; the encoders release the GIL. Knows encoders; does
not know whose picture it is, what it was made from, or where it goes.
"""

import io
from typing import TYPE_CHECKING

from worker.api.field_types import QUALITY, FormatName
from worker.media import srgb
from worker.media.artifact import CONTENT_TYPES, Artifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def encode_image(
    pixels: "NDArray[np.uint8]", fmt: FormatName, quality: int | None = None, xmp: bytes | None = None
) -> Artifact:
    """Encode one picture. The file contains pixels, an sRGB declaration, the AI mark, and nothing else.

    Args:
        pixels: (height, width, 3), RGB.
        fmt: `png` (lossless; `quality` is ignored), `jpeg` (4:4:4) or `webp`.
        quality: 1 ... 100, by default 95 for JPEG and 90 for WebP; 100 in WebP means lossless.
        xmp: the AI mark, a packet of `media.mark`.

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
    # Pillow's JPEG encoder does not accept an `xmp` of None.
    marked = {} if xmp is None else {"xmp": xmp}
    match fmt:
        case "jpeg":
            image.save(
                out, "JPEG", quality=quality or QUALITY[fmt], subsampling=0, icc_profile=srgb.profile(), **marked
            )
        case "webp" if quality == 100:
            # In lossless mode "quality" is effort: with less the file is larger than the PNG, with more hardly smaller.
            image.save(out, "WEBP", lossless=True, quality=20, method=1, icc_profile=srgb.profile(), **marked)
        case "webp":
            image.save(out, "WEBP", quality=quality or QUALITY[fmt], method=4, icc_profile=srgb.profile(), **marked)
    return Artifact.encoded(out.getvalue(), CONTENT_TYPES[fmt], image.width, image.height)
