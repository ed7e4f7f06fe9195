"""Parts of data by time: what lies wholly within a span, as data of its own."""

from __future__ import annotations

import numpy as np

from core.backtester.data.bars import Bars
from core.backtester.data.errors import BadData
from core.backtester.data.ticks import Ticks


def between(data: Bars | Ticks, from_ms: int | None, to_ms: int | None) -> Bars | Ticks:
    """Bars that open at `from_ms` or later and close at `to_ms` or earlier; ticks of from_ms ≤ time < to_ms.

    Unix ms; None leaves that end open. Raises BadData (rules range, empty) when the span is none or nothing lies in it.
    """
    if from_ms is not None and to_ms is not None and from_ms >= to_ms:
        raise BadData(f"from {from_ms} to {to_ms} is no span of time", field="from_ms", rule="range")
    start = 0 if from_ms is None else int(np.searchsorted(data.time_ms, from_ms))
    last = data.time_ms + data.interval_ms - 1 if isinstance(data, Bars) else data.time_ms
    stop = len(data) if to_ms is None else int(np.searchsorted(last, to_ms))
    if start >= stop:
        raise BadData(f"{data.instrument_id} has no row in this span of time", field="from_ms", rule="empty")
    return data.rows(start, stop)
