"""Other backtesters beside ours: bars that both take, a run of theirs in its own environment, and how to compare.

Bars are in whole cents; no bar is higher than `RANGE` cents and none opens more than `GAP` away, so a level further
off than both is never reached before its order works, and no bar touches both levels of a position. There the packages
have rules of their own: which one counts first, and whether the bar of the entry counts at all.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from core.backtester.data.bars import Bars, bars_of
from core.backtester.result import BacktestResult
from tests.support.official_client import ROOT

NAME = "A"
RANGE, GAP = 24, 12
MINUTE = 60_000
CLOSE_TO = 1e-9

Array = npt.NDArray[np.float64]


class Run(NamedTuple):
    """Trades in rows of (side, units, entry row, exit row, entry price, exit price, profit), and equity by bar."""

    trades: Array
    equity: Array


@dataclass(frozen=True)
class Peer:
    """A script of tests/support in its own environment, going on until its input closes: one compiles itself first."""

    process: subprocess.Popen[str]
    folder: Path

    def run(self, bars: Bars, wishes: Mapping[str, npt.NDArray[Any]] | None = None, **task: object) -> Run:
        """One run of its."""
        files = {name: str(self.folder / f"{name}.npz") for name in ("bars", "wishes", "answers")}
        columns = ("time_ms", "open", "high", "low", "close")
        np.savez(files["bars"], **{name: getattr(bars, name) for name in columns})
        np.savez(files["wishes"], **(wishes or {}))
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(files | task) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline(), "the package to compare with has failed; its words are on stderr"
        answers = np.load(files["answers"])
        return Run(_sorted(answers["trades"]), answers["equity"])


@contextmanager
def peer(make: Callable[[], Path], script: str, folder: Path) -> Iterator[Peer]:
    """A running peer; skips the tests, with the installer's words, where its environment cannot be made."""
    try:
        python = make()
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"the package to compare with cannot be installed: {error}")
    command = [python, ROOT / "tests" / "support" / script]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, stdin=pipe, stdout=pipe, text=True) as process:  # ends with its input
        yield Peer(process, folder)


def peer_bars(seed: int, rows: int, *, price: int = 10_000) -> Bars:
    """A random walk with gaps at the opens."""
    rng = np.random.default_rng(seed)
    moves = rng.integers(-RANGE // 2, RANGE // 2 + 1, rows)
    gaps = rng.integers(-GAP, GAP + 1, rows) * (rng.random(rows) < 0.4)
    close = price + np.cumsum(moves + gaps)
    start = close - moves
    room = (RANGE - np.abs(moves)) // 2
    high = np.maximum(start, close) + rng.integers(0, room + 1)
    low = np.minimum(start, close) - rng.integers(0, room + 1)
    assert low.min() > price // 4
    columns = (each / 100 for each in (start, high, low, close))
    return bars_of(NAME, 1_700_000_000_000 + MINUTE * np.arange(rows), *columns, interval_ms=MINUTE)


def run_of(result: BacktestResult, bars: Bars) -> Run:
    """Ours in the same form."""
    assert not result.refusals, result.refusals[0].message
    table = result.trades
    rows = (np.searchsorted(bars.time_ms, each, side="right") - 1 for each in (table.entry_ms, table.exit_ms))
    columns = (table.side, table.units, *rows, table.entry_price, table.exit_price, table.profit)
    return Run(_sorted(np.column_stack(columns).astype(np.float64)), result.equity.equity[1:])


def assert_equal(ours: Run, theirs: Run, *, least: int) -> None:
    """Same trades, and the same equity at every bar to 1e-9 of it. `least` trades, or the comparison says nothing."""
    assert len(ours.trades) >= least, f"{len(ours.trades)} trades say too little"
    np.testing.assert_array_equal(ours.trades[:, :4], theirs.trades[:, :4].round(9))  # units of theirs are differences
    np.testing.assert_allclose(ours.trades[:, 4:6], theirs.trades[:, 4:6], rtol=CLOSE_TO)
    value = ours.trades[:, 1] * ours.trades[:, 4]
    np.testing.assert_array_less(np.abs(ours.trades[:, 6] - theirs.trades[:, 6]), CLOSE_TO * value)
    np.testing.assert_allclose(ours.equity, theirs.equity, rtol=CLOSE_TO)


def _sorted(trades: Array) -> Array:
    """By exit, entry, side, units, price: the order of closing within one bar is everybody's own."""
    keys = [trades[:, column].round(9) for column in (5, 4, 1, 0, 2, 3)]
    return np.asarray(trades[np.lexsort(keys)])
