"""Inspects an MP4 without ffprobe: parses its boxes and decodes its frames with the bundled ffmpeg.

Shared by the tests and the scripts.
"""

import re
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl"}


@dataclass(frozen=True, slots=True)
class Clip:
    """What a player would find. `duration` is in seconds; `level` is ten times H.264's level (31: level 3.1)."""

    codec: str
    pix_fmt: str
    frames: int
    width: int
    height: int
    fps: float
    duration: float
    moov_before_mdat: bool
    profile: str
    level: int
    colour: str
    """Range, matrix, primaries and transfer, as ffmpeg prints them."""


def probe(data: bytes) -> Clip:
    """Inspect an MP4 with one H.264 stream, decoding every frame.

    Raises:
        ValueError: the file is something else, or decoding it fails.
    """
    boxes = dict(reversed(list(_boxes(data))))  # the first of each kind counts
    try:
        header, samples, description = boxes["mvhd"], boxes["stsz"], boxes["stsd"]
        timescale, length = (
            struct.unpack(">II", header[12:20]) if header[0] == 0 else struct.unpack(">IQ", header[20:32])
        )
        (declared,) = struct.unpack(">I", samples[8:12])
        width, height = struct.unpack(">HH", description[40:44])
        codec = description[12:16]
        avcc = description[description.index(b"avcC") + 4 :]
    except (KeyError, struct.error, ValueError) as error:
        raise ValueError("not an MP4 with one H.264 stream") from error
    order = [name for name, _ in _boxes(data) if name in {"moov", "mdat"}]
    pix_fmt, colour, decoded = _decode(data)
    if decoded != declared:
        raise ValueError(f"{declared} frames are declared and {decoded} decode")
    duration = length / timescale
    return Clip(
        codec={b"avc1": "h264"}.get(codec, codec.decode("latin-1")),
        pix_fmt=pix_fmt,
        frames=declared,
        width=width,
        height=height,
        fps=declared / duration,
        duration=duration,
        moov_before_mdat=order.index("moov") < order.index("mdat"),
        profile={66: "baseline", 77: "main", 100: "high"}.get(avcc[1], str(avcc[1])),
        level=avcc[3],
        colour=colour,
    )


def decode_frames(data: bytes, width: int, height: int) -> "NDArray[np.uint8]":
    """Decode the frames as a player shows them: (frames, height, width, 3), RGB."""
    import numpy as np

    raw = _ffmpeg(data, "-f", "rawvideo", "-pix_fmt", "rgb24", "-").stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def _boxes(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield every box and its content, in file order, a container before its contents."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        start = at + 8
        if size == 1:
            (size,), start = struct.unpack(">Q", data[start : start + 8]), start + 8
        end = at + size if size else len(data)
        if end < start or end > len(data):
            raise ValueError("a box reaches beyond the file")
        yield kind.decode("latin-1"), data[start:end]
        if kind in _CONTAINERS:
            yield from _boxes(data[start:end])
        at = end


def _decode(data: bytes) -> tuple[str, str, int]:
    done = _ffmpeg(data, "-f", "framecrc", "-")
    found = re.search(r"Video: h264.*?, (yuv\w+)\(([^)]*)\)", done.stderr.decode(errors="replace"))
    if not found:
        raise ValueError("ffmpeg finds no H.264 stream with a pixel format")
    frames = sum(1 for line in done.stdout.splitlines() if line and not line.startswith(b"#"))
    return found[1], found[2], frames


def _ffmpeg(data: bytes, *output: str) -> "subprocess.CompletedProcess[bytes]":
    import imageio_ffmpeg

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        path.write_bytes(data)
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-xerror", "-i", str(path), *output]
        done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise ValueError("ffmpeg cannot decode the clip")
    return done
