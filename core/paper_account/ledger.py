"""What an account's events leave behind: trades that have ended, and sums since the beginning.

Reads events only; all arithmetic of money is the engine's. Invariant: the sums add up to the balance.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from core.paper_account.values import CloseReason, Figures, Trade
from core.paper_trader import CashMoved, CloseDetail, Event, Order, OrderFilled, OrderPartiallyFilled, OrderRole

Fill = OrderFilled | OrderPartiallyFilled


class Ledger:
    """The newest `limit` trades, oldest first, and the sums of all."""

    def __init__(self, limit: int, figures: Figures | None = None, trades: Iterable[Trade] = ()) -> None:
        self.figures = figures or Figures()
        self._trades = deque(trades, maxlen=limit)

    def take(self, events: Iterable[Event]) -> None:
        """Note what happened."""
        for event in events:
            if isinstance(event, CashMoved):
                self.figures = replace(self.figures, cash=self.figures.cash + event.delta)
            elif isinstance(event, Fill):
                self.figures = replace(self.figures, fills=self.figures.fills + 1)
                if event.deal.close is not None:
                    self._add(_trade(event, event.deal.close))

    def trades(self) -> tuple[Trade, ...]:
        return tuple(self._trades)

    def _add(self, trade: Trade) -> None:
        self._trades.append(trade)
        sums = self.figures
        self.figures = replace(
            sums,
            gross=sums.gross + trade.gross,
            commission=sums.commission + trade.commission,
            swap=sums.swap + trade.swap,
            trades=sums.trades + 1,
        )


def _trade(event: Fill, close: CloseDetail) -> Trade:
    deal, position = event.deal, event.position
    return Trade(
        id=deal.id,
        position_id=deal.position_id,
        order_id=deal.order_id,
        instrument_id=deal.instrument_id,
        side=position.side,
        units=close.closed_units,
        entry_at_ms=position.opened_at_ms,
        exit_at_ms=deal.executed_at_ms,
        entry_price=close.entry_price,
        exit_price=deal.price,
        gross=close.gross_profit,
        commission=close.commission,
        swap=close.swap,
        net=close.gross_profit + close.commission + close.swap,
        balance=close.balance,
        reason=_reason(event.order),
    )


def _reason(order: Order) -> CloseReason:
    if order.is_stop_out:
        return CloseReason.STOP_OUT
    if order.role is OrderRole.PROTECTION:
        return CloseReason.STOP_LOSS if order.triggered else CloseReason.TAKE_PROFIT
    return CloseReason.ORDER
