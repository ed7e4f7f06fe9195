"""Seeded random contracts and the 30-digit formulas that they are compared with."""

from dataclasses import dataclass

import mpmath
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
NAMES = ("price", "delta", "gamma", "vega", "theta", "rho", "vanna", "volga", "charm", "speed", "colour")


@dataclass(frozen=True)
class Contracts:
    """Columns; strikes reach from a twentieth to twenty times the spot, options from minutes to thirty years."""

    sign: Floats
    spot: Floats
    strike: Floats
    years: Floats
    rate: Floats
    volatility: Floats
    dividend_yield: Floats

    def columns(self) -> tuple[Floats, ...]:
        return self.sign, self.spot, self.strike, self.years, self.rate, self.volatility, self.dividend_yield


def random_contracts(count: int, seed: int) -> Contracts:
    draw = np.random.default_rng(seed)
    spot = np.exp(draw.uniform(np.log(0.01), np.log(50_000), count))
    near = np.exp(draw.normal(0.0, 0.2, count))
    wide = np.exp(draw.uniform(np.log(0.05), np.log(20.0), count))
    strike = spot * np.where(draw.random(count) < 0.7, near, wide)
    strike = np.where(draw.random(count) < 0.02, spot, strike)
    years = np.exp(draw.uniform(np.log(1e-5), np.log(30.0), count))
    volatility = np.exp(draw.uniform(np.log(0.005), np.log(3.0), count))
    rate, dividend_yield = draw.uniform(-0.05, 0.15, count), draw.uniform(0.0, 0.1, count)
    return Contracts(draw.choice([1.0, -1.0], count), spot, strike, years, rate, volatility, dividend_yield)


def exact(
    sign: float, spot: float, strike: float, years: float, rate: float, volatility: float, dividend_yield: float
) -> dict[str, float]:
    """Price and Greeks from the textbook's formulas, in 30 digits and more where an option is nearly worthless."""
    with mpmath.workdps(30):
        s0, k, t, r, v, q = (mpmath.mpf(float(x)) for x in (spot, strike, years, rate, volatility, dividend_yield))
        eta = int(sign)
        root = mpmath.sqrt(t)
        s = v * root
        d1 = (mpmath.log(s0 / k) + (r - q) * t) / s + s / 2
        d2 = d1 - s
        carry, discount = mpmath.exp(-q * t), mpmath.exp(-r * t)
        pdf = mpmath.exp(-d1 * d1 / 2) / mpmath.sqrt(2 * mpmath.pi)
        n1, n2 = (mpmath.erfc(-eta * d / mpmath.sqrt(2)) / 2 for d in (d1, d2))
        gamma = carry * pdf / (s0 * s)
        d1_by_years = (r - q + v * v / 2) / s - d1 / (2 * t)
        found = {
            "price": eta * (s0 * carry * n1 - k * discount * n2),
            "delta": eta * carry * n1,
            "gamma": gamma,
            "vega": s0 * carry * pdf * root,
            "theta": -s0 * carry * pdf * v / (2 * root) - eta * r * k * discount * n2 + eta * q * s0 * carry * n1,
            "rho": eta * t * k * discount * n2,
            "vanna": -carry * pdf * d2 / v,
            "volga": s0 * carry * pdf * root * d1 * d2 / v,
            "charm": eta * q * carry * n1 - carry * pdf * d1_by_years,
            "speed": -gamma / s0 * (1 + d1 / s),
            "colour": gamma * (q + 1 / (2 * t) + d1 * d1_by_years),
        }
        return {name: float(value) for name, value in found.items()}


def assert_agree(name: str, ours: Floats, theirs: Floats, contracts: Contracts) -> None:
    """To 1e-8 relative or 1e-12 × spot, whichever is larger."""
    allowed = np.maximum(1e-8 * np.abs(theirs), 1e-12 * contracts.spot)
    wrong = ~(np.abs(ours - theirs) <= allowed)
    if wrong.any():
        row = int(np.argmax(np.where(wrong, np.abs(ours - theirs) / allowed, 0.0)))
        terms = [float(column[row]) for column in contracts.columns()]
        raise AssertionError(f"{name}: {wrong.sum()} rows, worst {row} {terms}: {ours[row]!r} is not {theirs[row]!r}")
