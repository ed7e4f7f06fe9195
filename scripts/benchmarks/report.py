"""One row of the table: a figure of ours, its comparison, their ratio over interleaved rounds, and the target.

Knows nothing of how anything is measured. Invariant: a row says "met" only when its own number meets its own target.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from rich.console import Console
from rich.table import Table


class Sense(StrEnum):
    AT_LEAST = ">="
    AT_MOST = "<="


@dataclass(frozen=True, slots=True)
class Target:
    """A bound from DESIGN §15. `unit` is appended as it stands, with its leading space."""

    sense: Sense
    bound: float
    unit: str = ""

    def __str__(self) -> str:
        return f"{'≥' if self.sense is Sense.AT_LEAST else '≤'} {self.bound:g}{self.unit}"

    def met(self, value: float) -> bool:
        return value >= self.bound if self.sense is Sense.AT_LEAST else value <= self.bound

    def verdict(self, value: float) -> str:
        """ "met", or by how much of the bound it was missed."""
        if self.met(value):
            return "met"
        by = abs(value - self.bound) / self.bound * 100
        return f"MISSED by {by:.0f} %" if math.isfinite(by) else "MISSED"


def at_least(bound: float, unit: str = "") -> Target:
    return Target(Sense.AT_LEAST, bound, unit)


def at_most(bound: float, unit: str = "") -> Target:
    return Target(Sense.AT_MOST, bound, unit)


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds with the least and the greatest."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int = 2, unit: str = "") -> str:
        if self.least == self.greatest:
            return f"{self.median:.{digits}f}{unit}"
        return f"{self.median:.{digits}f}{unit} ({self.least:.{digits}f}–{self.greatest:.{digits}f})"


@dataclass(frozen=True, slots=True)
class Row:
    """`value` is what the target judges (None: told for information only); `data` goes to the JSON file.

    `reason`: why the target is out of reach, where that is known; it is shown only when it was missed.
    """

    figure: str
    ours: str
    compared_with: str
    ratio: str
    target: Target | None = None
    value: float | None = None
    data: Mapping[str, object] = field(default_factory=dict)
    reason: str = ""

    @property
    def verdict(self) -> str:
        if self.target is None or self.value is None:
            return ""
        missed = not self.target.met(self.value)
        return self.target.verdict(self.value) + (f": {self.reason}" if missed and self.reason else "")

    @property
    def met(self) -> bool | None:
        return None if self.target is None or self.value is None else self.target.met(self.value)

    def as_json(self) -> dict[str, object]:
        return {
            "figure": self.figure,
            "ours": self.ours,
            "comparedWith": self.compared_with,
            "ratio": self.ratio,
            "target": None if self.target is None else str(self.target),
            "value": self.value,
            "met": self.met,
            "verdict": self.verdict,
            "data": dict(self.data),
        }


HEADINGS = ("figure", "ours", "compared with, same run", "ratio: median (min–max)", "target", "verdict")


def show(rows: Sequence[Row]) -> None:
    """A table for a person at a terminal; tab-free plain lines in Markdown when the output goes elsewhere."""
    console = Console()
    cells = [(row.figure, row.ours, row.compared_with, row.ratio, str(row.target or ""), row.verdict) for row in rows]
    if console.is_terminal and console.width >= 120:
        table = Table(*HEADINGS, show_lines=True)
        for line in cells:
            table.add_row(*line, style="red" if line[-1].startswith("MISSED") else None)
        console.print(table)
        return
    lines: list[tuple[str, ...]] = [HEADINGS, ("---",) * len(HEADINGS), *cells]
    for words in lines:
        print(f"| {' | '.join(words)} |")
