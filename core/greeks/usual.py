"""The volatility of the usual option in one step over long arrays: not for callers, who have `core.greeks.implied`.

Given c and u of `core.greeks.normal`, find s with c(u, s) = c in about a hundred passes over the arrays, none of which
is a special function: a guess, then one Householder step of third order, which leaves the fourth power of the guess's
error. "Usual" is what the guess is good for, roughly s < 1 and prices down to a ten-millionth of the distance to the
forward. `usual` says beside each answer whether it is one; the rest is for `core.greeks.rootfinder`.

The guess. In units of the smaller bound, take v = c + h/2 with h = e^u − 1, half of the straddle. By Bachelier's
formula l = ln(v/c) alone gives the normal volatility, as v · G(l); the lognormal one is u/h times it, more by s²/24.
G and M/√(2π) are quotients of polynomials, made by interpolation in Chebyshev points; all coefficients are positive, so
that nothing cancels. They are compared with 50-digit arithmetic in the tests.
"""

from __future__ import annotations

import numpy as np

from core.greeks.inputs import Bools, Floats
from core.greeks.normal import SQRT_2PI

# G(l) for l of 0 … 16, to 2.2e-5
GUESS_ABOVE = (2.5066402319186616, 2.8544616424060812, 0.22760351022792443, 0.083440841379851678, 0.0011145949225696524)
GUESS_BELOW = (1.0, 1.1390657040930195, 0.40613528451920793, 0.0892323920169308, 0.011210431654192953)
# M(z)/√(2π) for z of −0.6 … 8, to 1.6e-15
MILLS_ABOVE = (
    *(0.5, 0.62325807560755582, 0.39083731877064002, 0.15366130617133016, 0.040784413458887159),
    *(0.0074220725202201976, 0.00090161253690508422, 6.6852306076573205e-5, 2.3235316758288403e-6),
)
MILLS_BELOW = (
    *(1.0, 2.044400712017977, 1.9128704017548099, 1.0773335369782338, 0.40345334343493885, 0.10447870545925325),
    *(0.018772015433289152, 0.0022658287305082903, 0.00016757396858733394, 5.8242289477204335e-6),
)
LONGEST_L = 16.0
SHORTEST_S, LONGEST_S = 2e-3, 1.1  # below, the difference of two Mills ratios has too few digits; above, see MILLS
LARGEST_STEP = 1e-3  # of s: its fourth power is what the step leaves at most, and usually a hundredth of that


def polynomial(coefficients: tuple[float, ...], at: Floats) -> Floats:
    """Horner's scheme in one array."""
    total = at * coefficients[-1]
    for coefficient in coefficients[-2:0:-1]:
        total += coefficient
        total *= at
    total += coefficients[0]
    return total


def guess_ratio(length: Floats) -> Floats:
    """G(l)."""
    ratio = polynomial(GUESS_ABOVE, length)
    ratio /= polynomial(GUESS_BELOW, length)
    return ratio


def mills_usual(z: Floats) -> Floats:
    """M(z)/√(2π) where z is usual."""
    ratio = polynomial(MILLS_ABOVE, z)
    ratio /= polynomial(MILLS_BELOW, z)
    return ratio


def usual(c: Floats, u: Floats, h: Floats) -> tuple[Floats, Bools]:
    """s and whether it is one, for any c, u and h = e^u − 1 of one shape; floating-point warnings are the caller's."""
    v = 0.5 * h
    v += c
    length = np.log(v / c)
    s = guess_ratio(length)
    s *= v
    s *= u / h
    e = s * s
    e *= 1.0 / 24.0
    s *= 1.0 + e * (1.0 + 2.1 * e)

    a, t = u / s, 0.5 * s
    low, high = a - t, a + t
    r = mills_usual(low)
    r -= mills_usual(high)  # c(u, s)/∂c/∂s
    f = np.log(r / c)
    f -= 0.5 * low * low  # ln c(u, s) − ln c, whose derivatives follow in units of s
    g = s / r
    g *= 1.0 / SQRT_2PI
    n = f / g
    h1 = low * high  # c″/c′
    f2 = h1 - g
    f3 = h1 * (h1 - 3.0 * g) + 2.0 * g * g - 3.0 * a * a - t * t
    step = n * (1.0 - 0.5 * n * f2)
    step /= 1.0 - n * (f2 - n * f3 * (1.0 / 6.0))
    good = np.abs(n) < LARGEST_STEP
    good &= length < LONGEST_L
    good &= np.abs(s - 0.5 * (SHORTEST_S + LONGEST_S)) < 0.5 * (LONGEST_S - SHORTEST_S)
    s -= s * step
    return s, good
