"""Was the best one skill or luck: probability of backtest overfitting, and the warning.

Source: Bailey, Borwein, López de Prado & Zhu, "The Probability of Backtest Overfitting", Journal of Computational
Finance 20(4), 2017: combinatorially symmetric cross-validation (CSCV). Deflated Sharpe ratios are in `sharpe`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np

from core.optimizer.errors import BadInput, Floats, finite, integer, share
from core.optimizer.sharpe import deflated_sharpe_ratio, independent_trials, moments

Measure = Literal["sharpe", "mean"]
MOST_PARTS = 20  # 184,756 splits; each two more parts make four times as many
SPLITS_AT_A_TIME = 512


@dataclass(frozen=True, slots=True)
class Overfitting:
    """What CSCV found, over all splits.

    probability: PBO, the share of splits whose in-sample best lies at or below the out-of-sample median.
    chosen: the out-of-sample measure of each split's in-sample best.
    logits: ln(ω / (1 - ω)) of each split, ω = rank of the in-sample best out of sample / (N + 1).
    slope, intercept: out-of-sample measure of the in-sample best = intercept + slope * its in-sample measure; slope is
    None when the latter does not vary. loss: the share of splits whose in-sample best is below 0 out of sample.
    unused_rows: the oldest rows, left out so that all parts are equally long.
    """

    probability: float
    logits: Floats
    chosen: Floats
    slope: float | None
    intercept: float | None
    loss: float
    splits: int
    unused_rows: int


def backtest_overfitting(returns: Floats, *, parts: int = 16, measure: Measure = "sharpe") -> Overfitting:
    """CSCV over `returns`, (rows, trials): the same rows for every trial, all trials that were made.

    The rows are cut into `parts` (even) blocks in order; each half of them is once in sample, the other half out of
    sample. Ties share their mean rank, as the paper leaves open; of equal in-sample bests the first is taken. A trial
    that never trades in a half has Sharpe ratio 0 there. Raises BadInput for fewer than 2 trials or 2 rows a part, or a
    trial that is constant but not 0 in a half (its Sharpe ratio is no number).
    """
    table = finite("returns", returns, dimensions=2)
    if measure not in ("sharpe", "mean"):
        raise BadInput("measure", f"must be sharpe or mean, not {measure!r}")
    if integer("parts", parts, 2, MOST_PARTS) % 2:
        raise BadInput("parts", f"must be even, not {parts}")
    rows, trials = table.shape
    if trials < 2:
        raise BadInput("returns", f"needs at least 2 trials (columns), has {trials}")
    if rows < 2 * parts:
        raise BadInput("returns", f"needs at least 2 rows a part, {2 * parts}, has {rows}")
    blocks = table[rows % parts :].reshape(parts, rows // parts, trials)
    halves = np.array(list(itertools.combinations(range(parts), parts // 2)))
    chosen_in, chosen_out, ranks = [], [], []
    for begun in range(0, len(halves), SPLITS_AT_A_TIME):
        inside = np.zeros((len(halves[begun : begun + SPLITS_AT_A_TIME]), parts))
        np.put_along_axis(inside, halves[begun : begun + SPLITS_AT_A_TIME], 1.0, axis=1)
        within, without = _measured(blocks, inside, measure), _measured(blocks, 1.0 - inside, measure)
        best = within.argmax(axis=1)[:, None]
        out = np.take_along_axis(without, best, axis=1)
        chosen_in.append(np.take_along_axis(within, best, axis=1)[:, 0])
        chosen_out.append(out[:, 0])
        ranks.append((without < out).sum(axis=1) + ((without == out).sum(axis=1) + 1) / 2)
    return _summary(
        np.concatenate(chosen_in), np.concatenate(chosen_out), np.concatenate(ranks) / (trials + 1), rows % parts
    )


def _measured(blocks: Floats, taken: Floats, measure: Measure) -> Floats:
    """The measure of every trial over the taken blocks: (splits, trials). `taken`: 1 or 0, (splits, parts)."""
    count = taken.sum(axis=1)[:, None] * blocks.shape[1]
    mean: Floats = taken @ blocks.sum(axis=1) / count
    if measure == "mean":
        return mean
    first = blocks[0, 0]  # squares from here: exact for constant trials, no cancellation for nearly constant ones
    off = blocks - first
    shifted = taken @ off.sum(axis=1) / count
    variance = (taken @ (off**2).sum(axis=1) - count * shifted**2) / (count - 1)
    still = variance <= 1e-20 * np.maximum(first**2, np.max(off**2, axis=(0, 1)))
    wrong = still & (np.abs(mean) > 0.0)
    if wrong.any():
        raise BadInput("returns", f"column {int(np.argwhere(wrong)[0][1])} is constant but not 0 over half of its rows")
    return np.where(still, 0.0, mean / np.sqrt(np.where(still, 1.0, variance)))


def _summary(within: Floats, without: Floats, relative: Floats, unused: int) -> Overfitting:
    logits = np.log(relative / (1 - relative))
    off = within - within.mean()
    square = float(off @ off)
    slope = float(off @ without) / square if square > 0.0 else None
    intercept = None if slope is None else float(without.mean()) - slope * float(within.mean())
    return Overfitting(
        float(np.mean(logits <= 0.0)),
        logits,
        without,
        slope,
        intercept,
        float(np.mean(without < 0.0)),
        len(logits),
        unused,
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """`warnings` in plain words, empty when neither figure warns; `best` is the judged trial's column."""

    best: int
    sharpe: float
    deflated: float
    trials: float
    overfitting: Overfitting
    warnings: tuple[str, ...]


def judge(returns: Floats, *, parts: int = 16, least_deflated: float = 0.95, most_overfitting: float = 0.05) -> Verdict:
    """Deflated Sharpe ratio of the best trial and PBO of the search; warns beyond the usual 5 % of either.

    returns: (rows, trials), per observation, every trial that was made. Raises BadInput as the two do.
    """
    share("least_deflated", least_deflated)
    share("most_overfitting", most_overfitting)
    found = backtest_overfitting(returns, parts=parts)
    table = finite("returns", returns, dimensions=2, rows=3)
    moving = np.ptp(table, axis=0) > 0.0  # trials that never traded count for nothing
    each = [moments(table[:, column]) for column in np.flatnonzero(moving)]
    if not each:
        raise BadInput("returns", "no trial varies")
    at = max(range(len(each)), key=lambda index: each[index].sharpe)
    best, count = each[at], independent_trials(table[:, moving])
    variance = float(np.var([one.sharpe for one in each], ddof=1)) if len(each) > 1 else 0.0
    deflated = deflated_sharpe_ratio(
        best.sharpe, best.rows, trials=count, variance=variance, skewness=best.skewness, kurtosis=best.kurtosis
    )
    warnings = []
    if deflated < least_deflated:
        warnings.append(
            f"the deflated Sharpe ratio is {deflated:.3f}, below {least_deflated}: the best of about {count:.0f} "
            "independent trials may well be luck"
        )
    if found.probability > most_overfitting:
        warnings.append(
            f"the probability of backtest overfitting is {found.probability:.3f}, above {most_overfitting}: "
            "what is best in one half of the data is often no better than the median in the other"
        )
    return Verdict(int(np.flatnonzero(moving)[at]), best.sharpe, deflated, count, found, tuple(warnings))
