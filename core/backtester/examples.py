"""A few strategies ready to run: to try the backtester with, to copy from, and for the command line to name.

They are examples of how to write one, not advice. Each trades every instrument it is given, `units` at a time, and sees
bid prices: a bar's close, or a tick's bid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from core.backtester.indicators import highest, lowest, rsi, sma
from core.backtester.orders import Number, Orders, exact
from core.backtester.series import Series, check_window
from core.backtester.signals import Signal, SignalStrategy
from core.backtester.strategy import Now, Preparing, Strategy
from core.errors import InvalidInput
from core.orders import Side


def sma_cross(fast: int = 10, slow: int = 30, units: Number = 1000) -> SignalStrategy:
    """Long from where the fast moving average crosses above the slow one until it crosses below it."""
    if check_window(fast, "fast") >= check_window(slow, "slow"):
        raise InvalidInput(f"fast must be below slow, {slow}, not {fast}", field="fast")

    def signal(name: str, price: Series) -> Signal:
        quick, calm = sma(price, fast), sma(price, slow)
        return Signal(name, Side.BUY, exact(units, "units"), quick.crosses_above(calm), quick.crosses_below(calm))

    return _on_each(signal)


def breakout(entry: int = 20, leave: int = 10, units: Number = 1000) -> SignalStrategy:
    """Long from above the highest of the last `entry` rows until below the lowest of the last `leave` rows."""

    def signal(name: str, price: Series) -> Signal:
        above, below = price > highest(price, entry).past(1), price < lowest(price, leave).past(1)
        return Signal(name, Side.BUY, exact(units, "units"), above, below)

    return _on_each(signal)


def reversal(rows: int = 14, low: float = 30.0, high: float = 55.0, units: Number = 1000) -> SignalStrategy:
    """Long where the relative strength index is below `low`, until it is above `high`."""

    def signal(name: str, price: Series) -> Signal:
        strength = rsi(price, rows)
        return Signal(name, Side.BUY, exact(units, "units"), strength < low, strength > high)

    return _on_each(signal)


class Bracket:
    """Event by event: on a breakout to either side one position, with a stop loss and a take profit at the broker.

    `stop`, `target`: their distances as fractions of the price.
    """

    def __init__(self, rows: int = 20, stop: float = 0.001, target: float = 0.002, units: Number = 1000) -> None:
        """Raises InvalidInput unless both distances lie between 0 and 1."""
        for name, value in (("stop", stop), ("target", target)):
            if not 0 < exact(value, name) < 1:
                raise InvalidInput(f"{name} must lie between 0 and 1, not {value}", field=name)
        self.rows, self.stop, self.target, self.units = rows, stop, target, units
        self.watched: dict[str, tuple[Series, Series, Series]] = {}

    def prepare(self, market: Preparing) -> None:
        for name in market.instruments():
            price = price_of(market, name)
            top, bottom = highest(price, self.rows).past(1), lowest(price, self.rows).past(1)
            self.watched[name] = (market.watch(price), market.watch(top), market.watch(bottom))

    def on_bar(self, now: Now, orders: Orders) -> None:
        for name, series in self.watched.items():
            price, top, bottom = (now.value(each) for each in series)
            if not now.is_new(name) or now.units(name) != 0:
                continue
            if price > top:
                orders.buy(name, self.units, stop_loss=price * (1 - self.stop), take_profit=price * (1 + self.target))
            elif price < bottom:
                orders.sell(name, self.units, stop_loss=price * (1 + self.stop), take_profit=price * (1 - self.target))


def price_of(market: Preparing, instrument_id: str) -> Series:
    """The close of its bars, or the bid of its ticks."""
    return market.column(instrument_id, "close" if "close" in market.columns[instrument_id] else "bid")


def _on_each(signal: Callable[[str, Series], Signal]) -> SignalStrategy:
    def make(market: Preparing) -> Sequence[Signal]:
        return [signal(name, price_of(market, name)) for name in market.instruments()]

    return SignalStrategy(make)


EXAMPLES: Mapping[str, Callable[..., Strategy]] = MappingProxyType(
    {"sma-cross": sma_cross, "breakout": breakout, "reversal": reversal, "bracket": Bracket}
)
