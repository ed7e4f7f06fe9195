"""A backtest as something to optimise: `(params, seed) -> metrics`, as `core.optimizer` calls it.

Beside the metrics every trial gives what it earned in each part of the run, so that all trials together can be judged
for overfitting. Picklable as long as `make` is a function or class of a module.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from core.backtester.data.bars import Bars
from core.backtester.data.columns import Floats
from core.backtester.data.cutting import between
from core.backtester.data.errors import BadData
from core.backtester.equity import Equity
from core.backtester.fast import run_signals
from core.backtester.loop import Progress, run
from core.backtester.metrics import CALENDAR_DAYS, Sampling
from core.backtester.result import BacktestResult
from core.backtester.settings import BacktestSettings
from core.backtester.signals import SignalStrategy
from core.backtester.strategy import Strategy
from core.backtester.tracks import Data
from core.errors import InvalidInput

PARTS = 240  # 16 blocks of 15 for the probability of backtest overfitting
PART = "@part "

Params = Mapping[str, bool | int | float | str]


class Rows(Protocol):
    """Rows start, start + 1, …, stop − 1 of the first listed instrument (`core.optimizer.walk_forward.Span`)."""

    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...


@dataclass(frozen=True)
class BacktestObjective:
    """`make(**params)` gives the strategy of a trial. `metric`: the one that must be defined for a trial to succeed."""

    make: Callable[..., Strategy]
    data: Mapping[str, Data]
    settings: BacktestSettings
    metric: str = "sharpe"
    sampling: Sampling = CALENDAR_DAYS

    def __call__(self, params: Params, seed: int) -> dict[str, float]:
        """Every metric that is defined, and the earnings of each part under names of their own.

        Raises InvalidInput when `metric` is unknown or not defined, and says why; else as `run`.
        """
        return self._judged(self.result(params, seed))

    def on_rows(self, params: Params, seed: int, rows: Rows) -> dict[str, float]:
        """The same over some rows alone: indicators warm up inside, so nothing before or after them matters."""
        return self._judged(replace(self, data=self._cut(rows)).result(params, seed))

    def result(self, params: Params, seed: int = 0, *, progress: Progress | None = None) -> BacktestResult:
        """The whole result of one candidate."""
        return run_any(self.make(**params), self.data, replace(self.settings, seed=seed), progress=progress)

    def rows(self) -> int:
        """How many rows the first listed instrument has: what windows are cut from."""
        return len(self._first())

    def fingerprint(self) -> str:
        """A digest of data and settings: for the label of a journal, which must not be resumed with others."""
        digest = hashlib.sha256(repr((self.settings, self.metric, self.sampling)).encode())
        for name, data in self.data.items():
            digest.update(name.encode())
            columns = ("open", "high", "low", "close", "spread") if isinstance(data, Bars) else ("bid", "ask")
            for column in ("time_ms", *columns):
                digest.update(np.ascontiguousarray(getattr(data, column)).tobytes())
        return digest.hexdigest()

    def _first(self) -> Data:
        return self.data[self.settings.listings[0].instrument.id]

    def _cut(self, rows: Rows) -> dict[str, Data]:
        first = self._first()
        if not 0 <= rows.start < rows.stop <= len(first):
            raise BadData(f"rows {rows.start} to {rows.stop} of {len(first)}", field="rows", rule="range")
        lasting = first.interval_ms if isinstance(first, Bars) else 1
        from_ms, to_ms = int(first.time_ms[rows.start]), int(first.time_ms[rows.stop - 1]) + lasting
        return {name: between(data, from_ms, to_ms) for name, data in self.data.items()}

    def _judged(self, result: BacktestResult) -> dict[str, float]:
        metrics = result.metrics(self.sampling)
        known = {name: float(value) for name, value in metrics.values().items() if value is not None}
        if self.metric in metrics.reasons:
            raise InvalidInput(f"{self.metric} is not defined: {metrics.reasons[self.metric]}", field=self.metric)
        if self.metric not in known:
            raise InvalidInput(f"{self.metric} is none of {', '.join(metrics.values())}", field="metric")
        return known | {f"{PART}{number}": value for number, value in enumerate(earnings(result.equity).tolist())}


def run_any(
    strategy: Strategy, data: Mapping[str, Data], settings: BacktestSettings, *, progress: Progress | None = None
) -> BacktestResult:
    """The fast way for a signal strategy, event by event for any other; the results are the same either way."""
    if isinstance(strategy, SignalStrategy):
        return run_signals(strategy, data, settings, progress=progress)
    return run(strategy, data, settings, progress=progress)


def earnings(equity: Equity, parts: int = PARTS) -> Floats:
    """What each of `parts` equal parts of the rows (or each row, when there are fewer) earned ÷ equity at the start."""
    rows = len(equity) - 1
    edges = np.arange(min(parts, rows) + 1, dtype=np.int64) * rows // max(min(parts, rows), 1)
    return np.asarray(np.diff(equity.equity[edges]) / equity.equity[0])


def earnings_table(metrics: Iterable[Mapping[str, float]]) -> Floats:
    """The earnings of several trials as `core.optimizer.overfitting.judge` takes them: (parts, trials).

    Raises BadData (rules present, length) for no trials, or trials with different numbers of parts.
    """
    columns = [_parts(each) for each in metrics]
    if not columns:
        raise BadData("must hold at least one trial", field="metrics", rule="present")
    for number, column in enumerate(columns):
        if len(column) != len(columns[0]) or not column:
            raise BadData("has not as many parts as the first trial", field="metrics", rule="length", row=number)
    return np.array(columns, dtype=np.float64).T


def _parts(metrics: Mapping[str, float]) -> list[float]:
    names = (f"{PART}{number}" for number in itertools.count())
    return [metrics[name] for name in itertools.takewhile(metrics.__contains__, names)]
