"""`python -m tools.train_demo.score`: how well the demo models draw what they are asked for, as a table.

Runs the worker's engine at its defaults on prompts that the training never saw, and lets the checker look at the
pixels. Knows which rows there are; knows nothing of how a picture is made or looked at.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin slow whatever else runs

import torch
from worker.request import Scheduler

from tools.train_demo.checker import Seen, look, motion
from tools.train_demo.prompts import Case, clip_cases, image_cases
from tools.train_demo.studio import Studio
from tools.train_demo.tally import Tally, header, right

FEW = 20
"""Images of a row that compares settings."""


class Score:
    """The rows, one method each; what one row makes and another needs is made once."""

    def __init__(self, models: Path | None, *, images: int, clips: int, seed: int) -> None:
        self._models = models
        self._studio = Studio(models)
        self._seed = seed
        self._images, self._clips = image_cases(images), clip_cases(clips)
        self._seen: list[Seen] = []
        self._heads: list[Seen] = []
        self._motions: list[str | None] = []
        self._seconds: list[float] = []

    def images(self) -> Iterator[Tally]:
        """Every image prompt at the defaults."""
        yield from self._draw("images")

    def wrong(self) -> Iterator[Tally]:
        """Control: the pictures of the first row against the next prompt's expectation."""
        self._seen_images()
        tally = Tally("control: another prompt's scene")
        for case, seen in zip(self._images[1:] + self._images[:1], self._seen, strict=True):
            tally.add(right(case, seen))
        yield tally

    def empty(self) -> Iterator[Tally]:
        """Control: no words."""
        yield from self._draw("control: empty prompt", prompt="")

    def guidance0(self) -> Iterator[Tally]:
        """Control: the unconditional prediction alone."""
        yield from self._draw("control: guidance 0", studio=Studio(self._models, without_words=True))

    def guidance1(self) -> Iterator[Tally]:
        """Not a control: the conditional prediction alone."""
        yield from self._draw("guidance off (1.0)", FEW, guidance_scale=1.0)

    def schedulers(self) -> Iterator[Tally]:
        """Every scheduler that a request may name."""
        for scheduler in Scheduler:
            yield from self._draw(f"scheduler {scheduler.value}", FEW, scheduler=scheduler)

    def refiner(self) -> Iterator[Tally]:
        """The refiner after the base at the worker's own split and at an early one, and with steps of its own."""
        yield from self._draw("refiner from 0.8", FEW, high_noise_frac=0.8)
        yield from self._draw("refiner from 0.5", FEW, high_noise_frac=0.5)
        yield from self._draw("refiner from 0.8, 20 steps", FEW, high_noise_frac=0.8, refiner_inference_steps=20)

    def refiner_alone(self) -> Iterator[Tally]:
        """The refiner for all noise levels, which a request may ask for."""
        yield from self._draw("refiner alone (0.0)", FEW, high_noise_frac=0.0)

    def sizes(self) -> Iterator[Tally]:
        """Larger than native."""
        yield from self._draw("512 x 512", 10, width=512, height=512)
        yield from self._draw("1024 x 1024", 5, width=1024, height=1024)
        yield from self._draw("384 x 256", 10, width=384, height=256)

    def steps(self) -> Iterator[Tally]:
        """Fewer and more denoising steps."""
        for steps in (4, 8, 20):
            yield from self._draw(f"{steps} steps", FEW, num_inference_steps=steps)

    def clips(self) -> Iterator[Tally]:
        """Every clip prompt at the defaults: the first frame, and the motion."""
        tally = Tally("clips")
        self._seen_clips()
        for case, seen, moved, seconds in zip(self._clips, self._heads, self._motions, self._seconds, strict=True):
            tally.add(right(case, seen) | {"motion": moved == case.motion}, seconds)
        yield tally

    def wrong_clips(self) -> Iterator[Tally]:
        """Control: the clips against the next prompt's expectation."""
        self._seen_clips()
        tally = Tally("control: another prompt's clip")
        others = self._clips[1:] + self._clips[:1]
        for case, seen, moved in zip(others, self._heads, self._motions, strict=True):
            tally.add(right(case, seen) | {"motion": moved == case.motion})
        yield tally

    def empty_clips(self) -> Iterator[Tally]:
        """Control: clips without words, which is guidance 0 as well: Wan's unconditional prediction is that of ""."""
        yield self._move("control: empty prompt, clips", self._clips[:FEW], prompt="")

    def short_clips(self) -> Iterator[Tally]:
        """Clips of 17 and 33 frames."""
        for frames in (17, 33):
            yield self._move(f"clips of {frames} frames", self._clips[:FEW], num_frames=frames)

    def large_clips(self) -> Iterator[Tally]:
        """Slow: a few clips at the size of the example request."""
        yield self._move("clips of 832 x 480", self._clips[:3], video_width=832, video_height=480, num_frames=17)

    def _draw(
        self,
        name: str,
        count: int | None = None,
        *,
        prompt: str | None = None,
        studio: Studio | None = None,
        **fields: Any,
    ) -> Iterator[Tally]:
        tally = Tally(name)
        plain = prompt is None and studio is None and not fields and count is None
        for index, case in enumerate(self._images[:count]):
            words = case.prompt if prompt is None else prompt
            begun = time.monotonic()
            (pixels,) = (studio or self._studio).run("text2img", words, seed=self._seed + index, **fields)
            seconds = time.monotonic() - begun
            seen = look(pixels)
            if plain and len(self._seen) < len(self._images):
                self._seen.append(seen)
            tally.add(right(case, seen), seconds if index else None)  # the first one loads the model
        yield tally

    def _move(self, name: str, cases: Sequence[Case], *, prompt: str | None = None, **fields: Any) -> Tally:
        tally = Tally(name)
        for index, case in enumerate(cases):
            words = case.prompt if prompt is None else prompt
            begun = time.monotonic()
            (frames,) = self._studio.run("text2video", words, seed=self._seed + index, **fields)
            seconds = time.monotonic() - begun
            seen, moved = look(frames[0]), motion(frames)
            if prompt is None and not fields:
                self._heads.append(seen)
                self._motions.append(moved)
                self._seconds.append(seconds)
            tally.add(right(case, seen) | {"motion": moved == case.motion}, seconds)
        return tally

    def _seen_images(self) -> None:
        if not self._seen:
            list(self._draw("images"))

    def _seen_clips(self) -> None:
        if not self._heads:
            self._move("clips", self._clips)


