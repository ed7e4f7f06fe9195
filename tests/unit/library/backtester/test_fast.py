"""Signals all at once give what the event loop gives, to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.backtester.costs import (
    commission_of_value,
    commission_per_lot,
    relative_spread,
    slippage_fraction,
    slippage_points,
)
from core.backtester.fast import run_fast, run_signals
from core.backtester.fast_money import NotFast
from core.backtester.indicators import rsi, sma
from core.backtester.loop import run
from core.backtester.settings import BacktestSettings
from core.backtester.signals import Signal, SignalStrategy
from core.backtester.strategy import Preparing
from core.errors import InvalidInput
from core.orders import Side
from core.paper_trader import AccountSettings, Commission, MarketSettings, Slippage, Swap, SwapKind
from tests.unit.library.backtester.support import listing, random_bars
from tests.unit.library.backtester.test_same_as_every_point import assert_same

COMMISSIONS = [
    Commission(),
    commission_of_value(Decimal("0.0007")),
    commission_per_lot(Decimal("0.0013"), minimum=Decimal("0.03")),
]
SLIPPAGES = [
    Slippage(),
    slippage_points(2),
    slippage_fraction(Decimal("0.003")),
    slippage_fraction(Decimal("0.0011"), exact=True),
    relative_spread(Decimal("0.002")),
]


@dataclass(frozen=True)
class Crossing:
    """Long and short on every instrument by crossing averages of two lengths."""

    fast: int
    slow: int
    units: Decimal

    def __call__(self, market: Preparing) -> Sequence[Signal]:
        signals = []
        for name in market.instruments():
            close = market.close(name)
            up, down = sma(close, self.fast) > sma(close, self.slow), sma(close, self.fast) < sma(close, self.slow)
            signals.append(Signal(name, Side.BUY, self.units, up, down))
            signals.append(Signal(name, Side.SELL, self.units + 1, rsi(close, 3) > 60, up | (rsi(close, 3) < 40)))
        return signals


def terms(
    names: Sequence[str],
    commission: Commission = COMMISSIONS[0],
    slippage: Slippage = SLIPPAGES[0],
    balance: int = 100_000,
) -> BacktestSettings:
    return BacktestSettings(
        listings=tuple(listing(name, name, "USD", 2, commission=commission) for name in names),
        account=AccountSettings(currency="USD", leverage=Decimal(30)),
        market=MarketSettings(slippage=slippage),
        balance=Decimal(balance),
    )


def bars(names: Sequence[str], seed: int, rows: int = 120) -> dict[str, object]:
    return {
        name: random_bars(name, seed + index, rows, price=900, digits=2, interval_ms=60_000 * (1 + 4 * index))
        for index, name in enumerate(names)
    }


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    names=st.sampled_from([("AAA",), ("AAA", "BBB")]),
    commission=st.sampled_from(COMMISSIONS),
    slippage=st.sampled_from(SLIPPAGES),
    units=st.sampled_from([Decimal(10), Decimal("0.37"), Decimal(333)]),
    close_at_end=st.booleans(),
)
def test_fast_path_equals_the_loop_when_money_suffices(
    seed: int, names: tuple[str, ...], commission: Commission, slippage: Slippage, units: Decimal, close_at_end: bool
) -> None:
    given_terms, data = replace(terms(names, commission, slippage), close_at_end=close_at_end), bars(names, seed)
    strategy = SignalStrategy(Crossing(2, 5, units))
    left, right = run_fast(strategy, data, given_terms), run(strategy, data, given_terms)
    assert_same(left, right)
    assert left.final == replace(
        right.final,
        positions=tuple(
            replace(each, position=replace(each.position, updated_at_ms=each.position.opened_at_ms))
            for each in right.final.positions
        ),
    )
    assert len(left.trades) > 5


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), balance=st.sampled_from([20, 60, 200, 1_000]))
def test_answer_is_the_loops_when_money_is_short(seed: int, balance: int) -> None:
    given_terms, data = terms(("AAA",), balance=balance), bars(("AAA",), seed)
    strategy = SignalStrategy(Crossing(2, 5, Decimal(333)))
    assert_same(run_signals(strategy, data, given_terms), run(strategy, data, given_terms))


def test_fast_path_declines_when_swap_is_charged() -> None:
    given_terms = terms(("AAA",))
    swap = Swap(SwapKind.POINTS, Decimal(-1), Decimal(1))
    given_terms = replace(given_terms, listings=(replace(given_terms.listings[0], swap=swap),))
    with pytest.raises(NotFast, match="swap"):
        run_fast(SignalStrategy(Crossing(2, 5, Decimal(1))), bars(("AAA",), 1), given_terms)


def test_signal_that_is_no_truth_value_is_refused_when_run() -> None:
    def numbers(market: Preparing) -> Sequence[Signal]:
        close = market.close("AAA")
        return [Signal("AAA", Side.BUY, Decimal(1), close, close > 3)]

    for runner in (run_fast, run):
        with pytest.raises(InvalidInput, match="0 or 1"):
            runner(SignalStrategy(numbers), bars(("AAA",), 1), terms(("AAA",)))
