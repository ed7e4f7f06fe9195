"""What a process uses and what its /metrics tell, read from outside and compared between two moments.

For runs that judge figures (`scripts/storm --size`, `scripts/soak`). It measures; what a figure may be is said there.
"""

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.world import OPS_KEY, World

Metrics = Mapping[str, float]  # labels within the names

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process: `at` monotonic s, processor seconds so far, bytes resident now."""

    at: float
    cpu_s: float
    rss_bytes: int

    def percent_since(self, before: "Usage") -> float:
        """Processor share, in percent of one core."""
        return 100 * (self.cpu_s - before.cpu_s) / max(self.at - before.at, 1e-3)


def usage(pid: int) -> Usage:
    """Raises OSError when the process is gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    rss = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return Usage(time.monotonic(), (int(fields[11]) + int(fields[12])) / _TICK, rss)


async def read_metrics(world: World) -> Metrics:
    """The bridge's /metrics."""
    async with world.http.get(f"{world.url}/metrics", headers={"Authorization": f"Bearer {OPS_KEY}"}) as answer:
        lines = (await answer.text()).splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def grown(before: Metrics, after: Metrics, beginning: str) -> float:
    """By how much the series whose names begin so have grown together."""
    return total(after, beginning) - total(before, beginning)


def total(metrics: Metrics, beginning: str) -> float:
    """Sum of the series whose names begin so."""
    return sum(value for name, value in metrics.items() if name.startswith(beginning))


def quantile(before: Metrics, after: Metrics, histogram: str, share: float) -> float:
    """Upper bound of the bucket up to which this share of what was observed in between lies; NaN for nothing."""
    counts: dict[float, float] = {}
    for name, value in after.items():
        if name.startswith(f"{histogram}_bucket"):
            bound = float(name.partition('le="')[2].partition('"')[0])
            counts[bound] = counts.get(bound, 0.0) + value - before.get(name, 0.0)
    observed = max(counts.values(), default=0.0)
    wanted = share * observed
    return (
        min((bound for bound, count in counts.items() if count >= wanted), default=math.nan) if observed else math.nan
    )


def percentile(values: list[float], share: float) -> float:
    """The value that this share of all are not above; NaN for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan
