"""Fits results into a response as `data:` URIs, for jobs without storage.

Quality is reduced step by step, the size in pixels never. The same pixels and budget give the same files. Knows byte
budgets; does not know the response's fields: the caller says how often each URI appears in it.
"""

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.api.field_types import LONGEST_SIDE, QUALITY, VideoQuality
from worker.core.errors import ResultTooLarge
from worker.media.artifact import Artifact
from worker.media.image import encode_image
from worker.media.video import VIDEO_CRF, VIDEO_CRFS, encode_video

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LOSSLESS = 100
WEBP_LADDER = (LOSSLESS, 95, 90, 80, 65, 50, 35, 20)
"""WebP qualities to try if a result does not fit, best first."""
LOSSLESS_SHARE = 0.8
"""Lossless WebP is about 10 % smaller than PNG, more for drawings; it is not tried if a fifth or more must go."""
MAX_CRF = 46
"""Highest rate factor: beyond it a clip is too blurred to be useful, and an error is better."""

MAX_REENCODES = 2
"""One attempt by the rule of thumb, and one more for a clip that does not follow it."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """Files whose data URIs fit the budget, and warnings about what was changed for it."""

    files: list[Artifact]
    warnings: list[str]
    quality: int | None = None
    """Of images that were encoded again; None: they are as they were."""
    crf: int | None = None
    """Rate factor of a clip that was encoded again; None: it is as it was."""


def data_uri(file: Artifact) -> str:
    """Return `data:<type>;base64,<data>`, in ASCII that JSON does not escape."""
    return f"data:{file.content_type};base64,{base64.b64encode(file.data).decode('ascii')}"


def uri_length(file: Artifact) -> int:
    """Return the length of `data_uri(file)` without building it."""
    return len(f"data:{file.content_type};base64,") + 4 * math.ceil(len(file.data) / 3)


def total_length(files: Sequence[Artifact], copies: Sequence[int]) -> int:
    """Return the length of all data URIs, if that of file k appears `copies[k]` times in the response."""
    return sum(uri_length(file) * count for file, count in zip(files, copies, strict=True))


def next_quality(content_type: str, tried: int | None, share: float, asked: int | None = None) -> int | None:
    """Return the WebP quality to try next, or None if none is left.

    Args:
        content_type: of the files as they were first encoded.
        tried: the quality that was tried last; None at first.
        share: budget / what the files take now; below 1.
        asked: the quality of a JPEG or WebP as it was first encoded; None: the default one.
    """
    if tried is None and content_type == "image/png":
        return LOSSLESS if share >= LOSSLESS_SHARE else 95
    # Below the requested quality, where the file certainly shrinks.
    most = tried or asked or QUALITY["jpeg" if content_type == "image/jpeg" else "webp"]
    return next((quality for quality in WEBP_LADDER if quality < most), None)


def fit_images(
    images: "Sequence[NDArray[np.uint8]]",
    encoded: Sequence[Artifact],
    budget: int,
    copies: Sequence[int],
    *,
    quality: int | None = None,
    xmp: bytes | None = None,
    finish: Callable[[Artifact], Artifact] = lambda file: file,
) -> Fitted:
    """Return the files unchanged if they fit, else all of them as WebP at the best quality that fits.

    Args:
        images: the pixels, each (height, width, 3), in the order of `encoded`.
        encoded: the files in the format that was asked for.
        budget: characters that all data URIs together may take in the response.
        copies: how many times each file's data URI stands in the response.
        quality: of `encoded`, where it was asked for.
        xmp: the mark of `encoded`.
        finish: what is done with a file last, which may make it a little larger.

    Raises:
        ResultTooLarge: not even the lowest quality fits, or a side is longer than WebP has; the message says how large
            the result is.
    """
    files = list(encoded)
    tried: int | None = None
    while (length := total_length(files, copies)) > budget:
        tried = next_quality(encoded[0].content_type, tried, budget / length, quality)
        if max(max(pixels.shape[:2]) for pixels in images) > LONGEST_SIDE["webp"]:
            tried = None
        if tried is None:
            size, left = _megabytes(length), _megabytes(max(budget, 0))
            raise ResultTooLarge("result_too_large.images", size=size, left=left)
        files = [finish(encode_image(pixels, "webp", tried, xmp)) for pixels in images]
    if tried is None:
        return Fitted(files, [])
    how = "without loss" if tried == LOSSLESS else f"at quality {tried}"
    warning = f"The images did not fit into the response as {_name(encoded[0])}; they were encoded as WebP {how}."
    return Fitted(files, [warning], tried)


def next_crf(crf: int, share: float) -> int | None:
    """Return the rate factor at which a clip should take slightly less than `share` (below 1) of its size at `crf`.

    Six steps about halve a clip (https://trac.ffmpeg.org/wiki/Encode/H.264), noisy ones faster; one more is for safety.
    None when it would be above `MAX_CRF`, or when nothing is left of the budget.
    """
    if share <= 0 or crf >= MAX_CRF:
        return None
    wanted = crf + math.ceil(6 * math.log2(1 / share)) + 1
    # A clip that shrinks faster than the rule may still fit at the limit; hopeless ones are not tried.
    return min(wanted, MAX_CRF) if wanted <= MAX_CRF + 6 else None


def fit_video(
    frames: "NDArray[np.uint8]",
    fps: int,
    encoded: Artifact,
    *,
    budget: int,
    copies: int,
    quality: VideoQuality = "high",
    xmp: bytes | None = None,
    finish: Callable[[Artifact], Artifact] = lambda file: file,
    raise_if_stopped: Callable[[], None] | None = None,
) -> Fitted:
    """Return the clip unchanged if it fits, else encoded again at a lower rate, with the same size, frames and fps.

    Args:
        frames: (frames, height, width, 3), RGB.
        fps: frames per second.
        encoded: the clip at the rate of `quality`.
        budget: characters that the clip's data URIs together may take in the response.
        copies: how many times its data URI stands in the response.
        quality: as it was asked for.
        xmp: the mark of `encoded`.
        finish: as in `fit_images`.
        raise_if_stopped: as in `encode_video`.

    Raises:
        ResultTooLarge: no rate that is worth looking at fits; the message says how large the clip is.
        DiskFull, Internal: as `encode_video`.
    """
    file, crf, tries = encoded, VIDEO_CRFS[quality], 0
    # Far below the usual rate a clip shrinks more slowly than `next_crf` predicts: one more attempt.
    most = MAX_REENCODES + (crf < VIDEO_CRF)
    while (length := total_length([file], [copies])) > budget:
        lower = next_crf(crf, budget / length) if tries < most else None
        if lower is None:
            size, left = _megabytes(total_length([encoded], [copies])), _megabytes(max(budget, 0))
            raise ResultTooLarge("result_too_large.video", size=size, left=left)
        crf, tries = lower, tries + 1
        file = finish(encode_video(frames, fps, crf=crf, xmp=xmp, raise_if_stopped=raise_if_stopped))
    if file is encoded:
        return Fitted([file], [])
    before, after = _megabytes(len(encoded.data)), _megabytes(len(file.data))
    return Fitted(
        [file],
        [f"The video did not fit into the response; it was encoded again at a lower rate ({before} to {after})."],
        crf=crf,
    )


def _name(file: Artifact) -> str:
    return {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WebP"}[file.content_type]


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count < 10_000_000 else f"{count / 1e6:.1f} MB"
