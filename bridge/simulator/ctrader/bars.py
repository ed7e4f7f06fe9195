"""Trendbars: live ones gathered from ticks, history before the start made up from the seed.

Bars are bid-based (reference/ctrader.md §4.1): `low` plus non-negative deltas, all in 1/100000, `volume` = ticks. The
made-up past is a function of symbol and bar time only, so asking twice gives the same bars; it ends where the
simulator started. Bars kept live are bounded.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from bridge.simulator.ctrader.catalogue import ListedSymbol
from bridge.simulator.ctrader.spots import Tick
from protos.ctrader import model_pb2 as o

MINUTE_MS = 60_000
MINUTES: dict[int, int] = {
    o.M1: 1,
    o.M2: 2,
    o.M3: 3,
    o.M4: 4,
    o.M5: 5,
    o.M10: 10,
    o.M15: 15,
    o.M30: 30,
    o.H1: 60,
    o.H4: 240,
    o.H12: 720,
    o.D1: 1_440,
    o.W1: 10_080,
    o.MN1: 43_200,
}
_DAY_MS = 86_400_000
MOST_BARS = 14_000
MINUTES_KEPT = 3_000


def _window_ms(minutes: int) -> int:
    """The longest period one request may cover."""
    if minutes <= 5:
        return int(3.5 * _DAY_MS)
    if minutes <= 60:
        return 245 * _DAY_MS
    return (366 if minutes <= 1_440 else 1_830) * _DAY_MS


WINDOW_MS = {period: _window_ms(minutes) for period, minutes in MINUTES.items()}


@dataclass(slots=True)
class Bar:
    """Open, high, low, close of the bid in 1/100000; `start` in minutes since 1970."""

    start: int
    open: int
    high: int
    low: int
    close: int
    ticks: int

    def add(self, other: Bar) -> None:
        """Append a later bar."""
        self.high, self.low = max(self.high, other.high), min(self.low, other.low)
        self.close, self.ticks = other.close, self.ticks + other.ticks

    def message(self, period: int) -> o.ProtoOATrendbar:
        return o.ProtoOATrendbar(
            volume=self.ticks,
            period=o.ProtoOATrendbarPeriod.Name(period),
            low=self.low,
            deltaOpen=self.open - self.low,
            deltaClose=self.close - self.low,
            deltaHigh=self.high - self.low,
            utcTimestampInMinutes=self.start,
        )


class BarBook:
    """One-minute bars of every symbol since the start, oldest dropped beyond MINUTES_KEPT."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._minutes: dict[tuple[str, int], dict[int, Bar]] = {}

    def tick(self, tick: Tick) -> None:
        """File a tick with a bid."""
        if tick.bid is None:
            return
        minutes = self._minutes.setdefault((tick.server, tick.symbol_id), {})
        start = tick.at_ms // MINUTE_MS
        bar = Bar(start, tick.bid, tick.bid, tick.bid, tick.bid, 1)
        if start in minutes:
            minutes[start].add(bar)
            return
        minutes[start] = bar
        if len(minutes) > MINUTES_KEPT:
            del minutes[next(iter(minutes))]

    def live(self, server: str, symbol_id: int, period: int) -> o.ProtoOATrendbar | None:
        """The bar in progress."""
        minutes = self._minutes.get((server, symbol_id))
        if not minutes:
            return None
        length = MINUTES[period]
        start = max(minutes) // length * length
        bar = _merge((minutes[minute] for minute in sorted(minutes) if minute >= start), start)
        return bar.message(period) if bar is not None else None

    def history(
        self, server: str, symbol: ListedSymbol, period: int, start_ms: int, end_ms: int
    ) -> list[o.ProtoOATrendbar]:
        """Bars that begin within the period, oldest first, at most MOST_BARS of them (the newest)."""
        length = MINUTES[period]
        minutes = self._minutes.get((server, symbol.id), {})
        last = end_ms // MINUTE_MS // length * length
        first = max(-(-start_ms // MINUTE_MS // length) * length, last - (MOST_BARS - 1) * length)
        begun = min(minutes, default=last + length)
        found = []
        for start in range(first, last + 1, length):
            bar = None
            if start + length > begun:
                seen = (minutes[minute] for minute in range(start, start + length) if minute in minutes)
                bar = _merge(seen, start)
            else:
                bar = self._made_up(symbol, start, length)
            if bar is not None:
                found.append(bar.message(period))
        return found

    def _made_up(self, symbol: ListedSymbol, start: int, length: int) -> Bar:
        scale = 10 ** (5 - symbol.terms.digits)
        opened = self._price(symbol, start)
        closed = self._price(symbol, start + length)
        reach = 3 * scale
        return Bar(start, opened, max(opened, closed) + reach, min(opened, closed) - reach, closed, 10 * length)

    def _price(self, symbol: ListedSymbol, minute: int) -> int:
        """A price near the table's for any minute of the past."""
        terms = symbol.terms
        noise = zlib.crc32(f"{self._seed}/{terms.name}/{minute}".encode()) % 2_001 - 1_000
        scale: int = 10 ** (5 - terms.digits)
        return (terms.mid + terms.mid * noise // 200_000) * scale


def _merge(bars: Iterable[Bar], start: int) -> Bar | None:
    """One bar out of consecutive ones, None when there are none."""
    merged: Bar | None = None
    for bar in bars:
        if merged is None:
            merged = Bar(start, bar.open, bar.high, bar.low, bar.close, bar.ticks)
        else:
            merged.add(bar)
    return merged
