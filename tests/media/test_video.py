"""Pixels and frames become files that browsers and phones open, and nothing is left behind."""

import io
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from tests.support.clock import SOON_SECONDS
from tools.media_probe import decode_frames, probe
from worker.api.field_types import QUALITY, FormatName, VideoQuality
from worker.core.errors import Cancelled, DiskFull, Internal
from worker.media import srgb, video
from worker.media.decode import decode_image
from worker.media.image import encode_image

Pixels = NDArray[np.uint8]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put temporary files into a separate folder, which must be empty after every test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def picture(height: int = 96, width: int = 128) -> Pixels:
    """Draw gradients with a little noise: neither flat nor random."""
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([x * 255 / width, y * 255 / height, (x + y) % 256], axis=-1)
    noise = np.random.default_rng(0).normal(0, 2, base.shape)
    return np.clip(base + noise, 0, 255).astype(np.uint8)


def clip(frames: int = 9, height: int = 96, width: int = 128) -> Pixels:
    """Draw a picture that moves to the left."""
    wide = picture(height, width + 4 * frames)
    return np.stack([np.ascontiguousarray(wide[:, 4 * k : 4 * k + width]) for k in range(frames)])


def test_png_gives_back_every_pixel() -> None:
    pixels = picture()
    encoded = encode_image(pixels, "png")
    assert (encoded.content_type, encoded.suffix, encoded.width, encoded.height) == ("image/png", ".png", 128, 96)
    with Image.open(io.BytesIO(encoded.data)) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), pixels)


def test_webp_of_quality_100_gives_back_every_pixel() -> None:
    pixels = picture()
    with Image.open(io.BytesIO(encode_image(pixels, "webp", 100).data)) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), pixels)


@pytest.mark.parametrize(
    ("fmt", "content_type", "suffix"), [("jpeg", "image/jpeg", ".jpg"), ("webp", "image/webp", ".webp")]
)
def test_lossy_formats_keep_the_picture_close(fmt: FormatName, content_type: str, suffix: str) -> None:
    pixels = picture()
    encoded = encode_image(pixels, fmt)
    assert (encoded.content_type, encoded.suffix) == (content_type, suffix)
    with Image.open(io.BytesIO(encoded.data)) as image:
        assert image.size == (128, 96)
        difference = np.asarray(image.convert("RGB")).astype(int) - pixels.astype(int)
    assert np.sqrt((difference**2).mean()) < 4


