"""Encodes frames as an MP4 that phones play.

Encoder settings come from `benchmarks/encoders.py`. Blocking: call it in a thread. Knows ffmpeg and its container; does
not know whose clip it is, what it was made from, or where it goes.
"""

import errno
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from worker.api.field_types import VideoQuality
from worker.core.errors import DiskFull, Internal
from worker.media import mark
from worker.media.artifact import CONTENT_TYPES, Artifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


VIDEO_CRFS: dict[VideoQuality, int] = {"low": 28, "medium": 23, "high": 18, "maximum": 12}
"""x264's constant rate factor, 0 (lossless) ... 51. 23 is its default; at 18 viewers stop seeing artefacts; 12 is for
clips that will be cut and encoded again."""
VIDEO_CRF = VIDEO_CRFS["high"]
VIDEO_PRESET = "veryfast"


def quality_of(crf: int) -> VideoQuality | None:
    """Return the best level that a clip of this rate factor reaches; None: not even the lowest."""
    reached = [level for level, most in VIDEO_CRFS.items() if crf <= most]
    return min(reached, key=lambda level: VIDEO_CRFS[level], default=None)


# A frame of 832x480 is 1.2 MB: the default pipe of 64 KiB would cost twenty process switches per frame.
_PIPE_BYTES = 1 << 20
_ASK_EVERY_SECONDS = 0.2


def encode_video(
    frames: "NDArray[np.uint8]",
    fps: int,
    *,
    crf: int = VIDEO_CRF,
    preset: str = VIDEO_PRESET,
    xmp: bytes | None = None,
    raise_if_stopped: Callable[[], None] | None = None,
    tell: Callable[[float], None] | None = None,
) -> Artifact:
    """Encode a clip as H.264 (High, yuv420p, BT.709) in an MP4 with its index at the front.

    Args:
        frames: (frames, height, width, 3), RGB, both sides even; a C-contiguous array is not copied.
        fps: frames per second, 1 ... 60.
        crf: rate factor, 0 ... 51; adding 6 about halves the file.
        preset: x264's own names, `ultrafast` ... `veryslow`.
        xmp: the AI mark, a packet of `media.mark`.
        raise_if_stopped: called several times a second; an error stops ffmpeg and propagates.
        tell: receives the share of the frames written, 0 ... 1.

    Raises:
        DiskFull: no room for the temporary file.
        Internal: ffmpeg is missing or failed.
    """
    _, height, width, _ = frames.shape
    raw = (frames if frames.flags.c_contiguous else frames.copy()).data.cast("B")
    folder: Path | None = None
    try:
        folder = Path(tempfile.mkdtemp(prefix="clip-"))
        # +faststart reopens the finished file to move its index, so it needs a real file.
        path = folder / "clip.mp4"
        command = _ffmpeg_command(path, width=width, height=height, fps=fps, crf=crf, preset=preset)

        def going_on(share: float) -> None:
            if raise_if_stopped is not None:
                raise_if_stopped()
            if tell is not None:
                tell(share)

        code = _feed(command, raw, going_on)
        if code != 0:
            # ffmpeg exits with the low byte of its negative error number. Its messages may contain paths: not repeated.
            full = code == 256 - errno.ENOSPC or shutil.disk_usage(folder).free < (1 << 20)
            raise DiskFull if full else Internal("internal.encoder")
        if xmp is not None:
            with path.open("ab") as file:
                file.write(mark.mp4_box(xmp))
        return Artifact.encoded(path.read_bytes(), CONTENT_TYPES["mp4"], width, height)
    except OSError as error:
        raise (DiskFull if error.errno == errno.ENOSPC else Internal("internal.encoder")) from error
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def ffmpeg_path() -> str:
    """Return the path of ffmpeg.

    Raises:
        Internal: there is no ffmpeg.
    """
    import imageio_ffmpeg

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise Internal("internal.no_encoder") from error


def _ffmpeg_command(path: Path, *, width: int, height: int, fps: int, crf: int, preset: str) -> list[str]:
    # Without an explicit matrix ffmpeg converts with BT.601, and players that assume BT.709 shift every colour.
    colour = "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"
    tags = "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
    # x264's 250 frames between keyframes stay: clips are shorter, and a second keyframe can add half the size.
    return [
        *(ffmpeg_path(), "-nostdin", "-hide_banner", "-v", "quiet", "-y"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "pipe:0"),
        *("-an", "-vf", f"{colour},{tags}"),
        *("-c:v", "libx264", "-preset", preset, "-crf", str(crf), "-profile:v", "high"),
        *("-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact"),
        *("-movflags", "+faststart", "-f", "mp4", str(path)),
    ]


def _feed(command: list[str], raw: memoryview, going_on: Callable[[float], None]) -> int:
    """Write `raw` to the command's standard input and return its exit status; the process has ended on any exit."""
    # Its own session, so that Ctrl-C on a terminal reaches only the worker, which then decides.
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        pipesize=_PIPE_BYTES,
        start_new_session=True,
        env={},  # it needs nothing of the worker's environment, least of all a key
    )
    size = len(raw)
    try:
        assert process.stdin is not None  # noqa: S101 - true by stdin=PIPE, for the type checker
        pipe = process.stdin.fileno()
        # A blocking write could wait for a hung encoder for ever, deaf to a stop request.
        os.set_blocking(pipe, False)
        with process.stdin:
            while raw:
                going_on(1 - len(raw) / size)
                if select.select([], [pipe], [], _ASK_EVERY_SECONDS)[1]:
                    try:
                        raw = raw[os.write(pipe, raw[:_PIPE_BYTES]) :]
                    except BlockingIOError:
                        continue
                    except BrokenPipeError:
                        break  # it ended early; the exit status says why
        while True:
            going_on(1.0)
            try:
                return process.wait(_ASK_EVERY_SECONDS)
            except subprocess.TimeoutExpired:
                continue
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
