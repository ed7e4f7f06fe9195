"""Skipping what cannot matter changes nothing: the loop against the engine quoted at every point of every bar."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core.backtester.data.ticks import ticks_of
from core.backtester.loop import run
from core.backtester.orders import Orders
from core.backtester.result import BacktestResult
from core.backtester.strategy import Now
from tests.unit.library.backtester.support import Busy, data_of, random_ticks, settings_of

MARKETS = [("EURUSD",), ("EURUSD", "USDJPY"), ("EURUSD", "USDJPY", "EURJPY")]


def assert_same(left: BacktestResult, right: BacktestResult) -> None:
    for name, column in left.trades.columns().items():
        assert column.tolist() == right.trades.columns()[name].tolist(), name
    for name, column in left.equity.columns().items():
        assert np.array_equal(column, right.equity.columns()[name]), name
    assert [each.message for each in left.refusals] == [each.message for each in right.refusals]
    assert left.final.balance == right.final.balance
    assert left.final.equity == right.final.equity
    assert left.final.used_margin == right.final.used_margin
    assert [each.position.entry_price for each in left.final.positions] == [
        each.position.entry_price for each in right.final.positions
    ]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), names=st.sampled_from(MARKETS))
@example(seed=623390, names=MARKETS[2])  # two trailing stops that meet at one price
@example(seed=847599, names=MARKETS[0])  # swap falls due between a fill and the decision
@example(seed=3420, names=MARKETS[2])  # the rest of a take profit that was hit, walked away from across a decision
def test_loop_gives_deals_balances_and_margin_of_every_point_when_anything_is_traded(
    seed: int, names: tuple[str, ...]
) -> None:
    terms, data = settings_of(seed, names), data_of(seed, names, 60)
    quick, slow = Busy(seed), Busy(seed)
    assert_same(run(quick, data, terms), run(slow, data, terms, exhaustive=True))
    assert quick.log == slow.log  # what the strategy read of its account along the way


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), apart=st.booleans())
def test_loop_gives_the_same_over_ticks_of_one_instrument(seed: int, apart: bool) -> None:
    terms, ticks = settings_of(seed, ("EURUSD",)), random_ticks("EURUSD", seed, 150, price=700, digits=4)
    if apart:  # no two at the same ms
        ticks = ticks_of("EURUSD", ticks.time_ms + np.arange(len(ticks)), ticks.bid, ticks.ask)
    quick, slow = Busy(seed), Busy(seed)
    assert_same(run(quick, {"EURUSD": ticks}, terms), run(slow, {"EURUSD": ticks}, terms, exhaustive=True))
    assert quick.log == slow.log


def test_memory_is_collected_when_a_run_was_broken_off() -> None:
    class Breaking(Busy):
        def on_bar(self, now: Now, orders: Orders) -> None:
            if now.moment == 20:
                self.itself = (self, now)  # the collector's work
                raise RuntimeError("enough")

    for seed in range(20):
        with pytest.raises(RuntimeError, match="enough"):
            run(Breaking(seed), data_of(seed, ("EURUSD",), 60), settings_of(seed, ("EURUSD",)))
    gc.collect()


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6))
@example(seed=835)  # a partly filled limit order next to ticks of another instrument
def test_loop_gives_the_same_over_ticks(seed: int) -> None:
    terms = settings_of(seed, ("EURUSD", "USDJPY"))
    data = {
        "EURUSD": random_ticks("EURUSD", seed, 150, price=700, digits=4),
        "USDJPY": random_ticks("USDJPY", seed + 1, 150, price=900, digits=2),
    }
    quick, slow = Busy(seed), Busy(seed)
    assert_same(run(quick, data, terms), run(slow, data, terms, exhaustive=True))
    assert quick.log == slow.log


@pytest.mark.parametrize("seed", range(12))
def test_equity_of_the_last_moment_is_the_engines_own(seed: int) -> None:
    names = MARKETS[seed % 3]
    result = run(Busy(seed), data_of(seed, names, 80), settings_of(seed, names))
    assert result.equity.equity[-1] == float(result.final.equity or 0)
    assert result.equity.balance[-1] == float(result.final.balance)
