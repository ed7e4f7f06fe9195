"""Ticks of one instrument as columns, valid by construction: every change of the best bid and ask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.backtester.data.columns import Floats, Int64s, floats, refuse, times
from core.backtester.data.errors import BadData


@dataclass(frozen=True, slots=True, eq=False)
class Ticks:
    """Read-only columns: `time_ms` (int64, Unix ms) never falling, 0 < `bid` ≤ `ask`. Build with `ticks_of`."""

    instrument_id: str
    time_ms: Int64s
    bid: Floats
    ask: Floats

    def __len__(self) -> int:
        return len(self.time_ms)

    def rows(self, start: int, stop: int) -> Ticks:
        """Ticks start … stop − 1 as a copy of their own. Raises BadData when the range is not inside."""
        if not 0 <= start <= stop <= len(self):
            raise BadData(f"rows {start} to {stop} of {len(self)}", field="rows", rule="range")
        part = slice(start, stop)
        return ticks_of(self.instrument_id, self.time_ms[part], self.bid[part], self.ask[part])


def ticks_of(instrument_id: str, time_ms: npt.ArrayLike, bid: npt.ArrayLike, ask: npt.ArrayLike) -> Ticks:
    """Checked ticks. Raises BadData (rules number, shape, length, finite, whole, positive, order, crossed)."""
    if not instrument_id:
        raise BadData("must not be empty", field="instrument_id", rule="present")
    stamps = times(time_ms, "time_ms")
    refuse(np.diff(stamps) < 0, "is earlier than the row before", "time_ms", "order", shift=1)
    bids = floats(bid, "bid", len(stamps))
    asks = floats(ask, "ask", len(stamps))
    refuse(bids <= 0, "must be above 0", "bid", "positive")
    refuse(asks < bids, "must not be below the bid", "ask", "crossed")
    return Ticks(instrument_id, stamps, bids, asks)
