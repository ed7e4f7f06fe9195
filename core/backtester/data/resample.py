"""Coarser bars from bars or ticks: what pandas' `resample(interval, origin="epoch")` gives, empty intervals left out.

Buckets are [k × interval, (k + 1) × interval) since the epoch, or shifted by `offset_ms`; a bar belongs to the bucket
its opening time falls in and must not reach beyond it. Nothing of a bucket depends on what comes after it.
"""

from __future__ import annotations

import numpy as np

from core.backtester.data.bars import Bars, bars_of
from core.backtester.data.columns import Int64s, refuse
from core.backtester.data.errors import BadData
from core.backtester.data.ticks import Ticks


def resample_bars(bars: Bars, interval_ms: int, *, offset_ms: int = 0) -> Bars:
    """First open, highest high, lowest low, last close, sum of volume, last spread of each bucket.

    Raises BadData: rule interval (not a whole multiple of the bars' own), rule bucket (a bar lies across two).
    """
    if interval_ms <= 0 or interval_ms % bars.interval_ms:
        raise BadData(f"must be a whole multiple of {bars.interval_ms}", field="interval_ms", rule="interval")
    last = (bars.time_ms + bars.interval_ms - 1 - offset_ms) // interval_ms
    bucket = (bars.time_ms - offset_ms) // interval_ms
    refuse(last != bucket, "lies across two intervals", "time_ms", "bucket")
    if not len(bars):
        return bars_of(bars.instrument_id, [], [], [], [], [], interval_ms=interval_ms)
    starts, ends = _edges(bucket)
    return bars_of(
        bars.instrument_id,
        bucket[starts] * interval_ms + offset_ms,
        bars.open[starts],
        np.maximum.reduceat(bars.high, starts),
        np.minimum.reduceat(bars.low, starts),
        bars.close[ends],
        volume=np.add.reduceat(bars.volume, starts),
        spread=bars.spread[ends],
        interval_ms=interval_ms,
    )


def bars_from_ticks(ticks: Ticks, interval_ms: int, *, offset_ms: int = 0) -> Bars:
    """Bid bars of each bucket with ticks; volume = number of ticks, spread = ask − bid of the last one."""
    if interval_ms <= 0:
        raise BadData("must be a positive number of ms", field="interval_ms", rule="interval")
    if not len(ticks):
        return bars_of(ticks.instrument_id, [], [], [], [], [], interval_ms=interval_ms)
    bucket = (ticks.time_ms - offset_ms) // interval_ms
    starts, ends = _edges(bucket)
    return bars_of(
        ticks.instrument_id,
        bucket[starts] * interval_ms + offset_ms,
        ticks.bid[starts],
        np.maximum.reduceat(ticks.bid, starts),
        np.minimum.reduceat(ticks.bid, starts),
        ticks.bid[ends],
        volume=(ends - starts + 1).astype(np.float64),
        spread=(ticks.ask - ticks.bid)[ends],
        interval_ms=interval_ms,
    )


def _edges(bucket: Int64s) -> tuple[Int64s, Int64s]:
    """First and last row of each run of equal bucket numbers."""
    starts = np.flatnonzero(np.diff(bucket, prepend=bucket[0] - 1)).astype(np.int64)
    ends = np.append(starts[1:], len(bucket)) - 1
    return starts, ends
