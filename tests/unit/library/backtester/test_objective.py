"""A backtest as an objective: what it tells, what it refuses, and that windows see their own rows alone."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np
import pytest

from core.backtester.data.bars import Bars, bars_of
from core.backtester.data.cutting import between
from core.backtester.data.errors import BadData
from core.backtester.data.sample import MONDAY_MS, sample_bars, sample_ticks
from core.backtester.examples import breakout, sma_cross
from core.backtester.objective import PART, BacktestObjective, earnings, earnings_table, run_any
from core.backtester.settings import BacktestSettings, simple_listing
from core.errors import InvalidInput
from core.optimizer.grid import grid
from core.optimizer.overfitting import judge
from core.optimizer.running import RunSettings, optimise
from core.optimizer.space import Integer, Space
from core.optimizer.walk_forward import anchored, walk_forward
from tests.unit.library.backtester.curves import curve

HERE = RunSettings(workers=0)


@dataclass(frozen=True)
class Span:
    start: int
    stop: int


def objective(metric: str = "total_return", rows: int = 3000) -> BacktestObjective:
    settings = BacktestSettings(listings=(simple_listing("EURUSD"),), balance=Decimal(1000), close_at_end=True)
    return BacktestObjective(sma_cross, {"EURUSD": sample_bars(rows=rows)}, settings, metric)


def test_a_trial_tells_every_metric_and_its_earnings() -> None:
    asked = objective()
    told = asked({"fast": 5, "slow": 20}, 0)
    result = run_any(sma_cross(5, 20), asked.data, asked.settings)
    assert {name: value for name, value in told.items() if not name.startswith(PART)} == {
        name: value for name, value in result.metrics().values().items() if value is not None
    }
    parts = earnings_table([told])[:, 0]
    assert len(parts) == 240
    assert parts.sum() == pytest.approx(told["total_return"], rel=1e-9)


@pytest.mark.parametrize(("rows", "parts"), [(1, 1), (7, 7), (241, 240), (10_007, 240)])
def test_earnings_add_up_whatever_the_number_of_rows(rows: int, parts: int) -> None:
    equity = curve([100.0, *(100 + np.cumsum(np.random.default_rng(rows).normal(size=rows)))], 60_000)
    found = earnings(equity)
    assert len(found) == parts
    assert found.sum() == pytest.approx(equity.equity[-1] / 100 - 1, abs=1e-12)


def test_a_trial_fails_and_says_why_when_its_metric_is_not_defined() -> None:
    never = replace(objective("win_rate"), make=breakout)
    with pytest.raises(InvalidInput, match="win_rate is not defined: there are no trades"):
        never({"entry": 2999}, 0)
    with pytest.raises(InvalidInput, match="omega is none of total_return"):
        objective("omega")({}, 0)


def test_a_search_is_judged_for_overfitting_from_what_its_trials_told() -> None:
    found = optimise(
        objective(), grid(Space({"fast": Integer(5, 15, 5), "slow": Integer(20, 60, 20)})), seed=1, settings=HERE
    )
    table = earnings_table(outcome.metrics for outcome in found.succeeded)
    assert table.shape == (240, 9)
    verdict = judge(table)
    assert 0 <= verdict.overfitting.probability <= 1


def test_windows_see_their_own_rows_alone() -> None:
    asked = objective()
    over = anchored(asked.rows(), 3)
    space = Space({"fast": Integer(5, 10, 5), "slow": Integer(20, 40, 20)})
    found = walk_forward(asked.on_rows, grid(space), over, "total_return", seed=1, settings=HERE)
    assert found.complete
    for step in found.steps:
        assert step.chosen is not None
        assert step.test is not None
        params = {name: value for name, value in step.chosen.trial.params.items() if not name.startswith("@")}
        bars = asked.data["EURUSD"]
        assert isinstance(bars, Bars)
        alone = replace(asked, data={"EURUSD": bars.rows(step.window.test.start, step.window.test.stop)})
        assert alone(params, 0) == step.test.metrics


@pytest.mark.parametrize("span", [Span(0, 3001), Span(5, 5), Span(-1, 5)])
def test_rows_are_refused_when_they_are_not_inside(span: Span) -> None:
    with pytest.raises(BadData) as caught:
        objective().on_rows({}, 0, span)
    assert (caught.value.field, caught.value.rule) == ("rows", "range")


def test_an_objective_can_be_sent_to_a_process_and_knows_its_data() -> None:
    asked = objective(rows=500)
    copy = pickle.loads(pickle.dumps(asked))
    assert copy({"fast": 3, "slow": 9}, 7) == asked({"fast": 3, "slow": 9}, 7)
    assert copy.fingerprint() == asked.fingerprint()
    bars = asked.data["EURUSD"]
    assert isinstance(bars, Bars)
    low = bars.low.copy()
    low[100] -= 0.0001
    for other in (
        replace(asked, data={"EURUSD": replace(bars, low=low)}),
        replace(asked, settings=replace(asked.settings, balance=Decimal(1001))),
        replace(asked, metric="cagr"),
    ):
        assert other.fingerprint() != asked.fingerprint()


def test_tables_of_earnings_are_refused_when_trials_differ() -> None:
    with pytest.raises(BadData, match="metrics, row 1"):
        earnings_table([{f"{PART}0": 1.0}, {}])
    with pytest.raises(BadData, match="at least one trial"):
        earnings_table([])


def minutes() -> Bars:
    prices = [np.ones(4)] * 4
    return bars_of("A", [0, 60_000, 120_000, 240_000], *prices, interval_ms=60_000)


@pytest.mark.parametrize(
    ("span", "kept"),
    [
        ((None, None), [0, 1, 2, 3]),
        ((1, None), [1, 2, 3]),
        ((60_000, 180_000), [1, 2]),
        ((60_000, 179_999), [1]),
        ((None, 300_000), [0, 1, 2, 3]),
    ],
)
def test_bars_are_kept_when_they_lie_wholly_within(span: tuple[int | None, int | None], kept: list[int]) -> None:
    bars = minutes()
    assert between(bars, *span).time_ms.tolist() == [int(bars.time_ms[row]) for row in kept]


def test_ticks_are_kept_from_the_first_moment_until_before_the_last() -> None:
    ticks = sample_ticks(rows=100)
    cut = between(ticks, int(ticks.time_ms[10]), int(ticks.time_ms[20]))
    assert cut.time_ms.tolist() == ticks.time_ms[10:20].tolist()


def test_a_span_is_refused_when_nothing_lies_in_it() -> None:
    with pytest.raises(BadData, match="no row in this span") as caught:
        between(minutes(), MONDAY_MS, None)
    assert caught.value.rule == "empty"
    with pytest.raises(BadData, match="is no span of time"):
        between(minutes(), 5, 5)
