"""What has not happened yet cannot be seen: by property, and by tries to peek that fail."""

from __future__ import annotations

import gc
import math
from array import array
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.backtester.data.bars import Bars, bars_of
from core.backtester.data.errors import BadData
from core.backtester.evaluate import Evaluator
from core.backtester.indicators import atr, bollinger, ema, highest, lowest, macd, rsi, sma, stdev, wilder
from core.backtester.loop import run
from core.backtester.orders import Orders
from core.backtester.series import Series, own_indicator
from core.backtester.strategy import Now, Preparing
from core.backtester.tracks import timeline_of
from core.errors import InvalidInput, NotFound
from tests.unit.library.backtester.support import Busy, data_of, settings_of

NAMES = ("EURUSD", "USDJPY")


def changed(bars: Bars, first: int, factor: float) -> Bars:
    """The same bars up to `first`, other prices from there on."""
    columns = {name: getattr(bars, name).copy() for name in ("open", "high", "low", "close")}
    for column in columns.values():
        column[first:] = np.maximum(np.rint(column[first:] * factor * 100), 1) / 100
    return bars_of(bars.instrument_id, bars.time_ms, **columns, spread=bars.spread, interval_ms=bars.interval_ms)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), first=st.integers(1, 59), factor=st.sampled_from([0.5, 0.9, 1.2, 3.0]))
def test_past_trades_and_equity_stay_when_any_future_bar_changes(seed: int, first: int, factor: float) -> None:
    terms, data = replace(settings_of(seed, NAMES), close_at_end=False), data_of(seed, NAMES, 60)
    before_ms = int(data["EURUSD"].time_ms[first])
    other = {name: changed(bars, int(np.searchsorted(bars.time_ms, before_ms)), factor) for name, bars in data.items()}
    left, right = Busy(seed), Busy(seed)
    one, two = run(left, data, terms), run(right, other, terms)
    past = {name: column[one.trades.exit_ms < before_ms].tolist() for name, column in one.trades.columns().items()}
    again = {name: column[two.trades.exit_ms < before_ms].tolist() for name, column in two.trades.columns().items()}
    assert past == again
    seen = one.equity.time_ms <= before_ms
    assert one.equity.equity[seen].tolist() == two.equity.equity[seen].tolist()
    assert [row for row in left.log if row[0] <= before_ms] == [row for row in right.log if row[0] <= before_ms]


RECIPES: list[Callable[[Preparing], Series]] = [
    lambda m: sma(m.close("EURUSD"), 7),
    lambda m: ema(m.close("EURUSD"), 5),
    lambda m: wilder(m.high("EURUSD"), 5),
    lambda m: stdev(m.close("EURUSD"), 6),
    lambda m: highest(m.high("EURUSD"), 9) - lowest(m.low("EURUSD"), 5),
    lambda m: rsi(m.close("EURUSD"), 4),
    lambda m: atr(m.high("EURUSD"), m.low("EURUSD"), m.close("EURUSD"), 4),
    lambda m: macd(m.close("EURUSD"), 3, 6, 4)[1],
    lambda m: bollinger(m.close("EURUSD"), 5)[2].past(2),
    lambda m: m.close("EURUSD").crosses_above(sma(m.close("EURUSD"), 4)) | (m.open("EURUSD") < 0.07),
    lambda m: m.close("EURUSD") / sma(m.close("USDJPY"), 4) - 1.0,
]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), first=st.integers(1, 59), recipe=st.sampled_from(RECIPES))
def test_series_keep_their_past_bit_for_bit_when_the_future_changes(
    seed: int, first: int, recipe: Callable[[Preparing], Series]
) -> None:
    terms, data = settings_of(1, NAMES), data_of(seed, NAMES, 60)
    before_ms = int(data["EURUSD"].time_ms[first])
    other = {name: changed(bars, int(np.searchsorted(bars.time_ms, before_ms)), 1.7) for name, bars in data.items()}
    series = recipe(Preparing(dict.fromkeys(NAMES, ("open", "high", "low", "close"))))
    past = []
    for each in (data, other):
        timeline = timeline_of(each, terms)
        values = np.asarray(Evaluator(timeline).at_moments(series), dtype=np.float64)
        past.append(values[timeline.moments <= before_ms])
    assert past[0].tobytes() == past[1].tobytes()


