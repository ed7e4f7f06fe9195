"""The normal distribution and the normalised option price, each written so that nothing cancels.

A price out of the money, in units of what bounds it: with u = |ln(F/K)| ≥ 0, s = σ√T, a = u/s and t = s/2,

    c(u, s) = Φ(−(a − t)) − exp(u) · Φ(−(a + t))    of 0 … 1

is the time value of a call or a put divided by the smaller one of discounted forward and discounted strike. The Mills
ratio M(z) = Φ(−z)/φ(z) takes the exponentials out of it: φ(a − t) = exp(u) · φ(a + t), hence

    c = φ(a − t) · (M(a − t) − M(a + t)),    1 − c = φ(a − t) · (M(t − a) + M(t + a)),    ∂c/∂s = φ(a − t).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import erfcx

from core.greeks.inputs import Floats

SQRT_2 = math.sqrt(2.0)
SQRT_2PI = math.sqrt(2.0 * math.pi)
SQRT_HALF_PI = math.sqrt(0.5 * math.pi)
NEAR = 0.02  # of t: below it the difference of two Mills ratios is summed as a series, whose sixth term is under 1e-17
FAR = 1.0  # of t − a: above it the price is nearer to its bound than to 0


def density(z: Floats) -> Floats:
    """φ(z)."""
    return np.asarray(np.exp(-0.5 * z * z) / SQRT_2PI)


def mills(z: Floats) -> Floats:
    """M(z) = Φ(−z)/φ(z). Infinite below about −37."""
    return np.asarray(SQRT_HALF_PI * erfcx(z / SQRT_2))


def mills_difference(a: Floats, t: Floats) -> Floats:
    """M(a − t) − M(a + t) for a ≥ 0, t > 0; to full precision as t goes to 0, too.

    Near t = 0 by its series −2 Σ M⁽ⁿ⁾(a) tⁿ/n! over odd n, the derivatives by M⁽ⁿ⁺¹⁾ = a M⁽ⁿ⁾ + n M⁽ⁿ⁻¹⁾ and
    M′ = a M − 1. Where a is so large that these would cancel (a t > 1), the plain difference does not.
    """
    difference = mills(a - t) - mills(a + t)
    near = (t < NEAR) & (a * t < 1.0)
    if near.any():
        difference = np.array(difference)
        b, h = a[near], t[near]
        before, now = mills(b), _mills_slope(b)
        term, total = h, h * now
        for n in range(1, 8):
            before, now = now, b * now + n * before
            term = term * h / (n + 1)
            if n % 2 == 0:
                total = total + term * now
        difference[near] = -2.0 * total
    return difference


def _mills_slope(a: Floats) -> Floats:
    """M′(a) = a M(a) − 1; beyond a = 12 by its asymptotic series, as the subtraction would leave few digits there."""
    slope = a * mills(a) - 1.0
    far = a > 12.0
    if far.any():
        slope = np.array(slope)
        q = 1.0 / np.square(a[far])
        total = np.zeros_like(q)
        for k in range(14, 0, -1):  # −q + 3q² − 15q³ + …: terms fall until k = a²/2 > 72
            total = -(2 * k - 1) * q * (1.0 + total)
        slope[far] = total
    return slope


def time_value(u: Floats, s: Floats) -> Floats:
    """c(u, s) for u ≥ 0, s ≥ 0 of one shape: 0 where s is 0, 1 where s is without end, with all digits in the wings."""
    value = np.zeros_like(u)
    live = s > 0.0
    if not live.any():
        return value
    u, s = u[live], s[live]
    t = 0.5 * s
    with np.errstate(over="ignore"):
        a = np.minimum(u / s, 1e9)  # from 39 on the price is 0, and 1e9 squared is still a number
    far = t - a > FAR
    near = density(a - t) * mills_difference(a, np.minimum(t, a + FAR))
    away = 1.0 - density(a - t) * (mills(np.abs(t - a)) + mills(t + a))
    value[live] = np.where(far, away, near)
    return value
