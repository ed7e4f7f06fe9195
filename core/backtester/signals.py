"""Signal strategies: in and out of a fixed size by series of 0 and 1; they run event by event or all at once.

The rule, at every close of the signal's instrument: with its position open, `exit` closes it; without, `entry` opens
it; both at the next open. While a position is open its entry is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from core.backtester.orders import Orders, exact
from core.backtester.series import Series
from core.backtester.strategy import Now, Preparing
from core.errors import InvalidInput
from core.orders import Side
from core.paper_trader import Position


@dataclass(frozen=True, slots=True)
class Signal:
    """One position at most, of `units`, opened on `side` where `entry` is 1 and closed where `exit` is 1."""

    instrument_id: str
    side: Side
    units: Decimal
    entry: Series
    exit: Series


@dataclass
class SignalStrategy:
    """`make(market)` writes the signals down; give a function of a module to use it in other processes.

    Several signals on one instrument need a hedged account.
    """

    make: Callable[[Preparing], Sequence[Signal]]
    signals: tuple[Signal, ...] = field(default=(), init=False)

    def prepare(self, market: Preparing) -> None:
        """Watch every signal's series. Raises InvalidInput for units that are none, or an unknown instrument."""
        self.signals = tuple(self.make(market))
        for index, each in enumerate(self.signals):
            if each.instrument_id not in market.instruments():
                raise InvalidInput(f"no instrument {each.instrument_id}", field=f"signals[{index}].instrument_id")
            if exact(each.units, f"signals[{index}].units") <= 0:
                raise InvalidInput("units must be above 0", field=f"signals[{index}].units")
            market.watch(each.entry, f"signals[{index}].entry")
            market.watch(each.exit, f"signals[{index}].exit")

    def on_bar(self, now: Now, orders: Orders) -> None:
        """Enter and leave by the rule."""
        held: dict[str | None, Position] = {each.label: each for each in now.positions}
        for index, each in enumerate(self.signals):
            if not now.is_new(each.instrument_id):
                continue
            position = held.get(label_of(index))
            if position is not None:
                if is_on(now.value(each.exit), f"signals[{index}].exit"):
                    orders.close(position)
            elif is_on(now.value(each.entry), f"signals[{index}].entry"):
                send = orders.buy if each.side is Side.BUY else orders.sell
                send(each.instrument_id, each.units, label=label_of(index))


def label_of(index: int) -> str:
    """How a signal knows its position."""
    return f"signal {index}"


def is_on(value: float, name: str) -> bool:
    """Whether a signal is given. Raises InvalidInput for anything but 0 and 1."""
    if value not in (0.0, 1.0):
        raise InvalidInput(f"a signal is 0 or 1, not {value}", field=name)
    return value == 1.0
