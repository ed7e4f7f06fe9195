"""Trades of a backtest as columns: one row for every closing deal.

A position closed in parts gives a row per part. Money is in the deposit currency, a charge negative; it is what the
engine booked, so `profit` adds up to the change of the balance without cash movements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from core.backtester.data.columns import Floats, Int64s, frozen

Int8s = npt.NDArray[np.int8]
Texts = npt.NDArray[np.object_]


@dataclass(frozen=True, slots=True, eq=False)
class Trades:
    """Read-only columns of equal length, in the order of closing.

    `position_id`; `instrument_id` (str); `side` +1 long, −1 short; `units` closed; `entry_ms`, `exit_ms` Unix ms;
    `entry_price` (average of the opening deals), `exit_price`; `gross_profit`; `commission` of both sides ≤ 0; `swap`;
    `profit` = gross_profit + commission + swap, rounded as booked; `entry_value`, `exit_value`: units × price in the
    deposit currency at the rates of opening and closing, ≥ 0; `balance` after; `reason`: why it closed, one of
    "order" (asked for by the strategy), "stop_loss", "take_profit", "stop_out", "end" (`close_at_end`).
    """

    position_id: Int64s
    instrument_id: Texts
    side: Int8s
    units: Floats
    entry_ms: Int64s
    exit_ms: Int64s
    entry_price: Floats
    exit_price: Floats
    gross_profit: Floats
    commission: Floats
    swap: Floats
    profit: Floats
    entry_value: Floats
    exit_value: Floats
    balance: Floats
    reason: Texts

    def __len__(self) -> int:
        return len(self.position_id)

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Columns by name, in the order above."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


_TYPES: dict[str, Any] = {
    "position_id": np.int64,
    "entry_ms": np.int64,
    "exit_ms": np.int64,
    "side": np.int8,
    "instrument_id": np.object_,
    "reason": np.object_,
}


def trades_of(rows: Sequence[Sequence[Any]]) -> Trades:
    """Trades from rows in the order of the columns."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(fields(Trades))
    return trades_of_columns(dict(zip((each.name for each in fields(Trades)), columns, strict=True)))


def trades_of_columns(columns: Mapping[str, Any]) -> Trades:
    """Trades from columns by name; none at all gives an empty table."""
    names = [each.name for each in fields(Trades)]
    given = {name: columns[name] if columns else () for name in names}
    return Trades(**{name: frozen(np.array(given[name], dtype=_TYPES.get(name, np.float64))) for name in names})