ROWS: dict[str, Callable[[Score], Iterator[Tally]]] = {
    "images": Score.images,
    "wrong": Score.wrong,
    "empty": Score.empty,
    "guidance0": Score.guidance0,
    "guidance1": Score.guidance1,
    "schedulers": Score.schedulers,
    "refiner": Score.refiner,
    "steps": Score.steps,
    "sizes": Score.sizes,
    "clips": Score.clips,
    "wrong-clips": Score.wrong_clips,
    "empty-clips": Score.empty_clips,
    "short-clips": Score.short_clips,
    "refiner-alone": Score.refiner_alone,
    "large-clips": Score.large_clips,
}
ON_REQUEST = ("refiner-alone", "large-clips")
"""Rows that are left out unless they are named."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, row by row as they are done."""
    parser = argparse.ArgumentParser(prog="python -m tools.train_demo.score", description="Score the demo models.")
    parser.add_argument("--models", type=Path, help="folder with sdxl, sdxl-refiner and wan (default: the built-in)")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--clips", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the first picture; the next has the next")
    parser.add_argument("--rows", default=",".join(name for name in ROWS if name not in ON_REQUEST))
    parser.add_argument("--threads", type=int, default=0, help="threads of this process (default: torch's own)")
    parser.add_argument("--json", type=Path, help="write the table there too")
    options = parser.parse_args(argv)
    rows = options.rows.split(",")
    if unknown := [name for name in rows if name not in ROWS]:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    if options.threads:
        torch.set_num_threads(options.threads)
    score = Score(options.models, images=options.images, clips=options.clips, seed=options.seed)
    tallies: list[Tally] = []
    print(header(), flush=True)
    print(chance(image_cases(options.images)).line(), flush=True)
    for name in rows:
        for tally in ROWS[name](score):
            tallies.append(tally)
            print(tally.line(), flush=True)
    if options.json:
        options.json.write_text(json.dumps([tally.as_dict() for tally in tallies], indent=2) + "\n", encoding="utf-8")


def chance(cases: Sequence[Case]) -> Tally:
    """What any one scene scores against all the others' expectations: the controls' measure."""
    tally = Tally("by chance")
    for one in cases:
        seen = Seen(one.shape, one.colour, one.background, one.column, one.row, one.size)
        for other in cases:
            if other is not one:
                tally.add(right(other, seen))
    tally.count = len(cases)
    return tally


if __name__ == "__main__":
    main()
