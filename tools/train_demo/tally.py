"""Counts of what was right, by attribute. Knows expectations and what was seen; knows no models."""

import statistics
from dataclasses import dataclass, field

from tools.train_demo.checker import Seen
from tools.train_demo.prompts import Case

COLUMNS = ("colour", "background", "position", "shape", "size", "all", "motion", "seconds")
"""Of the table. `all` is the first four of a picture together."""


def right(case: Case, seen: Seen) -> dict[str, bool]:
    """Per attribute whether the picture shows what the prompt asked for; the size only where it did."""
    marks = {
        "colour": seen.colour == case.colour,
        "background": seen.background == case.background,
        "position": (seen.column, seen.row) == (case.column, case.row),
        "shape": seen.shape == case.shape,
    }
    marks["all"] = all(marks.values())
    return marks | ({"size": seen.size == case.size} if case.size else {})


@dataclass
class Tally:
    """One row of the table."""

    name: str
    count: int = 0
    seconds: list[float] = field(default_factory=list)
    _marks: dict[str, list[bool]] = field(default_factory=dict)

    def add(self, marks: dict[str, bool], seconds: float | None = None) -> None:
        """One more picture or clip."""
        self.count += 1
        for name, mark in marks.items():
            self._marks.setdefault(name, []).append(mark)
        if seconds is not None:
            self.seconds.append(seconds)

    def share(self, name: str) -> float | None:
        """Per cent right; None where it was never asked for."""
        marks = self._marks.get(name)
        return 100 * sum(marks) / len(marks) if marks else None

    def as_dict(self) -> dict[str, object]:
        """For the JSON file: per cent, and the median of the seconds."""
        values: dict[str, object] = {"row": self.name, "count": self.count}
        values |= {name: self.share(name) for name in COLUMNS[:-1]}
        return values | {"seconds": statistics.median(self.seconds) if self.seconds else None}

    def line(self) -> str:
        """One line of the table in Markdown."""
        cells = [f"{value:.1f}" if (value := self.share(name)) is not None else "" for name in COLUMNS[:-1]]
        cells.append(f"{statistics.median(self.seconds):.2f}" if self.seconds else "")
        return " | ".join(["", f"{self.name:<34}", f"{self.count:>5}", *(f"{cell:>10}" for cell in cells), ""]).strip()


def header() -> str:
    """The table's first two lines."""
    names = [f"{'row':<34}", "count", *(f"{name:>10}" for name in COLUMNS)]
    rules = ["-" * len(names[0]), "----:", *("-" * 9 + ":" for _ in COLUMNS)]
    return "\n".join(" | ".join(["", *cells, ""]).strip() for cells in (names, rules))
