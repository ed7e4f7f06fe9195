"""Cross-validation of a search against hand-worked splits and a plain second reading of the paper."""

import itertools
import math
import statistics

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.optimizer.errors import BadInput
from core.optimizer.overfitting import Measure, backtest_overfitting, judge

LN2 = math.log(2)


def by_the_paper(table: npt.NDArray[np.float64], parts: int) -> tuple[list[float], list[float]]:
    """The logits and the out-of-sample ratios of the chosen, split by split, in plain Python."""
    blocks = np.split(table, parts)
    logits, chosen = [], []
    for inside in itertools.combinations(range(parts), parts // 2):
        within = np.concatenate([blocks[at] for at in inside])
        without = np.concatenate([blocks[at] for at in range(parts) if at not in inside])
        sharpe = [
            [statistics.mean(column) / statistics.stdev(column) for column in half.T] for half in (within, without)
        ]
        best = sharpe[0].index(max(sharpe[0]))
        chosen.append(sharpe[1][best])
        rank = sum(other <= sharpe[1][best] for other in sharpe[1])
        logits.append(math.log(rank / (table.shape[1] + 1 - rank)))
    return logits, chosen


def test_probability_is_that_worked_by_hand_when_there_are_two_parts() -> None:
    """Each trial earns in one half: the best of either half is the worst of the other, rank 1 of 2, logit ln(1/2)."""
    turning = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    found = backtest_overfitting(turning, parts=2, measure="mean")
    assert found.probability == 1.0
    assert found.logits == pytest.approx([-LN2, -LN2])
    assert (found.splits, found.loss, found.slope) == (2, 0.0, None)
    steady = np.array([[1.0, 0.0], [1.0, 0.0], [2.0, 1.0], [2.0, 1.0]])
    found = backtest_overfitting(steady, parts=2, measure="mean")
    assert found.probability == 0.0
    assert found.logits == pytest.approx([LN2, LN2])
    assert found.slope == pytest.approx(-1.0)  # in 1, out 2 and in 2, out 1
    assert found.intercept == pytest.approx(3.0)


def test_probability_is_that_worked_by_hand_when_there_are_four_parts() -> None:
    """Means of three trials over the parts: A 3 0 0 0, B 1 1 1 1, C 0 0 2 2.

    Splits 01 02 03 12 13 23; in sample (sums): A 3 3 3 0 0 0, B 2 2 2 2 2 2, C 0 2 2 2 2 4. Best: A A A B B C.
    Out of sample A 0 0 0 has rank 1 beside B 2 2 2 and C 4 2 2: logit ln(1/3). B 2 2 beside A 3 3, C 2 2: ties for
    ranks 1 and 2, 1.5: ln(1.5/2.5). C 0 beside A 3, B 2: rank 1.
    """
    table = np.repeat([[3.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 1.0, 2.0]], 2, axis=0)
    found = backtest_overfitting(table, parts=4, measure="mean")
    assert found.logits == pytest.approx([math.log(1 / 3)] * 3 + [math.log(0.6)] * 2 + [math.log(1 / 3)])
    assert found.probability == 1.0


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 5), st.sampled_from([2, 4, 6]), st.integers(2, 4), st.integers(0, 2**32), st.floats(-3, 3))
def test_logits_equal_a_plain_reading_of_the_paper_when_returns_are_random(
    trials: int, parts: int, rows: int, seed: int, shift: float
) -> None:
    table = np.random.default_rng(seed).standard_normal((parts * rows, trials)) + shift
    found = backtest_overfitting(table, parts=parts)
    logits, chosen = by_the_paper(table, parts)
    assert found.logits == pytest.approx(logits)
    assert found.chosen == pytest.approx(chosen)
    assert found.loss == pytest.approx(statistics.mean(float(ratio < 0) for ratio in chosen))


