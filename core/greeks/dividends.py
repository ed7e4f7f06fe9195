"""Discrete dividends, escrowed: the part of the spot that pays them is set aside, the rest follows Black and Scholes.

A dividend D at t (in years from now) counts for an option that expires at T when 0 < t ≤ T. What is set aside today:

    E(T) = Σ D · exp(−(r − q) · t)         S* = S − E(T)

With a dividend yield q beside it, the forward is

    S* · exp((r − q) · T) = S · exp((r − q) · T) − Σ D · exp((r − q) · (T − t))

Greeks follow the set-aside part: it moves with the rate (∂S*/∂r = Σ D t exp(−(r − q) t)) and with the calendar
(∂S*/∂now = −(r − q) · E).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.errors import InvalidInput
from core.greeks.inputs import Floats, check_exponent


@dataclass(frozen=True, slots=True)
class Dividends:
    """Cash amounts (units of the spot, ≥ 0) and when each is paid (years from now; those not after 0 are history)."""

    years: Sequence[float]
    amounts: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.years) != len(self.amounts):
            message = f"{len(self.years)} times and {len(self.amounts)} amounts: there must be as many of either"
            raise InvalidInput(message, field="dividends.amounts")
        for field, values, least in (("years", self.years, -np.inf), ("amounts", self.amounts, 0.0)):
            for row, value in enumerate(values):
                if not (np.isfinite(value) and value >= least):
                    rule = "must be finite" if least < 0 else "must be finite and not below 0"
                    raise InvalidInput(
                        f"dividends.{field} in row {row} {rule}, not {value}", field=f"dividends.{field}"
                    )


@dataclass(frozen=True, slots=True)
class Escrow:
    """What is set aside of the spot, and what each year of waiting makes of it."""

    value: Floats  # E
    by_rate: Floats  # ∂S*/∂r


def escrow(dividends: Dividends, years: Floats, rate: Floats, dividend_yield: Floats) -> Escrow:
    """Both in the shape that `years`, `rate` and `dividend_yield` broadcast to; InvalidInput as `check_exponent`."""
    shape = np.broadcast_shapes(years.shape, rate.shape, dividend_yield.shape)
    value, by_rate = np.zeros(shape), np.zeros(shape)
    for paid_at, amount in zip(dividends.years, dividends.amounts, strict=True):
        if paid_at <= 0.0:
            continue
        worth = amount * np.exp(-check_exponent("rate", (rate - dividend_yield) * paid_at))
        worth = np.where(paid_at <= years, worth, 0.0)
        value += worth
        by_rate += worth * paid_at
    return Escrow(value, by_rate)
