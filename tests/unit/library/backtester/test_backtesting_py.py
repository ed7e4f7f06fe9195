"""The same bars and orders in `backtesting.py` and here: equal trades, equal equity, with commission and its spread.

Its rules that ours has too: an order of one bar works from the open of the next; a gap fills at the open; its spread is
a fraction paid by opening fills only, its commission a fraction of the value at every fill. Kept out of the orders
because its rules are others: a limit order pays its spread, a stop loss counts before a take profit within one bar, a
stop order may lie on the wrong side of the market, protection of a resting order sleeps through the bar of its fill,
and `finalize_trades` closes at the last bar's open.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest

from core.backtester.costs import commission_of_value, relative_spread
from core.backtester.data.bars import Bars
from core.backtester.loop import run
from core.backtester.orders import Orders
from core.backtester.settings import BacktestSettings, simple_listing
from core.backtester.strategy import Now, Preparing
from core.orders import Side
from core.paper_trader import AccountSettings, AccountType, MarketSettings
from tests.support.official_client import backtesting_python
from tests.unit.library.backtester.peers import GAP, NAME, RANGE, Peer, assert_equal, peer, peer_bars, run_of

pytestmark = pytest.mark.slow

ROWS = 600
CASH = 1_000_000
SAFE = RANGE + GAP + 4  # cents: no level as far away is reached before its time
WIDEST = 160

Wish = dict[str, Any]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with peer(backtesting_python, "peer_backtesting.py", tmp_path_factory.mktemp("peer")) as running:
        yield running


@dataclass
class Listed:
    """The same list of orders as the peer's."""

    wishes: list[Wish]
    by_row: dict[int, list[Wish]] = field(default_factory=dict)

    def prepare(self, market: Preparing) -> None:
        for each in self.wishes:
            self.by_row.setdefault(each["row"], []).append(each)

    def on_bar(self, now: Now, orders: Orders) -> None:
        for each in self.by_row.get(now.moment, ()):
            if each["do"] == "close":
                for position in now.positions:
                    orders.close(position)
                continue
            side = Side.BUY if each["do"] == "buy" else Side.SELL
            options = {"stop_loss": each.get("sl"), "take_profit": each.get("tp")}
            if "limit" in each:
                orders.limit(NAME, side, each["units"], each["limit"], **options)
            elif "stop" in each:
                orders.stop(NAME, side, each["units"], each["stop"], **options)
            else:
                (orders.buy if side is Side.BUY else orders.sell)(NAME, each["units"], **options)


def everything(seed: int, bars: Bars, *, limits: bool) -> list[Wish]:
    """Entries at the market, by stop and by limit, on both sides and side by side, most with levels; closing all."""
    rng = random.Random(seed)
    wishes = []
    for row in range(1, ROWS - 1):
        if rng.random() < 0.04:
            wishes.append({"row": row, "do": "close"})
        if rng.random() < 0.15:
            wishes.append(_entry(rng, row, round(bars.close[row] * 100), limits=limits))
    return wishes


def _entry(rng: random.Random, row: int, price: int, *, limits: bool) -> Wish:
    sign = rng.choice([1, -1])
    wish: Wish = {"row": row, "do": "buy" if sign > 0 else "sell", "units": 10 * rng.randint(1, 9)}
    kind = rng.choice(["market", "market", "stop", "limit" if limits else "stop"])
    if kind != "market":
        price += sign * rng.randint(3, 60) * (1 if kind == "stop" else -1)
        wish[kind] = price / 100
    if rng.random() < 0.7:
        wish["sl"] = (price - sign * rng.randint(SAFE, WIDEST)) / 100
    if rng.random() < 0.7:
        wish["tp"] = (price + sign * rng.randint(SAFE, WIDEST)) / 100
    return wish


def turning(seed: int) -> list[Wish]:
    """One position at a time: opened, closed in parts, turned round by one order."""
    rng = random.Random(seed)
    wishes, held = [], 0
    for row in range(1, ROWS - 1):
        if rng.random() < 0.2:
            much = 10 * rng.randint(1, 9)
            sign = rng.choice([1, -1]) if held == 0 else -1 if held > 0 else 1
            units = much if held == 0 else rng.choice([min(much, abs(held)), abs(held) + much])
            wishes.append({"row": row, "do": "buy" if sign > 0 else "sell", "units": units})
            held += sign * units
    return wishes


def terms(spread: str, commission: str, kind: AccountType) -> BacktestSettings:
    """Money with as many digits as it takes for nothing to be rounded."""
    listing = replace(simple_listing(NAME, price_digits=2), commission=commission_of_value(Decimal(commission)))
    return BacktestSettings(
        listings=(listing,),
        account=AccountSettings(currency="USD", money_digits=8, type=kind),
        market=MarketSettings(slippage=relative_spread(Decimal(spread))),
        balance=Decimal(CASH),
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("spread", "commission"), [("0", "0"), ("0", "0.001"), ("0.002", "0.001")])
def test_trades_and_equity_are_those_of_backtesting_py_when_orders_of_every_kind_are_sent(
    theirs: Peer, seed: int, spread: str, commission: str
) -> None:
    bars = peer_bars(seed, ROWS)
    wishes = everything(seed, bars, limits=spread == "0")
    their_terms = {
        "cash": CASH,
        "margin": 0.01,
        "spread": float(spread),
        "commission": float(commission),
        "hedging": True,
    }
    result = run(Listed(wishes), {NAME: bars}, terms(spread, commission, AccountType.HEDGED))
    assert_equal(run_of(result, bars), theirs.run(bars, orders=wishes, terms=their_terms), least=40)
    assert {"order", "stop_loss", "take_profit"} == set(result.trades.reason.tolist())


@pytest.mark.parametrize("seed", range(3))
def test_trades_and_equity_are_those_of_backtesting_py_when_one_position_is_turned_round(
    theirs: Peer, seed: int
) -> None:
    bars, wishes = peer_bars(seed + 100, ROWS), turning(seed)
    their_terms = {"cash": CASH, "margin": 0.01, "spread": 0.002, "commission": 0.001, "hedging": False}
    result = run(Listed(wishes), {NAME: bars}, terms("0.002", "0.001", AccountType.NETTED))
    assert_equal(run_of(result, bars), theirs.run(bars, orders=wishes, terms=their_terms), least=60)