class Peeker:
    """Runs `look` once at moment 20."""

    def __init__(self, look: Callable[[Now, Series], object]) -> None:
        self.look = look
        self.saw: object = None

    def prepare(self, market: Preparing) -> None:
        self.close = market.watch(market.close("EURUSD"))

    def on_bar(self, now: Now, orders: Orders) -> None:
        if now.moment == 20:
            self.saw = self.look(now, self.close)


def peek(look: Callable[[Now, Series], object]) -> object:
    strategy = Peeker(look)
    run(strategy, data_of(5, ("EURUSD",), 60), settings_of(1, ("EURUSD",)))
    return strategy.saw


def test_values_end_at_the_present_when_more_are_asked_for() -> None:
    close = data_of(5, ("EURUSD",), 60)["EURUSD"].close
    assert peek(lambda now, series: now.values(series, 10**6).tolist()) == close[:21].tolist()


@pytest.mark.parametrize("rows", [0, -1, 1.5, True])
def test_values_refuse_when_asked_for_a_window_that_is_none(rows: object) -> None:
    with pytest.raises(InvalidInput):
        peek(lambda now, series: now.values(series, rows))  # type: ignore[arg-type]


def test_values_are_a_copy_of_their_own_when_traced_to_their_memory() -> None:
    def look(now: Now, series: Series) -> object:
        values = now.values(series, 5)
        root = values
        while root.base is not None:
            root = root.base
        assert root.size <= 21
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 1.0
        return root.size

    assert peek(look) == 5


def test_nothing_within_reach_of_now_holds_a_future_price_when_every_reference_is_followed() -> None:
    bars = data_of(5, ("EURUSD",), 60)["EURUSD"]
    later = changed(bars, 21, 9.0)
    assert later.low[21:].min() > bars.high[:21].max()

    def look(now: Now, series: Series) -> object:
        found, seen, queue = set(), set(), [now]
        while queue:
            each = queue.pop()
            if id(each) in seen or isinstance(each, type | type(math) | type(look)):
                continue
            seen.add(id(each))
            if isinstance(each, float):
                found.add(each)
            elif isinstance(each, np.ndarray | array):
                found |= set(np.ravel(each).tolist())
            queue += gc.get_referents(each)
        return found & {*later.open.tolist(), *later.high.tolist(), *later.low.tolist(), *later.close.tolist()}

    strategy = Peeker(look)
    run(strategy, {"EURUSD": later}, settings_of(1, ("EURUSD",)))
    assert isinstance(strategy.saw, set)
    assert later.high[20] in strategy.saw  # the search finds prices where there are any
    assert max(strategy.saw) <= bars.high[:21].max()


def test_series_hold_no_numbers_when_looked_into() -> None:
    market = Preparing({"EURUSD": ("close",)})
    series = sma(market.close("EURUSD"), 3)
    with pytest.raises(TypeError):
        series[0]  # type: ignore[index]
    with pytest.raises(TypeError):
        len(series)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        bool(series > 1)
    with pytest.raises(InvalidInput):
        series.past(-1)
    with pytest.raises(InvalidInput):
        Series(object(), (series,), lambda values: values[::-1])
    with pytest.raises(NotFound):
        market.close("GBPUSD")


def test_own_indicator_sees_one_value_at_a_time_when_run() -> None:
    fed: list[float] = []

    class Mean:
        def update(self, value: float) -> float:
            fed.append(value)
            return sum(fed) / len(fed) if len(fed) > 2 else math.nan

    class Watching:
        def prepare(self, market: Preparing) -> None:
            self.mean = market.watch(own_indicator(market.close("EURUSD"), Mean))

        def on_bar(self, now: Now, orders: Orders) -> None:
            assert len(fed) == now.moment + 1
            assert now.value(self.mean) == sum(fed) / len(fed)
            assert len(now.values(self.mean, 99)) == now.moment - 1

    data = data_of(5, ("EURUSD",), 30)
    run(Watching(), data, settings_of(1, ("EURUSD",)))
    assert fed == data["EURUSD"].close.tolist()
    with pytest.raises(InvalidInput):
        own_indicator(Preparing({"EURUSD": ("close",)}).close("EURUSD"), Mean) + 1


def test_series_without_a_finite_value_is_refused_when_it_had_one_before() -> None:
    class Dividing:
        def prepare(self, market: Preparing) -> None:
            close = market.close("EURUSD")
            market.watch(close / (close - close), "ratio")

        def on_bar(self, now: Now, orders: Orders) -> None:
            raise AssertionError("never asked")

    with pytest.raises(BadData, match="ratio"):
        run(Dividing(), data_of(5, ("EURUSD",), 30), settings_of(1, ("EURUSD",)))
