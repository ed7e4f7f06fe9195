"""Metrics: hand-worked examples, what is undefined says why, and pandas where it says the same."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.backtester.data.errors import BadData
from core.backtester.drawdowns import drawdowns_of
from core.backtester.equity import Equity, equity_of
from core.backtester.metrics import TRADING_DAYS, Metrics, Sampling, daily_equity, metrics_of
from core.errors import InvalidInput
from tests.unit.library.backtester.curves import DAY, MONDAY, booked, curve

HOUR = 3_600_000
ALWAYS_FIGURES = {"max_drawdown", "max_drawdown_ms", "longest_drawdown_ms", "trades"}


def measured(equity: Equity, *profits: float, sampling: Sampling | None = None) -> Metrics:
    return metrics_of(equity, booked(*profits), sampling or Sampling())


def test_metrics_are_what_the_formulas_give_when_worked_by_hand() -> None:
    # returns: +10 %, −10 %, +20 %, 0; mean 0.05, deviations 0.05, −0.15, 0.15, −0.05, squares 0.05, s² = 0.05 ÷ 3
    found = metrics_of(curve([1000, 1100, 990, 1188, 1188]), booked(100, -110, 198, value=500.0))
    s = math.sqrt(0.05 / 3)
    years = 4 / 365.25
    assert found.total_return == pytest.approx(0.188, rel=1e-12)
    assert found.cagr == pytest.approx(1.188 ** (1 / years) - 1, rel=1e-12)
    assert found.volatility == pytest.approx(s * math.sqrt(365), rel=1e-12)
    assert found.sharpe == pytest.approx(0.05 / s * math.sqrt(365), rel=1e-12)
    assert found.sortino == pytest.approx(0.05 / math.sqrt(0.01 / 4) * math.sqrt(365), rel=1e-12)  # one day of −10 %
    assert found.max_drawdown == pytest.approx(0.1, rel=1e-12)
    assert found.calmar == pytest.approx((1.188 ** (1 / years) - 1) / 0.1, rel=1e-12)
    assert found.max_drawdown_ms == found.longest_drawdown_ms == 2 * DAY  # peak on the first day, regained on the third
    assert (found.trades, found.win_rate, found.exposure) == (3, 2 / 3, 0.0)
    assert found.profit_factor == pytest.approx(298 / 110, rel=1e-12)
    assert found.expectancy == pytest.approx(188 / 3, rel=1e-12)
    mean = (1000 + 1100 + 990 + 1188 + 1188) / 5
    assert found.turnover == pytest.approx((3 * 500 + 3 * 500 + 188) / mean / years, rel=1e-12)
    assert found.reasons == {}


def test_the_risk_free_return_is_taken_from_every_day_when_there_is_one() -> None:
    found = measured(curve([1000, 1100, 990, 1188]), sampling=Sampling(250.0, risk_free=0.25))
    over = np.array([0.1, -0.1, 0.2]) - 0.001
    assert found.sharpe == pytest.approx(over.mean() / np.std([0.1, -0.1, 0.2], ddof=1) * math.sqrt(250), rel=1e-12)
    assert found.sortino == pytest.approx(over.mean() / math.sqrt(0.101**2 / 3) * math.sqrt(250), rel=1e-12)


def test_a_weekend_counts_only_where_every_calendar_day_does() -> None:
    friday = MONDAY + 4 * DAY
    stamps = [friday, friday + DAY, friday + 4 * DAY, friday + 5 * DAY]  # Friday's, Monday's and Tuesday's end
    equity = equity_of(stamps, [100, 110, 121, 121], [0, 0, 0, 0], [False] * 4)
    assert daily_equity(equity).tolist() == [100, 110, 110, 110, 121, 121]
    assert daily_equity(equity, traded_days_only=True).tolist() == [100, 110, 121, 121]
    assert metrics_of(equity, booked(), TRADING_DAYS).volatility == pytest.approx(
        np.std([0.1, 0.1, 0.0], ddof=1) * math.sqrt(252), rel=1e-12
    )


def test_a_day_ends_at_midnight_and_the_last_with_the_data() -> None:
    equity = curve([100, 101, 102, 103, 104], 8 * HOUR, start_ms=MONDAY + 8 * HOUR)  # 08, 16, 24, 08, 16 o'clock
    assert daily_equity(equity).tolist() == [100, 102, 104]


@pytest.mark.parametrize("seed", range(5))
def test_daily_figures_equal_those_of_pandas(seed: int) -> None:
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(seed)
    stamps = MONDAY + np.cumsum(rng.integers(1, 30, 400)) * HOUR // 2
    stamps[0] -= 1  # not at midnight: the start is then a sample before those of the days
    equity = equity_of(stamps, 1000 + np.cumsum(rng.normal(0.2, 5, 400)), stamps, stamps > 0)
    series = pandas.Series(equity.equity, index=pandas.to_datetime(equity.time_ms, unit="ms"))
    days = series.resample("1D", closed="right", label="left").last().ffill()
    before = days.index[0] - pandas.Timedelta(days=1)
    returns = pandas.concat([pandas.Series([series.iloc[0]], index=[before]), days]).pct_change().dropna()
    found = metrics_of(equity, booked())
    assert found.volatility == pytest.approx(returns.std() * 365**0.5, rel=1e-12)
    assert found.sharpe == pytest.approx(returns.mean() / returns.std() * 365**0.5, rel=1e-9)
    assert found.max_drawdown == pytest.approx((1 - series / series.cummax()).max(), rel=1e-12)


@pytest.mark.parametrize(
    ("equity", "profits", "reasons"),
    [
        (curve([1000, 1000, 1000]), (), {
            "sharpe": "the daily returns do not vary", "sortino": "no daily return is below the risk-free one",
            "calmar": "there was no drawdown",
            **dict.fromkeys(("win_rate", "profit_factor", "expectancy"), "there are no trades"),
        }),
        (curve([1000, 1010, 1050]), (10.0, 40.0), {
            "sortino": "no daily return is below the risk-free one", "calmar": "there was no drawdown",
            "profit_factor": "no trade lost",
        }),
        (curve([1000, 900, -100]), (-100.0, -1000.0), {
            "cagr": "the equity at the end is not above 0",
            "calmar": "there is no CAGR: the equity at the end is not above 0",
            **dict.fromkeys(
                ("volatility", "sharpe", "sortino"), "the equity is not above 0 from 2024-01-03 00:00 UTC on"
            ),
        }),
        (curve([1000, 4000], 1000), (3000.0,), {
            "cagr": "the time is too short to be made a year of",
            "calmar": "there is no CAGR: the time is too short to be made a year of",
            "profit_factor": "no trade lost",
            **dict.fromkeys(
                ("volatility", "sharpe", "sortino"), "2 daily returns are needed, the number of days is 1"
            ),
        }),
        (curve([1000]), (), {
            "cagr": "no time passed", "calmar": "there is no CAGR: no time passed", "turnover": "no time passed",
            "exposure": "there is no row after the first",
            **dict.fromkeys(("win_rate", "profit_factor", "expectancy"), "there are no trades"),
            **dict.fromkeys(
                ("volatility", "sharpe", "sortino"), "2 daily returns are needed, the number of days is 0"
            ),
        }),
    ],
)  # fmt: skip
def test_a_metric_is_none_and_says_why_when_it_is_not_defined(
    equity: Equity, profits: tuple[float, ...], reasons: dict[str, str]
) -> None:
    found = measured(equity, *profits)
    assert found.reasons == reasons
    assert {name for name, value in found.values().items() if value is None} == set(reasons)


@given(
    st.lists(st.floats(-50, 200), min_size=1, max_size=40),
    st.lists(st.floats(-1e6, 1e6), max_size=10),
    st.integers(1, 3 * DAY),
)
def test_no_figure_is_ever_nan_and_every_none_has_a_reason(
    later: list[float], profits: list[float], step_ms: int
) -> None:
    equity = curve([100.0, *later], step_ms)
    found = measured(equity, *profits)
    for name, value in found.values().items():
        assert (value is None) == (name in found.reasons), name
        assert value is None or math.isfinite(value), name
    assert set(found.reasons).isdisjoint(ALWAYS_FIGURES)
    assert found.longest_drawdown_ms >= found.max_drawdown_ms >= 0


@given(st.lists(st.floats(1, 200), min_size=2, max_size=40), st.floats(0.1, 50))
def test_ratios_stay_when_all_money_is_scaled(equity: list[float], factor: float) -> None:
    plain, scaled = measured(curve(equity)), measured(curve([factor * each for each in equity]))
    for name in ("total_return", "max_drawdown", *(("volatility",) if len(equity) > 2 else ())):
        assert getattr(scaled, name) == pytest.approx(getattr(plain, name), rel=1e-6, abs=1e-9)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40))
def test_drawdowns_are_those_of_a_plain_reading(values: list[int]) -> None:
    equity = curve([5.0, *map(float, values)])
    wanted, peak, start, rows = [], 5.0, 0, [5, *values]
    low: tuple[float, int] | None = None
    for row, value in enumerate(rows):
        if value >= peak:
            if low:
                wanted.append((start, low[1], row, True, 1 - low[0] / peak))
            low, peak, start = None, float(value), row
        elif low is None or value < low[0]:
            low = (float(value), row)
    if low:
        wanted.append((start, low[1], len(rows) - 1, False, 1 - low[0] / peak))
    found = drawdowns_of(equity)
    at = [((column - MONDAY) // DAY).tolist() for column in (found.start_ms, found.trough_ms, found.end_ms)]
    assert list(zip(*at, found.recovered.tolist(), found.depth.tolist(), strict=True)) == wanted


@pytest.mark.parametrize(
    ("equity", "field", "rule", "row"),
    [
        ([100.0, math.nan], "equity", "finite", 1),
        ([100.0, math.inf], "equity", "finite", 1),
        ([], "equity", "present", None),
        ([0.0, 1.0], "equity", "positive", 0),
    ],
)
def test_a_curve_is_refused_when_it_holds_no_numbers(equity: list[float], field: str, rule: str, row: int) -> None:
    column = np.array(equity)
    made = Equity(np.arange(len(column)), column, column, column, column > 0)
    with pytest.raises(BadData) as caught:
        metrics_of(made, booked())
    assert (caught.value.field, caught.value.rule, caught.value.row) == (field, rule, row)


def test_columns_are_refused_when_time_falls_or_a_profit_is_no_number() -> None:
    equity = curve([100.0, 101.0, 102.0])
    with pytest.raises(BadData, match="time_ms, row 2"):
        metrics_of(dataclasses.replace(equity, time_ms=np.array([0, 2, 1])), booked())
    with pytest.raises(BadData, match=r"trades\.profit, row 1"):
        metrics_of(equity, booked(1.0, math.nan))


@pytest.mark.parametrize("wrong", [{"days_in_year": 0}, {"days_in_year": math.nan}, {"risk_free": math.inf}])
def test_sampling_is_refused_when_a_number_is_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match="must be") as caught:
        Sampling(**wrong)
    assert caught.value.field == f"sampling.{next(iter(wrong))}"