def test_every_choice_is_overfit_when_all_trials_end_at_the_same_mean() -> None:
    """The compensation effect of the paper: what is best in one half must be worst in the other."""
    table = np.random.default_rng(2).standard_normal((160, 30))
    found = backtest_overfitting(table - table.mean(axis=0), parts=8, measure="mean")
    assert found.probability == 1.0
    assert found.splits == 70
    assert found.slope == pytest.approx(-1.0)


def test_probability_is_low_when_one_trial_has_skill_and_near_a_half_when_none_has() -> None:
    drawn = np.random.default_rng(3)
    luck = [backtest_overfitting(drawn.standard_normal((400, 20)), parts=8).probability for _ in range(60)]
    assert 0.35 < statistics.mean(luck) < 0.65
    table = drawn.standard_normal((1600, 50))
    table[:, 7] += 0.2
    found = backtest_overfitting(table)
    assert found.splits == 12_870
    assert found.probability < 0.01
    assert found.loss < 0.01


def test_the_oldest_rows_are_left_out_when_parts_do_not_divide_them() -> None:
    table = np.random.default_rng(4).standard_normal((43, 3))
    found = backtest_overfitting(table, parts=4)
    assert found.unused_rows == 3
    assert found.logits == pytest.approx(backtest_overfitting(table[3:], parts=4).logits)


def test_a_trial_counts_as_zero_when_it_does_not_trade_in_a_half() -> None:
    table = np.random.default_rng(5).standard_normal((8, 3))
    table[:4, 1] = 0.0
    found = backtest_overfitting(table, parts=2)
    assert np.isfinite(found.logits).all()


@pytest.mark.parametrize("measure", ["sharpe", "mean"])
def test_logits_do_not_change_when_returns_are_in_other_units(measure: Measure) -> None:
    table = np.random.default_rng(6).standard_normal((64, 5))
    plain = backtest_overfitting(table, parts=8, measure=measure).logits
    for scale in (1e-9, 1e9):
        assert backtest_overfitting(table * scale, parts=8, measure=measure).logits == pytest.approx(plain)


def test_a_refusal_names_the_field_when_a_search_cannot_be_judged() -> None:
    fine = np.random.default_rng(7).standard_normal((40, 3))
    constant = fine.copy()
    constant[:20, 2] = 0.1
    for make, field, rule in [
        (lambda: backtest_overfitting(fine, parts=3), "parts", "even"),
        (lambda: backtest_overfitting(fine, parts=22), "parts", "at most 20"),
        (lambda: backtest_overfitting(fine[:, :1], parts=2), "returns", "2 trials"),
        (lambda: backtest_overfitting(fine[:7], parts=4), "returns", "2 rows a part"),
        (lambda: backtest_overfitting(fine[:, 0], parts=2), "returns", "dimension"),
        (lambda: backtest_overfitting(fine, measure="calmar"), "measure", "sharpe or mean"),  # type: ignore[arg-type]
        (lambda: backtest_overfitting(constant, parts=2), "returns", "column 2 is constant"),
        (lambda: judge(fine, parts=2, least_deflated=1.5), "least_deflated", "between 0 and 1"),
        (lambda: judge(np.zeros((40, 3)), parts=2), "returns", "no trial varies"),
    ]:
        with pytest.raises(BadInput, match=rule) as refused:
            make()
        assert refused.value.field == field


def test_a_search_is_warned_of_when_it_found_luck_and_not_when_it_found_skill() -> None:
    table = np.random.default_rng(8).standard_normal((1600, 60))
    luck = judge(table, parts=8)
    assert len(luck.warnings) == 2
    assert "deflated Sharpe ratio" in luck.warnings[0]
    assert "probability of backtest overfitting" in luck.warnings[1]
    table[:, 7] += 0.25
    table[:, 9] = 0.0  # never traded
    skill = judge(table, parts=8)
    assert skill.warnings == ()
    assert skill.best == 7
    assert skill.deflated > 0.99
    assert skill.trials == pytest.approx(59, abs=1)
