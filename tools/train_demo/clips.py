"""Latents of drawn clips, in several forms, to train Wan's transformer on. Knows pixels; knows no words."""

import dataclasses
import random
from collections.abc import Mapping

import torch

from tools.train_demo.images import scenes_by_chance
from tools.train_demo.latents import SIDE, by_latent, coloured, of_clips
from tools.train_demo.prompts import held_out
from tools.train_demo.scenes import COLOURS, MOTIONS, Scene, cover, exact, in_play, paint

CELLS = 4
"""Cells of a token's side whose cover is kept; a token is two latents high and wide."""
_LOOSE = 0.35
"""Part of the clips whose shapes begin anywhere about a place, as a given picture's may."""
TURNING_MOST: Mapping[str, float] = dict.fromkeys(MOTIONS, 0.3) | {"turns": 1.0}
"""Part of each motion's clips that are kept: a turning shape has the most outlines to learn."""
MOVING_MOST: Mapping[str, float] = dict.fromkeys(MOTIONS, 0.5) | {"turns": 1.0, "grows": 0.35, "still": 0.15}
"""And of those that a transformer is trained further with: a moving shape is elsewhere in each latent."""
TURNING_HALF: Mapping[str, float] = dict.fromkeys(MOTIONS, 0.2) | {"turns": 1.0, "grows": 0.12, "still": 0.1}
"""And of those that it is trained with at last: what moves is right by then, half of the clips turn."""


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Clips of one form: how many are kept, how many make a batch, and how often they come in each part of the run."""

    frames: int
    height: int
    width: int
    kept: int
    fresh: float
    """How many of them are drawn anew before a batch is taken, on the average."""
    batch: float
    """Clips in a batch; more, by as much as they are shorter, where only some of their latents are taken."""
    share: tuple[float, float, float]


BUCKETS = (
    Bucket(1, 112, 192, kept=2000, fresh=1, batch=9, share=(0.6, 0.2, 0.06)),
    Bucket(17, 112, 192, kept=400, fresh=0.2, batch=2, share=(0.4, 0.5, 0.3)),
    Bucket(81, 112, 192, kept=250, fresh=0.15, batch=0.7, share=(0.0, 0.3, 0.6)),
    Bucket(1, 240, 416, kept=300, fresh=0.2, batch=2, share=(0.0, 0.0, 0.02)),
    Bucket(1, 480, 832, kept=200, fresh=0.1, batch=1, share=(0.0, 0.0, 0.02)),
)
PARTS = (0.2, 0.4)
"""Where a run's second and third part begin: pictures and short clips first, then some long ones too, then most."""


class Clips:
    """Latents of drawn clips of one bucket; some of them are drawn anew on the way, and all have new colours each time.

    `often` is the part of each motion's clips that are kept.
    """

    def __init__(self, bucket: Bucket, often: Mapping[str, float] = TURNING_MOST) -> None:
        self._bucket, self._often = bucket, often
        name = f"{bucket.frames}x{bucket.height}x{bucket.width}"
        self._scenes = self._by_chance(random.Random(f"clips {name}"), bucket.kept)
        chunk = max(1, 50 * 112 * 192 // (bucket.height * bucket.width * bucket.frames))
        starts = range(0, bucket.kept, chunk)
        parts = [self._drawn(self._scenes[start : start + chunk]) for start in starts]
        self._covers, self._touched, self._cells = (torch.cat(tensors) for tensors in zip(*parts, strict=True))

    def look(
        self,
        rng: random.Random,
        *,
        loose: bool = False,
        taken: int | None = None,
        before: int | None = None,
        count: int | None = None,
    ) -> "Look":
        """A batch, after some of what is at hand was drawn anew; of clips that begin exactly in a place, or of all.

        With `taken` only so many latents of each clip, and more clips: the first, the last, and by chance between them,
        where `before` says so only of those before it. `count` clips instead of as many as the bucket has in a batch.
        """
        anew = int(self._bucket.fresh + rng.random())
        if anew:
            places = rng.sample(range(len(self._scenes)), anew)
            scenes = self._by_chance(rng, anew)
            self._covers[places], self._touched[places], self._cells[places] = self._drawn(scenes)
            for place, scene in zip(places, scenes, strict=True):
                self._scenes[place] = scene
        suited = [place for place, scene in enumerate(self._scenes) if loose or exact(scene)]
        last = self._covers.shape[2] - 1
        at = [0, *sorted(rng.sample(range(1, before or last), taken - 2)), last] if taken else list(range(last + 1))
        count = count or max(1, round(self._bucket.batch * (last + 1) / len(at)))
        places = rng.sample(suited, min(len(suited), count))
        scenes = [_recoloured(self._scenes[place], rng) for place in places]
        covers, touched, cells = (of_all[places][:, :, at] for of_all in (self._covers, self._touched, self._cells))
        ink, ground = (
            torch.tensor([COLOURS[name] for name in names]) / 255 * 2 - 1
            for names in zip(*((scene.colour, scene.background) for scene in scenes), strict=True)
        )
        return Look(coloured(covers, ink, ground), touched, cells.float(), scenes, at)

    def _by_chance(self, rng: random.Random, count: int) -> list[Scene]:
        loose = _LOOSE if self._bucket.frames > 1 else 0.0  # of a single picture no first frame is given
        scenes: list[Scene] = []
        while len(scenes) < count:
            (scene,) = scenes_by_chance(rng, 1, moving=True)
            if rng.random() < self._often[scene.motion]:
                scenes.append(in_play(scene, rng) if rng.random() < loose else scene)
        return scenes

    def _drawn(self, scenes: list[Scene]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        bucket = self._bucket
        covered = cover(paint(scenes, bucket.height, bucket.width, bucket.frames).transpose(1, 2))
        # A latent stands for one frame, the first, or for four.
        touched = torch.nn.functional.max_pool3d(torch.nn.functional.pad(covered, (0, 0, 0, 0, 3, 0)), (4, SIDE, SIDE))
        cell = 2 * SIDE // CELLS
        cells = by_latent(torch.nn.functional.avg_pool3d(covered, (1, cell, cell)))
        return of_clips(covered), touched > 0.01, cells.half()


def _recoloured(scene: Scene, rng: random.Random) -> Scene:
    """The scene in other colours, not held out."""
    while True:
        colour, background = rng.sample(sorted(COLOURS), 2)
        other = dataclasses.replace(scene, colour=colour, background=background)
        if not held_out(other):
            return other


@dataclasses.dataclass(frozen=True)
class Look:
    """A batch of clips."""

    latents: torch.Tensor
    """(batch, channels, frames, height, width)"""
    touched: torch.Tensor
    """(batch, 1, frames, height, width): which of the latents the shape touches."""
    cover: torch.Tensor
    """(batch, 4, frames, 2 height, 2 width), 0 to 1: how much of each cell the shape covers in each of four frames."""
    scenes: list[Scene]
    at: list[int]
    """Which of the clip's latents these are."""
