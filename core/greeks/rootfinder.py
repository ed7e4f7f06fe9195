"""The volatility of any option that has one: far wings, expiry's edge, prices next to their bound.

Given c, 1 − c and u of `core.greeks.normal`, find s with c(u, s) = c by Householder steps of third order on a function
that is nearly straight there (after Jäckel, "Let's be rational", Wilmott 2015): ln c where c is small, ln(1 − c) where
it is large. Both are monotone in s, so each evaluation also narrows a bracket; a step that leaves it is replaced by its
geometric middle. Hence it always ends, in two to four evaluations as a rule.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from core.greeks.inputs import Bools, Floats
from core.greeks.normal import SQRT_2PI, mills, mills_difference

EVALUATIONS = 200  # what halving a bracket of this many octaves could need; not seen beyond 8
ENOUGH = 1e-4  # relative to s: what such a step leaves is of the order of its fourth power
ROUNDING = 4e-16  # relative to s: a bracket as narrow cannot be narrowed
LEAST, MOST = 1e-300, 1e3  # of s
WINGS = 4.0  # of −ln(c/u): beyond it, a > 1.5 and Bachelier's formula is near its asymptote


def find(c: Floats, rest: Floats, u: Floats) -> Floats:
    """s > 0 for 0 < c < 1 and u ≥ 0, arrays of one dimension; `rest` is 1 − c with its own digits."""
    # at the money s = −2 Φ⁻¹((1 − c)/2), off it less than this (Tehranchi 2016)
    above = -2.0 * ndtri(rest / (1.0 + np.exp(np.minimum(u, 700.0))))
    s = np.minimum(_guess(c, u), above)
    s = np.where(np.isfinite(s) & (s > LEAST), s, np.sqrt(2.0 * u) + LEAST)
    low, high = np.full_like(s, LEAST), np.full_like(s, MOST)
    small = c < 0.5
    target = np.log(np.where(small, c, rest))
    open_rows = np.arange(s.size)
    for _ in range(EVALUATIONS):
        if open_rows.size == 0:
            break
        now, lo, hi = s[open_rows], low[open_rows], high[open_rows]
        f, newton, step = _householder(now, u[open_rows], small[open_rows], target[open_rows])
        lo, hi = np.where(f < 0.0, now, lo), np.where(f > 0.0, now, hi)
        after = now * (1.0 + step)
        inside = (after > lo) & (after < hi)
        done = (np.abs(newton) <= ENOUGH) | (f == 0.0) | (hi <= lo * (1.0 + ROUNDING))
        after = np.where(inside, after, np.where(done, now, np.sqrt(lo) * np.sqrt(hi)))
        s[open_rows], low[open_rows], high[open_rows] = after, lo, hi
        open_rows = open_rows[~done]
    return s


def _householder(s: Floats, u: Floats, small: Bools, target: Floats) -> tuple[Floats, Floats, Floats]:
    """How far c(u, s) is too high (in its logarithm or that of 1 − c), Newton's step, and ours; steps relative to s."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        t = 0.5 * s
        a = u / s
        low, high = a - t, a + t
        # both as multiples of ∂c/∂s = φ(low); the one that is not wanted may overflow
        part = np.where(small, mills_difference(a, t), mills(-low) + mills(high))
        rising = np.where(small, 1.0, -1.0)
        f = np.log(part) - 0.5 * low * low - np.log(SQRT_2PI) - target
        g = rising * s / part
        n = -f / g
        h1 = low * high
        f2 = h1 - g
        f3 = h1 * (h1 - 3.0 * g) + 2.0 * g * g - 3.0 * a * a - t * t
        step = n * (1.0 + 0.5 * n * f2) / (1.0 + n * (f2 + n * f3 / 6.0))
        wild = ~np.isfinite(step) | (step * n <= 0.0)
        step = np.where(wild, n, step)
        too_high = f * rising
        too_high = np.where(np.isnan(too_high), np.where(np.isinf(a) | (a > t), -1.0, 1.0), too_high)
    return too_high, np.where(np.isfinite(n), n, np.inf), np.where(np.isfinite(step), step, np.inf)


def _guess(c: Floats, u: Floats) -> Floats:
    """By Bachelier's formula c ≈ e^(u/2) (s φ(a) − u Φ(−a)), solved for a = u/s; at the money s = c √(2π)."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        length = np.log(u / c) + 0.5 * u
        a = np.sqrt(np.maximum(2.0 * length, 0.0))
        for _ in range(3):  # φ(a)/a − Φ(−a) ≈ φ(a)/(a³ + 3a)
            a = np.sqrt(np.maximum(2.0 * (length - np.log(SQRT_2PI * a * (a * a + 3.0))), 0.0))
        wing = u / a
        near = SQRT_2PI * (c + 0.5 * np.expm1(np.minimum(u, 1.0)))
    return np.where((length > WINGS) & np.isfinite(wing), wing, near)
