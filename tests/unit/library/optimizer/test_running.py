"""Runs over processes: same results whoever works, whatever fails, however often it is killed."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest

from core.errors import Conflict, NotFound
from core.optimizer.errors import BadInput
from core.optimizer.grid import grid
from core.optimizer.journal import MemoryJournal
from core.optimizer.journal_file import JournalFile
from core.optimizer.running import Optimisation, Progress, RunSettings, name_of, optimise
from core.optimizer.trials import Objective, trial_seed
from tests.unit.library.optimizer import objectives
from tests.unit.library.optimizer.objectives import SEED, SPACE

ROOT = Path(__file__).parents[4]
CANDIDATES = grid(SPACE)


def run(objective: Objective, *, workers: int = 0, seed: int = SEED, **more: object) -> Optimisation:
    return optimise(objective, CANDIDATES, seed=seed, settings=RunSettings(workers=workers, **more))  # type: ignore[arg-type]


def test_results_are_equal_when_the_number_of_workers_is_not() -> None:
    alone = run(objectives.score)
    assert alone == run(objectives.score, workers=1) == run(objectives.score, workers=2)
    assert alone.complete
    assert [outcome.trial.index for outcome in alone.outcomes] == list(range(25))
    assert alone != run(objectives.score, seed=SEED + 1)


def test_seeds_depend_on_seed_and_index_alone_when_made() -> None:
    seeds = {trial_seed(seed, index) for seed in range(20) for index in range(500)}
    assert len(seeds) == 10_000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert trial_seed(7, 3) == trial_seed(7, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_others_results_stay_when_an_objective_fails(workers: int) -> None:
    found = run(objectives.picky, workers=workers)
    assert found.complete
    assert {outcome.trial.params["fast"] for outcome in found.failed} == {1, 2}
    assert len(found.succeeded) == 15
    told = str(found.failed[0])
    assert "'fast': 1" in told
    assert "'slow': 10" in told
    assert "ValueError: too fast" in told
    assert "metrics.score: must not be nan" in str(found.failed[-1].error)
    assert found.best("score").trial.params["fast"] == 4  # an infinity is ordered
    assert found.best("score", maximise=False).trial.params["fast"] == 5


def test_best_is_the_first_of_equals_when_ranked() -> None:
    found = run(_flat)
    assert [outcome.trial.index for outcome in found.ranked("score")] == list(range(25))
    with pytest.raises(BadInput, match="there is no 'sharpe'"):
        found.best("sharpe")


def test_best_names_a_failure_when_nothing_succeeded() -> None:
    with pytest.raises(NotFound, match=r"no trial succeeded.*'fast': 1.*never"):
        run(_never).best("score")


@pytest.mark.parametrize(
    ("returned", "rule"),
    [
        (None, "mapping"),
        ({1: 2.0}, "name must be a str"),
        ({"a": "b"}, "must be a number"),
        ({"a": True}, "must be a number"),
    ],
)
def test_a_trial_fails_when_the_metrics_are_none(returned: object, rule: str) -> None:
    found = run(lambda params, seed: returned)  # type: ignore[arg-type,return-value]
    assert len(found.failed) == 25
    assert rule in str(found.failed[0].error)


def test_only_its_own_trials_fail_when_an_objective_ends_its_process() -> None:
    found = run(objectives.deadly, workers=2)
    assert found.complete
    assert {outcome.trial.params["fast"] for outcome in found.failed} == {2}
    assert len(found.succeeded) == 20
    assert str(found.failed[0].error) == "the worker process ended with exit code 11, twice"


def test_a_trial_is_made_again_when_its_worker_was_killed_from_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULSE_TEST_MARK", str(tmp_path / "mark"))
    assert run(objectives.once_deadly, workers=2) == run(objectives.score)
    assert (tmp_path / "mark").exists()


def test_an_objective_is_refused_when_it_cannot_be_sent_to_a_process() -> None:
    with pytest.raises(BadInput) as refused:
        run(lambda params, seed: {}, workers=1)
    assert refused.value.field == "objective"


def test_settings_are_refused_when_out_of_range() -> None:
    for make, field in [
        (lambda: RunSettings(workers=-1), "workers"),
        (lambda: RunSettings(workers=257), "workers"),
        (lambda: optimise(objectives.score, [], seed=1), "candidates"),
        (lambda: optimise(objectives.score, CANDIDATES, seed=-1), "seed"),
    ]:
        with pytest.raises(BadInput) as refused:
            make()
        assert refused.value.field == field


def test_progress_counts_every_outcome_when_some_were_in_the_journal() -> None:
    journal, seen = MemoryJournal(), list[Progress]()
    run(objectives.picky, journal=journal)
    half = MemoryJournal("".join(journal.text().splitlines(keepends=True)[:12]))
    run(objectives.picky, journal=half, progress=seen.append)
    assert [now.done for now in seen] == list(range(11, 26))
    assert {now.total for now in seen} == {25}
    assert (seen[0].failed, seen[-1].failed) == (10, 10)
    assert seen[0].outcome is None
    assert [now.outcome.trial.index for now in seen[1:] if now.outcome] == list(range(11, 25))


def test_a_run_ends_at_once_and_resumes_when_it_is_cancelled() -> None:
    journal, done = MemoryJournal(), list[Progress]()
    part = run(objectives.slow_score, workers=2, journal=journal, progress=done.append, cancelled=lambda: len(done) > 4)
    assert not part.complete
    assert 4 <= len(part.outcomes) < 25
    assert run(objectives.slow_score, workers=2, journal=journal) == run(objectives.score)


def test_busy_workers_are_ended_when_a_run_is_cancelled() -> None:
    asked = list[int]()

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 5

    before = {child.pid for child in psutil.Process().children(recursive=True)}
    assert run(objectives.endless, workers=2, cancelled=cancelled).outcomes == ()
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert [child for child in left if "resource_tracker" not in " ".join(child.cmdline())] == []


def test_no_worker_stays_when_the_progress_callback_raises() -> None:
    def explode(now: Progress) -> None:
        if now.done == 3:
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        run(objectives.slow_score, workers=2, progress=explode)
    commands = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert [command for command in commands if "spawn_main" in command] == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_resumed_run_has_the_same_result_when_it_was_killed_twice(tmp_path: Path, workers: str) -> None:
    path = tmp_path / "journal"
    for _ in range(2):
        kill_in_the_middle(path, workers, after=5)
    known = len(path.read_text().splitlines()) - 1
    assert 10 <= known < 25
    seen = list[Progress]()
    with JournalFile(path) as journal:
        found = run(objectives.slow_score, workers=2, journal=journal, progress=seen.append)
    assert found == run(objectives.score)
    assert 10 <= seen[0].done <= known  # what was known was not tried again
    assert len(path.read_text().splitlines()) == 26


def kill_in_the_middle(path: Path, workers: str, after: int) -> None:
    """Start the program, wait for `after` new outcomes, SIGKILL it; its workers leave by themselves."""
    command = [sys.executable, "-m", objectives.__name__, str(path), workers]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        for _ in range(after + 1):  # the first line says where it starts
            assert program.stdout.readline().strip()
        children = psutil.Process(program.pid).children(recursive=True)
        assert len(children) >= int(workers)
        os.kill(program.pid, signal.SIGKILL)
        assert program.wait(10) == -signal.SIGKILL
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def test_a_journal_is_held_by_one_when_two_want_it(tmp_path: Path) -> None:
    with JournalFile(tmp_path / "journal"), pytest.raises(Conflict, match="another optimisation is writing"):
        JournalFile(tmp_path / "journal")
    with JournalFile(tmp_path / "journal") as journal:
        assert journal.text() == ""


def test_an_objective_is_named_by_what_it_wraps_when_it_is_partial() -> None:
    assert name_of(partial(partial(objectives.score), seed=1)) == "score"
    assert name_of(objectives.score) == "score"


def _flat(params: object, seed: int) -> dict[str, float]:
    return {"score": 1.0}


def _never(params: object, seed: int) -> dict[str, float]:
    raise ValueError("never")
