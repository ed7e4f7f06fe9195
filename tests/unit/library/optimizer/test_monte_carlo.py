"""Other orders, other draws, other parameters."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.optimizer.errors import BadInput
from core.optimizer.monte_carlo import jittered, resample_trades, robustness, shuffle_trades
from core.optimizer.running import RunSettings, optimise
from core.optimizer.space import Choice, Integer, Log, Real, Space
from tests.unit.library.optimizer.objectives import picky, score

SPACE = Space({"i": Integer(0, 20), "r": Real(-1, 1), "l": Log(0.01, 100), "c": Choice(("a", "b"))})
AT = {"i": 5, "r": 0.9, "l": 1.0, "c": "b"}


def test_drawdowns_are_those_of_every_order_when_three_trades_are_shuffled() -> None:
    """From 10: 13 11 7 falls 6, 13 9 7: 6, 8 11 7: 4, 8 4 7: 6, 6 9 7: 4, 6 4 7: 6."""
    found = shuffle_trades(np.array([3.0, -2.0, -4.0]), start=10.0, runs=30_000, seed=1)
    assert np.mean(found.drawdown == 4.0) == pytest.approx(2 / 6, abs=0.01)
    assert np.mean(found.drawdown == 6.0) == pytest.approx(4 / 6, abs=0.01)
    assert np.mean(found.drawdown_share == 3 / 10) == 0.0
    assert np.mean(found.drawdown_share == 6 / 13) == pytest.approx(2 / 6, abs=0.01)
    assert found.final == pytest.approx(7.0)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=30), st.booleans(), st.integers(0, 2**32))
def test_the_sum_stays_and_falls_add_up_when_trades_are_shuffled(
    results: list[float], compounding: bool, seed: int
) -> None:
    trades = np.array(results) / (100 if compounding else 1)
    found = shuffle_trades(trades, start=100.0, runs=5, seed=seed, compounding=compounding)
    final = 100.0 * np.prod(1 + trades) if compounding else 100.0 + trades.sum()
    assert found.final == pytest.approx(final, rel=1e-9, abs=1e-9)
    assert (found.lowest <= np.minimum(100.0, found.final) + 1e-9).all()
    assert (found.drawdown >= 100.0 - found.lowest - 1e-9).all()
    assert (found.drawdown_share >= 0).all()
    if compounding:
        assert (found.drawdown_share <= 1).all()


def test_paths_are_the_same_when_the_seed_is() -> None:
    trades = np.random.default_rng(1).normal(1, 10, 50)
    for make in (shuffle_trades, resample_trades):
        one, same = (make(trades, start=100.0, runs=100, seed=3) for _ in range(2))
        assert (one.drawdown == same.drawdown).all()
        assert (one.drawdown != make(trades, start=100.0, runs=100, seed=4).drawdown).any()


def test_all_runs_are_made_when_they_do_not_fit_in_memory_at_once() -> None:
    trades = np.random.default_rng(1).normal(1, 10, 1500)
    found = resample_trades(trades, start=100.0, runs=3000, seed=1)
    assert found.final.shape == found.drawdown_share.shape == (3000,)
    assert len(np.unique(found.final)) == 3000
    assert found.final.mean() == pytest.approx(100 + trades.sum(), abs=4 * 10 * 1500**0.5 / 3000**0.5)
    assert found.final.std() == pytest.approx(trades.std() * 1500**0.5, rel=0.05)


def test_ruin_is_the_share_of_paths_that_touch_a_level() -> None:
    found = shuffle_trades(np.array([5.0, -5.0]), start=10.0, runs=20_000, seed=1)
    assert found.ruin(5.0) == pytest.approx(0.5, abs=0.02)
    assert found.ruin(4.99) == 0.0
    assert found.ruin(10.0) == 1.0


@given(st.integers(0, 2**32), st.floats(0.001, 0.999))
def test_neighbours_are_of_the_space_when_jittered(seed: int, scale: float) -> None:
    made = jittered(SPACE, AT, count=20, scale=scale, seed=seed)
    assert len(made) == 20
    for params in made:
        assert SPACE.check(params) == params
        assert params["c"] == "b"


def test_neighbours_lie_as_far_as_the_scale_says_when_jittered() -> None:
    made = jittered(SPACE, {**AT, "r": 0.0}, count=20_000, scale=0.05, seed=1)
    assert np.std([params["r"] for params in made]) == pytest.approx(0.05 * 2, rel=0.03)
    assert np.std(np.log([params["l"] for params in made])) == pytest.approx(0.05 * np.log(1e4), rel=0.03)
    assert np.std([params["i"] for params in made]) == pytest.approx(0.05 * 21, rel=0.06)


def test_robustness_compares_neighbours_with_the_base_when_some_failed() -> None:
    space = Space({"fast": Integer(1, 5), "slow": Integer(10, 14)})
    near = jittered(space, {"fast": 3, "slow": 12}, count=60, scale=0.3, seed=1)
    fine = robustness(2.0, optimise(score, near, seed=1, settings=RunSettings(workers=0)), "score")
    assert fine.failed == 0
    assert fine.worst <= fine.median <= fine.best
    assert fine.kept == pytest.approx(fine.median / 2.0)
    some = robustness(0.0, optimise(picky, near, seed=1, settings=RunSettings(workers=0)), "score")
    assert some.failed == sum(params["fast"] in (1, 2) for params in near) > 0
    assert some.kept is None


def test_a_refusal_names_the_field_when_nothing_can_be_simulated() -> None:
    trades = np.array([1.0, -1.5, 2.0])
    for make, field, row in [
        (lambda: shuffle_trades(np.array([]), start=1.0, runs=1, seed=1), "results", None),
        (lambda: shuffle_trades(np.array([1.0, np.nan]), start=1.0, runs=1, seed=1), "results", 1),
        (lambda: shuffle_trades(trades, start=1.0, runs=1, seed=1, compounding=True), "results", 1),
        (lambda: shuffle_trades(trades, start=0.0, runs=1, seed=1), "start", None),
        (lambda: shuffle_trades(trades, start=1.0, runs=0, seed=1), "runs", None),
        (lambda: resample_trades(trades, start=1.0, runs=1, seed=1, block=4), "block", None),
        (lambda: jittered(SPACE, AT, count=1, scale=1.0, seed=1), "scale", None),
        (lambda: jittered(SPACE, {**AT, "i": 21}, count=1, scale=0.1, seed=1), "i", None),
    ]:
        with pytest.raises(BadInput) as refused:
            make()
        assert (refused.value.field, refused.value.row) == (field, row)
    nothing = optimise(picky, [{"fast": 1, "slow": 10}], seed=1, settings=RunSettings(workers=0))
    with pytest.raises(BadInput, match="no neighbour succeeded"):
        robustness(1.0, nothing, "score")
