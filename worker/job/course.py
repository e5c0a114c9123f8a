"""A job's percent and seconds left, computed from its reports and its estimate.

`percent` is a share of estimated time, so decoding and encoding move it as denoising steps do. Between two reports it
advances by the clock, ever more slowly towards the end of the current piece: progress neither appears to stall nor
claims that a piece is done. Knows one job; does not know who receives its progress.
"""

import itertools
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace

from worker.core.types import Progress
from worker.engine.estimate import Estimate, Unit

UNKNOWN = Estimate((Unit("load", 5), Unit("step", 80), Unit("decode", 5), Unit("pack", 5), Unit("upload", 5)), "guess")
"""The shares assumed for a job without an estimate."""

_SEEN = 0.05
"""Share of a generation after which its measured pace replaces the estimated one."""


class Course:
    """One job's position along its estimate. Not thread-safe: used in the event loop."""

    def __init__(self, estimate: Estimate | None = None, clock: Callable[[], float] | None = None) -> None:
        estimate = estimate or UNKNOWN
        self._clock = clock or time.monotonic
        self._known = estimate.basis != "guess"
        self._units = estimate.units
        self._ends = list(itertools.accumulate(unit.seconds for unit in estimate.units))
        self._steps = [index for index, unit in enumerate(self._units) if unit.part == "step"]
        self._newest, self._position, self._at = Progress("queued"), 0.0, self._clock()
        self._began: tuple[float, float] | None = None
        self._pace: float | None = None

    def along(self, estimate: Estimate | None) -> "Course":
        """Return the course of the same job along another estimate, from its newest report on."""
        course = Course(estimate, self._clock)
        course._newest, course._position, course._at = self._newest, course._place(self._newest), self._at
        return course

    def at(self, progress: Progress) -> Progress | None:
        """The report with percent and seconds left filled in; None if it lies behind an earlier one."""
        position, now = self._place(progress), self._clock()
        if position < self._position:
            return None
        self._newest, self._position, self._at = progress, position, now
        if progress.stage == "generating":
            began, start = self._began = self._began or (now, position)
            if position - start > _SEEN * self._ends[-1]:
                self._pace = (now - began) / (position - start)
        return self._filled(position)

    def between(self) -> Progress:
        """The newest report, advanced by the time that has passed since."""
        following = bisect_right(self._ends, self._position)
        if self._newest.stage == "queued" or following == len(self._ends):
            return self._filled(self._position)
        if self._units[following].part == "text":
            following += 1  # the end of prompt encoding is not reported: the next report is of what follows
        left = self._ends[following] - self._position
        expected = left * (self._pace or 1.0)
        return self._filled(self._position + left * _eased((self._clock() - self._at) / expected if expected else 0.0))

    def _filled(self, position: float) -> Progress:
        whole = self._ends[-1]
        left = max(0, round((whole - position) * (self._pace or 1.0)))
        return replace(
            self._newest,
            percent=min(100, int(100 * position / whole)) if whole else 0,
            eta_seconds=left if self._known or self._pace is not None else None,
        )

    def _place(self, progress: Progress) -> float:
        share = min(1.0, progress.step / progress.total_steps) if progress.total_steps else 0.0
        match progress.stage:
            case "queued":
                return 0.0
            case "loading":
                return self._ends[0] * share
            case "generating":
                return self._generating(progress)
            case "uploading":
                return self._uploading(progress)

    def _generating(self, progress: Progress) -> float:
        """The position after `progress.step` steps, or within the part that precedes the next step."""
        done, rest = divmod(min(progress.step, progress.total_steps) * len(self._steps), max(progress.total_steps, 1))
        after = self._steps[done - 1] + 1 if done else 1
        if progress.part is not None:
            for index in range(after, len(self._units)):
                if self._units[index].part == progress.part:
                    return self._ends[index] - (1 - min(progress.share, 1.0)) * self._units[index].seconds
        here = self._ends[after - 1]
        if not rest or done == len(self._steps):
            return here
        return here + rest / progress.total_steps * (self._ends[self._steps[done]] - here)

    def _uploading(self, progress: Progress) -> float:
        pack, upload = self._units[-2], self._units[-1]
        span = pack.seconds + upload.seconds
        inside = progress.share * pack.seconds
        if progress.part == "upload":
            inside = pack.seconds + progress.share * upload.seconds
        files = max(progress.total_steps, 1)
        left = max(0.0, files - progress.step - (inside / span if span else 0.0)) / files
        return self._ends[-1] - left * span


def _eased(share: float) -> float:
    """Linear up to one half, then ever slower; never reaches 1."""
    return share if share < 0.5 else 1 - 0.25 / share
