"""Block bootstrap: resampled series, and confidence intervals for a mean or any statistic.

Three kinds of blocks. Moving (Künsch 1989): blocks of a fixed length from within the series. Circular (Politis and
Romano 1992): the same from the series closed to a ring, so that every row is drawn equally often. Stationary (Politis
and Romano 1994): on the ring, with geometric lengths of a given mean, so that the resampled series is stationary. The
default block length comes from `block_length`; for independent rows it is 1, which is the plain bootstrap. The default
kind is circular: a resampled mean is then unbiased, which moving blocks' is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from core.optimizer.block_length import ROWS, block_length
from core.optimizer.errors import BadInput, Floats, Ints, finite, integer, share

Kind = Literal["moving", "circular", "stationary"]
Statistic = Callable[[Floats], Floats]
"""Takes (runs, rows), gives (runs,): one number for each resampled series."""

NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Interval:
    """`low` and `high` around `estimate`, covering the truth with probability `level`; `block` in rows."""

    estimate: float
    low: float
    high: float
    level: float
    block: int


def block_indices(rows: int, runs: int, block: int, kind: Kind, seed: int) -> Ints:
    """Row numbers of `runs` resampled series, (runs, rows). `block`: rows, the mean for stationary ones."""
    integer("rows", rows, 1)
    integer("runs", runs, 1)
    integer("block", block, 1, rows)
    random = np.random.default_rng(integer("seed", seed, 0))
    if kind == "stationary":
        begins = random.random((runs, rows)) < 1 / block
        begins[:, 0] = True
        at = np.arange(rows)
        begun = np.maximum.accumulate(np.where(begins, at, 0), axis=1)  # where the block of each row began
        starts = np.take_along_axis(random.integers(0, rows, (runs, rows)), begun, axis=1)
        return (starts + at - begun) % rows
    if kind not in ("moving", "circular"):
        raise BadInput("kind", f"must be moving, circular or stationary, not {kind!r}")
    blocks = -(-rows // block)
    starts = random.integers(0, rows if kind == "circular" else rows - block + 1, (runs, blocks))
    made = (starts[:, :, None] + np.arange(block)).reshape(runs, blocks * block)[:, :rows]
    return made % rows


def mean_interval(
    values: Floats, *, seed: int, level: float = 0.95, runs: int = 999, block: int | None = None
) -> Interval:
    """A studentised circular block bootstrap interval for the mean of a stationary series.

    With the circular block means B (their mean is exactly the sample's, x̄), k = ⌊n / b⌋ of them drawn anew give
    t* = (m* - x̄) / se*, se*² = Σ (B*_i - m*)² / (k (k - 1)); the interval is x̄ - se t*(1 - α/2) to x̄ - se t*(α/2)
    (Hall 1988; for blocks Davison & Hall 1993, Götze & Künsch 1996). se² is the block estimate
    Σ (B - x̄)² / n / (n/b - 1), or the flat-top estimate of `block_length` where that is larger: short blocks miss part
    of the dependence. Studentising is for skewed and heavy-tailed series: plain percentiles cover too seldom there.
    Raises BadInput for fewer than 8 rows, all equal, or a block that leaves fewer than 4 in the series.
    """
    series = finite("values", values, rows=ROWS)
    tail = (1 - share("level", level)) / 2
    integer("runs", runs, math.ceil(1 / tail))  # or the quantiles would be no draws at all
    rows, chosen = len(series), block_length(series)
    size = min(math.ceil(chosen.circular), rows // 4) if block is None else integer("block", block, 1, rows // 4)
    spread = float(np.ptp(series))
    estimate = float(series.mean())
    off = _block_means((series - estimate) / spread, size)
    drawn = off[np.random.default_rng(integer("seed", seed, 0)).integers(0, rows, (runs, rows // size))]
    low, high = _quantiles(_studentised(drawn), tail)
    error = float(off @ off) / rows / (rows / size - 1)
    if size > 1:
        error = max(error, chosen.long_run_variance / spread**2 / rows)
    unit = math.sqrt(error) * spread
    return Interval(estimate, estimate - high * unit, estimate - low * unit, level, size)


def statistic_interval(
    values: Floats,
    statistic: Statistic,
    *,
    seed: int,
    level: float = 0.95,
    runs: int = 1999,
    block: int | None = None,
    kind: Kind = "circular",
) -> Interval:
    """A BCa interval (bias-corrected and accelerated; Efron 1987) of any statistic under the block bootstrap.

    Quantiles of the resampled statistic at Φ(z₀ + (z₀ ± z) / (1 - a (z₀ ± z))): z₀ from the share of them below the
    estimate, a from the jackknife that leaves out a block at a time. Respects the range of the statistic; for a mean
    `mean_interval` covers better. Raises BadInput as that, and when the statistic is not finite somewhere.
    """
    series = finite("values", values, rows=ROWS)
    tail = (1 - share("level", level)) / 2
    integer("runs", runs, math.ceil(1 / tail))
    rows, best = len(series), block_length(series)
    automatic = best.stationary if kind == "stationary" else best.circular
    size = min(math.ceil(automatic), rows // 4) if block is None else integer("block", block, 1, rows // 4)
    estimate = float(_applied(statistic, series[None, :])[0])
    drawn = np.sort(_applied(statistic, series[block_indices(rows, runs, size, kind, seed)]))
    below = (np.count_nonzero(drawn < estimate) + np.count_nonzero(drawn == estimate) / 2) / runs
    bias = NORMAL.inv_cdf(min(max(below, 0.5 / runs), 1 - 0.5 / runs))
    skew = _acceleration(statistic, series, size)
    ends = []
    for at in (tail, 1 - tail):
        shifted = bias + NORMAL.inv_cdf(at)
        ends.append(float(np.quantile(drawn, NORMAL.cdf(bias + shifted / (1 - skew * shifted)))))
    return Interval(estimate, ends[0], ends[1], level, size)


def _block_means(off: Floats, size: int) -> Floats:
    """The mean of every block on the ring, one starting at each row."""
    if size == 1:
        return off
    sums = np.concatenate(([0.0], np.cumsum(np.concatenate((off, off[: size - 1])))))
    means: Floats = (sums[size:] - sums[:-size]) / size
    centred: Floats = means - means.mean()
    return centred


def _studentised(drawn: Floats) -> Floats:
    """t of each row of drawn block means; infinite for a row of equal ones, which says nothing of its own error."""
    count = drawn.shape[1]
    mean = drawn.mean(axis=1)
    inner = drawn - mean[:, None]
    error = np.sqrt(np.einsum("ij,ij->i", inner, inner) / (count * (count - 1)))
    flat = error <= 1e-14  # rounding of equal numbers, which are scaled to the range 1
    ratio: Floats = np.where(flat, np.copysign(np.inf, mean), mean / np.where(flat, 1.0, error))
    return ratio


def _quantiles(drawn: Floats, tail: float) -> tuple[float, float]:
    """The order statistics (runs + 1) tail from either end. Raises BadInput when one of them is infinite."""
    runs = len(drawn)
    at = max(round((runs + 1) * tail) - 1, 0)
    parted = np.partition(drawn, (at, runs - 1 - at))
    low, high = float(parted[at]), float(parted[runs - 1 - at])
    if not (math.isfinite(low) and math.isfinite(high)):
        raise BadInput("values", "vary too seldom: too many resampled series are constant")
    return low, high


def _applied(statistic: Statistic, many: Floats) -> Floats:
    made = finite("statistic", statistic(many))
    if made.shape != (many.shape[0],):
        raise BadInput("statistic", f"must give one number for each of {many.shape[0]} rows, gave {made.shape}")
    return made


def _acceleration(statistic: Statistic, series: Floats, size: int) -> float:
    """a = Σ d³ / (6 (Σ d²)^(3/2)) over jackknife values' distances d from their mean, each without one block."""
    blocks = len(series) // size
    at = np.arange(len(series))
    left = np.stack([series[(at < block * size) | (at >= (block + 1) * size)] for block in range(blocks)])
    made = _applied(statistic, left)
    off = made.mean() - made
    square = float((off**2).sum())
    return 0.0 if square == 0.0 else float((off**3).sum()) / (6 * square**1.5)
