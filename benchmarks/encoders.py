"""Compares the encoders and their levels, to justify those that `worker/media` uses.

    python benchmarks/encoders.py [--repeat 5] [--no-video]

One run compares everything on the same pixels: a photo-like 1024x1024 image and an 832x480 video of 49 frames. Times
are the best of the repeats, and are also given relative to the defaults (Pillow's PNG; a video from floats as
diffusers' `export_to_video` writes it), which depends little on the machine and its load. The chosen rows are marked.
Writes nothing.
"""

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.media_probe import decode_frames
from worker.api.field_types import QUALITY
from worker.media import image, video

Pixels = NDArray[np.uint8]

WIDTH, HEIGHT, FRAMES, FPS = 832, 480, 49, 15


@dataclass(frozen=True, slots=True)
class Row:
    """One encoder at one level."""

    name: str
    encode: Callable[[], bytes]
    decode: Callable[[bytes], Pixels]
    chosen: bool = False


def photo(side: int, seed: int) -> Pixels:
    """Generate a photo-like image: noise with the spectrum of photographs, correlated channels and sensor grain."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1

    def layer() -> NDArray[np.float64]:
        spectrum = frequency**-1.6 * np.exp(2j * np.pi * random.random(frequency.shape))
        values = np.fft.irfft2(spectrum, s=(side, side))
        return np.asarray((values - values.mean()) / values.std())

    light = layer()
    colours = np.stack([light + 0.3 * layer() for _ in range(3)], axis=-1)
    return np.clip(45 * colours + 128 + random.normal(0, 1, colours.shape), 0, 255).round().astype(np.uint8)


def drawing(side: int) -> Pixels:
    """Generate an image of flat areas with hard edges."""
    return np.ascontiguousarray(np.kron(photo(side // 16, 2) // 64 * 64, np.ones((16, 16, 1), np.uint8)))


def clip() -> Pixels:
    """Generate a video that pans over a photo, with new grain in every frame."""
    wide, random = photo(1024, 3), np.random.default_rng(0)
    views = [wide[20 + 2 * k : 20 + 2 * k + HEIGHT, 30 + 3 * k : 30 + 3 * k + WIDTH] for k in range(FRAMES)]
    frames = np.stack(views).astype(np.float32)
    return np.clip(frames + random.normal(0, 1.5, frames.shape), 0, 255).round().astype(np.uint8)


def pillow(pixels: Pixels, fmt: str, **options: object) -> Callable[[], bytes]:
    """Return an encoder that uses Pillow with these options."""

    def encode() -> bytes:
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, fmt, **options)
        return out.getvalue()

    return encode


def opened(data: bytes) -> Pixels:
    """Decode an image file to RGB pixels."""
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(opened.convert("RGB"))


def image_rows(pixels: Pixels) -> list[Row]:
    """Return PNG at Pillow's levels and strategies, JPEG, and lossy and lossless WebP."""
    strategies = {"default": 0, "filtered": 1, "huffman": 2, "rle": 3}
    rows = [Row("png  pillow default (level 6)", pillow(pixels, "PNG"), opened)]
    for level in (1, 2, 4, 6):
        for name, strategy in strategies.items():
            encode = pillow(pixels, "PNG", compress_level=level, compress_type=strategy)
            rows.append(Row(f"png  level {level} {name}", encode, opened))
    rows.append(Row("png  in bands, rle", lambda: image.encode_image(pixels, "png").data, opened, chosen=True))
    for quality in (90, 95):
        for name, sampling in (("4:4:4", 0), ("4:2:0", 2)):
            chosen = (quality, sampling) == (QUALITY["jpeg"], 0)
            encode = pillow(pixels, "JPEG", quality=quality, subsampling=sampling)
            rows.append(Row(f"jpeg quality {quality} {name}", encode, opened, chosen))
    for quality in (80, QUALITY["webp"], 95):
        for method in (0, 2, 4, 6):
            chosen = (quality, method) == (QUALITY["webp"], 4)
            encode = pillow(pixels, "WEBP", quality=quality, method=method)
            rows.append(Row(f"webp quality {quality} method {method}", encode, opened, chosen))
    for method, effort in ((0, 0), (1, 20), (4, 50)):
        chosen = (method, effort) == (1, 20)
        encode = pillow(pixels, "WEBP", lossless=True, quality=effort, method=method)
        rows.append(Row(f"webp lossless method {method} effort {effort}", encode, opened, chosen))
    return rows


def video_rows(frames: Pixels) -> list[Row]:
    """Return encoding from a pipeline's default floats, and x264 through the worker's own pipe."""
    floats = frames.astype(np.float32) / 255

    def plain() -> bytes:
        # As export_to_video with imageio: convert every frame to uint8, then ffmpeg at imageio's quality 5.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            writer = imageio_ffmpeg.write_frames(str(path), (WIDTH, HEIGHT), fps=FPS, quality=5)
            writer.send(None)
            for frame in floats:
                writer.send((frame * 255).astype(np.uint8))
            writer.close()
            return path.read_bytes()

    def shown(data: bytes) -> Pixels:
        return decode_frames(data, WIDTH, HEIGHT)

    rows = [Row("float frames, imageio quality 5", plain, shown)]
    for preset in ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium"):
        for crf in sorted(video.VIDEO_CRFS.values()) if preset == video.VIDEO_PRESET else (18, 23):
            chosen = (preset, crf) == (video.VIDEO_PRESET, video.VIDEO_CRF)

            def encode(preset: str = preset, crf: int = crf) -> bytes:
                return video.encode_video(frames, FPS, preset=preset, crf=crf).data

            rows.append(Row(f"x264 {preset} crf {crf}", encode, shown, chosen))
    return rows


def compare(title: str, original: Pixels, rows: list[Row], repeat: int) -> None:
    """Time every row and print the table; ratios are relative to the first row."""
    print(f"\n{title}\n{'':34}{'ms':>8}{'bytes':>11}{'time':>8}{'size':>8}{'PSNR':>8}")
    base: tuple[float, int] | None = None
    best = {row.name: float("inf") for row in rows}
    files: dict[str, bytes] = {}
    for _ in range(repeat):  # in rounds, so that other load on the machine affects all rows alike
        for row in rows:
            start = time.perf_counter()
            files[row.name] = row.encode()
            best[row.name] = min(best[row.name], 1000 * (time.perf_counter() - start))
    for row in rows:
        size = len(files[row.name])
        base = base or (best[row.name], size)
        error = float(np.mean((row.decode(files[row.name]).astype(np.float32) - original) ** 2))
        psnr = "exact" if error == 0 else f"{10 * np.log10(255**2 / error):.1f}"
        ratios = f"{best[row.name] / base[0]:>7.2f}x{size / base[1]:>7.2f}x"
        mark = "  <- chosen" if row.chosen else ""
        print(f"{row.name:34}{best[row.name]:>8.0f}{size:>11,}{ratios}{psnr:>8}{mark}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-video", action="store_true")
    arguments = parser.parse_args()
    for title, pixels in (("photo 1024x1024", photo(1024, 0)), ("drawing 1024x1024", drawing(1024))):
        compare(title, pixels, image_rows(pixels), arguments.repeat)
    if not arguments.no_video:
        frames = clip()
        compare(f"clip {WIDTH}x{HEIGHT}, {FRAMES} frames", frames, video_rows(frames), arguments.repeat)


if __name__ == "__main__":
    main()
