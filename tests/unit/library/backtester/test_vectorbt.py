"""The same bars and orders in `vectorbt` and here: equal trades, equal equity, with its fees and its slippage.

It fills at whatever price it is given, so it is given the open of the bar after the decision. Its slippage is a
fraction of the price on both sides, its fees a fraction of the value so worsened. Rules that are its own and kept out:
a stop counts before a signal of the same bar and swallows it, no stop works in the bar of the entry, and whether stops
slip is one setting for stop loss and take profit alike (ours: a stop loss slips, a take profit never does).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from core.backtester.costs import commission_of_value, slippage_fraction
from core.backtester.data.bars import Bars
from core.backtester.fast import run_fast
from core.backtester.indicators import sma
from core.backtester.loop import run
from core.backtester.orders import Orders
from core.backtester.settings import BacktestSettings, simple_listing
from core.backtester.signals import Signal, SignalStrategy
from core.backtester.strategy import Now, Preparing
from core.orders import Side
from core.paper_trader import AccountSettings, AccountType, MarketSettings
from tests.support.official_client import vectorbt_python
from tests.unit.library.backtester.peers import (
    GAP,
    NAME,
    RANGE,
    Peer,
    Run,
    assert_equal,
    peer,
    peer_bars,
    run_of,
)
from tests.unit.library.backtester.test_same_as_every_point import assert_same

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # it compiles itself when it is new

ROWS = 800
CASH = 1_000_000
SIDES = (Side.BUY, Side.SELL)

Wishes = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with peer(vectorbt_python, "peer_vectorbt.py", tmp_path_factory.mktemp("peer")) as running:
        yield running


def ask(theirs: Peer, bars: Bars, wishes: Wishes, costs: tuple[str, str], **terms: object) -> Run:
    fees, slippage = (float(each) for each in costs)
    return theirs.run(bars, wishes, terms={"cash": CASH, "fees": fees, "slippage": slippage, **terms})


def terms(costs: tuple[str, str], kind: AccountType = AccountType.HEDGED) -> BacktestSettings:
    """Money with as many digits as it takes for nothing to be rounded; a digit more in levels than in bars."""
    fees, slippage = (Decimal(each) for each in costs)
    listing = replace(simple_listing(NAME, price_digits=3), commission=commission_of_value(fees))
    return BacktestSettings(
        listings=(listing,),
        account=AccountSettings(currency="USD", money_digits=8, type=kind),
        market=MarketSettings(slippage=slippage_fraction(slippage, exact=True)),
        balance=Decimal(CASH),
    )


@dataclass(frozen=True)
class Crossing:
    """Long while the fast average is above the slow one; short while prices have fallen for some rows."""

    fast: int
    slow: int

    def __call__(self, market: Preparing) -> Sequence[Signal]:
        close = market.close(NAME)
        above = sma(close, self.fast) - sma(close, self.slow) > EDGE
        falling = close < close.past(self.fast)
        return [
            Signal(NAME, Side.BUY, Decimal(30), above, ~above),
            Signal(NAME, Side.SELL, Decimal(50), falling, ~falling),
        ]

    def wishes(self, bars: Bars) -> Wishes:
        """The same, worked out anew, row by row."""
        entry = np.zeros((len(bars), 2), dtype=np.bool_)
        for row in range(len(bars)):
            past = bars.close[: row + 1]
            above = row >= self.slow - 1 and past[-self.fast :].mean() - past[-self.slow :].mean() > EDGE
            entry[row] = above, row >= self.fast and past[-1] < past[-1 - self.fast]
        return {"entry": entry, "exit": ~entry}


EDGE = 0.0002  # averages of 3 and 7 whole cents never differ by it: the rounding of their sums decides nothing


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("costs", [("0", "0"), ("0.001", "0"), ("0.001", "0.002")])
def test_trades_and_equity_are_those_of_vectorbt_when_signals_are_run_all_at_once_and_bar_by_bar(
    theirs: Peer, seed: int, costs: tuple[str, str]
) -> None:
    bars, crossing = peer_bars(seed, ROWS), Crossing(3, 7)
    expected = ask(theirs, bars, crossing.wishes(bars), costs, units=[30, 50])
    strategy = SignalStrategy(crossing)
    result = run_fast(strategy, {NAME: bars}, terms(costs))
    assert_equal(run_of(result, bars), expected, least=100)
    assert_same(result, run(strategy, {NAME: bars}, terms(costs)))


@dataclass
class Targets:
    """Sends a signed number of units where there is one."""

    sizes: npt.NDArray[np.float64]

    def prepare(self, market: Preparing) -> None:
        pass

    def on_bar(self, now: Now, orders: Orders) -> None:
        size = self.sizes[now.moment]
        if not np.isnan(size):
            (orders.buy if size > 0 else orders.sell)(NAME, int(abs(size)))


@pytest.mark.parametrize("seed", range(3))
def test_trades_and_equity_are_those_of_vectorbt_when_one_position_grows_shrinks_and_turns_round(
    theirs: Peer, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    bars, costs = peer_bars(seed + 50, ROWS), ("0.001", "0.002")
    sizes = np.where(rng.random(ROWS) < 0.2, 10.0 * rng.integers(1, 9, ROWS) * rng.choice([-1, 1], ROWS), np.nan)
    expected = ask(theirs, bars, {"size": sizes}, costs)
    result = run(Targets(sizes), {NAME: bars}, terms(costs, AccountType.NETTED))
    assert_equal(run_of(result, bars), expected, least=50)


@dataclass
class Protected:
    """Enters where told, each side by itself, with levels; leaves by them only."""

    wishes: Wishes

    def prepare(self, market: Preparing) -> None:
        pass

    def on_bar(self, now: Now, orders: Orders) -> None:
        held = {each.side for each in now.positions}
        for column, side in enumerate(SIDES):
            if side not in held and self.wishes["entry"][now.moment, column]:
                levels = {
                    name: float(self.wishes[name][now.moment, column])
                    for name in ("stop_loss", "take_profit")
                    if name in self.wishes
                }
                (orders.buy if side is Side.BUY else orders.sell)(NAME, 20 + 20 * column, **levels)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("levels", "costs", "stop_exit"),
    [
        (("stop_loss", "take_profit"), ("0.001", "0"), "StopLimit"),
        (("stop_loss",), ("0.001", "0.002"), "StopMarket"),
        (("take_profit",), ("0.001", "0.002"), "StopLimit"),
    ],
)
def test_trades_and_equity_are_those_of_vectorbt_when_stop_loss_or_take_profit_ends_them(
    theirs: Peer, seed: int, levels: tuple[str, ...], costs: tuple[str, str], stop_exit: str
) -> None:
    rng = np.random.default_rng(seed)
    bars = peer_bars(seed + 90, ROWS)
    away = rng.integers(RANGE + GAP + 4, 80, (ROWS, 2)) / 100 + 0.005  # never the very price of a bar
    sign = {"stop_loss": np.array([-1, 1]), "take_profit": np.array([1, -1])}
    wishes: Wishes = {name: np.round(bars.close[:, None] + sign[name] * away, 3) for name in levels}
    wishes |= {"entry": rng.random((ROWS, 2)) < 0.3, "exit": np.zeros((ROWS, 2), dtype=np.bool_)}
    expected = ask(theirs, bars, wishes, costs, units=[20, 40], stop_exit=stop_exit)
    result = run(Protected(wishes), {NAME: bars}, terms(costs))
    assert_equal(run_of(result, bars), expected, least=3)
    assert set(result.trades.reason.tolist()) == set(levels)
