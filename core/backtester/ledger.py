"""What the engine's events leave behind: trades, and which positions were held from which moment on.

Reads events and snapshots only; the arithmetic is the engine's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from core.backtester.trades import Trades, trades_of
from core.orders import Side
from core.paper_trader import Event, Order, OrderFilled, OrderPartiallyFilled, OrderRole, Position, RequestRejected

ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Held:
    """A position unchanged from moment `start` until before moment `stop`; `charges` = swap + commission so far."""

    instrument_id: str
    start: int
    stop: int
    sign: int
    units: Decimal
    entry_price: Decimal
    charges: Decimal


@dataclass(slots=True)
class Ledger:
    """Rows of trades, spans of holdings, steps of the balance, all in order."""

    trades: list[tuple[Any, ...]] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    balances: list[tuple[int, Decimal]] = field(default_factory=list)
    refusals: list[RequestRejected] = field(default_factory=list)
    _open: tuple[Position, ...] = ()
    _since: int = 0

    def take(self, events: Iterable[Event], *, ending: bool = False) -> None:
        """Note fills and refusals."""
        for event in events:
            if isinstance(event, OrderFilled | OrderPartiallyFilled):
                if event.deal.close is not None:
                    self.trades.append(_row(event, "end" if ending else _reason(event.order)))
            elif isinstance(event, RequestRejected):
                self.refusals.append(event)

    def snapshot(self, moment: int, balance: Decimal, positions: tuple[Position, ...]) -> None:
        """What is held, and the balance, from this moment on."""
        for each in self._open:
            if moment > self._since:
                self.held.append(_held(each, self._since, moment))
        self.balances.append((moment, balance))
        self._open, self._since = positions, moment

    def forget(self) -> None:
        """Back to the deposit."""
        self.trades.clear()
        self.held.clear()
        self.refusals.clear()
        del self.balances[1:]
        self._open, self._since = (), 0

    def table(self) -> Trades:
        return trades_of(self.trades)


def _held(position: Position, start: int, stop: int) -> Held:
    sign = 1 if position.side is Side.BUY else -1
    charges = position.swap + position.commission
    return Held(position.instrument_id, start, stop, sign, position.units, position.entry_price or ZERO, charges)


def _reason(order: Order) -> str:
    if order.is_stop_out:
        return "stop_out"
    if order.role is OrderRole.PROTECTION:
        return "stop_loss" if order.triggered else "take_profit"
    return "order"


def _row(event: OrderFilled | OrderPartiallyFilled, reason: str) -> tuple[Any, ...]:
    deal, position, close = event.deal, event.position, event.deal.close
    if close is None:
        raise AssertionError("only closing deals make trades")
    profit = close.gross_profit + close.swap + close.commission
    return (
        deal.position_id,
        deal.instrument_id,
        1 if position.side is Side.BUY else -1,
        close.closed_units,
        position.opened_at_ms,
        deal.executed_at_ms,
        close.entry_price,
        deal.price,
        close.gross_profit,
        close.commission,
        close.swap,
        profit,
        close.closed_units * (position.margin_rate or ZERO),
        close.closed_units * deal.price * close.quote_to_deposit_rate,
        close.balance,
        reason,
    )
