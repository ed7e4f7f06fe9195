"""How far a Sharpe ratio can be trusted: probabilistic and deflated Sharpe ratios, the least track record.

Sources: Bailey & López de Prado, "The Sharpe Ratio Efficient Frontier", Journal of Risk 15(2), 2012 (PSR, MinTRL), and
"The Deflated Sharpe Ratio", Journal of Portfolio Management 40(5), 2014 (DSR). All Sharpe ratios here are per
observation, not annualised: divide an annual one by √(observations per year). Kurtosis is 3 for a normal distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from core.optimizer.errors import BadInput, Floats, finite, integer, real, share

EULER = 0.5772156649015329  # Euler-Mascheroni
NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Moments:
    """What the formulas need of a series of returns."""

    sharpe: float
    skewness: float
    kurtosis: float
    rows: int


def moments(returns: Floats) -> Moments:
    """Sharpe ratio (mean / standard deviation, n - 1), skewness m3 / m2^1.5, kurtosis m4 / m2² (central moments, / n).

    Raises BadInput for fewer than 3 rows, one not finite, or all equal.
    """
    series = finite("returns", returns, rows=3)
    scale = float(np.ptp(series))
    if scale == 0.0:
        raise BadInput("returns", "must not all be equal: there is no ratio to a deviation of 0")
    off = (series - series.mean()) / scale
    second = float(np.mean(off**2))
    sharpe = float(series.mean()) / scale / math.sqrt(second * len(series) / (len(series) - 1))
    return Moments(sharpe, float(np.mean(off**3)) / second**1.5, float(np.mean(off**4)) / second**2, len(series))


def probabilistic_sharpe_ratio(
    sharpe: float, rows: int, *, benchmark: float = 0.0, skewness: float = 0.0, kurtosis: float = 3.0
) -> float:
    """The probability that the true Sharpe ratio is above `benchmark`, in [0, 1].

    PSR = Φ((SR - SR*) √(n - 1) / √(1 - γ₃ SR + (γ₄ - 1)/4 SR²))   [2012]
    """
    integer("rows", rows, 2)
    deviation = math.sqrt(_spread(sharpe, skewness, kurtosis))
    return NORMAL.cdf((sharpe - real("benchmark", benchmark)) * math.sqrt(rows - 1) / deviation)


def least_track_record(
    sharpe: float, *, benchmark: float = 0.0, skewness: float = 0.0, kurtosis: float = 3.0, confidence: float = 0.95
) -> float:
    """How many observations make the PSR against `benchmark` reach `confidence`.

    MinTRL = 1 + (1 - γ₃ SR + (γ₄ - 1)/4 SR²) (Z(confidence) / (SR - SR*))²   [2012]
    Raises BadInput when the Sharpe ratio is not above the benchmark: no record is long enough.
    """
    if real("sharpe", sharpe) <= real("benchmark", benchmark):
        raise BadInput("sharpe", f"must be above the benchmark, {benchmark}, not {sharpe}: no record is long enough")
    reach = NORMAL.inv_cdf(share("confidence", confidence)) / (sharpe - benchmark)
    return 1 + _spread(sharpe, skewness, kurtosis) * reach**2


def expected_best_sharpe(trials: float, variance: float) -> float:
    """What the best of so many independent trials without any skill is expected to show: the deflated benchmark.

    SR₀ = √V ((1 - γ) Z(1 - 1/N) + γ Z(1 - 1/(N e)))   [2014, eq. 1], γ Euler-Mascheroni, V the variance of the
    trials' Sharpe ratios. 0 for one trial. `trials` need not be whole (see `independent_trials`).
    """
    if real("trials", trials) < 1.0:
        raise BadInput("trials", f"must be at least 1, not {trials}")
    if real("variance", variance) < 0.0:
        raise BadInput("variance", f"must not be negative, is {variance}")
    if trials == 1.0:
        return 0.0
    low, high = NORMAL.inv_cdf(1 - 1 / trials), NORMAL.inv_cdf(1 - 1 / (trials * math.e))
    return math.sqrt(variance) * ((1 - EULER) * low + EULER * high)


def deflated_sharpe_ratio(
    sharpe: float, rows: int, *, trials: float, variance: float, skewness: float = 0.0, kurtosis: float = 3.0
) -> float:
    """The probability that the best of `trials` has a true Sharpe ratio above 0: the PSR against SR₀ [2014, eq. 2]."""
    return probabilistic_sharpe_ratio(
        sharpe, rows, benchmark=expected_best_sharpe(trials, variance), skewness=skewness, kurtosis=kurtosis
    )


def independent_trials(returns: Floats) -> float:
    """How many independent trials (rows, trials) columns of returns amount to: N = ρ + (1 - ρ) M   [2014, appendix].

    ρ is the mean correlation of the M columns, taken as 0 when negative: never more than M, never less than 1.
    Raises BadInput for a column that does not vary.
    """
    table = finite("returns", returns, dimensions=2, rows=3)
    columns = table.shape[1]
    if columns < 2:
        return 1.0
    still = np.ptp(table, axis=0) == 0.0
    if still.any():
        raise BadInput("returns", f"column {int(np.argmax(still))} must vary")
    off = (table - table.mean(axis=0)) / np.ptp(table, axis=0)
    off /= np.sqrt((off**2).sum(axis=0))
    together = float((off.sum(axis=1) ** 2).sum())  # the sum of all M² correlations, without the M x M table
    mean = min(max((together - columns) / (columns * (columns - 1)), 0.0), 1.0)
    return float(mean + (1 - mean) * columns)


def _spread(sharpe: float, skewness: float, kurtosis: float) -> float:
    """1 - γ₃ SR + (γ₄ - 1)/4 SR²: n times the variance of an estimated Sharpe ratio (Mertens 2002)."""
    real("sharpe", sharpe)
    real("skewness", skewness)
    if real("kurtosis", kurtosis) < 1.0 + skewness**2 - 1e-9:
        raise BadInput("kurtosis", f"must be at least 1 + skewness², {1 + skewness**2}, not {kurtosis}")
    spread = 1 - skewness * sharpe + (kurtosis - 1) / 4 * sharpe**2
    if spread <= 0.0:
        raise BadInput("skewness", "with this Sharpe ratio and kurtosis the estimate would have no variance")
    return spread