@pytest.mark.parametrize("fmt", ["jpeg", "webp"])
def test_lower_quality_is_smaller(fmt: FormatName) -> None:
    sizes = [len(encode_image(picture(), fmt, quality).data) for quality in (90, 60, 30)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


@pytest.mark.parametrize("fmt", ["png", "jpeg", "webp"])
def test_images_carry_no_metadata_and_repeat_byte_for_byte(fmt: FormatName) -> None:
    encoded = encode_image(picture(), fmt)
    assert encode_image(picture(), fmt).data == encoded.data
    with Image.open(io.BytesIO(encoded.data)) as image:
        assert set(image.info) <= {
            "jfif",
            "jfif_version",
            "jfif_unit",
            "jfif_density",
            "background",
            "loop",
            "timestamp",
            "icc_profile",
            "srgb",
        }
        assert not image.getexif()
    if fmt == "png":
        assert not any(chunk in encoded.data for chunk in (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP"))


@pytest.mark.parametrize("fmt", ["png", "jpeg", "webp"])
def test_images_say_that_they_are_srgb_in_at_most_600_bytes(fmt: FormatName) -> None:
    """Without it a display wider than sRGB may show them in its own colours."""
    encoded = encode_image(picture(), fmt)
    with Image.open(io.BytesIO(encoded.data)) as image:
        said = image.info
    if fmt == "png":
        assert said["srgb"] == 0
        return
    untagged = io.BytesIO()
    how: dict[str, Any] = {
        "jpeg": {"quality": QUALITY["jpeg"], "subsampling": 0},
        "webp": {"quality": QUALITY["webp"], "method": 4},
    }[fmt]
    Image.fromarray(picture()).save(untagged, fmt, **how)
    assert 0 < len(encoded.data) - len(untagged.getvalue()) <= 600
    assert said["icc_profile"] == srgb.profile()


@pytest.mark.parametrize(("fmt", "quality"), [("png", None), ("jpeg", None), ("webp", None), ("webp", 100)])
def test_a_result_that_becomes_a_source_keeps_its_colours_to_the_bit(fmt: FormatName, quality: int | None) -> None:
    encoded = encode_image(picture(), fmt, quality)
    with Image.open(io.BytesIO(encoded.data)) as image:
        shown = np.asarray(image.convert("RGB"))
    read = decode_image(encoded.data, "image_url", 10**6)
    assert np.array_equal(np.asarray(read.image), shown)
    assert list(read.warnings) == []


def test_the_srgb_profile_is_srgb_for_every_colour_and_has_no_date_of_its_own() -> None:
    levels = np.arange(0, 256, 3).astype(np.uint8)
    colours = Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, len(levels), 3))
    said = ImageCms.getOpenProfile(io.BytesIO(srgb.profile()))
    read = ImageCms.profileToProfile(colours, said, ImageCms.createProfile("sRGB"))
    assert np.abs(np.asarray(read).astype(int) - np.asarray(colours).astype(int)).max() <= 1
    made = said.profile.creation_date
    assert made is not None
    assert made.year == 2000
    assert ImageCms.isIntentSupported(said, ImageCms.Intent.PERCEPTUAL, ImageCms.Direction.OUTPUT) == 1


def test_png_is_no_larger_than_pillows_default_and_faster() -> None:
    pixels = picture(512, 512)
    default = io.BytesIO()
    # The process's own CPU time, which other load on the machine does not change.
    start = time.process_time()
    Image.fromarray(pixels).save(default, "PNG")
    middle = time.process_time()
    encoded = encode_image(pixels, "png")
    end = time.process_time()
    assert len(encoded.data) <= 1.05 * len(default.getvalue())
    assert end - middle < middle - start


@pytest.mark.parametrize(("frames", "fps"), [(5, 15), (9, 16), (49, 24), (9, 1), (13, 60)])
def test_a_clip_is_what_phones_play(frames: int, fps: int) -> None:
    encoded = video.encode_video(clip(frames), fps)
    assert (encoded.content_type, encoded.suffix, encoded.width, encoded.height) == ("video/mp4", ".mp4", 128, 96)
    found = probe(encoded.data)
    assert (found.codec, found.pix_fmt, found.profile) == ("h264", "yuv420p", "high")
    assert (found.frames, found.width, found.height) == (frames, 128, 96)
    assert found.duration == pytest.approx(frames / fps, abs=0.001)
    assert found.fps == pytest.approx(fps, rel=0.01)
    assert found.moov_before_mdat
    assert found.level <= 42, "phones decode H.264 up to level 4.2"
    assert found.colour.startswith("tv, bt709")
    assert "unknown" not in found.colour


def test_the_largest_clip_stays_within_level_4_2() -> None:
    encoded = video.encode_video(np.zeros((5, 1280, 1280, 3), np.uint8), 60)
    assert probe(encoded.data).level <= 42


@pytest.mark.e2e
def test_a_clip_agrees_with_ffprobe() -> None:
    if not shutil.which("ffprobe"):
        if os.environ.get("CI") == "true":
            pytest.fail("ffprobe is missing: install ffmpeg")
        pytest.skip("needs ffprobe (Debian package ffmpeg)")
    command = [
        "ffprobe",
        "-v",
        "error",
        "-count_frames",
        "-show_streams",
        "-show_format",
        "-of",
        "json",
        "-i",
        "pipe:0",
    ]
    done = subprocess.run(command, input=video.encode_video(clip(17), 15).data, capture_output=True, check=True)
    found = json.loads(done.stdout)
    (stream,) = found["streams"]
    assert (stream["codec_name"], stream["pix_fmt"], stream["nb_read_frames"]) == ("h264", "yuv420p", "17")
    assert (stream["r_frame_rate"], stream["color_space"], stream["color_range"]) == ("15/1", "bt709", "tv")
    assert float(stream["duration"]) == pytest.approx(17 / 15, abs=0.001)
    assert "Lavf" not in json.dumps(found["format"].get("tags", {}))


def test_colours_of_a_clip_survive() -> None:
    """A matrix that is applied and not declared, or the other way round, shifts pure colours by ten and more."""
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [200, 120, 40]], np.uint8)
    frames = np.broadcast_to(np.repeat(np.repeat(colours[None, :], 64, 0), 32, 1), (5, 64, 192, 3)).copy()
    shown = decode_frames(video.encode_video(frames, 15).data, 192, 64)
    middle = shown[2, 32, 16::32].astype(int)
    assert np.abs(middle - colours.astype(int)).max() <= 6


