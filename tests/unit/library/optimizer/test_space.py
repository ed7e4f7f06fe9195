"""What may be tried, and how it is spread."""

import itertools
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.optimizer.errors import BadInput
from core.optimizer.grid import Grid, grid
from core.optimizer.random_search import random_candidates
from core.optimizer.space import Choice, Integer, Log, Parameter, Real, Space

FINITE = st.floats(-1e12, 1e12)


@st.composite
def parameters(draw: st.DrawFn) -> Parameter:
    match draw(st.sampled_from(["integer", "real", "log", "choice"])):
        case "integer":
            low, step, count = draw(st.integers(-1000, 1000)), draw(st.integers(1, 9)), draw(st.integers(1, 50))
            return Integer(low, low + step * (count - 1), step)
        case "real":
            low, high = sorted(draw(st.lists(FINITE, min_size=2, max_size=2, unique=True)))
            return Real(low, high)
        case "log":
            ends = st.lists(st.floats(1e-9, 1e9), min_size=2, max_size=2, unique=True)
            low, high = sorted(draw(ends))
            return Log(low, high)
    values = draw(st.lists(st.one_of(st.booleans(), st.integers(), st.text(max_size=3)), min_size=1, unique_by=repr))
    return Choice(tuple(values))


@example(Integer(-3, 3, 2), 1.0)
@example(Choice((1, 2, 3)), 1.0)
@example(Log(0.1, 0.3), 1.0)
@given(parameters(), st.floats(0, 1))
def test_a_value_is_of_its_axis_when_it_was_drawn_anywhere(axis: Parameter, unit: float) -> None:
    value = axis.at(unit)
    assert axis.check("x", value) == value
    assert 0 <= axis.unit(value) <= 1


@given(parameters(), st.integers(1, 20))
def test_a_grid_axis_holds_different_values_of_its_axis_when_points_are_asked_for(axis: Parameter, points: int) -> None:
    values = axis.grid(points)
    assert all(axis.check("x", value) == value for value in values)
    if not isinstance(axis, Choice):
        assert len(values) <= points
        assert list(values) == sorted(values)
    if isinstance(axis, Integer):
        assert len(values) == len(set(values)) == min(points, axis.count)
        if points > 1:
            assert (values[0], values[-1]) == (axis.low, axis.high)


@given(parameters())
def test_a_countable_value_comes_back_when_it_goes_through_the_unit_interval(axis: Parameter) -> None:
    if isinstance(axis, Integer | Choice):
        for value in axis.grid(None):
            assert repr(axis.at(axis.unit(value))) == repr(value)


def test_grid_values_are_the_ends_and_even_between_when_the_axis_is_real_or_log() -> None:
    assert Real(0, 1).grid(5) == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert Log(0.01, 100).grid(5) == pytest.approx((0.01, 0.1, 1, 10, 100))
    assert Log(0.01, 100).grid(3)[::2] == (0.01, 100.0)
    assert Integer(0, 10).grid(3) == (0, 5, 10)
    assert Integer(0, 100, 25).grid(None) == (0, 25, 50, 75, 100)
    assert Real(0, 1).grid(1) == (0.5,)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Integer(3, 2), "high"),
        (lambda: Integer(0, 10, 3), "step"),
        (lambda: Integer(0, 10, 0), "step"),
        (lambda: Integer(1.5, 2), "low"),  # type: ignore[arg-type]
        (lambda: Integer(True, 2), "low"),
        (lambda: Real(1, 1), "high"),
        (lambda: Real(math.nan, 1), "low"),
        (lambda: Real(0, math.inf), "high"),
        (lambda: Real(-1.7e308, 1.7e308), "high"),
        (lambda: Log(0, 1), "low"),
        (lambda: Choice(()), "values"),
        (lambda: Choice((1, 1)), "values"),
        (lambda: Choice((math.nan,)), "values"),
        (lambda: Choice(([],)), "values"),  # type: ignore[arg-type]
        (lambda: Space({}), "parameters"),
        (lambda: Space({"@start": Integer(1, 2)}), "parameters"),
        (lambda: Space({"": Integer(1, 2)}), "parameters"),
        (lambda: grid(Space({"x": Real(0, 1)})), "points.x"),
        (lambda: grid(Space({"x": Real(0, 1)}), {"y": 3}), "points.y"),
        (lambda: grid(Space({"x": Real(0, 1)}), 0), "points.x"),
        (lambda: grid(Space({name: Integer(0, 2**20) for name in "abc"})), "points"),
        (lambda: random_candidates(Space({"x": Real(0, 1)}), 0, 1), "count"),
        (lambda: random_candidates(Space({"x": Real(0, 1)}), 1, -1), "seed"),
    ],
)
def test_a_refusal_names_the_field_when_a_space_is_wrong(make: object, field: str) -> None:
    with pytest.raises(BadInput) as refused:
        make()  # type: ignore[operator]
    assert refused.value.field == field
    assert refused.value.rule


def test_a_choice_keeps_its_type_when_equal_values_differ_in_type() -> None:
    axis = Choice((1, 1.0, True, "1"))
    assert [repr(axis.check("x", value)) for value in (True, 1, 1.0, "1")] == ["True", "1", "1.0", "'1'"]


def test_parameters_are_put_in_order_when_checked_and_refused_by_name() -> None:
    space = Space({"a": Integer(1, 9, 2), "b": Real(0, 1)})
    assert list(space.check({"b": 1, "a": 3}).items()) == [("a", 3), ("b", 1.0)]
    for params, field in [
        ({"a": 1}, "b"),
        ({"a": 1, "b": 0.5, "c": 1}, "c"),
        ({"a": 2, "b": 0}, "a"),
        ({"a": 1, "b": 2}, "b"),
    ]:
        with pytest.raises(BadInput) as refused:
            space.check(params)
        assert refused.value.field == field


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_a_grid_is_the_product_when_its_axes_are_any(sizes: list[int]) -> None:
    axes = {f"p{at}": tuple(range(size)) for at, size in enumerate(sizes)}
    made = Grid(axes)
    wanted = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    assert list(made) == wanted
    assert [made[at] for at in range(len(made))] == wanted
    assert made[-1] == wanted[-1]
    assert list(made[1:3]) == wanted[1:3]
    with pytest.raises(IndexError):
        made[len(made)]


def test_a_grid_costs_no_memory_when_it_has_a_million_million_candidates() -> None:
    made = grid(Space({name: Integer(0, 999) for name in "abcd"}), {"d": 1})
    assert len(made) == 10**9
    assert made[123456789] == {"a": 123, "b": 456, "c": 789, "d": 499}


def test_random_candidates_extend_when_more_are_asked_for() -> None:
    space = Space({"a": Integer(1, 9), "b": Log(0.1, 10), "c": Choice(("x", "y"))})
    few, many = random_candidates(space, 10, 3), random_candidates(space, 50, 3)
    assert many[:10] == few
    assert all(space.check(params) == params for params in many)
    assert random_candidates(space, 10, 4) != few


def test_random_candidates_are_even_when_there_are_many() -> None:
    space = Space({"i": Integer(0, 4), "l": Log(0.01, 100), "c": Choice(("x", "y"))})
    made = random_candidates(space, 20_000, 1)
    for value in range(5):
        assert sum(params["i"] == value for params in made) == pytest.approx(4000, abs=250)
    assert sum(float(params["l"]) < 1 for params in made) == pytest.approx(10_000, abs=350)
    assert sum(params["c"] == "x" for params in made) == pytest.approx(10_000, abs=350)
