"""`python -m core optimize STRATEGY`: a search over parameters, judged, resumable with --journal, ended by Ctrl-C."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

from core.backtester.metrics import Metrics
from core.backtester.objective import BacktestObjective
from core.cli import arguments
from core.cli.arguments import StrategyFailed, Subparsers, command
from core.cli.interrupt import Interrupt
from core.cli.market import add_market, data_of, sampling_of, settings_of
from core.cli.output import show, show_json
from core.cli.progress import progress
from core.cli.searches import Judged, judged, search_json, search_lines, walk_json, walk_lines, write_trials
from core.cli.spaces import SHAPE, parameter, space_of
from core.cli.strategies import add_strategy, check_params, strategy_of
from core.errors import InvalidInput
from core.optimizer.bayes import bayes_search
from core.optimizer.grid import grid
from core.optimizer.journal_file import JournalFile
from core.optimizer.random_search import random_candidates
from core.optimizer.running import Optimisation, Progress, RunSettings, optimise
from core.optimizer.space import Params, Space
from core.optimizer.walk_forward import WalkForward, Window, rolling, walk_forward, windows

CANCELLED = 130
METRICS = tuple(each for each in Metrics.__dataclass_fields__ if each != "reasons")
EPILOG = """examples:
  python -m core optimize sma-cross --sample --parameter fast=int:5:30:5 --parameter slow=int:40:120:20
  python -m core optimize bracket --csv bars.csv --search random --trials 200 --parameter stop=log:0.0005:0.01 \\
      --metric calmar --processes 4 --journal search.jsonl
  python -m core optimize sma-cross --sample --search walk-forward --windows 4 --parameter fast=int:5:30:5"""


def add(subparsers: Subparsers, name: str) -> None:
    """The command and its arguments."""
    parser = command(subparsers, name, "Search for the parameters of a strategy.", run_optimize, EPILOG)
    add_strategy(parser)
    add_market(parser)
    search = parser.add_argument_group("search")
    search.add_argument("--parameter", action="append", default=[], type=parameter, metavar="AXIS", help=SHAPE)
    search.add_argument("--search", choices=["grid", "random", "bayes", "walk-forward"], default="grid")
    search.add_argument("--points", type=arguments.count, help="grid: values on each axis at most")
    search.add_argument("--trials", type=arguments.count, help="random, bayes: how many; walk-forward: random too")
    search.add_argument("--metric", choices=METRICS, default="sharpe", metavar="METRIC", help=f"{', '.join(METRICS)}")
    search.add_argument("--minimise", action="store_true", help="the least is best")
    search.add_argument("--windows", type=arguments.count, default=5, help="walk-forward: how many (%(default)s)")
    search.add_argument(
        "--train-rows", type=arguments.count, help="walk-forward: rolling, of so many rows; else anchored"
    )
    search.add_argument("--test-rows", type=arguments.count, help="walk-forward: rows of each test")
    search.add_argument("--gap", type=arguments.whole, default=0, help="walk-forward: rows between the two (0)")
    run = parser.add_argument_group("run")
    run.add_argument("--processes", type=arguments.whole, default=1, help="0: in this process (%(default)s)")
    run.add_argument("--seed", type=arguments.whole, default=1, help="(%(default)s)")
    run.add_argument("--journal", metavar="FILE", help="keep every outcome there, and go on from it the next time")
    run.add_argument("--top", type=arguments.count, default=10, help="candidates shown (%(default)s)")
    run.add_argument("--export", metavar="FILE", help="write every trial there as CSV")


def run_optimize(options: argparse.Namespace) -> int:
    """Everything is read and checked before the first trial."""
    make, fixed, space = strategy_of(options.strategy), dict(options.params), space_of(options.parameter)
    for name in space:
        if name in fixed:
            raise InvalidInput(f"--set: {name} is a --parameter too", field="--set")
    check_params(make, fixed | dict.fromkeys(space, 0))
    data = data_of(options)
    objective = BacktestObjective(
        partial(make, **fixed), data, settings_of(options, data), options.metric, sampling_of(options)
    )
    with ExitStack() as stack:
        asked = stack.enter_context(Interrupt())
        journal = stack.enter_context(_journal(options.journal)) if options.journal else None
        advance = stack.enter_context(progress(f"optimize, {options.search}"))

        def on_progress(at: Progress) -> None:
            advance(at.done, at.total, f"{at.failed} failed" if at.failed else "")

        settings = RunSettings(
            workers=options.processes, journal=journal, progress=on_progress, cancelled=asked,
            label=f"{options.strategy} {sorted(fixed.items())} {objective.fingerprint()}",
        )  # fmt: skip
        found = _search(options, objective, space, settings)
    if not found.complete:
        kept = f"the same command goes on from {options.journal}" if options.journal else "--journal FILE would keep it"
        print(f"cancelled after {_done(found)} trials: {kept}", file=sys.stderr)
        return CANCELLED
    _tell(options, space, found)
    return 0


def _search(
    options: argparse.Namespace, objective: BacktestObjective, space: Space, settings: RunSettings
) -> Optimisation | WalkForward:
    if options.search == "walk-forward":
        over = _windows(options, objective.rows())
        return walk_forward(
            objective.on_rows, _candidates(options, space), over, options.metric, seed=options.seed,
            maximise=not options.minimise, settings=settings,
        )  # fmt: skip
    if options.search == "bayes":
        return bayes_search(
            objective, space, options.metric, trials=_trials(options), seed=options.seed,
            maximise=not options.minimise, settings=settings,
        )  # fmt: skip
    return optimise(objective, _candidates(options, space), seed=options.seed, settings=settings)


def _candidates(options: argparse.Namespace, space: Space) -> Iterable[Params]:
    if options.search == "random" or (options.search == "walk-forward" and options.trials is not None):
        return random_candidates(space, _trials(options), options.seed)
    return grid(space, options.points)


def _trials(options: argparse.Namespace) -> int:
    if options.trials is None:
        raise InvalidInput(f"--trials is missing: how many a {options.search} search makes", field="--trials")
    return int(options.trials)


def _windows(options: argparse.Namespace, rows: int) -> tuple[Window, ...]:
    if options.train_rows is not None:
        return rolling(rows, options.windows, options.train_rows, test_size=options.test_rows, gap=options.gap)
    return windows(rows, options.windows, test_size=options.test_rows, gap=options.gap)


def _journal(path: str) -> JournalFile:
    try:
        return JournalFile(path)
    except OSError as cause:
        raise InvalidInput(f"--journal: cannot open {path}: {cause.strerror}", field="--journal") from cause


def _done(found: Optimisation | WalkForward) -> int:
    if isinstance(found, Optimisation):
        return len(found.outcomes)
    return sum(len(step.train.outcomes) + (step.test is not None) for step in found.steps)


def _tell(options: argparse.Namespace, space: Space, found: Optimisation | WalkForward) -> None:
    """The report, or JSON, of a complete search. Raises StrategyFailed when no trial succeeded."""
    trials = found.steps[-1].train if isinstance(found, WalkForward) else found
    if not trials.succeeded:
        first = f": {trials.failed[0].error}" if trials.failed else ""
        raise StrategyFailed(f"none of {len(trials.outcomes)} trials succeeded{first}")
    if options.export:
        write_trials(found, options.export)
    verdict: Judged = judged(trials)
    title = f"{options.strategy}: {options.search} search by {options.metric}"
    if options.json:
        show_json(_json(options, found, verdict))
    elif isinstance(found, WalkForward):
        show(walk_lines(title, space, found, verdict))
    else:
        show(search_lines(title, space, found, verdict, options.metric, not options.minimise, options.top))


def _json(options: argparse.Namespace, found: Optimisation | WalkForward, verdict: Judged) -> dict[str, Any]:
    told = (
        walk_json(found)
        if isinstance(found, WalkForward)
        else search_json(found, options.metric, not options.minimise, options.top)
    )
    return {
        "strategy": options.strategy, "search": options.search, "metric": options.metric, "seed": options.seed,
        **told, "overfitting": verdict.as_json(),
    }  # fmt: skip
