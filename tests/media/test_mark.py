"""Every kind of file declares in machine-readable form that AI made it, as an independent reader finds it."""

import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tools.media_probe import probe
from worker.media import mark
from worker.media.artifact import Artifact
from worker.media.image import encode_image
from worker.media.inline import fit_images, fit_video, uri_length
from worker.media.video import encode_video

RNG = np.random.default_rng(3)
PIXELS = RNG.integers(0, 256, (64, 48, 3), dtype=np.uint8)
FRAMES = RNG.integers(0, 256, (9, 48, 64, 3), dtype=np.uint8)
GENERATED, COMPOSITE = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
XMP = mark.packet("generated", "my-file_1")


def smaller_image(xmp: bytes | None) -> Artifact:
    whole = encode_image(PIXELS, "png", xmp=xmp)
    return fit_images([PIXELS], [whole], uri_length(whole) // 2, [1], xmp=xmp).files[0]


def smaller_clip(xmp: bytes | None) -> Artifact:
    whole = encode_video(FRAMES, 8, xmp=xmp)
    return fit_video(FRAMES, 8, whole, budget=uri_length(whole) * 3 // 4, copies=1, xmp=xmp).files[0]


FILES: dict[str, Callable[[bytes | None], Artifact]] = {
    "png": lambda xmp: encode_image(PIXELS, "png", xmp=xmp),
    "jpeg": lambda xmp: encode_image(PIXELS, "jpeg", xmp=xmp),
    "webp": lambda xmp: encode_image(PIXELS, "webp", xmp=xmp),
    "lossless webp": lambda xmp: encode_image(PIXELS, "webp", 100, xmp),
    "mp4": lambda xmp: encode_video(FRAMES, 8, xmp=xmp),
    "webp that fits": smaller_image,
    "mp4 that fits": smaller_clip,
}


def read(file: Artifact, folder: Path) -> dict[str, Any]:
    """Return what exiftool finds in the file."""
    if not shutil.which("exiftool"):
        if os.environ.get("CI") == "true":
            pytest.fail("exiftool is missing: install libimage-exiftool-perl")
        pytest.skip("needs exiftool (Debian package libimage-exiftool-perl)")
    path = folder / f"file{file.suffix}"
    path.write_bytes(file.data)
    command = ["exiftool", "-j", "-n", "-G1", "-XMP:all", "-Error", "-Warning", str(path)]
    said = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[0]
    return {key: value for key, value in said.items() if key != "SourceFile"}


@pytest.mark.e2e
@pytest.mark.parametrize("kind", FILES)
def test_exiftool_reads_the_mark_and_whose_it_is(kind: str, tmp_path: Path) -> None:
    found = read(FILES[kind](XMP), tmp_path)
    assert found.pop("XMP-iptcExt:DigitalSourceType").rpartition("/")[2] == GENERATED
    assert found.pop("XMP-dc:Identifier") == "my-file_1"
    assert not found, "it says nothing else, and nothing is wrong with it"


@pytest.mark.e2e
def test_what_was_made_from_a_picture_says_so_and_an_inline_result_has_no_id(tmp_path: Path) -> None:
    found = read(encode_image(PIXELS, "png", xmp=mark.packet("composite")), tmp_path)
    assert [value.rpartition("/")[2] for value in found.values()] == [COMPOSITE]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "lossless webp", "mp4"])
def test_the_mark_changes_no_pixel_and_costs_less_than_a_kilobyte(kind: str) -> None:
    marked, plain = FILES[kind](XMP), FILES[kind](None)
    assert 0 < marked.size - plain.size < 1000
    if kind == "mp4":
        assert marked.data.startswith(plain.data)
        assert probe(marked.data) == probe(plain.data)
        return
    with Image.open(io.BytesIO(marked.data)) as image, Image.open(io.BytesIO(plain.data)) as other:
        assert image.tobytes() == other.tobytes()


def test_the_same_mark_is_the_same_bytes() -> None:
    assert mark.packet("generated", "a") == mark.packet("generated", "a")
    assert FILES["mp4"](XMP).data == FILES["mp4"](XMP).data
