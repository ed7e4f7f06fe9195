"""Bayesian search: an optional extra, seeded and resumable as the others."""

import importlib
import sys
from collections.abc import Mapping

import pytest

from core.errors import ConfigurationError
from core.optimizer.bayes import bayes_search
from core.optimizer.errors import BadInput
from core.optimizer.journal import MemoryJournal
from core.optimizer.random_search import random_candidates
from core.optimizer.running import Progress, RunSettings, optimise
from core.optimizer.space import Choice, Integer, Log, Params, Real, Space

SPACE = Space({"i": Integer(0, 20, 2), "r": Real(-1, 1), "l": Log(0.01, 100), "c": Choice((1, 1.0, True))})
IN_PLACE = RunSettings(workers=0)


def bowl(params: Params, seed: int) -> Mapping[str, float]:
    """Best (0) at i = 6, r = 0.3, l small, c = True."""
    if params["i"] == 20:
        raise ValueError("too large")
    away = abs(float(params["i"]) - 6) / 10 + abs(float(params["r"]) - 0.3) + float(params["l"]) / 100
    return {"loss": away + (0 if params["c"] is True else 0.5)}


def test_a_search_says_what_to_install_when_optuna_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigurationError, match=r"pip install '\.\[library-bayes\]'"):
        bayes_search(bowl, SPACE, "loss", trials=1, seed=1, settings=IN_PLACE)


def test_a_refusal_names_the_field_when_a_setting_is_wrong() -> None:
    for change, field in [({"trials": 0}, "trials"), ({"batch": 0}, "batch"), ({"seed": -1}, "seed")]:
        with pytest.raises(BadInput) as refused:
            bayes_search(bowl, SPACE, "loss", **{"trials": 1, "seed": 1, **change}, settings=IN_PLACE)
        assert refused.value.field == field


@pytest.fixture
def optuna() -> object:
    """Present only where the extra is installed."""
    try:
        return importlib.import_module("optuna")
    except ImportError:
        pytest.skip("the extra library-bayes is not installed")


@pytest.mark.usefixtures("optuna")
def test_every_candidate_is_of_the_space_and_beats_chance_when_searched() -> None:
    found = bayes_search(bowl, SPACE, "loss", trials=60, seed=1, maximise=False, settings=IN_PLACE)
    assert found.complete
    assert [outcome.trial.index for outcome in found.outcomes] == list(range(60))
    for outcome in found.outcomes:
        assert repr(SPACE.check(outcome.trial.params)) == repr(outcome.trial.params)
    chance = optimise(bowl, random_candidates(SPACE, 60, 1), seed=1, settings=IN_PLACE)
    best = [one.best("loss", maximise=False).metrics["loss"] for one in (found, chance)]
    assert best[0] < best[1]


@pytest.mark.usefixtures("optuna")
def test_the_search_is_the_same_when_workers_differ_or_the_journal_was_cut() -> None:
    journal, seen = MemoryJournal(), list[Progress]()
    whole = bayes_search(bowl, SPACE, "loss", trials=22, seed=3, settings=RunSettings(workers=0, journal=journal))
    assert bayes_search(bowl, SPACE, "loss", trials=22, seed=3, settings=RunSettings(workers=2)) == whole
    text = journal.text()
    for cut in (0, len(text) // 3, len(text) - 5, len(text)):
        settings = RunSettings(workers=0, journal=MemoryJournal(text[:cut]), progress=seen.append)
        assert bayes_search(bowl, SPACE, "loss", trials=22, seed=3, settings=settings) == whole
    assert (seen[-1].done, seen[-1].total) == (22, 22)
    more = bayes_search(bowl, SPACE, "loss", trials=24, seed=3, settings=RunSettings(workers=0, journal=journal))
    assert more.outcomes[:20] == whole.outcomes[:20]
    with pytest.raises(BadInput, match="another optimisation: batch differ"):
        bayes_search(bowl, SPACE, "loss", trials=22, seed=3, batch=5, settings=RunSettings(workers=0, journal=journal))


@pytest.mark.usefixtures("optuna")
def test_a_search_ends_when_it_is_cancelled() -> None:
    calls = iter([False] * 6 + [True] * 50)
    settings = RunSettings(workers=0, cancelled=lambda: next(calls))
    found = bayes_search(bowl, SPACE, "loss", trials=20, seed=1, settings=settings)
    assert not found.complete
    assert len(found.outcomes) == 6
