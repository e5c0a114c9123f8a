"""Helpers of the two scripts and the tests of whole jobs: source images, checks of results, a table."""

import argparse
import base64
import io
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tools.media_probe import Clip, probe
from worker.core import logs
from worker.core.config import REPOSITORY, ConfigError, load_settings, set_library_defaults
from worker.core.errors import JobError

DEMO_MODELS = REPOSITORY / "worker" / "demo_models"
SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp", "video/mp4": ".mp4"}


def source_picture(width: int, height: int) -> Image.Image:
    """Draw a scene with an edge, a disc and a gradient, in which a change to any pixel is visible."""
    ramp = np.linspace(40, 200, width, dtype=np.uint8)
    pixels = np.stack([np.tile(ramp, (height, 1)), np.full((height, width), 90), np.tile(ramp[::-1], (height, 1))], -1)
    image = Image.fromarray(pixels.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse([width // 4, height // 4, width * 3 // 4, height * 3 // 4], fill=(230, 60, 50))
    return image


def centre_mask(width: int, height: int) -> Image.Image:
    """Draw a mask: white (to repaint) in the middle, black around it."""
    mask = Image.new("L", (width, height), 0)
    ImageDraw.Draw(mask).rectangle([width // 3, height // 3, width * 2 // 3, height * 2 // 3], fill=255)
    return mask


def drawing(width: int, height: int) -> Image.Image:
    """Draw the outline of a square on white paper, off-centre."""
    paper = Image.new("RGB", (width, height), "white")
    box = [width // 8, height // 8, width // 2, height // 2]
    ImageDraw.Draw(paper).rectangle(box, outline="black", width=max(1, width // 64))
    return paper


def random_lora(path: Path, seed: int = 5) -> Path:
    """Write a LoRA for the demo SDXL in kohya's layout, with random weights that change the image visibly."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    dice, tensors = np.random.default_rng(seed), dict[str, NDArray[np.float32]]()
    with safe_open(DEMO_MODELS / "sdxl" / "unet" / "diffusion_pytorch_model.safetensors", "np") as file:
        for name in file.keys():  # noqa: SIM118 - not a dict
            layer = name.removesuffix(".weight")
            if not layer.endswith(("to_q", "to_k", "to_v", "to_out.0")):
                continue
            outputs, inputs = file.get_slice(name).get_shape()
            stem = "lora_unet_" + layer.replace(".", "_")
            tensors[f"{stem}.lora_down.weight"] = dice.normal(0, 0.6, (4, inputs)).astype(np.float32)
            tensors[f"{stem}.lora_up.weight"] = dice.normal(0, 0.6, (outputs, 4)).astype(np.float32)
            tensors[f"{stem}.alpha"] = np.array(4.0, np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path


def data_uri(image: Image.Image) -> str:
    """Encode an image as a PNG `data:` URI."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def content(uri: str) -> bytes:
    """Return the content of a `data:` URI, or of a URL of the local emulators or Firebase."""
    if uri.startswith("data:"):
        return base64.b64decode(uri.split(",", 1)[1], validate=True)
    with urllib.request.urlopen(uri, timeout=20) as answer:
        data: bytes = answer.read()
    return data


def opened(uri: str) -> Image.Image:
    """Open the image at a URI, as `content` reads it."""
    return Image.open(io.BytesIO(content(uri)))


def uris(response: dict[str, Any]) -> list[str]:
    """Return the URIs of a response's images or videos."""
    found: list[str] = response.get("images") or response.get("videos") or []
    return found


def pixels(data: bytes) -> NDArray[np.uint8]:
    """Decode an image to RGB of shape (height, width, 3)."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def check_image(data: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """Assert that an image opens, has this size and is not one flat colour; return its pixels."""
    found = pixels(data)
    assert found.shape == (height, width, 3), f"{found.shape} is not {height} x {width}"
    assert float(found.std()) > 1.0, "the picture is one flat colour"
    return found


def check_video(data: bytes, width: int, height: int, frames: int, fps: int) -> Clip:
    """Assert that a video plays on phones: H.264, yuv420p, `moov` first, no frame missing."""
    clip = probe(data)
    assert (clip.codec, clip.pix_fmt) == ("h264", "yuv420p"), f"{clip.codec} {clip.pix_fmt}"
    assert (clip.width, clip.height, clip.frames) == (width, height, frames), str(clip)
    assert clip.moov_before_mdat, "moov comes after mdat: a phone would have to download it all before playing"
    assert abs(clip.duration - frames / fps) < 0.1, f"{clip.duration} s is not {frames}/{fps} s"
    return clip


def save(folder: Path, name: str, data: bytes, content_type: str) -> Path:
    """Write one result and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (name + SUFFIXES[content_type])
    path.write_bytes(data)
    return path


def quiet_logs() -> None:
    """Log warnings only, so that bars and tables stay readable, unless `LOG_LEVEL` is set."""
    settings = load_settings()
    if "log_level" not in settings.model_fields_set:
        settings = settings.model_copy(update={"log_level": "WARNING"})
    logs.configure(settings)


def script(description: str | None, argv: Sequence[str], out: Callable[[str], None], show: Callable[[str], str]) -> int:
    """Run one of the scripts: read the prompt from the command line, quieten the logs, report a failure in one line.

    `show` does the work for a prompt and returns a closing line, to which the elapsed seconds are added. Returns the
    exit status: 0 if every assertion held.
    """
    parser = argparse.ArgumentParser(description=(description or "").split("\n", 1)[0])
    parser.add_argument("prompt", nargs="?", default="a red star on a blue background")
    arguments = parser.parse_args(argv)
    set_library_defaults()
    started = time.monotonic()
    try:
        quiet_logs()
        last_words = show(arguments.prompt)
    except (AssertionError, ConfigError, JobError) as problem:
        out(f"FAILED: {problem}")
        return 1
    out(f"\n{last_words}; {time.monotonic() - started:.0f} s")
    return 0


def table(rows: Sequence[Sequence[object]], heads: Sequence[str]) -> str:
    """Format a plain-text table, with columns as wide as their widest cells."""
    cells = [[str(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
