"""How long a job will take on this card: its work (`engine.work`), the card's rates, and what earlier jobs took.

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
    """One piece of a job, in the order in which they run: a denoising step, a decode, a file's encoding."""

    part: Part
    seconds: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of each piece of a job, without waiting in line and without a download."""

    units: tuple[Unit, ...]
    basis: Literal["card", "measured", "guess"]
    """What the seconds rest on: rates known of this card, or only this worker's own jobs. Of a guess, only the shares
    mean anything."""
    card: str = "CPU"

    @property
    def seconds(self) -> float | None:
        """Of the whole job, with the weights in memory; None: not known yet."""
        return None if self.basis == "guess" else self._sum()

    @property
    def longest_step(self) -> float:
        """Seconds of the longest denoising step, which nothing interrupts; 0 where that is a guess."""
        if self.basis == "guess":
            return 0.0
        return max((unit.seconds for unit in self.units if unit.part == "step"), default=0.0)

    def exceeds(self, limit: float) -> bool:
        """Whether the job surely cannot end within `limit` seconds.

        Where nothing is known of the card but this worker's own jobs, up to twice the limit is still tried.
        """
        return self.basis != "guess" and self._sum() > limit * (1 if self.basis == "card" else 2)

    def steps_within(self, limit: float, steps: int) -> int:
        """How many denoising steps, instead of `steps`, the job may have to end within `limit` seconds."""
        denoising = self._sum("step")
        return max(0, math.floor(steps * (limit - (self._sum() - denoising)) / denoising)) if denoising else steps

    def _sum(self, part: Part | None = None) -> float:
        return sum(unit.seconds for unit in self.units if unit.part != "load" and part in {None, unit.part})


_T = 1e12


@dataclass(frozen=True, slots=True)
class Rates:
    """What a card really does of each kind of work, eager diffusers in half precision, in TFLOP a second."""

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
"""Words of a card's name -> its rates: published times, and the work counted here.

SDXL: A100 (30 steps in 3.32 s, https://pytorch.org/blog/accelerating-generative-ai-3), A10 (9.4 s,
https://huggingface.co/stabilityai/stable-diffusion-xl-1.0-tensorrt, with the VAE of A100 and H100: 228 and 127 ms),
H100 and RTX 4080 (14.9 and 4.6 steps a second, https://github.com/chengzeyi/stable-fast). Wan: A800 (189 s a clip,
https://github.com/Zehong-Ma/MagCache), RTX 4090 (about 4 minutes, https://github.com/Wan-Video/Wan2.1), H100 (9.77 s a
step of 14B, https://github.com/ModelTC/LightX2V), H200 (0.952 s a call,
https://hao-ai-lab.github.io/blogs/fastvideo_post_training; there RTX 4090, too: 18 s of a clip beside denoising).
All others are scaled from the nearest of these by the dense bfloat16 rate of their data sheets, and not measured:
rather too high than too low, since a job that runs out of time may still be told so.
"""
_GUESS = Rates(0.1, 0.1, 0.1)
"""Two or three CPU cores: good for shares alone."""


def rates(card: str | None) -> Rates | None:
    """Of a card by the name that CUDA gives it; None: not known."""
    if not card or "MIG" in card:  # a slice of a card has the name of the whole one in its own
        return None
    return next((known for name, known in RATES.items() if re.search(rf"\b{name}\b", card)), None)


_CLIP_PIXELS_A_SECOND = 50e6
_PICTURE_PIXELS_A_SECOND = 9e6
"""x264 at `media.video`'s preset, PNG at `media.image`'s level: pixels a second on two cores (benchmarks/README.md)."""
_UPLOAD_SECONDS = 1.0
"""Of one result, whatever its size."""


_AT_MOST = 3.0
"""How many times faster or slower than its rates one run may make a known card look."""
_Kind = tuple[Family, Part, StepCache | None]
"""What has a pace of its own: where steps are not computed in full, another than where they are."""


class Estimator:
    """The estimates of one worker, corrected by what it measures. `estimate` may be called in any thread."""

    def __init__(self) -> None:
        self.card: str | None = None
        """Its name, once the GPU thread has asked for it; None: no card, or not known yet."""
        self._corrections: dict[_Kind, float] = {}

    def estimate(self, networks: Networks, params: Params, *, from_image: bool, load_seconds: float = 0.0) -> Estimate:
        """Seconds of each piece of a job. `load_seconds`: for weights that are not in memory yet."""
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
        """Correct later estimates by a run's times: part -> seconds that it took, and that were estimated."""
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
            # A known card that seems many times slower was busy with something else: compiling, or another process.
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
"""A shorter step is mostly Python and launches: its time says nothing of a longer one's."""


class Stopwatch:
    """A `Control` that hands everything on, and compares the times between a run's reports with its estimate."""

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
        """Part -> seconds it took, and was estimated to take, as far as it was seen."""

    def report(self, progress: Progress) -> None:
        """Note the time between two reports of one part; of a pass's first step there is no earlier one."""
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
        """Ask the job.

        Raises:
            What the job's own raises.
        """
        self._control.raise_if_stopped()

    def untimed(self) -> AbstractContextManager[None]:
        """As the job's own."""
        return self._control.untimed()

    def warn(self, warning: str) -> None:
        """Tell the job."""
        self._control.warn(warning)

    def viewer(self) -> Callable[[Preview], None] | None:
        """The job's."""
        return self._control.viewer()
