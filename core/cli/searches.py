"""What a search found, as lines, JSON and CSV, and the warning where it may be luck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.backtester.export import table_to_csv
from core.backtester.objective import PART, earnings_table
from core.backtester.report import line
from core.cli.output import write
from core.cli.table import table_lines
from core.errors import BridgeError
from core.optimizer.overfitting import Verdict, judge
from core.optimizer.running import Optimisation
from core.optimizer.space import Space, Value
from core.optimizer.trials import Outcome
from core.optimizer.walk_forward import Step, WalkForward

SHOWN = ("total_return", "sharpe", "max_drawdown", "trades")
MOST_FAILURES = 3


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict on all trials of a search, or why there is none."""

    verdict: Verdict | None
    reason: str

    def as_json(self) -> dict[str, Any]:
        """null for what is not known, with its reason."""
        if self.verdict is None:
            return {"deflated_sharpe": None, "probability": None, "warnings": [], "reason": self.reason}
        return {
            "deflated_sharpe": self.verdict.deflated,
            "probability": self.verdict.overfitting.probability,
            "warnings": list(self.verdict.warnings),
            "reason": "",
        }

    def lines(self) -> list[str]:
        """For a report."""
        if self.verdict is None:
            return ["Overfitting", f"  –  ({self.reason})"]
        return [
            "Overfitting",
            line("Deflated Sharpe ratio", f"{self.verdict.deflated:.3f}"),
            line("Probability of it", f"{self.verdict.overfitting.probability:.3f}"),
            *(f"  WARNING: {each}" for each in self.verdict.warnings),
        ]


def judged(trials: Optimisation) -> Judged:
    """Deflated Sharpe ratio and probability of overfitting, from what the trials earned in each part of the run."""
    try:
        return Judged(judge(earnings_table(outcome.metrics for outcome in trials.succeeded)), "")
    except BridgeError as cause:
        return Judged(None, str(cause))


def search_lines(
    title: str, space: Space, found: Optimisation, verdict: Judged, metric: str, maximise: bool, top: int
) -> list[str]:
    """The best candidates, the verdict on all of them, and what failed."""
    names = [metric, *(each for each in SHOWN if each != metric)]
    rows = [
        [*(_value(outcome.trial.params[name]) for name in space), *(_metric(outcome, name) for name in names)]
        for outcome in found.ranked(metric, maximise=maximise)[:top]
    ]
    return [
        title,
        "=" * len(title),
        f"  {len(found.outcomes):,} trials, {len(found.succeeded):,} succeeded, {len(found.failed):,} failed",
        "",
        "Best candidates",
        *table_lines([*space, *names], rows),
        "",
        *verdict.lines(),
        *_failures(found.failed),
    ]


def walk_lines(title: str, space: Space, found: WalkForward, verdict: Judged) -> list[str]:
    """A row per window: what was chosen in training, and what came of it in the test."""
    rows = [
        [
            f"{len(step.window.train):,}", f"{len(step.window.test):,}",
            *(_value(step.chosen.trial.params[name]) if step.chosen else "–" for name in space),
            _metric(step.chosen, found.metric), _metric(step.test, found.metric), _metric(step.test, "total_return"),
            step.test.error or "" if step.test else "no candidate succeeded in training",
        ]
        for step in found.steps
    ]  # fmt: skip
    header = ["train", "test", *space, "in training", "in the test", "total_return", ""]
    return [
        title,
        "=" * len(title),
        "",
        "Windows (rows, what was chosen, and the metric)",
        *table_lines(header, rows, texts={len(header) - 1}),
        "",
        line("Efficiency", _efficiency(found)),
        "",
        *verdict.lines(),
    ]


def search_json(found: Optimisation, metric: str, maximise: bool, top: int) -> dict[str, Any]:
    """Counts and the best candidates."""
    return {
        "trials": len(found.outcomes),
        "failed": len(found.failed),
        "best": [_outcome(each) for each in found.ranked(metric, maximise=maximise)[:top]],
    }


def walk_json(found: WalkForward) -> dict[str, Any]:
    """Windows with what was chosen in each."""
    return {"windows": [_step(step) for step in found.steps], "efficiency": _ratio(found)[0]}


def write_trials(found: Optimisation | WalkForward, path: str) -> None:
    """Every trial as a row: parameters, seed, metrics and error."""
    outcomes: list[Outcome] = []
    for each in found.steps if isinstance(found, WalkForward) else [found]:
        outcomes += each.outcomes if isinstance(each, Optimisation) else each.train.outcomes
        if isinstance(each, Step) and each.test is not None:
            outcomes.append(each.test)
    rows = [_flat(outcome) for outcome in sorted(outcomes, key=lambda outcome: outcome.trial.index)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = {name: np.array([row.get(name) for row in rows], dtype=np.object_) for name in names}
    write(Path(path), table_to_csv(table), "--export")


def _flat(outcome: Outcome) -> dict[str, Any]:
    told = _outcome(outcome)
    return {"trial": outcome.trial.index, **told["params"], **told["metrics"], "error": outcome.error or ""}


def _outcome(outcome: Outcome) -> dict[str, Any]:
    metrics = {name: value for name, value in outcome.metrics.items() if not name.startswith(PART)}
    return {"params": dict(outcome.trial.params), "metrics": metrics}


def _step(step: Step) -> dict[str, Any]:
    return {
        "train": [step.window.train.start, step.window.train.stop],
        "test": [step.window.test.start, step.window.test.stop],
        "chosen": None if step.chosen is None else _outcome(step.chosen),
        "tested": None if step.test is None or step.test.error else _outcome(step.test),
        "error": None if step.test is None else step.test.error,
    }


def _ratio(found: WalkForward) -> tuple[float | None, str]:
    try:
        return found.efficiency(), ""
    except BridgeError as cause:
        return None, str(cause)


def _efficiency(found: WalkForward) -> str:
    ratio, reason = _ratio(found)
    return f"–  ({reason})" if ratio is None else f"{ratio:.3f} (metric in the tests ÷ in training)"


def _failures(failed: Sequence[Outcome]) -> list[str]:
    if not failed:
        return []
    shown = [f"  {dict(each.trial.params)}: {each.error}" for each in failed[:MOST_FAILURES]]
    more = [f"  and {len(failed) - MOST_FAILURES:,} more"] if len(failed) > MOST_FAILURES else []
    return ["", "Failed", *shown, *more]


def _value(value: Value) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _metric(outcome: Outcome | None, name: str) -> str:
    value = None if outcome is None else outcome.metrics.get(name)
    if value is None:
        return "–"
    return f"{value:,.0f}" if value.is_integer() and abs(value) >= 1 else f"{value:.4f}"
