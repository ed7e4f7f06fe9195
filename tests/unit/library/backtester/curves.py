"""Equity curves and trades written down by hand, for what is computed from them."""

from __future__ import annotations

from collections.abc import Sequence

from core.backtester.equity import Equity, equity_of
from core.backtester.trades import Trades, trades_of

DAY = 86_400_000
MONDAY = 1_704_067_200_000  # Monday, 1 January 2024, 00:00 UTC


def curve(equity: Sequence[float], step_ms: int = DAY, *, start_ms: int = MONDAY, exposed: bool = False) -> Equity:
    """Rows so far apart; the balance is the equity."""
    stamps = [start_ms + step_ms * row for row in range(len(equity))]
    return equity_of(stamps, equity, equity, [exposed] * len(equity))


def booked(*profits: float, value: float = 1000.0) -> Trades:
    """Trades of these profits; each was worth `value` when it was opened and that and the profit when closed."""
    balance, rows = 1000.0, []
    for number, profit in enumerate(profits, 1):
        balance += profit
        opened = MONDAY + number * 3_600_000
        worth = (profit, 0.0, 0.0, profit, value, value + profit, balance)
        rows.append((number, "EURUSD", 1, 1000.0, opened, opened + 60_000, 1.0, 1.0, *worth, "order"))
    return trades_of(rows)
