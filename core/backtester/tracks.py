"""Market data as the engine will be quoted it: whole points, step by step, and the moments of decision.

A bar is four steps: its open is quoted as a jump at its opening time (a gap fills there); from there the price *walks*,
visiting every point on its way, to the extreme nearer to the open (the low when both are equally near) a quarter of the
interval later, to the other extreme at half, to the close at three quarters. So a stop inside a bar fills at its own
price. A tick is one jump. A strategy decides when a bar has closed (opening time + interval), before anything of the
next bar; or after each tick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.backtester.data.bars import Bars
from core.backtester.data.columns import Floats, Int64s, refuse
from core.backtester.data.errors import BadData
from core.backtester.data.ticks import Ticks
from core.backtester.settings import BacktestSettings
from core.errors import InvalidInput

MOST_POINTS = 2**52
FAR = 2**62
TOLERANCE = 1e-9  # of a price: how far a float may lie from a whole point

Data = Bars | Ticks
BAR_COLUMNS = ("open", "high", "low", "close", "volume", "spread")


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """One instrument's steps. `bid`, `ask` in points at each step's end; every `steps_per_row`-th step is a jump.

    `row_at[k]`: the last row closed at moment k (−1 before the first); `new_at[k]`: it closed just then;
    `steps_at[k]`: how many steps are done by moment k.
    """

    instrument_id: str
    digits: int
    data: Data
    time_ms: Int64s
    bid: Int64s
    ask: Int64s
    steps_per_row: int
    row_at: Int64s
    new_at: npt.NDArray[np.bool_]
    steps_at: Int64s

    def slot_bounds(self) -> tuple[Int64s, Int64s, Int64s, Int64s]:
        """Lowest and highest bid, lowest and highest ask among the steps of each moment; ±FAR where it has none."""
        ends = self.steps_at
        starts = np.concatenate(([0], ends[:-1]))
        empty = starts == ends

        def reduce(pick: Any, values: Int64s, default: int) -> Int64s:
            return np.asarray(np.where(empty, default, pick.reduceat(np.append(values, default), starts)))

        return (
            reduce(np.minimum, self.bid, FAR),
            reduce(np.maximum, self.bid, -FAR),
            reduce(np.minimum, self.ask, FAR),
            reduce(np.maximum, self.ask, -FAR),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """All tracks on one row of moments (Unix ms, strictly rising). `start_ms`: when the first data opens."""

    moments: Int64s
    tracks: tuple[Track, ...]
    start_ms: int


def timeline_of(data: Mapping[str, Data], settings: BacktestSettings) -> Timeline:
    """Tracks in the order of the listings. Raises BadData (digits, size, rows) and InvalidInput (names)."""
    ordered = [data[each.instrument.id] for each in settings.listings]
    for each, listing in zip(ordered, settings.listings, strict=True):
        if each.instrument_id != listing.instrument.id:
            raise InvalidInput(
                f"data of {each.instrument_id} under another name", field=f"data.{listing.instrument.id}"
            )
        if not len(each):
            raise BadData("has no rows", field=each.instrument_id, rule="rows")
    closings = [_closing_times(each) for each in ordered]
    moments = (
        closings[0] if len(closings) == 1 and isinstance(ordered[0], Bars) else np.unique(np.concatenate(closings))
    )
    tracks = tuple(
        _track(each, listing.instrument.price_digits, closing, moments)
        for each, listing, closing in zip(ordered, settings.listings, closings, strict=True)
    )
    return Timeline(moments, tracks, min(int(each.time_ms[0]) for each in ordered))


def points_of(prices: Floats, digits: int, field: str) -> Int64s:
    """Prices as whole points. Raises BadData when one has more decimals than the instrument or is too large."""
    scaled = prices * 10.0**digits
    refuse(np.abs(scaled) > MOST_POINTS, "is too large", field, "size")
    whole = np.rint(scaled)
    close = np.abs(scaled - whole) <= np.maximum(np.abs(scaled) * TOLERANCE, 1e-6)
    refuse(~close, f"has more than {digits} decimals", field, "digits")
    refuse((whole == 0) & (prices > 0), f"has more than {digits} decimals", field, "digits")
    return whole.astype(np.int64)


def _closing_times(data: Data) -> Int64s:
    return data.time_ms + data.interval_ms if isinstance(data, Bars) else data.time_ms


def _track(data: Data, digits: int, closing: Int64s, moments: Int64s) -> Track:
    name = data.instrument_id
    row_at = np.searchsorted(closing, moments, side="right") - 1
    new_at = (row_at >= 0) & (closing[row_at] == moments)
    if isinstance(data, Ticks):
        bid = points_of(data.bid, digits, f"{name}.bid")
        ask = points_of(data.ask, digits, f"{name}.ask")
        return Track(name, digits, data, data.time_ms, bid, ask, 1, row_at, new_at, row_at + 1)
    o, h, low, c = (points_of(getattr(data, each), digits, f"{name}.{each}") for each in BAR_COLUMNS[:4])
    spread = points_of(data.spread, digits, f"{name}.spread")
    low_first = o - low <= h - o
    steps = np.stack([o, np.where(low_first, low, h), np.where(low_first, h, low), c], axis=1).ravel()
    offsets = np.arange(4, dtype=np.int64) * data.interval_ms // 4
    stamps = (data.time_ms[:, None] + offsets).ravel()
    steps_at = np.searchsorted(stamps, moments, side="left")
    return Track(name, digits, data, stamps, steps, steps + np.repeat(spread, 4), 4, row_at, new_at, steps_at)
