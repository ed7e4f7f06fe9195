"""Bars per second of two crossing averages: ours all at once beside `vectorbt`, bar by bar beside `backtesting.py`.

All start from arrays of the same bars and end with trades and equity, averages included; commission is charged. Prices
are multiples of a quarter, so no sum is rounded and all see the same crossings: the trades and the equity must be the
same, or nothing is told. The others run in processes of their own and have compiled themselves before the first round.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import numpy as np

from core.backtester.costs import commission_of_value
from core.backtester.data.bars import Bars, bars_of
from core.backtester.fast import run_fast
from core.backtester.indicators import sma
from core.backtester.loop import run
from core.backtester.orders import Orders
from core.backtester.result import BacktestResult
from core.backtester.series import Series
from core.backtester.settings import BacktestSettings, simple_listing
from core.backtester.signals import Signal, SignalStrategy
from core.backtester.strategy import Now, Preparing
from core.orders import Side
from core.paper_trader import AccountSettings
from scripts.benchmarks.children import Child, program
from scripts.benchmarks.report import Row, Spread, Target, at_least
from tests.support.official_client import ROOT, backtesting_python, vectorbt_python

FAST_BARS, FAST_BARS_QUICK = 1_000_000, 200_000
LOOP_BARS, LOOP_BARS_QUICK = 100_000, 30_000
ROUNDS, ROUNDS_QUICK = 5, 3
MANY = 1.0  # million bars a second
TIMES = 5
NAME = "A"
UNITS = 10
CASH = 1_000_000
COMMISSION = Decimal("0.0001")
STOP = 20.0
AGREE = 1e-9
TERMS = BacktestSettings(
    listings=(replace(simple_listing(NAME, price_digits=2), commission=commission_of_value(COMMISSION)),),
    account=AccountSettings(currency="USD", money_digits=8),
    balance=Decimal(CASH),
)


def random_bars(count: int, seed: int = 6) -> Bars:
    """A random walk in quarters around 1000, turned back at 500, each bar opening where the last one closed."""
    draw = np.random.default_rng(seed)
    close = 2_000 + np.abs(2_000 + np.cumsum(draw.integers(-8, 9, count)))
    start = np.concatenate(([close[0]], close[:-1]))
    high = np.maximum(start, close) + draw.integers(0, 6, count)
    low = np.minimum(start, close) - draw.integers(0, 6, count)
    columns = (each / 4 for each in (start, high, low, close))
    return bars_of(NAME, 1_600_000_000_000 + 60_000 * np.arange(count), *columns, interval_ms=60_000)


@dataclass(frozen=True)
class Cross:
    """Long while the fast average is above the slow one, short while it is below."""

    fast: int
    slow: int

    def turns(self, market: Preparing) -> tuple[Series, Series]:
        close = market.close(NAME)
        fast, slow = sma(close, self.fast), sma(close, self.slow)
        below, above = fast.past(1) < slow.past(1), fast.past(1) > slow.past(1)
        return below & (fast > slow), above & (fast < slow)

    def __call__(self, market: Preparing) -> Sequence[Signal]:
        up, down = self.turns(market)
        units = Decimal(UNITS)
        return [Signal(NAME, Side.BUY, units, up, down), Signal(NAME, Side.SELL, units, down, up)]


class Crossing:
    """The same, decided at every bar."""

    def __init__(self, cross: Cross, stop: float) -> None:
        self.cross = cross
        self.stop = stop

    def prepare(self, market: Preparing) -> None:
        self.up, self.down = (market.watch(each) for each in self.cross.turns(market))

    def on_bar(self, now: Now, orders: Orders) -> None:
        if now.value(self.up):
            for position in now.positions:
                orders.close(position)
            orders.buy(NAME, UNITS, stop_loss=now.bar(NAME).close - self.stop if self.stop else None)
        elif now.value(self.down):
            for position in now.positions:
                orders.close(position)
            orders.sell(NAME, UNITS, stop_loss=now.bar(NAME).close + self.stop if self.stop else None)


async def measure(quick: bool) -> list[Row]:
    rounds = ROUNDS_QUICK if quick else ROUNDS
    vectorbt = await asyncio.to_thread(vectorbt_python)
    backtesting = await asyncio.to_thread(backtesting_python)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = FAST_BARS_QUICK if quick else FAST_BARS
        rows = [await _all_at_once(random_bars(count), folder, vectorbt, rounds)]
        bars = random_bars(LOOP_BARS_QUICK if quick else LOOP_BARS)
        for cross, stop, judged in (
            (Cross(50, 200), 0.0, True),
            (Cross(10, 20), 0.0, False),
            (Cross(50, 200), STOP, False),
        ):
            rows.append(await _bar_by_bar(cross, stop, bars, folder, backtesting, rounds, judged=judged))
    return rows


async def _all_at_once(bars: Bars, folder: Path, python: Path, rounds: int) -> Row:
    cross = Cross(50, 200)
    strategy = SignalStrategy(cross)
    task = _task(bars, folder) | {
        "cross": [cross.fast, cross.slow, UNITS],
        "terms": {"cash": CASH, "fees": float(COMMISSION)},
    }
    found = await _compared(lambda: run_fast(strategy, {NAME: bars}, TERMS), bars, task, python, "vectorbt", rounds)
    return found.row("signals all at once", "vectorbt", at_least(MANY, " million bars/s"), found.ours.median / 1e6)


async def _bar_by_bar(
    cross: Cross, stop: float, bars: Bars, folder: Path, python: Path, rounds: int, *, judged: bool
) -> Row:
    strategy = Crossing(cross, stop)
    task = _task(bars, folder) | {
        "cross": [cross.fast, cross.slow, UNITS, stop],
        "terms": {"cash": CASH, "commission": float(COMMISSION), "margin": 0.01, "hedging": True},
    }
    found = await _compared(lambda: run(strategy, {NAME: bars}, TERMS), bars, task, python, "backtesting", rounds)
    what = f"bar by bar, averages of {cross.fast} and {cross.slow}{', with a stop loss' if stop else ''}"
    return found.row(what, "backtesting.py", at_least(TIMES, " ×") if judged else None, found.ratio.median)


@dataclass(frozen=True)
class Compared:
    """Bars per second of both, and their ratio, over the rounds; how often the strategy traded."""

    ours: Spread
    theirs: Spread
    ratio: Spread
    bars: int
    trades: int

    def row(self, what: str, other: str, target: Target | None, value: float) -> Row:
        return Row(
            figure=f"backtest {what}; {self.trades:,} trades in {self.bars:,} bars",
            ours=f"{self.ours.median:,.0f} bars/s",
            compared_with=f"{other}: {self.theirs.median:,.0f} bars/s",
            ratio=self.ratio.text(1, " ×"),
            target=target,
            value=None if target is None else value,
            data={"bars": self.bars, "trades": self.trades, "ours": self.ours, "theirs": self.theirs},
        )


async def _compared(
    call: Callable[[], BacktestResult], bars: Bars, task: dict[str, object], python: Path, other: str, rounds: int
) -> Compared:
    """Turn by turn, after one run of each whose results must agree."""
    ours: list[float] = []
    theirs: list[float] = []
    async with program(str(python), str(ROOT / "tests" / "support" / f"peer_{other}.py")) as child:
        await _their_s(child, task)
        trades = _agreed(call(), bars, np.load(str(task["answers"])), other)
        for _ in range(rounds):
            ours.append(len(bars) / _own_s(call))
            theirs.append(len(bars) / await _their_s(child, task))
    ratio = [own / its for own, its in zip(ours, theirs, strict=True)]
    return Compared(Spread.of(ours), Spread.of(theirs), Spread.of(ratio), len(bars), trades)


def _task(bars: Bars, folder: Path) -> dict[str, object]:
    columns = ("time_ms", "open", "high", "low", "close")
    np.savez(folder / "bars.npz", **{name: getattr(bars, name) for name in columns})
    return {"bars": str(folder / "bars.npz"), "answers": str(folder / "answers.npz")}


async def _their_s(child: Child, task: dict[str, object]) -> float:
    return float((await child.ask(**task))["seconds"])


def _own_s(call: Callable[[], object]) -> float:
    gc.collect()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _agreed(result: BacktestResult, bars: Bars, answers: dict[str, np.ndarray], other: str) -> int:
    """How many trades there are. Raises RuntimeError unless they, and the equity of every bar, are the same."""
    table = result.trades
    rows = [np.searchsorted(bars.time_ms, each, side="right") - 1 for each in (table.entry_ms, table.exit_ms)]
    ours = np.column_stack([table.side, *rows, table.entry_price, table.exit_price, table.profit])
    theirs = answers["trades"][:, [0, 2, 3, 4, 5, 6]]
    if ours.shape != theirs.shape:
        raise RuntimeError(f"{len(ours)} trades here, {len(theirs)} in {other}")
    ours, theirs = (each[np.argsort(each[:, 1], kind="stable")] for each in (ours, theirs))
    worst = np.max(np.abs(ours - theirs) / CASH)
    drift = np.max(np.abs(result.equity.equity[1:] / answers["equity"] - 1))
    if not max(worst, drift) < AGREE:
        raise RuntimeError(f"other trades or equity than in {other}: {worst:.1e}, {drift:.1e}")
    return len(ours)
