"""`python -m tools.train_demo.sheet --out docs/`: the pictures that open the README, made by the worker's engine.

`demo-images.webp` is a contact sheet of images over their prompts, `demo-clip.webp` a short clip. Knows what to
show and how to set it; knows no models.
"""

import argparse
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin slow whatever else runs

from PIL import Image, ImageDraw, ImageFont

from tools.train_demo.studio import Studio

MOST_BYTES = {"demo-images.webp": 250_000, "demo-clip.webp": 400_000}
CLIP_PROMPT = "a big red star on the left moving right, blue background"
CLIP_SCALE = 2
_COLUMNS = 4
_GAP, _TEXT, _LINE, _LINES = 24, 15, 20, 3
_PAPER, _INK, _FAINT = (255, 255, 255), (40, 40, 44), (120, 120, 126)


@dataclass(frozen=True)
class Shot:
    """One picture of the sheet. `note` stands before the prompt, in grey: what is not said in words."""

    prompt: str
    note: str = ""
    task: str = "text2img"
    seed: int = 1
    of: int | None = None
    """For a task that starts from a picture: the earlier shot that it starts from."""
    without: str = ""
    """The negative prompt."""


SHOTS = (
    Shot("red star on blue", seed=3),
    Shot("a small blue circle at the top, white background"),
    Shot("on black: a big yellow triangle, bottom right"),
    Shot("pink background with a tiny green square in the middle"),
    Shot("left, a large orange circle, over purple"),
    Shot("A huge white star in the centre against a red background."),
    Shot("purple square top left on yellow"),
    Shot("cyan background, little black star, lower right"),
    Shot("a large green circle in the centre, white background"),
    Shot("a large purple star in the centre, white background", "inpaint of the middle:", "inpaint", of=8),
    Shot("a small pink square at the top right, black background", "img2img, strength 0.9:", "img2img", of=8),
    Shot("a circle in the centre, white background", "negative prompt green:", without="green"),
)
"""The last row starts from its first picture."""


def main(argv: Sequence[str] | None = None) -> None:
    """Make both files."""
    parser = argparse.ArgumentParser(prog="python -m tools.train_demo.sheet", description="Make the README's pictures.")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--models", type=Path, help="folder with sdxl, sdxl-refiner and wan (default: the built-in)")
    parser.add_argument("--frames", type=int, default=81, help="of the clip")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    studio = Studio(options.models)
    _write(options.out / "demo-images.webp", [sheet(studio)])
    (frames,) = studio.run("text2video", CLIP_PROMPT, seed=1, num_frames=options.frames)
    height, width = frames.shape[1:3]
    large = (width * CLIP_SCALE, height * CLIP_SCALE)
    pictures = [Image.fromarray(frame).resize(large, Image.Resampling.LANCZOS) for frame in frames]
    _write(options.out / "demo-clip.webp", pictures, duration=round(1000 / studio.describe("text2video").fps), loop=0)


def sheet(studio: Studio) -> Image.Image:
    """All shots in a grid, each over its prompt."""
    pictures: list[Image.Image] = []
    for shot in SHOTS:
        # Later shots start from earlier ones.
        pictures.append(_picture(studio, shot, pictures))
    width, height = pictures[0].size
    rows = -(-len(SHOTS) // _COLUMNS)
    cell = (width + _GAP, height + 10 + _LINES * _LINE + _GAP)
    page = Image.new("RGB", (_COLUMNS * cell[0] + _GAP, rows * cell[1] + _GAP), _PAPER)
    pen = ImageDraw.Draw(page)
    for index, (shot, picture) in enumerate(zip(SHOTS, pictures, strict=True)):
        left, top = _GAP + index % _COLUMNS * cell[0], _GAP + index // _COLUMNS * cell[1]
        page.paste(picture, (left, top))
        pen.rectangle((left, top, left + width - 1, top + height - 1), outline=(222, 222, 226))
        _set(pen, shot, left, top + height + 10, width)
    return page


def _picture(studio: Studio, shot: Shot, earlier: list[Image.Image]) -> Image.Image:
    given: dict[str, Any] = {}
    if shot.of is not None:
        image = earlier[shot.of]
        given["image"] = image
        if shot.task == "inpaint":
            mask = np.zeros((image.height, image.width), dtype=np.uint8)
            rows, columns = image.height // 6, image.width // 6
            mask[rows:-rows, columns:-columns] = 255
            given |= {"mask": Image.fromarray(mask), "strength": 1.0}
        else:
            given["strength"] = 0.9
    if shot.without:
        given["negative_prompt"] = shot.without
    (pixels,) = studio.run(shot.task, shot.prompt, seed=shot.seed, **given)
    return Image.fromarray(pixels)


def _set(pen: ImageDraw.ImageDraw, shot: Shot, left: int, top: int, width: int) -> None:
    """The note in grey and the prompt in black, broken into lines between words."""
    font = ImageFont.load_default(_TEXT)
    x, y = float(left), float(top)
    words = [(word, _FAINT) for word in shot.note.split()] + [(word, _INK) for word in shot.prompt.split()]
    for word, colour in words:
        length = font.getlength(word)
        if x > left and x + length > left + width:
            x, y = float(left), y + _LINE
        pen.text((x, y), word, fill=colour, font=font)
        x += length + font.getlength(" ")


def _write(path: Path, pictures: list[Image.Image], **options: Any) -> None:
    """As WebP, at the best of a few qualities that keeps the file small enough."""
    for quality in (90, 80, 65, 50):
        out = io.BytesIO()
        first, *rest = pictures
        if rest:
            options |= {"save_all": True, "append_images": rest}
        first.save(out, "WEBP", quality=quality, method=6, **options)
        if out.tell() <= MOST_BYTES[path.name]:
            break
    else:
        raise SystemExit(f"{path.name} would have {out.tell()} bytes, more than {MOST_BYTES[path.name]}")
    path.write_bytes(out.getvalue())
    print(f"{path}: {out.tell()} bytes, quality {quality}")


if __name__ == "__main__":
    main()
