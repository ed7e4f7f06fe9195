"""Windows against scikit-learn's, and what is chosen in them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import TimeSeriesSplit

from core.errors import NotFound
from core.optimizer.errors import BadInput
from core.optimizer.journal import MemoryJournal
from core.optimizer.running import RunSettings
from core.optimizer.walk_forward import Span, Window, anchored, rolling, walk_forward, windows
from tests.unit.library.optimizer.objectives import drift

IN_PLACE = RunSettings(workers=0)
CANDIDATES = [{"fast": fast} for fast in range(1, 8)]


@settings(max_examples=1000, deadline=None)
@given(
    samples=st.integers(1, 60),
    n_splits=st.integers(1, 8),
    max_train_size=st.none() | st.integers(1, 30),
    test_size=st.none() | st.integers(1, 12),
    gap=st.integers(0, 12),
)
def test_windows_equal_those_of_scikit_learn_when_given_the_same_parameters(
    samples: int, n_splits: int, max_train_size: int | None, test_size: int | None, gap: int
) -> None:
    try:
        theirs = [
            (list(train), list(test))
            for train, test in TimeSeriesSplit(
                n_splits, max_train_size=max_train_size, test_size=test_size, gap=gap
            ).split(range(samples))
        ]
    except ValueError:
        with pytest.raises(BadInput):
            windows(samples, n_splits, max_train_size=max_train_size, test_size=test_size, gap=gap)
        return
    ours = windows(samples, n_splits, max_train_size=max_train_size, test_size=test_size, gap=gap)
    rows = list(range(samples))
    assert [(rows[window.train.rows], rows[window.test.rows]) for window in ours] == theirs


def test_windows_are_those_worked_by_hand_when_anchored_and_rolling() -> None:
    assert anchored(10, 3, test_size=2, gap=1) == (
        Window(Span(0, 3), Span(4, 6)),
        Window(Span(0, 5), Span(6, 8)),
        Window(Span(0, 7), Span(8, 10)),
    )
    assert rolling(10, 3, 3, test_size=2, gap=1) == (
        Window(Span(0, 3), Span(4, 6)),
        Window(Span(2, 5), Span(6, 8)),
        Window(Span(4, 7), Span(8, 10)),
    )


def test_a_refusal_names_the_field_when_windows_do_not_fit() -> None:
    for make, field in [
        (lambda: windows(10, 1), "n_splits"),
        (lambda: windows(3, 3), "n_splits"),
        (lambda: windows(10, 2, test_size=5), "test_size"),
        (lambda: windows(10, 2, gap=-1), "gap"),
        (lambda: windows(10, 2, max_train_size=0), "max_train_size"),
        (lambda: rolling(10, 3, 5, test_size=2), "train_size"),
        (lambda: walk_forward(drift, [], windows(10, 2), "profit", seed=1), "candidates"),
        (lambda: walk_forward(drift, CANDIDATES, [], "profit", seed=1), "over"),
    ]:
        with pytest.raises(BadInput) as refused:
            make()
        assert refused.value.field == field


def test_the_best_in_training_is_tested_when_each_window_has_another_best() -> None:
    over = anchored(50, 4, test_size=10)
    found = walk_forward(drift, CANDIDATES, over, "profit", seed=1, settings=IN_PLACE)
    assert found.complete
    assert [step.chosen.trial.params["fast"] for step in found.steps if step.chosen] == [1, 2, 3, 4]
    for step in found.steps:
        assert step.test is not None
        assert step.test.metrics["start"] == step.window.test.start
        assert step.test.metrics["rows"] == 10
        assert all(outcome.metrics["start"] == 0 for outcome in step.train.outcomes)
        assert len(step.train.outcomes) == len(CANDIDATES)


def test_efficiency_is_the_ratio_of_means_when_tests_succeeded() -> None:
    found = walk_forward(_half_as_good, CANDIDATES, anchored(50, 4), "profit", seed=1, settings=IN_PLACE)
    assert found.efficiency() == pytest.approx(0.5)


def test_walk_forward_is_the_same_when_it_runs_in_processes_and_resumes() -> None:
    over = rolling(60, 3, 20, test_size=10)
    journal = MemoryJournal()
    whole = walk_forward(drift, CANDIDATES, over, "profit", seed=1, settings=RunSettings(workers=2, journal=journal))
    assert whole == walk_forward(drift, CANDIDATES, over, "profit", seed=1, settings=IN_PLACE)
    lines = journal.text().splitlines(keepends=True)
    for kept in (1, 9, len(lines) - 1, len(lines)):
        again = RunSettings(workers=0, journal=MemoryJournal("".join(lines[:kept])))
        assert walk_forward(drift, CANDIDATES, over, "profit", seed=1, settings=again) == whole
    with pytest.raises(BadInput, match="another optimisation"):
        walk_forward(drift, CANDIDATES, over, "rows", seed=1, settings=RunSettings(workers=0, journal=journal))


def test_a_window_has_no_test_when_nothing_succeeded_in_its_training() -> None:
    found = walk_forward(_fails_early, CANDIDATES, anchored(50, 4), "profit", seed=1, settings=IN_PLACE)
    assert [step.test is None for step in found.steps] == [True, False, False, False]
    assert "too early" in str(found.steps[0].train.failed[0].error)
    nothing = walk_forward(_fails_early, CANDIDATES, anchored(10, 2), "profit", seed=1, settings=IN_PLACE)
    with pytest.raises(NotFound):
        nothing.efficiency()


def test_nothing_is_tested_when_the_run_is_cancelled() -> None:
    calls = iter([False] * 5 + [True] * 100)
    stopped = RunSettings(workers=0, cancelled=lambda: next(calls))
    found = walk_forward(drift, CANDIDATES, anchored(50, 4), "profit", seed=1, settings=stopped)
    assert not found.complete
    assert [len(step.train.outcomes) for step in found.steps] == [5, 0, 0, 0]
    assert all(step.chosen is None and step.test is None for step in found.steps)


def _half_as_good(params: object, seed: int, rows: Span) -> dict[str, float]:
    return {"profit": 2.0 if rows.start == 0 else 1.0}


def _fails_early(params: object, seed: int, rows: Span) -> dict[str, float]:
    if rows.stop <= 10:
        raise ValueError("too early")
    return {"profit": 1.0}
