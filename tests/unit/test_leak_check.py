"""The check of `scripts/soak` for what keeps growing, on series that were made up."""

import random

import pytest

from tests.support.leaks import FEWEST, Bound, judge, trend
from tests.support.measures import percentile, quantile
from tests.support.verdicts import Verdicts

Series = list[tuple[float, float]]


def sampled(value: float, *, slope: float = 0.0, noise: float = 0.0, count: int = 60) -> Series:
    """One sample every ten seconds; `slope` per second."""
    rng = random.Random(3)
    return [(10.0 * n, value + slope * 10.0 * n + rng.uniform(-noise, noise)) for n in range(count)]


def holds(series: Series, bound: Bound) -> bool:
    verdicts = Verdicts()
    judge({"figure": series}, {"figure": bound}, verdicts)
    assert len(verdicts.lines) == 1
    return verdicts.hold


@pytest.mark.parametrize("noise", [0.0, 5.0, 30.0])
def test_a_leak_is_caught_when_it_is_hidden_in_noise(noise: float) -> None:
    assert not holds(sampled(1000, slope=0.1, noise=noise), Bound(20))  # 42 in the 420 s after the warm-up


@pytest.mark.parametrize("noise", [0.0, 5.0, 30.0])
def test_nothing_is_said_when_a_figure_only_swings(noise: float) -> None:
    assert holds(sampled(1000, noise=noise), Bound(20))
    assert holds(sampled(1000, slope=-1.0, noise=noise), Bound(20))


def test_growth_of_the_warm_up_does_not_count() -> None:
    series = [(at, min(value, 1100.0)) for at, value in sampled(1000, slope=0.6)]
    assert holds(series, Bound(1))


def test_single_peaks_do_not_count() -> None:
    series = [(at, value * (3 if place % 9 == 8 else 1)) for place, (at, value) in enumerate(sampled(1000))]
    assert holds(series, Bound(1))


def test_a_leak_of_steps_is_caught() -> None:
    series = [(at, 1000.0 + 10 * (place // 12)) for place, (at, _) in enumerate(sampled(0))]
    assert not holds(series, Bound(20))


def test_the_bound_is_the_larger_of_both() -> None:
    series = sampled(1000, slope=0.1)
    assert holds(series, Bound(20, share=0.05))
    assert not holds(series, Bound(20, share=0.03))


def test_too_few_samples_do_not_hold() -> None:
    assert trend(sampled(1, count=FEWEST - 1)) is None
    assert not holds(sampled(1, count=FEWEST - 1), Bound(20))
    assert not holds([], Bound(20))


def test_a_trend_is_the_slope_of_a_line() -> None:
    found = trend(sampled(1000, slope=0.1))
    assert found is not None
    assert found.per_hour == pytest.approx(360)
    assert found.grown == pytest.approx(0.1 * found.span_s)


def test_a_table_says_what_does_not_hold() -> None:
    verdicts = Verdicts()
    verdicts.note("told", "7")
    verdicts.most("small enough", 1.5, 2, "s", 1)
    assert verdicts.hold
    verdicts.most("not measured", float("nan"), 2)
    assert not verdicts.hold
    rows = str(verdicts).splitlines()
    assert rows[1].split() == ["told", "7"]
    assert rows[2].endswith("ok")
    assert rows[3].endswith("DOES NOT HOLD")


def test_quantiles_are_of_what_was_observed_between_two_readings() -> None:
    before = {'lag_bucket{le="0.1"}': 5.0, 'lag_bucket{le="1.0"}': 9.0, 'lag_bucket{le="+Inf"}': 9.0}
    after = {'lag_bucket{le="0.1"}': 104.0, 'lag_bucket{le="1.0"}': 109.0, 'lag_bucket{le="+Inf"}': 109.0}
    assert quantile(before, after, "lag", 0.5) == 0.1
    assert quantile(before, after, "lag", 0.99) == 0.1
    assert quantile(before, after, "lag", 1.0) == 1.0
    assert quantile(after, after, "lag", 0.5) != quantile(after, after, "lag", 0.5)  # NaN: nothing was observed


def test_percentiles_are_values_that_were_there() -> None:
    values = [float(n) for n in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1.0)) == (50, 99, 100)
