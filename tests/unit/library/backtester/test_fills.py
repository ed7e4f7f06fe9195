"""Where orders fill, by hand: the next open, gaps at the open, stops at their price, the nearer extreme first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest

from core.backtester.costs import commission_of_value, relative_spread, slippage_points
from core.backtester.data.bars import bars_of
from core.backtester.loop import run
from core.backtester.orders import Orders
from core.backtester.result import BacktestResult
from core.backtester.settings import BacktestSettings, simple_listing
from core.backtester.strategy import Now, Preparing
from core.errors import InvalidInput
from core.orders import Side
from core.paper_trader import AccountSettings, MarketSettings

BARS = [  # open, high, low, close in cents
    (100, 100, 100, 100),
    (102, 110, 95, 104),
    (110, 112, 108, 111),
    (90, 92, 88, 91),
]
Script = dict[int, Callable[[Now, Orders], None]]


class Scripted:
    def __init__(self, script: Script) -> None:
        self.script = script

    def prepare(self, market: Preparing) -> None:
        pass

    def on_bar(self, now: Now, orders: Orders) -> None:
        self.script.get(now.moment, lambda now, orders: None)(now, orders)


TERMS = BacktestSettings(
    listings=(simple_listing("A", price_digits=2),), account=AccountSettings(currency="USD"), close_at_end=True
)


def traded(script: Script, terms: BacktestSettings = TERMS, spread: float = 0.0) -> BacktestResult:
    columns = [[row[index] / 100 for row in BARS] for index in range(4)]
    bars = bars_of("A", [0, 60_000, 120_000, 180_000], *columns, interval_ms=60_000, spread=spread)
    return run(Scripted(script), {"A": bars}, terms)


@pytest.mark.parametrize(
    ("script", "entry", "leave", "reason"),
    [
        ({0: lambda n, o: o.buy("A", 1)}, 1.02, 0.91, "end"),
        ({0: lambda n, o: o.buy("A", 1), 1: lambda n, o: o.close(n.positions[0])}, 1.02, 1.10, "order"),
        ({0: lambda n, o: o.stop("A", Side.BUY, 1, 1.05)}, 1.05, 0.91, "end"),  # inside the bar: at its price
        ({0: lambda n, o: o.stop("A", Side.BUY, 1, 1.01)}, 1.02, 0.91, "end"),  # gap: at the open
        ({0: lambda n, o: o.limit("A", Side.SELL, 1, 1.01)}, 1.02, 0.91, "end"),  # gap: better than the limit
        ({0: lambda n, o: o.limit("A", Side.BUY, 1, 0.97)}, 0.97, 0.91, "end"),
        ({0: lambda n, o: o.limit("A", Side.BUY, 1, 1.50)}, 1.02, 0.91, "end"),  # reached already: the next open
        ({0: lambda n, o: o.buy("A", 1, stop_loss=0.97, take_profit=1.08)}, 1.02, 0.97, "stop_loss"),  # low is nearer
        ({2: lambda n, o: o.buy("A", 1, stop_loss=0.80)}, 0.90, 0.91, "end"),
        ({0: lambda n, o: o.buy("A", 1, stop_loss=0.94)}, 1.02, 0.90, "stop_loss"),  # gap through the stop
        ({0: lambda n, o: o.buy("A", 1, take_profit=1.05)}, 1.02, 1.05, "take_profit"),
        ({1: lambda n, o: o.trailing_stop("A", Side.SELL, 1, 0.05)}, 0.90, 0.91, "end"),  # trails to 1.07, then a gap
        (
            {1: lambda n, o: o.stop_limit("A", Side.BUY, 1, 1.06, 1.08)},
            1.08,
            0.91,
            "end",
        ),  # limit respected after a gap
    ],
)
def test_fills_are_where_the_path_says(script: Script, entry: float, leave: float, reason: str) -> None:
    trades = traded(script).trades
    assert (trades.entry_price.tolist(), trades.exit_price.tolist()) == ([entry], [leave])
    assert trades.reason.tolist() == [reason]


def test_nothing_fills_when_the_order_comes_on_the_last_bar() -> None:
    result = traded({3: lambda n, o: o.buy("A", 1)})
    assert len(result.trades) == 0
    assert result.final.positions == ()


def test_spread_is_paid_when_buying_and_when_closing_a_short() -> None:
    long = traded({0: lambda n, o: o.buy("A", 1)}, spread=0.03).trades
    short = traded({0: lambda n, o: o.sell("A", 1)}, spread=0.03).trades
    assert (long.entry_price[0], long.exit_price[0]) == (1.05, 0.91)
    assert (short.entry_price[0], short.exit_price[0]) == (1.02, 0.94)


def test_costs_are_the_models_own() -> None:
    market = MarketSettings(slippage=slippage_points(2))
    trades = traded({0: lambda n, o: o.buy("A", 1)}, replace(TERMS, market=market)).trades
    assert (trades.entry_price[0], trades.exit_price[0]) == (1.04, 0.89)
    market = MarketSettings(slippage=relative_spread(Decimal("0.01")))
    trades = traded({0: lambda n, o: o.buy("A", 1)}, replace(TERMS, market=market)).trades
    assert (trades.entry_price[0], trades.exit_price[0]) == (1.0302, 0.91)
    listing = replace(TERMS.listings[0], commission=commission_of_value(Decimal("0.1")))
    trades = traded({0: lambda n, o: o.buy("A", 10)}, replace(TERMS, listings=(listing,))).trades
    assert trades.commission[0] == -1.93


def test_stop_out_closes_when_money_runs_out() -> None:
    result = traded(
        {2: lambda n, o: o.buy("A", 500), 1: lambda n, o: o.buy("A", 500)}, replace(TERMS, balance=Decimal(100))
    )
    assert result.trades.reason.tolist()[0] == "stop_out"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda n, o: o.buy("A", float("nan")),
        lambda n, o: o.buy("A", 0),
        lambda n, o: o.buy("B", 1),
        lambda n, o: o.buy("A", 1, stop_los=1.0),
        lambda n, o: o.limit("A", Side.BUY, 1, float("inf")),
        lambda n, o: o.stop("A", Side.BUY, "1", 1.0),
    ],
)
def test_decision_is_refused_whole_when_one_of_its_orders_is_wrong(wrong: Callable[[Now, Orders], None]) -> None:
    def decide(now: Now, orders: Orders) -> None:
        orders.buy("A", 1)
        wrong(now, orders)

    with pytest.raises(InvalidInput) as caught:
        traded({0: decide})
    assert caught.value.field


def test_refusals_of_the_broker_are_reported_when_money_is_short() -> None:
    result = traded({0: lambda n, o: o.buy("A", 10**9)})
    assert [each.code for each in result.refusals] == ["NOT_ENOUGH_MONEY"]