def test_a_clip_repeats_byte_for_byte_and_lower_rates_are_smaller() -> None:
    frames = clip(17)
    encoded = video.encode_video(frames, 15)
    assert video.encode_video(frames, 15).data == encoded.data
    assert len(video.encode_video(frames, 15, crf=30).data) < len(encoded.data)


def test_each_quality_keeps_more_than_the_one_below() -> None:
    frames = clip(17, 192, 192)
    files = [video.encode_video(frames, 15, crf=crf).data for crf in video.VIDEO_CRFS.values()]
    assert list(video.VIDEO_CRFS) == list(get_args(VideoQuality))
    sizes = [len(data) for data in files]
    assert sizes == sorted(set(sizes))
    errors = [float(np.abs(decode_frames(data, 192, 192).astype(float) - frames).mean()) for data in files]
    assert errors == sorted(errors, reverse=True)


def test_frames_that_are_a_view_are_encoded_as_they_look() -> None:
    frames = clip(9)
    assert video.encode_video(frames[::-1][::-1], 15).data == video.encode_video(frames, 15).data
    assert video.encode_video(frames[::-1], 15).data == video.encode_video(frames[::-1].copy(), 15).data


def test_encoding_copies_no_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = clip(9)
    seen: list[memoryview] = []

    def feed(command: list[str], raw: memoryview, going_on: object) -> int:
        seen.append(raw)
        Path(command[-1]).write_bytes(b"")
        return 0

    monkeypatch.setattr(video, "_feed", feed)
    video.encode_video(frames, 15)
    assert seen[0].nbytes == frames.nbytes
    assert np.shares_memory(np.frombuffer(seen[0], np.uint8), frames)


def test_it_is_told_how_many_of_the_frames_have_gone_in() -> None:
    shares: list[float] = []
    video.encode_video(clip(81, 240, 416), 15, tell=shares.append)
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert max(later - earlier for earlier, later in itertools.pairwise(shares)) <= 0.1


def test_a_stop_request_ends_the_encoder_at_once() -> None:
    asked = 0

    def raise_if_stopped() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise Cancelled

    children = _children()
    with pytest.raises(Cancelled):
        video.encode_video(clip(25, 480, 832), 15, preset="veryslow", raise_if_stopped=raise_if_stopped)
    assert asked == 3
    assert _children() <= children


def test_a_stop_request_ends_an_encoder_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _use_encoder(tmp_path, monkeypatch, "exec sleep 60")
    deadline = time.monotonic() + 0.5

    def raise_if_stopped() -> None:
        if time.monotonic() > deadline:
            raise Cancelled

    start = time.monotonic()
    with pytest.raises(Cancelled):
        video.encode_video(clip(25, 480, 832), 15, raise_if_stopped=raise_if_stopped)
    assert time.monotonic() - start < SOON_SECONDS


def test_a_full_disk_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real encoder writes to /dev/full, the device on which every write fails for lack of space."""
    ffmpeg = video._ffmpeg_command(Path("x"), width=2, height=2, fps=1, crf=1, preset="fast")[0]
    _use_encoder(tmp_path, monkeypatch, f'for last; do :; done; ln -s /dev/full "$last"; exec {ffmpeg} "$@"')
    with pytest.raises(DiskFull):
        video.encode_video(clip(), 15)


def test_no_room_for_a_temporary_folder_is_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> str:
        raise OSError(28, "No space left on device", "/somewhere/private")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(DiskFull) as caught:
        video.encode_video(clip(), 15)
    assert "private" not in str(caught.value)


@pytest.mark.parametrize("script", ["cat >/dev/null; exit 1", "exit 3", "echo /secret/path >&2; kill -9 $$"])
def test_a_failing_encoder_is_an_internal_error_without_its_words(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _use_encoder(tmp_path, monkeypatch, script)
    with pytest.raises(Internal) as caught:
        video.encode_video(clip(25, 480, 832), 15)
    assert str(caught.value) == "internal: The video could not be encoded."
    assert capfd.readouterr().err == ""


def test_a_missing_encoder_is_an_internal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    with pytest.raises(Internal):
        video.encode_video(clip(), 15)


def test_the_files_repr_does_not_hold_its_bytes() -> None:
    assert len(repr(encode_image(picture(), "png"))) < 200


def _use_encoder(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = folder / "encoder"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(path))


def _children() -> set[str]:
    return set(Path("/proc/self/task", str(os.getpid()), "children").read_text().split())
