"""What every formula of the package starts from: discounted forward and strike, moneyness, d1 and d2.

    P = S* e^(−qT)    discounted forward (S* = S less escrowed dividends)
    Q = K e^(−rT)     discounted strike
    x = ln(P/Q)       s = σ√T       d1 = x/s + s/2       d2 = x/s − s/2

x is ln(S*/K) + (r − q) T, which keeps its digits at the money; the time value of a price takes ln(P/Q) from P − Q
instead, as the intrinsic value does. Where s is 0, d1 and d2 are their limits: ±∞ (held at
±100, where the density is exactly 0 and Φ exactly 0 or 1), and 0 where P equals Q.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import ndtr

from core.greeks.dividends import Dividends, escrow
from core.greeks.inputs import (
    Floats,
    Kinds,
    Numbers,
    check_exponent,
    common_shape,
    not_negative,
    numbers,
    positive,
    refuse,
    signs,
)
from core.greeks.normal import density

BEYOND = 100.0


@dataclass(frozen=True)
class Market:
    """One underlying's terms for each contract, in shapes that broadcast but are not broadcast yet."""

    sign: Floats
    strike: Floats
    years: Floats
    rate: Floats
    dividend_yield: Floats
    spot: Floats  # S*
    escrowed: Floats  # S − S*
    escrowed_by_rate: Floats  # ∂S*/∂r
    forward_pv: Floats  # P
    discount: Floats  # e^(−rT)


def market(
    kind: Kinds,
    spot: Numbers,
    strike: Numbers,
    years: Floats,
    rate: Numbers,
    dividend_yield: Numbers,
    dividends: Dividends | None,
) -> Market:
    """Raises InvalidInput; `years` is checked by the caller, who knows whether the expired are welcome."""
    s, k = positive("spot", spot), positive("strike", strike)
    r, q = numbers("rate", rate), numbers("dividend_yield", dividend_yield)
    sign = signs(kind)
    common_shape(kind=sign, spot=s, strike=k, years=years, rate=r, dividend_yield=q)
    discount = np.exp(-check_exponent("rate", r * years))
    carry = np.exp(-check_exponent("dividend_yield", q * years))
    aside = by_rate = np.zeros(())
    if dividends is not None:
        set_aside = escrow(dividends, years, r, q)
        aside, by_rate = set_aside.value, set_aside.by_rate
        if (wrong := np.asarray(s - aside <= 0.0)).any():
            refuse("spot", np.broadcast_to(s, wrong.shape), wrong, "must be worth more than the dividends to come")
    star = np.asarray(s - aside)
    return Market(sign, k, years, r, q, star, aside, by_rate, star * carry, discount)


def log_ratio(above: Floats, below: Floats) -> Floats:
    """ln(above/below), exact to the last digits however near 0."""
    apart = above - below
    with np.errstate(divide="ignore", over="ignore"):
        ratio = np.abs(apart) / np.minimum(above, below)
    return np.copysign(np.log1p(ratio), apart)


class Terms:
    """All of it, broadcast to one shape."""

    def __init__(
        self,
        kind: Kinds,
        spot: Numbers,
        strike: Numbers,
        years: Numbers,
        rate: Numbers,
        volatility: Numbers,
        dividend_yield: Numbers = 0.0,
        dividends: Dividends | None = None,
    ) -> None:
        sigma = not_negative("volatility", volatility)
        found = market(kind, spot, strike, not_negative("years", years), rate, dividend_yield, dividends)
        names = ("sign", "strike", "years", "rate", "dividend_yield", "spot", "escrowed", "escrowed_by_rate")
        given = {name: getattr(found, name) for name in names} | {"volatility": sigma}
        self.shape = shape = common_shape(**given)

        def wide(array: Floats) -> Floats:
            return np.broadcast_to(array, shape).ravel()

        self.sign, self.strike, self.years, self.rate = map(wide, (found.sign, found.strike, found.years, found.rate))
        self.dividend_yield, self.spot, self.volatility = map(wide, (found.dividend_yield, found.spot, sigma))
        self.escrowed, self.escrowed_by_rate = wide(found.escrowed), wide(found.escrowed_by_rate)
        self.forward_pv = wide(found.forward_pv)
        self.carry = self.forward_pv / self.spot  # e^(−qT)
        self.strike_pv = self.strike * wide(found.discount)
        self.root_years = np.sqrt(self.years)
        self.s = self.volatility * self.root_years
        self.drift = self.rate - self.dividend_yield
        self.x = log_ratio(self.spot, self.strike) + self.drift * self.years

    @cached_property
    def _ratio(self) -> Floats:
        """x/s with its limits."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.where(self.x == 0.0, 0.0, np.clip(self.x / self.s, -BEYOND, BEYOND))

    @cached_property
    def d1(self) -> Floats:
        return np.asarray(self._ratio + 0.5 * self.s)

    @cached_property
    def d2(self) -> Floats:
        return np.asarray(self._ratio - 0.5 * self.s)

    @cached_property
    def density(self) -> Floats:
        """φ(d1)."""
        return density(self.d1)

    @cached_property
    def in_forward(self) -> Floats:
        """Φ(±d1): the part of the forward in the price."""
        return np.asarray(ndtr(self.sign * self.d1))

    @cached_property
    def in_strike(self) -> Floats:
        """Φ(±d2): the probability of exercise."""
        return np.asarray(ndtr(self.sign * self.d2))

    @cached_property
    def d1_by_years(self) -> Floats:
        """∂d1/∂T = ((r − q) + σ²/2)/s − d1/(2T); may be nan or infinite where s or T is 0: see `times_density`."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            rising = (self.drift + 0.5 * self.volatility**2) / self.s
            return np.asarray(rising - np.where(self.d1 == 0.0, 0.0, self.d1 / (2.0 * self.years)))

    def times_density(self, factor: Floats) -> Floats:
        """φ(d1) · factor, 0 where the density is 0 and where the factor is 0/0 (a drift of 0 at the kink)."""
        with np.errstate(invalid="ignore", over="ignore"):
            product = self.density * factor
        return np.where((self.density == 0.0) | np.isnan(product), 0.0, product)
