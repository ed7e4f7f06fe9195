"""`python -m core optimize`: searches, their verdicts, and going on after Ctrl-C."""

from __future__ import annotations

import csv
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from core.backtester.data.sample import sample_hours
from core.backtester.objective import PART
from core.optimizer.walk_forward import anchored, rolling
from tests.unit.library.cli.support import Commands, run, start

SEARCH = (
    "optimize", "sma-cross", "--sample", "--processes", 0, "--parameter", "fast=int:5:15:5",
    "--parameter", "slow=int:20:60:20", "--metric", "total_return",
)  # fmt: skip


def test_a_grid_is_ranked_as_single_runs_are(command: Commands) -> None:
    told = command.json(*SEARCH)
    assert (told["trials"], told["failed"]) == (9, 0)
    returns = [each["metrics"]["total_return"] for each in told["best"]]
    assert returns == sorted(returns, reverse=True)
    best = told["best"][0]["params"]
    alone = command.json("backtest", "sma-cross", "--sample", *(f"--set={k}={v}" for k, v in best.items()))
    assert alone["metrics"]["total_return"] == returns[0]
    assert not any(name.startswith(PART) for name in told["best"][0]["metrics"])
    least = command.json(*SEARCH, "--minimise", "--top", 1)["best"]
    assert least[0]["metrics"]["total_return"] == returns[-1]
    assert len(least) == 1


def test_a_report_warns_when_the_best_may_be_luck(command: Commands) -> None:
    told = command(*SEARCH)
    assert (told.code, told.err) == (0, "")
    assert "  9 trials, 9 succeeded, 0 failed\n" in told.out
    assert "\nOverfitting\n  Deflated Sharpe ratio " in told.out
    assert "  WARNING: the " in told.out  # a random walk: nothing there can be more than luck
    verdict = command.json(*SEARCH)["overfitting"]
    assert len(verdict["warnings"]) == told.out.count("WARNING")
    assert f"  Probability of it      {verdict['probability']:.3f}\n" in told.out


def test_random_draws_are_the_seeds(command: Commands) -> None:
    argv = (*SEARCH, "--search", "random", "--trials", 6)
    first, second, other = command.json(*argv), command.json(*argv), command.json(*argv, "--seed", 2)
    assert first == second
    assert first["best"] != other["best"]
    assert first["trials"] == 6


@pytest.mark.parametrize("train_rows", [None, 500])
def test_walk_forward_tells_what_was_chosen_in_each_window(command: Commands, train_rows: int | None) -> None:
    extra = [] if train_rows is None else ["--train-rows", train_rows]
    argv = (*SEARCH, "--search", "walk-forward", "--windows", 3, "--gap", 10, *extra)
    told = command.json(*argv)
    rows = len(sample_hours())
    over = anchored(rows, 3, gap=10) if train_rows is None else rolling(rows, 3, train_rows, gap=10)
    assert [(each["train"], each["test"]) for each in told["windows"]] == [
        ([each.train.start, each.train.stop], [each.test.start, each.test.stop]) for each in over
    ]
    for each in told["windows"]:
        assert set(each["tested"]["params"]) >= {"fast", "slow"}
    for most, least in zip(told["windows"], command.json(*argv, "--minimise")["windows"], strict=True):
        values = [each["chosen"]["metrics"]["total_return"] for each in (least, most)]
        assert values == sorted(values)
        assert values[0] != values[1]
    report = command(*argv)
    assert report.code == 0
    assert f"  Efficiency             {told['efficiency']:.3f} " in report.out
    assert "\nOverfitting\n" in report.out


def test_a_bayesian_search_says_what_to_install_or_finds_as_many_trials(command: Commands) -> None:
    argv = (*SEARCH, "--search", "bayes", "--trials", 5)
    try:
        import optuna
    except ImportError:
        assert command.refused(*argv) == "Bayesian search needs optuna: pip install '.[library-bayes]'"
    else:
        assert optuna is not None
        assert command.json(*argv)["trials"] == 5


def test_a_candidate_that_fails_is_told_and_the_others_go_on(command: Commands, tmp_path: Path) -> None:
    argv = (*SEARCH, "--parameter", "units=choice:1000,-1", "--export", tmp_path / "trials.csv")
    told = command(*argv)
    assert told.code == 0
    assert "  18 trials, 9 succeeded, 9 failed\n" in told.out
    assert "units must be above 0" in told.out
    assert told.out.rstrip().endswith("and 6 more")
    rows = list(csv.DictReader((tmp_path / "trials.csv").read_text().splitlines()))
    assert [row["trial"] for row in rows] == [str(number) for number in range(18)]
    assert sum(bool(row["error"]) for row in rows) == sum(not row["sharpe"] for row in rows) == 9


