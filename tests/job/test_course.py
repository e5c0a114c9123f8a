"""Percent and seconds left: shares of the estimated time, advanced by every part of a job, never still for long."""

import itertools

import pytest

from worker.core.types import Part, Progress
from worker.engine.estimate import Estimate, Unit
from worker.job.course import Course

CLIP: tuple[tuple[Part, float], ...] = (("load", 10), ("text", 2), *(("step", 4.0),) * 10, ("decode", 30))
PICTURES: tuple[tuple[Part, float], ...] = (
    ("load", 0),
    ("text", 0),
    *(("step", 1.0), ("step", 1.0), ("decode", 1.0)) * 2,
)


class Clock:
    """A clock that advances when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def estimate(*units: tuple[Part, float], pack: float = 10, upload: float = 8, basis: str = "card") -> Estimate:
    timeline = (*units, ("pack", pack), ("upload", upload))
    return Estimate(tuple(Unit(part, seconds) for part, seconds in timeline), basis)  # type: ignore[arg-type]  # a literal


def percent(course: Course, progress: Progress) -> int | None:
    placed = course.at(progress)
    return None if placed is None else placed.percent


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (Progress("queued"), 0),
        (Progress("loading", 1, 2), 5),
        (Progress("loading", 1, 1), 10),
        (Progress("generating"), 10),
        (Progress("generating", 0, 10, "text", 0.5), 11),
        (Progress("generating", 1, 10), 16),
        (Progress("generating", 10, 10), 52),
        (Progress("generating", 10, 10, "decode", 0.5), 67),
        (Progress("generating", 10, 10, "decode", 1.0), 82),
        (Progress("uploading", 0, 1), 82),
        (Progress("uploading", 0, 1, "pack", 0.5), 87),
        (Progress("uploading", 0, 1, "upload"), 92),
        (Progress("uploading", 1, 1), 100),
        (Progress("uploading", 2, 1), 100),
    ],
)
def test_percent_is_of_the_estimated_seconds(progress: Progress, expected: int) -> None:
    assert percent(Course(estimate(*CLIP)), progress) == expected


def test_each_picture_of_several_has_its_own_decode() -> None:
    course = Course(estimate(*PICTURES, pack=3, upload=1))
    moments = [
        Progress("generating", 2, 4),
        Progress("generating", 2, 4, "decode", 1.0),
        Progress("generating", 3, 4),
        Progress("generating", 4, 4, "decode", 1.0),
        Progress("uploading", 1, 2),
        Progress("uploading", 2, 2),
    ]
    assert [percent(course, moment) for moment in moments] == [20, 30, 40, 60, 80, 100]


def test_steps_that_are_counted_otherwise_than_estimated_come_to_the_same_end() -> None:
    course = Course(estimate(*CLIP))
    assert percent(course, Progress("generating", 5, 20)) == 22
    assert percent(course, Progress("generating", 20, 20)) == 52


def test_what_is_behind_what_was_said_before_is_not_said() -> None:
    course = Course(estimate(*CLIP))
    course.at(Progress("generating", 5, 10))
    assert percent(course, Progress("loading", 1, 1)) is None
    assert percent(course, Progress("generating", 4, 10)) is None
    assert percent(course, Progress("generating", 5, 10)) == 32


def test_seconds_left_are_the_estimates_until_the_job_has_a_pace_of_its_own() -> None:
    clock = Clock()
    course = Course(estimate(*CLIP), clock)
    left = []
    for step in range(1, 11):
        placed = course.at(Progress("generating", step, 10))
        assert placed is not None
        left.append(placed.eta_seconds)
        clock.now += 8  # twice the estimate
    assert left[0] == 84
    assert left[-1] == 2 * 48


def test_where_nothing_is_known_of_the_time_none_is_told_until_the_job_shows_its_pace() -> None:
    clock = Clock()
    course = Course(None, clock)
    first = course.at(Progress("generating", 1, 10))
    clock.now += 10
    second = course.at(Progress("generating", 2, 10))
    assert first is not None
    assert second is not None
    assert first.eta_seconds is None
    assert second.eta_seconds == pytest.approx(8 * 10 + 15 / 8 * 10, abs=1)


def test_no_time_left_is_never_negative_and_nothing_comes_after_the_end() -> None:
    clock = Clock()
    course = Course(estimate(*CLIP), clock)
    placed = course.at(Progress("uploading", 1, 1))
    clock.now += 1000
    assert placed is not None
    for moment in (placed, course.between()):
        assert (moment.percent, moment.eta_seconds) == (100, 0)


def test_between_two_reports_it_goes_on_and_never_past_what_comes_next() -> None:
    clock = Clock()
    course = Course(estimate(*CLIP), clock)
    course.at(Progress("generating", 10, 10, "decode", 0.0))
    seen = []
    for _ in range(120):
        clock.now += 1
        seen.append(course.between().percent)
    assert seen[14] == 67, "as fast as the estimate"
    assert seen == sorted(seen)
    assert 67 < seen[-1] < 82, "the decode has not ended"
    assert course.between().step == 10
    real = course.at(Progress("generating", 10, 10, "decode", 0.5))
    assert real is not None
    assert real.percent == 67


def test_a_job_in_line_does_not_move() -> None:
    clock = Clock()
    course = Course(estimate(*CLIP), clock)
    clock.now += 100
    assert course.between().percent == 0


@pytest.mark.parametrize("slowness", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("slow", ["step", "decode", "pack"])
def test_nothing_stands_still_for_a_tenth_of_a_job_of_few_steps(slow: str, slowness: float) -> None:
    """Four steps are a fifth of the job each, and a part takes more or less than estimated."""
    units: tuple[tuple[Part, float], ...] = (("load", 0), ("text", 1), *(("step", 20.0),) * 4, ("decode", 12))
    clock = Clock()
    course = Course(estimate(*units, pack=5, upload=2), clock)

    def takes(part: Part, seconds: float) -> float:
        return seconds * (slowness if part == slow else 1.0)

    moments: list[tuple[float, Progress]] = [(0.0, Progress("generating", 0, 4, "text"))]
    moments += [(takes("step", 20), Progress("generating", step, 4)) for step in range(1, 5)]
    moments += [(takes("decode", 12), Progress("generating", 4, 4, "decode", 1.0)), (0.0, Progress("uploading", 0, 1))]
    moments += [(takes("pack", 5), Progress("uploading", 0, 1, "upload")), (2.0, Progress("uploading", 1, 1))]
    began, seen = clock.now, [(clock.now, 0)]
    for wait, progress in moments:
        until = clock.now + wait
        while clock.now + 1 < until:
            clock.now += 1
            seen.append((clock.now, course.between().percent))
        clock.now = until
        placed = course.at(progress)
        assert placed is not None
        seen.append((clock.now, placed.percent))
    rises: list[tuple[float, int]] = []
    for at, value in seen:
        if not rises or value > rises[-1][1]:
            rises.append((at, value))
    longest = max(later - earlier for (earlier, _), (later, _) in itertools.pairwise(rises))
    assert longest <= 0.1 * (clock.now - began)
