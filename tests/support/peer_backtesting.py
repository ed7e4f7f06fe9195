"""The comparison for our backtester: `backtesting.py`, unmodified, over bars and orders from a file.

Runs under the interpreter of that package's own environment and so must not import anything of ours. Reads one line of
JSON per run and answers with one, when the trades and the equity are written to the file that the line names:

    bars      .npz with time_ms, open, high, low, close
    answers   .npz to write: `trades`, one row each (side, units, entry row, exit row, entry price, exit price, profit
              after commission) in the order of closing, and `equity` at the close of every bar
    orders    what to do at the close of which row: {"row": 3, "do": "buy" | "sell" | "close", "units": 10,
              "limit" | "stop" | "sl" | "tp": price}; "close" closes all that is open. Or instead of them
    cross     [fast, slow, units, stop]: the usual crossing of two averages, always in the market unless stopped out; a
              stop loss that far from the close where `stop` is not 0
    terms     cash, spread, commission (a fraction of the value), margin (a fraction), hedging
"""

import json
import sys
import time
import warnings
from typing import Any

import numpy as np
import pandas as pd

warnings.simplefilter("ignore")  # of trades that are still open at the end

from backtesting import Backtest, Strategy  # noqa: E402
from backtesting.lib import crossover  # noqa: E402

OPTIONS = ("limit", "stop", "sl", "tp")


class Listed(Strategy):
    """Carries out a list of orders."""

    by_row: dict[int, list[dict[str, Any]]] = {}  # noqa: RUF012 - the package wants parameters as class variables

    def init(self) -> None:
        pass

    def next(self) -> None:
        for each in self.by_row.get(len(self.data) - 1, ()):
            if each["do"] == "close":
                for trade in self.trades:
                    trade.close()
                continue
            send = self.buy if each["do"] == "buy" else self.sell
            send(size=each["units"], **{name: each[name] for name in OPTIONS if name in each})


class Crossing(Strategy):
    """Long while the fast average is above the slow one, short while it is below."""

    fast, slow, units, stop = 10, 20, 1, 0.0

    def init(self) -> None:
        close = pd.Series(self.data.Close)
        self.quick = self.I(lambda: close.rolling(self.fast).mean())
        self.late = self.I(lambda: close.rolling(self.slow).mean())

    def next(self) -> None:
        if crossover(self.quick, self.late):
            self.position.close()
            self.buy(size=self.units, sl=self.data.Close[-1] - self.stop if self.stop else None)
        elif crossover(self.late, self.quick):
            self.position.close()
            self.sell(size=self.units, sl=self.data.Close[-1] + self.stop if self.stop else None)


def carry_out(task: dict[str, Any]) -> float:
    """One run; how many seconds it took."""
    given = np.load(task["bars"])
    columns = {name.capitalize(): given[name] for name in ("open", "high", "low", "close")}
    bars = pd.DataFrame(
        columns | {"Volume": np.zeros(len(given["close"]))}, index=pd.to_datetime(given["time_ms"], unit="ms")
    )
    if "cross" in task:
        kind: type[Strategy] = Crossing
        parameters = dict(zip(("fast", "slow", "units", "stop"), task["cross"], strict=True))
    else:
        rows: dict[int, list[dict[str, Any]]] = {}
        for each in task["orders"]:
            rows.setdefault(each["row"], []).append(each)
        kind, parameters = Listed, {"by_row": rows}
    test = Backtest(bars, kind, **task["terms"])
    began = time.perf_counter()
    stats = test.run(**parameters)
    took = time.perf_counter() - began
    table = stats["_trades"]
    names = ("EntryBar", "ExitBar", "EntryPrice", "ExitPrice", "PnL")
    trades = np.column_stack([np.sign(table["Size"]), np.abs(table["Size"]), *(table[name] for name in names)])
    np.savez(task["answers"], trades=trades.astype(float), equity=stats["_equity_curve"]["Equity"].to_numpy())
    return took


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps({"seconds": carry_out(json.loads(line))}), flush=True)
