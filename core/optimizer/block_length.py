"""How long the blocks of a block bootstrap should be.

Politis & White, "Automatic Block-Length Selection for the Dependent Bootstrap", Econometric Reviews 23 (2004), with the
correction of Patton, Politis & White, Econometric Reviews 28 (2009): b = (2 G² n / D)^(1/3), where
G = Σ λ(k/M) |k| R(k) and the long-run variance g = Σ λ(k/M) R(k) run over |k| <= M, R is the autocovariance, λ the
flat-top window min(1, 2 (1 - |x|)), D = 4/3 g² for circular and moving blocks and 2 g² for stationary ones.
M is twice the first of the lags at which K = max(5, √log₁₀ n) autocorrelations in a row lie under 2 √(log₁₀ n / n), as
in the authors' own program; but 0 when that is lag 1, as in the paper: rows that show no dependence get blocks of 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from core.optimizer.errors import BadInput, Floats, finite

ROWS = 8  # fewer say nothing about dependence


@dataclass(frozen=True, slots=True)
class BlockLength:
    """Best block lengths in rows, >= 1, and the long-run variance they stand on (0 when its estimate is negative)."""

    circular: float
    stationary: float
    long_run_variance: float


def block_length(values: Floats) -> BlockLength:
    """For a series in its order of time. Raises BadInput for fewer than 8 rows, one not finite, or all equal."""
    series = finite("values", values, rows=ROWS)
    rows = len(series)
    if np.ptp(series) == 0.0:
        raise BadInput("values", "must not all be equal")
    longest = math.ceil(min(3 * math.sqrt(rows), rows / 3))
    in_a_row = max(5, int(math.sqrt(math.log10(rows))))
    lags = min(math.ceil(math.sqrt(rows)) + in_a_row, rows - 1)
    centred = (series - series.mean()) / np.ptp(series)  # scaled: squares of tiny or huge numbers stay in range
    covariance = np.array([float(centred[lag:] @ centred[: rows - lag]) for lag in range(lags + 1)]) / rows
    memory = _memory(np.abs(covariance[1:]) / covariance[0], in_a_row, 2 * math.sqrt(math.log10(rows) / rows))
    wide = min(2 * memory, lags)
    at = np.arange(1, wide + 1)
    weighted = np.minimum(1.0, 2 * (1 - at / max(wide, 1))) * covariance[1 : wide + 1]
    slope = 2 * float((at * weighted).sum())
    variance = max(float(covariance[0] + 2 * weighted.sum()), 0.0)
    scale = float(np.ptp(series)) ** 2
    if variance == 0.0:  # so negative a dependence that the estimate fell below zero: the bound is all that is left
        return BlockLength(float(longest), float(longest), 0.0)
    circular = (2 * slope**2 / (4 / 3 * variance**2) * rows) ** (1 / 3)
    stationary = (2 * slope**2 / (2 * variance**2) * rows) ** (1 / 3)
    return BlockLength(min(max(circular, 1.0), longest), min(max(stationary, 1.0), longest), variance * scale)


def _memory(correlation: Floats, in_a_row: int, small: float) -> int:
    """Half of M: where `in_a_row` small correlations begin (0 when at lag 1), else the last large one."""
    quiet = correlation < small
    for lag in range(len(quiet) - in_a_row + 1):
        if quiet[lag : lag + in_a_row].all():
            return lag + 1 if lag else 0  # place 0 is lag 1
    loud = np.flatnonzero(~quiet)
    return int(loud[-1]) + 1 if len(loud) else 0
