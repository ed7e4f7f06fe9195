"""Minute and day bars out of trades, for the bar channels of the data streams. Values and decisions, no I/O.

A minute bar is told when its minute is over, with the day so far beside it; a trade that comes late for the last told
minute changes that bar, which is then told again as an updated one. Minutes without trades have no bar. What is told is
a copy: later trades do not change it.
Source: reference/alpaca.md §3.3. Prices and sizes are Decimal, times Unix nanoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Literal

from bridge.simulator.alpaca.streams.frames import NANOS

DAY_NS = 86_400 * NANOS
BarKind = Literal["bars", "updatedBars", "dailyBars"]


@dataclass(slots=True)
class Bar:
    """One bar; `began_ns` is the start of its span."""

    began_ns: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    trades: int
    turnover: Decimal

    @classmethod
    def of(cls, began_ns: int, price: Decimal, size: Decimal) -> Bar:
        return cls(began_ns, price, price, price, price, size, 1, price * size)

    def add(self, price: Decimal, size: Decimal) -> None:
        self.high = max(self.high, price)
        self.low = min(self.low, price)
        self.close = price
        self.volume += size
        self.trades += 1
        self.turnover += price * size

    @property
    def average(self) -> Decimal:
        """Volume-weighted average price."""
        return self.turnover / self.volume if self.volume else self.close


@dataclass(slots=True)
class _Symbol:
    day: Bar
    minute: Bar | None = None
    last: Bar | None = None
    is_amended: bool = False


@dataclass(slots=True)
class MinuteBars:
    """The running bars of every symbol."""

    minute_ns: int
    _symbols: dict[str, _Symbol] = field(default_factory=dict)

    def add(self, symbol: str, at_ns: int, price: Decimal, size: Decimal) -> list[tuple[BarKind, str, Bar]]:
        """Take a trade; the bars that it completes (a trade of a new minute ends the one before)."""
        done = self._roll(symbol, at_ns)
        bars = self._symbols.get(symbol)
        began, day = at_ns - at_ns % self.minute_ns, at_ns - at_ns % DAY_NS
        if bars is None:
            bars = self._symbols[symbol] = _Symbol(Bar.of(day, price, size))
        elif bars.day.began_ns < day:
            bars.day = Bar.of(day, price, size)
        else:
            bars.day.add(price, size)
        if bars.last is not None and began <= bars.last.began_ns:
            if began == bars.last.began_ns:
                bars.last.add(price, size)
                bars.is_amended = True
        elif bars.minute is None:
            bars.minute = Bar.of(began, price, size)
        else:
            bars.minute.add(price, size)
        return done

    def roll(self, now_ns: int) -> list[tuple[BarKind, str, Bar]]:
        """The bars whose minute is over."""
        return [each for symbol in self._symbols for each in self._roll(symbol, now_ns)]

    def _roll(self, symbol: str, now_ns: int) -> list[tuple[BarKind, str, Bar]]:
        bars = self._symbols.get(symbol)
        if bars is None:
            return []
        done: list[tuple[BarKind, str, Bar]] = []
        if bars.is_amended and bars.last is not None:
            bars.is_amended = False
            done.append(("updatedBars", symbol, replace(bars.last)))
        if bars.minute is not None and now_ns >= bars.minute.began_ns + self.minute_ns:
            bars.last, bars.minute = bars.minute, None
            done += [("bars", symbol, replace(bars.last)), ("dailyBars", symbol, replace(bars.day))]
        return done
