"""Whether a figure that was sampled for a while has kept growing: a robust line through the samples after the warm-up.

The slope is the median of the slopes between all pairs of samples (Theil and Sen), so that single peaks and steps do
not count. What it says of the whole time that was looked at must stay below a bound; a leak grows with time and crosses
it however slow it is, if one only looks long enough.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from tests.support.verdicts import Verdicts

WARM_UP = 0.3  # share of the time in which caches fill and whatever is made once is made
FEWEST = 5  # samples after it


@dataclass(frozen=True, slots=True)
class Bound:
    """How much a figure may grow from the end of the warm-up on: `absolute`, or this `share` of what it was."""

    absolute: float
    share: float = 0.0
    unit: str = ""
    scale: float = 1.0  # of the figure, to print it in that unit

    def allowed(self, level: float) -> float:
        return max(self.absolute, self.share * level)


@dataclass(frozen=True, slots=True)
class Trend:
    """Of one figure: its level and by how much it grew over `span_s` seconds."""

    level: float
    grown: float
    span_s: float

    @property
    def per_hour(self) -> float:
        return self.grown / self.span_s * 3600


def trend(samples: Sequence[tuple[float, float]], warm_up: float = WARM_UP) -> Trend | None:
    """Of (seconds, value) in order of time; None when there are too few samples after the warm-up."""
    if len(samples) < FEWEST:
        return None
    first, last = samples[0][0], samples[-1][0]
    kept = [each for each in samples if each[0] >= first + warm_up * (last - first)]
    if len(kept) < FEWEST:
        return None
    slopes = [
        (late[1] - early[1]) / (late[0] - early[0])
        for place, early in enumerate(kept)
        for late in kept[place + 1 :]
        if late[0] > early[0]
    ]
    span_s = kept[-1][0] - kept[0][0]
    return Trend(median(value for _, value in kept), median(slopes) * span_s if slopes else math.nan, span_s)


def judge(series: Mapping[str, Sequence[tuple[float, float]]], bounds: Mapping[str, Bound], verdicts: Verdicts) -> None:
    """One line per figure; one that cannot be judged does not hold."""
    for name, bound in bounds.items():
        found = trend(series.get(name, ()))
        if found is None:
            verdicts.true(f"{name} grows by", False, "too few samples", "")
            continue
        grown, allowed = found.grown / bound.scale, bound.allowed(found.level) / bound.scale
        what = f"{name}: {found.level / bound.scale:,.0f}{bound.unit}; grows by"
        seen = f"{grown:+,.2f}{bound.unit} ({found.per_hour / bound.scale:+,.1f}/h)"
        verdicts.true(what, grown <= allowed, seen, f"<= {allowed:,.2f}{bound.unit}")
