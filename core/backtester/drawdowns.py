"""Drawdown periods of an equity curve: from a peak down and back to it, as columns."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from core.backtester.data.columns import Bools, Floats, Int64s, frozen
from core.backtester.equity import Equity


@dataclass(frozen=True, slots=True, eq=False)
class Drawdowns:
    """Read-only columns of equal length, oldest first; periods do not overlap.

    `start_ms`: Unix ms of the peak, the last row before the fall; `trough_ms`: the first row at the depth; `end_ms`:
    the first row at or above the peak again, or the last row of all where that never came (`recovered` False);
    `depth` = 1 − lowest equity ÷ peak, a fraction > 0 (above 1 when the equity was negative).
    """

    start_ms: Int64s
    trough_ms: Int64s
    end_ms: Int64s
    recovered: Bools
    depth: Floats

    def __len__(self) -> int:
        return len(self.start_ms)

    @property
    def duration_ms(self) -> Int64s:
        """From the peak to the recovery, or to the end of the data."""
        return frozen(self.end_ms - self.start_ms)

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Columns by name, in the order above."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def drawdowns_of(equity: Equity) -> Drawdowns:
    """Every period during which the equity was below its highest so far; none gives an empty table."""
    fall = equity.drawdown
    under = fall > 0
    edges = np.diff(under.astype(np.int8), prepend=np.int8(0), append=np.int8(0))
    first, after = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)  # rows first … after − 1 are below the peak
    depth = np.maximum.reduceat(fall, first) if len(first) else np.empty(0)
    number = np.cumsum(edges[:-1] == 1) - 1
    deepest = np.flatnonzero(under & (fall == depth[number])) if len(first) else np.empty(0, dtype=np.int64)
    trough = deepest[np.searchsorted(deepest, first)]
    stamps = equity.time_ms
    recovered = after < len(stamps)
    return Drawdowns(
        start_ms=frozen(stamps[first - 1]),
        trough_ms=frozen(stamps[trough]),
        end_ms=frozen(stamps[np.minimum(after, len(stamps) - 1)]),
        recovered=frozen(recovered),
        depth=frozen(depth),
    )
