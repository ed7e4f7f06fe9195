"""Journals: cut anywhere they resume, and another optimisation's is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.optimizer.errors import BadInput
from core.optimizer.grid import grid
from core.optimizer.journal import Journal, MemoryJournal
from core.optimizer.journal_file import JournalFile
from core.optimizer.running import RunSettings, optimise
from core.optimizer.trials import Outcome, Trial
from tests.unit.library.optimizer import objectives
from tests.unit.library.optimizer.objectives import SEED, SPACE

CANDIDATES = grid(SPACE)
VALUES = st.one_of(
    st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False, allow_infinity=False), st.text()
)


def full() -> tuple[str, object]:
    journal = MemoryJournal()
    found = optimise(objectives.picky, CANDIDATES, seed=SEED, settings=RunSettings(workers=0, journal=journal))
    return journal.text(), found


TEXT, FOUND = full()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(TEXT)))
def test_a_run_resumes_to_the_same_result_when_the_journal_was_cut_at_any_byte(cut: int) -> None:
    journal = MemoryJournal(TEXT[:cut])
    settings = RunSettings(workers=0, journal=journal)
    assert optimise(objectives.picky, CANDIDATES, seed=SEED, settings=settings) == FOUND
    assert journal.text() == TEXT


def test_a_cut_line_leaves_the_file_when_a_run_resumes(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text(TEXT[: len(TEXT) // 2])
    with JournalFile(path) as journal:
        settings = RunSettings(workers=0, journal=journal)
        assert optimise(objectives.picky, CANDIDATES, seed=SEED, settings=settings) == FOUND
    assert path.read_text() == TEXT


@pytest.mark.parametrize(
    ("change", "field"),
    [({"seed": 8}, "seed"), ({"label": "other data"}, "label"), ({"objective": objectives.score}, "objective")],
)
def test_a_journal_is_refused_when_it_belongs_to_another_optimisation(change: dict[str, object], field: str) -> None:
    journal = MemoryJournal(TEXT)
    settings = RunSettings(workers=0, journal=journal, label=str(change.get("label", "")))
    with pytest.raises(BadInput, match=f"another optimisation: .*{field}") as refused:
        optimise(
            change.get("objective", objectives.picky), CANDIDATES, seed=change.get("seed", SEED), settings=settings
        )  # type: ignore[arg-type]
    assert (refused.value.field, refused.value.row) == ("journal", 0)
    assert journal.text() == TEXT


def test_a_journal_is_refused_when_the_candidates_differ() -> None:
    settings = RunSettings(workers=0, journal=MemoryJournal(TEXT))
    with pytest.raises(BadInput, match="trials differ"):
        optimise(objectives.picky, CANDIDATES[:24], seed=SEED, settings=settings)


@pytest.mark.parametrize(
    "broken",
    [
        "{",
        "[]",
        "{}",
        '{"index":0}',
        '{"index":0,"seed":1,"params":{},"metrics":{"a":"x"}}',
        '{"index":0,"seed":1,"params":3,"metrics":{}}',
    ],
)
def test_a_refusal_names_the_row_when_a_line_in_the_middle_is_broken(broken: str) -> None:
    lines = TEXT.splitlines()
    lines[7] = broken
    with pytest.raises(BadInput) as refused:
        optimise(
            objectives.picky, CANDIDATES, seed=SEED,
            settings=RunSettings(workers=0, journal=MemoryJournal("\n".join(lines) + "\n")),
        )  # fmt: skip
    assert (refused.value.field, refused.value.row) == ("journal", 7)


def test_a_file_is_refused_when_it_is_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(b"\x89PNG\n\xff\n")
    with JournalFile(path) as journal, pytest.raises(BadInput, match="no journal"):
        optimise(objectives.picky, CANDIDATES, seed=SEED, settings=RunSettings(workers=0, journal=journal))
    assert path.read_bytes() == b"\x89PNG\n\xff\n"


@given(
    st.dictionaries(st.text(min_size=1), VALUES, max_size=4),
    st.dictionaries(st.text(), st.floats(allow_nan=False), max_size=4),
    st.none() | st.text(),
)
def test_an_outcome_is_read_back_exactly_when_it_was_written(
    params: dict[str, bool | int | float | str], metrics: dict[str, float], error: str | None
) -> None:
    place = MemoryJournal()
    trial = Trial(3, params, 5)
    Journal(place, {}).record(Outcome(trial, metrics, error))
    assert repr(Journal(MemoryJournal(place.text()), {}).find(trial)) == repr(Outcome(trial, metrics, error))
    for line in place.text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # no Infinity: any reader of JSON can read it


def test_another_trial_is_refused_when_the_journal_has_its_index() -> None:
    place = MemoryJournal()
    journal = Journal(place, {})
    journal.record(Outcome(Trial(0, {"a": 1}, 5), {}))
    for other in (Trial(0, {"a": 2}, 5), Trial(0, {"a": True}, 5), Trial(0, {"a": 1}, 6), Trial(0, {"b": 1}, 5)):
        with pytest.raises(BadInput, match="trial 0 was made with"):
            journal.find(other)
    assert journal.find(Trial(1, {}, 0)) is None
    assert len(journal) == 1


def test_numpy_numbers_are_kept_when_they_are_parameters() -> None:
    place = MemoryJournal()
    Journal(place, {"n": np.int64(3)}).record(Outcome(Trial(0, {"a": np.float64(0.1)}, 5), {}))
    assert Journal(MemoryJournal(place.text()), {"n": 3}).find(Trial(0, {"a": 0.1}, 5)) is not None
    with pytest.raises(BadInput, match="cannot keep"):
        Journal(MemoryJournal(), {"n": object()})
