"""`python -m tools.fit_preview FOLDER`: fits the `preview_factors` of a model, for its `worker.json`.

A preview maps each latent linearly to a pixel (worker/engine/preview.py). For SDXL and Wan the map is published. For a
model with its own VAE this script fits it by least squares, from the VAE's latents of images to the same images scaled
down. Prints `preview_factors` and the deviation of the colours.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from worker.engine.vae import encode_clip, encode_image

CPU = torch.device("cpu")
SIDE = 64
PICTURES = 20
FRAMES = 5
"""Frames of the still video for Wan's VAE: its first latent frame encodes a single frame, unlike the others."""


def pictures(folder: Path | None, count: int = PICTURES) -> Iterator[Image.Image]:
    """Yield the images of a folder, or else drawings: shapes on backgrounds in random colours, some blurred."""
    if folder is not None:
        for path in sorted(folder.iterdir()):
            yield Image.open(path).convert("RGB").resize((SIDE, SIDE))
        return
    random = np.random.default_rng(0)
    for index in range(count):
        colours = [tuple(int(part) for part in random.integers(0, 256, 3)) for _ in range(6)]
        image = Image.new("RGB", (SIDE, SIDE), colours[0])
        draw = ImageDraw.Draw(image)
        for number, colour in enumerate(colours[1:]):
            x, y, size = (int(random.integers(*span)) for span in ((0, SIDE), (0, SIDE), (8, 32)))
            box = (x - size, y - size, x + size, y + size)
            if number % 2:
                draw.ellipse(box, fill=colour)
            else:
                draw.rectangle(box, fill=colour)
        yield image.filter(ImageFilter.GaussianBlur(4)) if index % 3 == 0 else image


def latents_of(vae: Any, image: Image.Image) -> torch.Tensor:
    """Encode an image to latents of shape (c, h, w), scaled as the networks expect them."""
    if isinstance(vae, diffusers.AutoencoderKLWan):
        return encode_clip(vae, np.stack([np.asarray(image)] * FRAMES), CPU)[0, :, -1]
    return encode_image(vae, image, CPU)[0]


def fitted(vae: Any, shown: Iterator[Image.Image]) -> tuple[list[list[float]], float]:
    """Return the rows (one per channel, then the bias) and the RMS deviation of a colour, on a scale of 255."""
    inputs, outputs = [], []
    for image in shown:
        latents = latents_of(vae, image).double()
        size = (latents.shape[2], latents.shape[1])
        wanted = np.asarray(image.resize(size, Image.Resampling.BOX), dtype=np.float64) / 127.5 - 1
        inputs.append(latents.flatten(1).T.numpy())
        outputs.append(wanted.reshape(-1, 3))
    known = np.concatenate(inputs)
    known = np.concatenate([known, np.ones((len(known), 1))], axis=1)
    wanted = np.concatenate(outputs)
    rows = np.linalg.lstsq(known, wanted, rcond=None)[0]
    deviation = float(np.sqrt(np.mean((known @ rows - wanted) ** 2)) * 127.5)
    return [[round(float(value), 4) for value in row] for row in rows], deviation


def main() -> None:
    """Fit the map and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a model in diffusers' layout")
    parser.add_argument("--pictures", type=Path, help="a folder of pictures to fit it to, in place of drawings")
    asked = parser.parse_args()
    kind = json.loads((asked.folder / "vae" / "config.json").read_text())["_class_name"]
    vae = (
        getattr(diffusers, kind)
        .from_pretrained(str(asked.folder / "vae"), local_files_only=True, use_safetensors=True)
        .eval()
    )
    rows, deviation = fitted(vae, pictures(asked.pictures))
    sys.stdout.write(json.dumps({"preview_factors": rows}) + "\n")
    sys.stdout.write(f"colours are off by {deviation:.0f} of 255 on the average\n")


if __name__ == "__main__":
    main()
