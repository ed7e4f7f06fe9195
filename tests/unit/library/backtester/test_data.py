"""Data in: what is wrong is named by field, row and rule; CSV round trips; resampling is pandas' own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.backtester.data.bars import bars_of, find_gaps
from core.backtester.data.csv import bars_from_csv, bars_to_csv, ticks_from_csv
from core.backtester.data.errors import BadData
from core.backtester.data.resample import bars_from_ticks, resample_bars
from core.backtester.data.sample import sample_bars, sample_ticks
from core.backtester.data.ticks import ticks_of
from core.backtester.settings import BacktestSettings, simple_listing
from core.backtester.tracks import timeline_of
from tests.unit.library.backtester.support import random_bars, random_ticks

GOOD = {"time_ms": [0, 60_000, 120_000], "open": [1, 2, 3], "high": [2, 3, 4], "low": [1, 1, 2], "close": [2, 2, 3]}


@pytest.mark.parametrize(
    ("field", "values", "rule", "row"),
    [
        ("time_ms", [0, 60_000, 60_000], "duplicate", 2),
        ("time_ms", [0, 60_000, 30_000], "order", 2),
        ("time_ms", [0, 59_999, 120_000], "overlap", 1),
        ("time_ms", [0.0, 60_000.5, 120_000], "whole", 1),
        ("time_ms", [-1, 60_000, 120_000], "positive", 0),
        ("time_ms", ["a", "b", "c"], "number", None),
        ("open", [1, -2, 3], "positive", 1),
        ("open", [1, float("nan"), 3], "finite", 1),
        ("close", [2, 2, float("inf")], "finite", 2),
        ("high", [2, 1.5, 4], "high", 1),
        ("low", [1, 1, 3.5], "low", 2),
        ("close", [2, 2], "length", None),
        ("close", [[2, 2, 3]], "shape", None),
        ("close", ["x", 2, 3], "number", None),
        ("volume", [1, -1, 1], "positive", 1),
        ("spread", [0, 0, -0.1], "positive", 2),
    ],
)
def test_bad_bars_are_refused_with_field_row_and_rule(field: str, values: object, rule: str, row: int | None) -> None:
    with pytest.raises(BadData) as caught:
        bars_of("A", **{**GOOD, field: values}, interval_ms=60_000)  # type: ignore[arg-type]
    assert (caught.value.field, caught.value.rule, caught.value.row) == (field, rule, row)


def test_gaps_are_found_and_refused_when_none_are_allowed() -> None:
    late = {**GOOD, "time_ms": [0, 60_000, 240_000]}
    assert [(each.row, each.missing) for each in find_gaps(bars_of("A", **late, interval_ms=60_000))] == [(1, 2)]
    with pytest.raises(BadData) as caught:
        bars_of("A", **late, interval_ms=60_000, gaps=False)
    assert (caught.value.rule, caught.value.row) == ("gap", 1)


def test_crossed_and_unordered_ticks_are_refused() -> None:
    for time_ms, ask, rule in (([0, 1], [2, 0.5], "crossed"), ([1, 0], [2, 2], "order")):
        with pytest.raises(BadData) as caught:
            ticks_of("A", time_ms, [1, 1], ask)
        assert (caught.value.rule, caught.value.row) == (rule, 1)


def test_columns_cannot_be_changed_when_the_callers_array_changes() -> None:
    given_close = np.array([2.0, 2.0, 3.0])
    bars = bars_of("A", **{**GOOD, "close": given_close}, interval_ms=60_000)
    given_close[0] = 99
    assert bars.close[0] == 2.0
    with pytest.raises(ValueError, match="read-only"):
        bars.close[0] = 1


def test_prices_finer_than_the_instrument_are_refused_with_their_row() -> None:
    bars = bars_of("A", **{**GOOD, "close": [2, 2.5, 3]}, interval_ms=60_000)
    with pytest.raises(BadData) as caught:
        timeline_of({"A": bars}, BacktestSettings(listings=(simple_listing("A", price_digits=0),)))
    assert (caught.value.field, caught.value.rule, caught.value.row) == ("A.close", "digits", 1)


@pytest.mark.parametrize(
    ("text", "field", "rule", "row"),
    [
        ("time,open,high,low\n", "close", "header", None),
        ("time,open,high,low,close\n0,1,2,1\n", "row", "cells", 0),
        ("time,open,high,low,close\n0,1,2,1,1\n60000,1,2,x,1\n", "low", "number", 1),
        ("time,open,high,low,close\nyesterday,1,2,1,1\n", "time", "time", 0),
        ("time,open,high,low,close\n0,1,2,1,nan\n", "close", "finite", 0),
    ],
)
def test_bad_csv_is_refused_with_field_row_and_rule(text: str, field: str, rule: str, row: int | None) -> None:
    with pytest.raises(BadData) as caught:
        bars_from_csv(text, "A", interval_ms=60_000)
    assert (caught.value.field, caught.value.rule, caught.value.row) == (field, rule, row)


def test_csv_reads_back_what_it_wrote() -> None:
    bars = random_bars("A", 3, 50, price=900, digits=2)
    again = bars_from_csv(bars_to_csv(bars), "A", interval_ms=bars.interval_ms)
    for name in ("time_ms", "open", "high", "low", "close", "volume", "spread"):
        assert getattr(again, name).tobytes() == getattr(bars, name).tobytes()


def test_csv_times_may_be_iso_when_they_have_a_zone_or_none() -> None:
    text = "TIME, Ask ,bid\n1970-01-01T00:00:01Z,2,1\n1970-01-01 01:00:02+01:00,2,1\n1970-01-01 00:00:03.5,2,1\n"
    assert ticks_from_csv(text, "A").time_ms.tolist() == [1000, 2000, 3500]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), times=st.sampled_from([1, 3, 5, 60]))
def test_resampling_equals_pandas(seed: int, times: int) -> None:
    pandas = pytest.importorskip("pandas")
    bars = random_bars("A", seed, 80, price=900, digits=2)
    bars = bars_of("A", bars.time_ms // 60_000 * 60_000, bars.open, bars.high, bars.low, bars.close, interval_ms=60_000)
    table = pandas.DataFrame(
        {name: getattr(bars, name) for name in ("open", "high", "low", "close", "volume")},
        index=pandas.to_datetime(bars.time_ms, unit="ms"),
    )
    rules = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    wanted = table.resample(f"{times}min", origin="epoch").agg(rules).dropna()
    got = resample_bars(bars, times * 60_000)
    assert got.time_ms.tolist() == [int(each.timestamp() * 1000) for each in wanted.index]
    for name in rules:
        assert getattr(got, name).tolist() == wanted[name].tolist()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_bars_of_ticks_equal_pandas(seed: int) -> None:
    pandas = pytest.importorskip("pandas")
    ticks = random_ticks("A", seed, 100, price=900, digits=2)
    wanted = pandas.Series(ticks.bid, index=pandas.to_datetime(ticks.time_ms, unit="ms"))
    table = wanted.resample("1min", origin="epoch").ohlc().dropna()
    got = bars_from_ticks(ticks, 60_000)
    for name in ("open", "high", "low", "close"):
        assert getattr(got, name).tolist() == table[name].tolist()
    assert got.volume.sum() == len(ticks)


def test_resampling_is_refused_when_bars_do_not_fit() -> None:
    bars = bars_of("A", **{**GOOD, "time_ms": [30_000, 90_000, 150_000]}, interval_ms=60_000)
    with pytest.raises(BadData, match="interval"):
        resample_bars(bars, 90_000)
    with pytest.raises(BadData) as caught:
        resample_bars(bars, 120_000)
    assert (caught.value.rule, caught.value.row) == ("bucket", 1)


def test_sample_is_the_same_for_the_same_seed_and_has_no_weekend() -> None:
    bars = sample_bars(rows=8_000)
    assert bars.close.tobytes() == sample_bars(rows=8_000).close.tobytes()
    assert bars.close.tobytes() != sample_bars(rows=8_000, seed=2).close.tobytes()
    assert [each.missing for each in find_gaps(bars)] == [2 * 24 * 60]
    assert len(sample_ticks(rows=100)) == 100
