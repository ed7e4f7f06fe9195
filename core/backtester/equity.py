"""The equity curve of a backtest as columns: one row at the start and one at every moment a bar closed.

Money is in the deposit currency: `equity` = `balance` + the net profit of open positions at their closing side.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from core.backtester.data.columns import Bools, Floats, Int64s, frozen
from core.backtester.data.errors import BadData


@dataclass(frozen=True, slots=True, eq=False)
class Equity:
    """Read-only columns of equal length, at least one row.

    `time_ms`: Unix ms rising; the first row is the opening time of the first bar (or of the first tick, which is the
    second row too), before any trade; each other one is when a bar closed. `equity`, `balance`. `drawdown` =
    1 − equity ÷ highest equity so far, a fraction ≥ 0 (above 1 when the equity is negative). `exposed`: whether a
    position was open at that time.
    """

    time_ms: Int64s
    equity: Floats
    balance: Floats
    drawdown: Floats
    exposed: Bools

    def __len__(self) -> int:
        return len(self.time_ms)

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Columns by name, in the order above."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def equity_of(time_ms: npt.ArrayLike, equity: npt.ArrayLike, balance: npt.ArrayLike, exposed: npt.ArrayLike) -> Equity:
    """The curve with its drawdown. Raises BadData unless it starts with a positive equity (rule positive)."""
    curve = np.array(equity, dtype=np.float64)
    if not len(curve) or not curve[0] > 0:
        raise BadData("must start above 0", field="equity", rule="positive", row=0)
    return Equity(
        time_ms=frozen(np.array(time_ms, dtype=np.int64)),
        equity=frozen(curve),
        balance=frozen(np.array(balance, dtype=np.float64)),
        drawdown=frozen(1.0 - curve / np.maximum.accumulate(curve)),
        exposed=frozen(np.array(exposed, dtype=np.bool_)),
    )
