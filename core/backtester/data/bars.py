"""Bars of one instrument as columns, valid by construction.

Prices are BID prices; the ask is bid + spread. A bar is stamped with the time it opens and covers
[time_ms, time_ms + interval_ms). Bars may be missing (a closed market), but never overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.backtester.data.columns import Floats, Int64s, floats, refuse, times
from core.backtester.data.errors import BadData

PRICES = ("open", "high", "low", "close")


@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    """Read-only columns of equal length.

    `time_ms` (int64, Unix ms, opening time) strictly rising by at least `interval_ms`; `open`, `high`, `low`, `close`
    bid prices > 0 with low ≤ open, close ≤ high; `volume` ≥ 0; `spread` = ask − bid ≥ 0 in price units, constant
    within a bar. Build with `bars_of`, which checks; the constructor is for columns that are checked already.
    """

    instrument_id: str
    time_ms: Int64s
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    spread: Floats
    interval_ms: int

    def __len__(self) -> int:
        return len(self.time_ms)

    def rows(self, start: int, stop: int) -> Bars:
        """Bars start … stop − 1 as a copy of their own. Raises BadData when the range is not inside."""
        if not 0 <= start <= stop <= len(self):
            raise BadData(f"rows {start} to {stop} of {len(self)}", field="rows", rule="range")
        part = slice(start, stop)
        return bars_of(
            self.instrument_id,
            self.time_ms[part],
            self.open[part],
            self.high[part],
            self.low[part],
            self.close[part],
            interval_ms=self.interval_ms,
            volume=self.volume[part],
            spread=self.spread[part],
        )


@dataclass(frozen=True, slots=True)
class Gap:
    """Bars that are missing: after row `row` (opening at `after_ms`) the next `missing` intervals have no bar."""

    row: int
    after_ms: int
    missing: int


def bars_of(
    instrument_id: str,
    time_ms: npt.ArrayLike,
    open: npt.ArrayLike,
    high: npt.ArrayLike,
    low: npt.ArrayLike,
    close: npt.ArrayLike,
    *,
    interval_ms: int,
    volume: npt.ArrayLike | None = None,
    spread: npt.ArrayLike | float = 0.0,
    gaps: bool = True,
) -> Bars:
    """Checked bars. `gaps=False` refuses missing bars too.

    Raises BadData naming field, row and rule: number, shape, length, finite, whole, positive, interval, duplicate,
    order, overlap, high, low, gap.
    """
    if not instrument_id:
        raise BadData("must not be empty", field="instrument_id", rule="present")
    if interval_ms <= 0:
        raise BadData("must be a positive number of ms", field="interval_ms", rule="interval")
    stamps = times(time_ms, "time_ms")
    rows = len(stamps)
    check_rising(stamps, "time_ms", interval_ms)
    given = dict(zip(PRICES, (open, high, low, close), strict=True))
    columns = {name: floats(values, name, rows) for name, values in given.items()}
    for name, column in columns.items():
        refuse(column <= 0, "must be above 0", name, "positive")
    top = np.maximum(np.maximum(columns["open"], columns["close"]), columns["low"])
    refuse(columns["high"] < top, "must not be below open, low or close", "high", "high")
    refuse(
        columns["low"] > np.minimum(columns["open"], columns["close"]), "must not be above open or close", "low", "low"
    )
    amount = floats(np.zeros(rows) if volume is None else volume, "volume", rows)
    refuse(amount < 0, "must not be negative", "volume", "positive")
    width = floats(np.full(rows, spread) if isinstance(spread, int | float) else spread, "spread", rows)
    refuse(width < 0, "must not be negative", "spread", "positive")
    bars = Bars(instrument_id, stamps, **columns, volume=amount, spread=width, interval_ms=interval_ms)
    if not gaps and (missing := find_gaps(bars)):
        raise BadData(
            f"{missing[0].missing} bars are missing after it", field="time_ms", rule="gap", row=missing[0].row
        )
    return bars


def find_gaps(bars: Bars) -> list[Gap]:
    """Every place where at least one whole interval has no bar, oldest first."""
    missing = np.diff(bars.time_ms) // bars.interval_ms - 1
    return [Gap(int(row), int(bars.time_ms[row]), int(missing[row])) for row in np.flatnonzero(missing > 0)]


def check_rising(stamps: Int64s, field: str, interval_ms: int) -> None:
    """Raise BadData at the first row that repeats, precedes or overlaps the one before it."""
    step = np.diff(stamps)
    refuse(step == 0, "has the same time as the row before", field, "duplicate", shift=1)
    refuse(step < 0, "is earlier than the row before", field, "order", shift=1)
    refuse(step < interval_ms, f"is less than {interval_ms} ms after the row before", field, "overlap", shift=1)
