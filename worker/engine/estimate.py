"""Estimates how long a job takes on this card: its work (`engine.work`), the card's rates, and measured jobs.

Pure: imports no torch.
"""

import math
import re
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from worker.api.params import Params, StepCache, VideoParams
from worker.core.types import Control, Part, Preview, Progress
from worker.engine.models.registry import Family
from worker.engine.work import Networks, work


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of a job: a denoising step, a decode, the encoding of a file."""

    part: Part
    seconds: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of each piece of a job, in order, without queueing and downloads."""

    units: tuple[Unit, ...]
    basis: Literal["card", "measured", "guess"]
    """The basis of the seconds: known rates of this card, or only this worker's own jobs. Of a `guess`, only the
    proportions mean anything."""
    card: str = "CPU"

    @property
    def seconds(self) -> float | None:
        """Of the whole job with its weights in memory; None: not known yet."""
        return None if self.basis == "guess" else self._sum()

    @property
    def longest_step(self) -> float:
        """Seconds of the longest denoising step, which cannot be interrupted; 0 if that is a guess."""
        if self.basis == "guess":
            return 0.0
        return max((unit.seconds for unit in self.units if unit.part == "step"), default=0.0)

    def exceeds(self, limit: float) -> bool:
        """Whether the job certainly cannot end within `limit` seconds.

        If only this worker's own jobs are known, up to twice the limit is still tried.
        """
        return self.basis != "guess" and self._sum() > limit * (1 if self.basis == "card" else 2)

    def steps_within(self, limit: float, steps: int) -> int:
        """Return how many denoising steps, instead of `steps`, the job could have within `limit` seconds."""
        denoising = self._sum("step")
        return max(0, math.floor(steps * (limit - (self._sum() - denoising)) / denoising)) if denoising else steps

    def _sum(self, part: Part | None = None) -> float:
        return sum(unit.seconds for unit in self.units if unit.part != "load" and part in {None, unit.part})


_T = 1e12


@dataclass(frozen=True, slots=True)
class Rates:
    """A card's effective rates for eager diffusers in half precision, in TFLOP per second."""

    sdxl: float
    wan: float
    vae: float


RATES: Mapping[str, Rates] = {
    "B200": Rates(400, 700, 160),
    "H200": Rates(200, 320, 82),
    "H100": Rates(200, 340, 82),
    "A100": Rates(126, 150, 46),
    "A800": Rates(126, 150, 46),
    "RTX PRO 6000": Rates(190, 260, 45),
    "RTX 5090": Rates(130, 150, 26),
    "RTX 4090": Rates(105, 118, 20),
    "RTX 4080": Rates(62, 70, 14),
    "L40S": Rates(120, 140, 24),
    "RTX 6000 Ada": Rates(120, 140, 24),
    "L40": Rates(105, 120, 22),
    "RTX 4000 Ada": Rates(50, 58, 10),
    "L4": Rates(48, 55, 9),
    "A40": Rates(60, 85, 20),
    "A6000": Rates(62, 90, 21),
    "A5000": Rates(45, 62, 15),
    "A4500": Rates(38, 53, 13),
    "A4000": Rates(31, 43, 10),
    "RTX 3090": Rates(32, 44, 10),
    "A10": Rates(44, 55, 13),
}
"""Part of a card's name -> its rates, derived from published times and the work counted here.

SDXL: A100 (30 steps in 3.32 s, https://pytorch.org/blog/accelerating-generative-ai-3), A10 (9.4 s,
https://huggingface.co/stabilityai/stable-diffusion-xl-1.0-tensorrt, with the VAE of A100 and H100: 228 and 127 ms),
H100 and RTX 4080 (14.9 and 4.6 steps a second, https://github.com/chengzeyi/stable-fast). Wan: A800 (189 s a clip,
https://github.com/Zehong-Ma/MagCache), RTX 4090 (about 4 minutes, https://github.com/Wan-Video/Wan2.1), H100 (9.77 s a
step of 14B, https://github.com/ModelTC/LightX2V), H200 (0.952 s a call,
https://hao-ai-lab.github.io/blogs/fastvideo_post_training; there RTX 4090, too: 18 s of a clip beside denoising).
All others are scaled from the nearest of these by the dense bfloat16 rates of their data sheets, not measured. They are
rather too high than too low, because a job that runs out of time still gets a clear error.
"""
_GUESS = Rates(0.1, 0.1, 0.1)
"""Two or three CPU cores: only the proportions are useful."""


def rates(card: str | None) -> Rates | None:
    """Return the rates of a card by its CUDA name; None: not known."""
    if not card or "MIG" in card:  # a MIG slice's name contains the whole card's
        return None
    return next((known for name, known in RATES.items() if re.search(rf"\b{name}\b", card)), None)


_CLIP_PIXELS_A_SECOND = 50e6
_PICTURE_PIXELS_A_SECOND = 9e6
"""Pixels per second on two cores: x264 at `media.video`'s preset, PNG at `media.image`'s (benchmarks/README.md)."""
_UPLOAD_SECONDS = 1.0
"""Upload of one result, whatever its size."""


