"""The comparison for our backtester: `vectorbt`, unmodified, over bars and signals or orders from files.

Runs under the interpreter of that package's own environment and so must not import anything of ours. Reads one line of
JSON per run and answers with one, when the trades and the equity are written to the file that the line names:

    bars      .npz with open, high, low, close
    answers   .npz to write: `trades`, one row each (side, units, entry row, exit row, entry price, exit price, profit
              after fees), closed ones only, and `equity` at the close of every bar
    wishes    .npz of what to do, decided at the close of a row, done at the open of the next: either `size`, a signed
              number of units or nan; or `entry` and `exit`, one column for a long and one for a short position that
              may be open side by side, and perhaps `stop_loss`, `take_profit`: price levels for an entry of that row
    cross     instead of wishes, [fast, slow, units]: the crossing of two averages, always in the market
    terms     cash, fees and slippage (fractions), units (for signals), stop_exit ("StopMarket", "StopLimit")
"""

import json
import sys
import time
import warnings
from typing import Any

import numpy as np
import pandas as pd

warnings.simplefilter("ignore")  # of how the package uses others

import vectorbt as vbt  # noqa: E402

Arrays = dict[str, np.ndarray]


def later(values: np.ndarray, empty: Any) -> np.ndarray:
    """Each row's wish where it is carried out: one row on."""
    moved = np.full_like(values, empty)
    moved[1:] = values[:-1]
    return moved


def by_orders(bars: Arrays, wishes: Arrays, terms: dict[str, Any]) -> Any:
    return vbt.Portfolio.from_orders(
        pd.Series(bars["close"]),
        size=later(wishes["size"], np.nan),
        price=bars["open"],
        init_cash=terms["cash"],
        fees=terms["fees"],
        slippage=terms["slippage"],
        freq="1min",
    )


def by_signals(bars: Arrays, wishes: Arrays, terms: dict[str, Any]) -> Any:
    both = {name: np.column_stack([values, values]) for name, values in bars.items() if name != "time_ms"}
    stops = {}
    for name, level, sign in (("sl_stop", "stop_loss", [1, -1]), ("tp_stop", "take_profit", [-1, 1])):
        if level in wishes:  # fractions of the price of entry
            stops[name] = (1 - later(wishes[level], np.nan) / both["open"]) * np.array(sign)
    if stops:
        stops |= {name: both[name] for name in ("open", "high", "low")}
        stops |= {"stop_entry_price": "Price", "stop_exit_price": terms["stop_exit"]}
    return vbt.Portfolio.from_signals(
        pd.DataFrame(both["close"], columns=["long", "short"]),
        later(wishes["entry"], False),
        later(wishes["exit"], False),
        direction=np.array([0, 1]),  # long only, short only
        size=np.array(terms["units"], dtype=float),
        price=both["open"],
        init_cash=terms["cash"],
        fees=terms["fees"],
        slippage=terms["slippage"],
        group_by=True,
        cash_sharing=True,
        freq="1min",
        **stops,
    )


def by_crossing(bars: Arrays, cross: list[int], terms: dict[str, Any]) -> Any:
    fast, slow, units = cross
    quick, late = (vbt.MA.run(bars["close"], window).ma.to_numpy() for window in (fast, slow))
    over, under = quick > late, quick < late
    above, below = over & later(under, False), under & later(over, False)
    return vbt.Portfolio.from_signals(
        bars["close"],
        later(above, False),
        later(below, False),
        direction="both",
        size=units,
        price=bars["open"],
        init_cash=terms["cash"],
        fees=terms["fees"],
        freq="1min",
    )


def carry_out(task: dict[str, Any]) -> float:
    """One run, up to its trades and its equity; how many seconds it took."""
    bars = dict(np.load(task["bars"]))
    wishes = dict(np.load(task["wishes"])) if "wishes" in task else {}
    began = time.perf_counter()
    if "cross" in task:
        run = by_crossing(bars, task["cross"], task["terms"])
    else:
        run = (by_orders if "size" in wishes else by_signals)(bars, wishes, task["terms"])
    records, equity = run.trades.values, run.value().to_numpy()
    took = time.perf_counter() - began
    closed = records[records["status"] == 1]
    names = ("size", "entry_idx", "exit_idx", "entry_price", "exit_price", "pnl")
    side = np.where(closed["direction"] == 0, 1, -1)
    np.savez(task["answers"], trades=np.column_stack([side, *(closed[name] for name in names)]), equity=equity)
    return took


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps({"seconds": carry_out(json.loads(line))}), flush=True)
