"""Blocks, and intervals that cover what they promise."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.optimizer.block_length import block_length
from core.optimizer.bootstrap import Kind, block_indices, mean_interval, statistic_interval
from core.optimizer.errors import BadInput

RUNS = 10_000
ROWS = 100
Floats = npt.NDArray[np.float64]


def covered(table: Floats, mean: float) -> float:
    """How often the interval of a row, each with a seed of its own, holds the mean."""
    hits = 0
    for seed, row in enumerate(table):
        interval = mean_interval(row, seed=seed)
        hits += interval.low <= mean <= interval.high
    return hits / len(table)


@pytest.mark.slow
def test_the_mean_is_covered_95_percent_of_the_time_when_returns_are_normal() -> None:
    table = np.random.default_rng(20).normal(0.001, 0.02, (RUNS, ROWS))
    assert covered(table, 0.001) == pytest.approx(0.95, abs=0.01)


@pytest.mark.slow
def test_the_mean_is_covered_95_percent_of_the_time_when_trades_are_skewed() -> None:
    table = np.random.default_rng(21).exponential(3.0, (RUNS, ROWS)) - 2.0
    assert covered(table, 1.0) == pytest.approx(0.95, abs=0.01)


def test_the_mean_is_covered_about_as_often_when_returns_depend_on_the_last() -> None:
    """AR(1) with 0.5, 500 rows; blocks of 1 cover it about 75 % of the time."""
    drawn = np.random.default_rng(22).standard_normal((1000, 600))
    for at in range(1, 600):
        drawn[:, at] += 0.5 * drawn[:, at - 1]
    table = drawn[:, 100:]
    assert covered(table, 0.0) == pytest.approx(0.94, abs=0.02)
    plain = [mean_interval(row, seed=seed, block=1) for seed, row in enumerate(table[:300])]
    assert sum(one.low <= 0.0 <= one.high for one in plain) / 300 < 0.82


def test_an_interval_is_the_same_when_its_seed_is_and_moves_with_the_data() -> None:
    values = np.random.default_rng(1).standard_normal(60)
    one = mean_interval(values, seed=5)
    assert one == mean_interval(values, seed=5)
    assert one != mean_interval(values, seed=6)
    moved = mean_interval(values * 1e-7 + 3.0, seed=5)
    assert moved.low == pytest.approx(one.low * 1e-7 + 3.0, abs=1e-14)
    assert moved.high == pytest.approx(one.high * 1e-7 + 3.0, abs=1e-14)
    assert one.estimate == pytest.approx(values.mean())
    assert one.low < one.estimate < one.high
    wide = mean_interval(values, seed=5, level=0.99)
    assert wide.low < one.low < one.high < wide.high


def test_an_interval_equals_the_t_interval_when_returns_are_normal_and_many() -> None:
    values = np.random.default_rng(2).standard_normal(4000)
    found = mean_interval(values, seed=1, runs=9999, block=1)
    half = 1.9606 * values.std(ddof=1) / math.sqrt(4000)
    assert found.high - found.estimate == pytest.approx(half, rel=0.04)
    assert found.estimate - found.low == pytest.approx(half, rel=0.04)


@given(
    rows=st.integers(1, 60), block=st.integers(1, 60), kind=st.sampled_from(["moving", "circular", "stationary"]),
    seed=st.integers(0, 2**64),
)  # fmt: skip
def test_resampled_rows_are_blocks_of_neighbours_when_drawn_as_any_kind(
    rows: int, block: int, kind: Kind, seed: int
) -> None:
    block = min(block, rows)
    made = block_indices(rows, 7, block, kind, seed)
    assert made.shape == (7, rows)
    assert made.min() >= 0
    assert made.max() < rows
    assert (made == block_indices(rows, 7, block, kind, seed)).all()
    follows = (made[:, :-1] + 1) % rows == made[:, 1:]
    if kind != "stationary":
        inner = np.arange(1, rows) % block != 0
        assert follows[:, inner].all()
    if kind == "moving":
        starts = made[:, ::block]
        assert starts.max() <= rows - block


@pytest.mark.parametrize("kind", ["circular", "stationary"])
def test_every_row_is_drawn_equally_often_when_blocks_lie_on_a_ring(kind: Kind) -> None:
    made = block_indices(20, 40_000, 5, kind, 1)
    counts = np.bincount(made.ravel(), minlength=20) / 40_000
    assert counts == pytest.approx(1.0, abs=0.05)


def test_block_lengths_are_geometric_when_stationary() -> None:
    made = block_indices(1000, 200, 8, "stationary", 1)
    breaks = (made[:, :-1] + 1) % 1000 != made[:, 1:]
    assert breaks.mean() == pytest.approx(1 / 8, rel=0.03)
    assert (breaks[:, :-1] & breaks[:, 1:]).mean() == pytest.approx(1 / 64, rel=0.1)  # no memory


def test_an_interval_covers_when_the_statistic_is_not_a_mean() -> None:
    """The variance of 80 exponential draws is 1; BCa, with its bias and skew taken out, covers about 88 to 93 %."""
    hits, plain = 0, 0
    for seed in range(400):
        values = np.random.default_rng(seed).standard_exponential(80)
        found = statistic_interval(values, lambda many: many.var(axis=1, ddof=1), seed=seed, runs=599, block=1)
        hits += found.low <= 1.0 <= found.high
        drawn = values[block_indices(80, 599, 1, "circular", seed)].var(axis=1, ddof=1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        plain += low <= 1.0 <= high
    assert hits / 400 > 0.85
    assert hits > plain


def test_an_interval_stays_within_the_range_of_its_statistic_when_it_is_a_share() -> None:
    wins = (np.random.default_rng(3).random(50) < 0.9).astype(np.float64)
    for kind in ("moving", "circular", "stationary"):
        found = statistic_interval(wins, lambda many: many.mean(axis=1), seed=1, kind=kind)  # type: ignore[arg-type]
        assert 0.0 <= found.low < found.estimate < found.high <= 1.0


@pytest.mark.parametrize(
    ("share", "rows", "seed", "circular", "stationary"),
    [
        (0.0, 200, 1, 8.67722324729437, 7.580252716992032),
        (0.3, 500, 2, 5.9035558297324275, 5.15723104533434),
        (0.5, 500, 3, 10.551166325187742, 9.217292781867494),
        (0.8, 1000, 4, 32.252411261576015, 28.17507641875381),
        (-0.5, 300, 5, 9.734769070330138, 8.504104088559549),
        (0.9, 100, 6, 14.910023160478833, 13.025104961760077),
    ],
)
def test_block_length_is_that_of_another_program_when_rows_depend_on_each_other(
    share: float, rows: int, seed: int, circular: float, stationary: float
) -> None:
    """The numbers are those of `arch.bootstrap.optimal_block_length` for the same series."""
    values = np.random.default_rng(seed).standard_normal(rows)
    for at in range(1, rows):
        values[at] += share * values[at - 1]
    found = block_length(values)
    assert found.circular == pytest.approx(circular, rel=1e-9)
    assert found.stationary == pytest.approx(stationary, rel=1e-9)


def test_block_length_is_short_when_rows_are_independent_and_grows_with_dependence() -> None:
    def mean_length(share: float) -> float:
        lengths = []
        for seed in range(40):
            values = np.random.default_rng(seed).standard_normal(500)
            for at in range(1, 500):
                values[at] += share * values[at - 1]
            lengths.append(block_length(values).circular)
        return float(np.mean(lengths))

    assert mean_length(0.0) < 2 < mean_length(0.3) < mean_length(0.6) < mean_length(0.9)


def test_a_refusal_names_the_field_when_nothing_can_be_resampled() -> None:
    fine = np.arange(20.0)
    rare = np.zeros(100)
    rare[3] = 1.0
    for make, field in [
        (lambda: mean_interval(fine[:7], seed=1), "values"),
        (lambda: mean_interval(np.ones(20), seed=1), "values"),
        (lambda: mean_interval(rare, seed=1), "values"),
        (lambda: mean_interval(fine, seed=1, level=1.0), "level"),
        (lambda: mean_interval(fine, seed=1, runs=10), "runs"),
        (lambda: mean_interval(fine, seed=1, block=6), "block"),
        (lambda: mean_interval(fine, seed=-1), "seed"),
        (lambda: block_indices(10, 1, 11, "moving", 1), "block"),
        (lambda: block_indices(10, 1, 1, "square", 1), "kind"),  # type: ignore[arg-type]
        (lambda: statistic_interval(fine, lambda many: many, seed=1), "statistic"),
        (lambda: statistic_interval(fine, lambda many: many[:, 0] * np.nan, seed=1), "statistic"),
        (lambda: statistic_interval(fine, lambda many: many[:3, 0].repeat(1)[:0], seed=1), "statistic"),
    ]:
        with pytest.raises(BadInput) as refused:
            make()
        assert refused.value.field == field
    with pytest.raises(BadInput) as refused:
        mean_interval(np.array([*fine, np.nan]), seed=1)
    assert refused.value.row == 20