def test_a_search_of_which_nothing_succeeds_fails_with_the_first_reason(command: Commands) -> None:
    told = command(*SEARCH, "--metric", "win_rate", "--set", "units=-1")
    assert (told.code, told.out) == (1, "")
    assert told.err.startswith("error: none of 9 trials succeeded: InvalidInput: ")
    assert told.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--parameter", "fast=int:5:6"], "--parameter: fast is given twice"),
        (["--parameter", "x=int:1"], "--parameter: must be NAME=int:LOW:HIGH"),
        (["--parameter", "x=int:1:b"], "--parameter: must be NAME=int:LOW:HIGH"),
        (["--parameter", "x=int:5:1"], "--parameter: x: high: must be at least 5"),
        (["--parameter", "x=log:0:1"], "x: low: must be above 0 for a log scale"),
        (["--parameter", "x=real:nan:1"], "x: low: must be finite"),
        (["--parameter", "x=choice:1,1"], "x: values, row 1: must differ"),
        (["--parameter", "other=int:1:2"], "unexpected keyword argument 'other'"),
        (["--set", "fast=3"], "--set: fast is a --parameter too"),
        (["--metric", "omega"], "argument --metric: invalid choice"),
        (["--search", "random"], "--trials is missing"),
        (["--search", "bayes"], "--trials is missing"),
        (["--search", "walk-forward", "--windows", "1"], "n_splits: must be at least 2"),
        (["--search", "walk-forward", "--test-rows", "2000"], "test_size"),
        (["--processes", "300"], "workers: must be at least 0 and at most 256"),
        (["--journal", "/no/such/folder/x"], "--journal: cannot open /no/such/folder/x: No such file"),
        (["--points", "0"], "argument --points: must be a whole number above 0"),
    ],
)
def test_bad_input_gets_one_line_and_exit_2(command: Commands, arguments: list[str], words: str) -> None:
    assert words in command.refused(*SEARCH, *arguments)


def test_a_space_is_needed(command: Commands) -> None:
    assert command.refused("optimize", "sma-cross", "--sample").startswith("--parameter is missing: NAME=int:LOW")


def test_a_journal_of_another_search_is_refused(command: Commands, tmp_path: Path) -> None:
    argv = (*SEARCH, "--journal", tmp_path / "journal")
    first = command.json(*argv)
    assert command.json(*argv) == first
    for other in (["--balance", 9000], ["--seed", 2], ["--set", "units=2000"], ["--to", "2024-01-02"]):
        assert command.refused(*argv, *other).startswith("journal, row 0: belongs to another optimisation")


SLOW = """
import os, time
from core.backtester.examples import sma_cross
def slow(fast, slow):
    time.sleep(float(os.environ.get("TRIAL_S", "0")))
    return sma_cross(fast, slow)
"""
COMMON = (
    "-m", "core", "optimize", "slow_strategy:slow", "--sample", "--to", "2024-04-01", "--metric", "total_return",
    "--parameter", "fast=int:2:9:1", "--parameter", "slow=int:20:35:5", "--json",
)  # fmt: skip


def lines_of(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.parametrize("processes", [0, 2])
def test_a_search_that_was_cancelled_goes_on_to_the_same_result(tmp_path: Path, processes: int) -> None:
    (tmp_path / "slow_strategy.py").write_text(SLOW)
    journal = tmp_path / "journal"
    argv: tuple[Any, ...] = (*COMMON, "--processes", processes)
    process = start(*argv, "--journal", journal, folder=tmp_path, TRIAL_S="0.5")  # time enough to press Ctrl-C
    deadline = time.monotonic() + 60
    while lines_of(journal) < 4 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    done = lines_of(journal) - 1
    assert 3 <= done < 32
    assert (out, err) == ("", f"cancelled after {done} trials: the same command goes on from {journal}\n")
    resumed = run(*argv, "--journal", journal, folder=tmp_path)
    assert resumed.code == 0, resumed.err
    assert lines_of(journal) == 33
    whole = run(*argv, folder=tmp_path)
    assert json.loads(resumed.out) == json.loads(whole.out)


def test_a_backtest_that_is_cancelled_says_so(tmp_path: Path) -> None:
    (tmp_path / "slow_strategy.py").write_text(
        "import sys\ndef slow():\n    print('begun', flush=True)\n    while True: pass\n"
    )
    process = start("-m", "core", "backtest", "slow_strategy:slow", "--sample", folder=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "cancelled\n")
    assert process.returncode == 130


def test_progress_is_drawn_when_stderr_is_a_terminal() -> None:
    import io

    from rich.console import Console

    from core.cli.progress import progress

    for terminal in (True, False):
        drawn = io.StringIO()
        with progress("backtest", console=Console(file=drawn, force_terminal=terminal, width=100)) as advance:
            advance(3, 12, "1 failed")
        assert ("3/12" in drawn.getvalue()) is terminal
        assert ("1 failed" in drawn.getvalue()) is terminal


def test_the_interrupt_handler_from_before_comes_back() -> None:
    from core.cli.interrupt import Interrupt

    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as asked:
        assert not asked()
        signal.raise_signal(signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert "core.cli.interrupt" in sys.modules