_AT_MOST = 3.0
"""Bound on how much faster or slower than its rates one run may make a known card appear."""
_Kind = tuple[Family, Part, StepCache | None]
"""The key of a correction: cached denoising steps have a pace of their own."""


class Estimator:
    """Estimates jobs, corrected by this worker's measurements. `estimate` is thread-safe."""

    def __init__(self) -> None:
        self.card: str | None = None
        """The card's name, set by the GPU thread; None: no card, or not known yet."""
        self._corrections: dict[_Kind, float] = {}

    def estimate(self, networks: Networks, params: Params, *, from_image: bool, load_seconds: float = 0.0) -> Estimate:
        """Return the seconds of each piece of a job; `load_seconds` for weights that are not in memory."""
        known, family, cache = rates(self.card), networks.family, _cache(params)
        measured = (family, "step", cache) in self._corrections or (family, "step", None) in self._corrections
        rate = known or _GUESS
        units = [Unit("load", load_seconds)]
        for part, kind, flop in work(networks, params, from_image=from_image):
            units.append(Unit(part, flop / _T / getattr(rate, kind) * self._correction(family, part, cache)))
        units += [Unit("pack", _pack_seconds(params)), Unit("upload", _UPLOAD_SECONDS)]
        basis: Literal["card", "measured", "guess"] = "card" if known else "measured" if measured else "guess"
        return Estimate(tuple(units), basis, self.card or "CPU")

    def learn(self, family: Family, measured: Mapping[Part, tuple[float, float]], params: Params) -> None:
        """Correct later estimates by a run: part -> measured and estimated seconds."""
        cache = _cache(params)
        corrections = {
            part: self._correction(family, part, cache) * took / expected
            for part, (took, expected) in measured.items()
            if took > 0 and expected > 0
        }
        known = rates(self.card) is not None
        for part, correction in corrections.items():
            kind: _Kind = (family, part, cache if part == "step" else None)
            before = self._corrections.get(kind, 1.0 if known else correction)
            # A known card that appears many times slower was busy otherwise: compiling, or with another process.
            seen = min(max(correction, 1 / _AT_MOST), _AT_MOST) if known else correction
            self._corrections[kind] = (before + seen) / 2

    def _correction(self, family: Family, part: Part, cache: StepCache | None) -> float:
        kinds: tuple[_Kind, ...] = ((family, part, cache), (family, part, None), (family, "step", None))
        return next((self._corrections[kind] for kind in kinds if kind in self._corrections), 1.0)


def _cache(params: Params) -> StepCache | None:
    return params.step_cache if isinstance(params, VideoParams) else None


def _pack_seconds(params: Params) -> float:
    if isinstance(params, VideoParams):
        return params.width * params.height * params.num_frames / _CLIP_PIXELS_A_SECOND
    return math.prod(params.final_size) / _PICTURE_PIXELS_A_SECOND


_TELLING_SECONDS = 0.05
"""A shorter step is mostly Python and kernel launches, which says nothing about longer ones."""


class Stopwatch:
    """A `Control` that delegates to the job's, and compares the times between reports with the estimate."""

    def __init__(
        self, control: Control, estimate: Estimate | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._control, self._clock = control, clock
        self._units: dict[Part, list[float]] = {}
        for unit in () if estimate is None else estimate.units:
            self._units.setdefault(unit.part, []).append(unit.seconds)
        self._last: tuple[float, Progress] | None = None
        self._begun: dict[Part, int] = {}
        self.measured: dict[Part, tuple[float, float]] = {}
        """Part -> measured and estimated seconds, as far as it was observed."""

    def report(self, progress: Progress) -> None:
        """Measure the time between two reports of one part; a pass's first step has no earlier report."""
        now = self._clock()
        if progress.part is not None and progress.share == 0:
            self._begun[progress.part] = self._begun.get(progress.part, 0) + 1
        if progress.stage == "generating" and self._last is not None:
            self._compare(now - self._last[0], self._last[1], progress)
        self._last = (now, progress)
        self._control.report(progress)

    def _compare(self, took: float, last: Progress, progress: Progress) -> None:
        if progress.part != last.part or last.stage != "generating":
            return
        part = progress.part or "step"
        units = self._units.get(part, [])
        if progress.part is None:
            index, share = last.step, 1.0 if progress.step == last.step + 1 else 0.0
            if progress.total_steps != len(units):
                return
        else:
            index, share = self._begun.get(part, 0) - 1, progress.share - last.share
        if 0 <= index < len(units) and units[index] >= _TELLING_SECONDS and share > 0:
            before = self.measured.get(part, (0.0, 0.0))
            self.measured[part] = (before[0] + took, before[1] + units[index] * share)

    def raise_if_stopped(self) -> None:
        """As the job's own.

        Raises:
            As the job's own.
        """
        self._control.raise_if_stopped()

    def untimed(self) -> AbstractContextManager[None]:
        """As the job's own."""
        return self._control.untimed()

    def warn(self, warning: str) -> None:
        """As the job's own."""
        self._control.warn(warning)

    def viewer(self) -> Callable[[Preview], None] | None:
        """As the job's own."""
        return self._control.viewer()
