"""Maps of a metric over parameters."""

from collections.abc import Mapping

import numpy as np
import pytest

from core.optimizer.errors import BadInput
from core.optimizer.grid import grid
from core.optimizer.running import Optimisation, RunSettings, optimise
from core.optimizer.sensitivity import influence, sensitivity_map
from core.optimizer.space import Choice, Integer, Params, Space
from tests.unit.library.optimizer.objectives import picky

SPACE = Space({"a": Integer(1, 3), "b": Integer(0, 20, 10), "c": Choice(("x", "y"))})


def plain(params: Params, seed: int) -> Mapping[str, float]:
    return {"m": int(params["a"]) * 100 + int(params["b"]) + (1 if params["c"] == "y" else 0)}


def found(objective: object = plain, space: Space = SPACE) -> Optimisation:
    return optimise(objective, grid(space), seed=1, settings=RunSettings(workers=0))  # type: ignore[arg-type]


def test_a_map_is_the_one_worked_by_hand_when_the_rest_is_averaged_or_the_best() -> None:
    made = sensitivity_map(found(), "m", "a", "b")
    assert (made.x_values, made.y_values) == ((1, 2, 3), (0, 10, 20))
    assert made.values.tolist() == [[100.5, 110.5, 120.5], [200.5, 210.5, 220.5], [300.5, 310.5, 320.5]]
    assert (made.counts == 2).all()
    assert made.best() == (3, 20)
    assert made.best(maximise=False) == (1, 0)
    assert sensitivity_map(found(), "m", "a", "b", reduce="max").values[0, 0] == 101
    assert sensitivity_map(found(), "m", "a", "b", reduce="min").values[0, 0] == 100


def test_a_map_has_one_column_when_it_is_over_one_parameter() -> None:
    made = sensitivity_map(found(), "m", "c")
    assert made.x_values == ("x", "y")
    assert made.values.tolist() == [[210.0], [211.0]]
    assert made.best() == ("y", None)


def test_a_plateau_is_preferred_when_a_peak_stands_alone() -> None:
    def peak(params: Params, seed: int) -> Mapping[str, float]:
        return {"m": 10.0 if (params["x"], params["y"]) == (0, 0) else 6.0 if int(params["x"]) > 3 else 0.0}

    made = sensitivity_map(found(peak, Space({"x": Integer(0, 6), "y": Integer(0, 6)})), "m", "x", "y")
    assert made.best() == (0, 0)
    assert made.best(plateau=True)[0] in (5, 6)
    assert made.plateau()[0, 0] == pytest.approx(10 / 4)
    assert made.plateau()[3, 3] == pytest.approx(6 * 3 / 9)


def test_a_cell_is_masked_when_no_trial_of_it_succeeded() -> None:
    made = sensitivity_map(
        found(picky, Space({"fast": Integer(1, 5), "slow": Integer(10, 14)})), "score", "fast", "slow"
    )
    assert np.ma.getmaskarray(made.values)[:2].all()
    assert not np.ma.getmaskarray(made.values)[2:].any()
    assert made.failed.tolist() == [[1] * 5] * 2 + [[0] * 5] * 3
    assert made.counts.sum() == 15
    assert np.ma.getmaskarray(made.plateau())[:2].all()
    only = Optimisation(found(picky, Space({"fast": Integer(1, 2)})).outcomes, True)
    with pytest.raises(BadInput, match="no cell"):
        sensitivity_map(only, "score", "fast").best()


def test_influence_is_the_share_of_variance_when_effects_only_add() -> None:
    shares = influence(found(), "m")
    variances = {"a": np.var([100, 200, 300]), "b": np.var([0, 10, 20]), "c": np.var([0, 1])}
    total = sum(variances.values())
    assert shares == pytest.approx({name: value / total for name, value in variances.items()})
    assert influence(found(lambda params, seed: {"m": 1.0}), "m") == {"a": 0, "b": 0, "c": 0}


def test_a_refusal_names_the_field_when_a_map_cannot_be_made() -> None:
    for make, field in [
        (lambda: sensitivity_map(found(), "m", "z"), "x"),
        (lambda: sensitivity_map(found(), "m", "a", "z"), "y"),
        (lambda: sensitivity_map(found(), "m", "a", "a"), "y"),
        (lambda: sensitivity_map(found(), "n", "a"), "metric"),
        (lambda: sensitivity_map(found(), "m", "a", reduce="sum"), "reduce"),  # type: ignore[arg-type]
        (lambda: sensitivity_map(Optimisation((), True), "m", "a"), "found"),
        (lambda: influence(Optimisation((), True), "m"), "found"),
        (lambda: influence(found(lambda params, seed: {"m": float("inf")}), "m"), "metric"),
    ]:
        with pytest.raises(BadInput) as refused:
            make()
        assert refused.value.field == field
