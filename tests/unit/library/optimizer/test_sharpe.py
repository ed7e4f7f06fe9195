"""Sharpe ratios against the numbers of the papers and others worked by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.optimizer.errors import BadInput
from core.optimizer.sharpe import (
    deflated_sharpe_ratio,
    expected_best_sharpe,
    independent_trials,
    least_track_record,
    moments,
    probabilistic_sharpe_ratio,
)

DAILY = math.sqrt(250)


def test_moments_are_those_worked_by_hand_when_returns_are_few() -> None:
    found = moments(np.array([1.0, 2.0, 3.0, 6.0]))  # mean 3, off -2 -1 0 3: m2 14/4, m3 18/4, m4 98/4
    assert found.sharpe == pytest.approx(3 / math.sqrt(14 / 3), rel=1e-14)
    assert found.skewness == pytest.approx(4.5 / 3.5**1.5, rel=1e-14)
    assert found.kurtosis == pytest.approx(24.5 / 3.5**2, rel=1e-14)
    assert found.rows == 4


def test_probabilistic_sharpe_ratio_is_that_of_the_paper_when_given_its_hedge_fund() -> None:
    """Two years of months, annual Sharpe ratio 1.59, skewness -2.448, kurtosis 10.164: 0.982 and 0.913."""
    monthly = 1.59 / math.sqrt(12)
    assert probabilistic_sharpe_ratio(monthly, 24) == pytest.approx(0.982, abs=5e-4)
    assert probabilistic_sharpe_ratio(monthly, 24, skewness=-2.448, kurtosis=10.164) == pytest.approx(0.913, abs=1e-3)


@pytest.mark.parametrize(("per_year", "years"), [(250, 2.73), (52, 2.83), (12, 3.24)])
def test_least_track_record_is_that_of_the_paper_when_a_ratio_of_2_is_held_against_1(
    per_year: int, years: float
) -> None:
    root = math.sqrt(per_year)
    assert least_track_record(2 / root, benchmark=1 / root) / per_year == pytest.approx(years, abs=0.006)


def test_deflated_sharpe_ratio_is_that_of_the_paper_when_given_its_example() -> None:
    """100 trials with annual variance 1/2, five years of days, the best 2.5, skewness -3, kurtosis 10."""
    assert expected_best_sharpe(100, 0.5 / 250) == pytest.approx(0.1132, abs=5e-5)
    example = {"skewness": -3.0, "kurtosis": 10.0, "variance": 0.5 / 250}
    assert deflated_sharpe_ratio(2.5 / DAILY, 1250, trials=100, **example) == pytest.approx(0.9004, abs=5e-5)
    assert deflated_sharpe_ratio(2.5 / DAILY, 1250, trials=46, **example) == pytest.approx(0.9505, abs=5e-5)
    normal = deflated_sharpe_ratio(2.5 / DAILY, 1250, trials=88, variance=0.5 / 250)
    assert normal == pytest.approx(0.9505, abs=5e-4)


def test_the_best_of_luck_is_expected_right_when_simulated() -> None:
    """N standard normal trials, 20,000 times; the formula is an approximation, good to 1 % here."""
    for trials in (10, 100, 1000):
        drawn = np.random.default_rng(trials).standard_normal((20_000, trials)).max(axis=1).mean()
        assert expected_best_sharpe(trials, 1.0) == pytest.approx(drawn, rel=0.03 if trials == 10 else 0.01)
    assert expected_best_sharpe(1, 1.0) == 0.0


@given(st.floats(0.001, 0.5), st.floats(-2, 2), st.floats(0, 10), st.floats(0.6, 0.99))
def test_the_least_record_reaches_just_its_confidence_when_put_back(
    sharpe: float, skewness: float, more: float, confidence: float
) -> None:
    shape = {"skewness": skewness, "kurtosis": 1 + skewness**2 + more}
    rows = math.ceil(least_track_record(sharpe, confidence=confidence, **shape))
    assert probabilistic_sharpe_ratio(sharpe, max(rows, 2), **shape) >= confidence - 1e-12
    if rows > 3:
        assert probabilistic_sharpe_ratio(sharpe, rows - 1, **shape) < confidence + 1e-12


def test_independent_trials_are_all_when_uncorrelated_and_one_when_equal() -> None:
    random = np.random.default_rng(1)
    one, many = random.standard_normal((500, 1)), random.standard_normal((5000, 40))
    assert independent_trials(np.repeat(one, 7, axis=1)) == pytest.approx(1.0)
    assert independent_trials(many) == pytest.approx(40, abs=0.5)
    mixed = one + random.standard_normal((500, 20))
    correlations = np.corrcoef(mixed.T)
    mean = (correlations.sum() - 20) / (20 * 19)
    assert independent_trials(mixed) == pytest.approx(mean + (1 - mean) * 20, rel=1e-12)
    assert independent_trials(one) == 1.0
    assert independent_trials(np.hstack([one, -one])) == 2.0  # never more than there are


def test_a_refusal_names_the_field_when_a_ratio_cannot_be_judged() -> None:
    for make, field in [
        (lambda: moments(np.array([1.0, 1.0, 1.0])), "returns"),
        (lambda: moments(np.array([1.0, 2.0])), "returns"),
        (lambda: probabilistic_sharpe_ratio(0.1, 1), "rows"),
        (lambda: probabilistic_sharpe_ratio(math.nan, 10), "sharpe"),
        (lambda: probabilistic_sharpe_ratio(0.1, 10, kurtosis=0.5), "kurtosis"),
        (lambda: probabilistic_sharpe_ratio(1.0, 10, skewness=2.0, kurtosis=5.0), "skewness"),
        (lambda: least_track_record(0.1, benchmark=0.1), "sharpe"),
        (lambda: least_track_record(0.1, confidence=1.0), "confidence"),
        (lambda: expected_best_sharpe(0, 1), "trials"),
        (lambda: expected_best_sharpe(2, -1), "variance"),
        (lambda: independent_trials(np.ones((5, 3))), "returns"),
    ]:
        with pytest.raises(BadInput) as refused:
            make()
        assert refused.value.field == field
    with pytest.raises(BadInput) as refused:
        moments(np.array([1.0, math.nan, 3.0, math.inf]))
    assert refused.value.row == 1
