"""Price and Greeks of European options after Black, Scholes and Merton. Notation and limits: `core.greeks.terms`.

All functions take the same arguments, numbers or arrays that broadcast:

    f(kind, spot, strike, years, rate, volatility, dividend_yield=0.0, dividends=None)

and return a float when all are numbers, else an array; they raise InvalidInput for input that breaks a rule (spot and
strike > 0, years and volatility ≥ 0, all finite). η is +1 for a call and −1 for a put, φ and Φ the normal density and
distribution. At the kink itself (no time or no volatility left, forward equal to strike) delta is that of half an
option, and what has no finite limit there is ±∞, never nan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Protocol, overload

import numpy as np
import numpy.typing as npt

from core.greeks.dividends import Dividends
from core.greeks.inputs import Floats, Kinds, Numbers, OptionKind
from core.greeks.normal import time_value
from core.greeks.terms import Terms, log_ratio

DAYS_IN_YEAR = 365.0


class Formula(Protocol):
    """A function of a contract: numbers in, a float out; arrays in, an array out."""

    @overload
    def __call__(
        self,
        kind: OptionKind | str,
        spot: float,
        strike: float,
        years: float,
        rate: float,
        volatility: float,
        dividend_yield: float = 0.0,
        dividends: Dividends | None = None,
    ) -> float: ...

    @overload
    def __call__(
        self,
        kind: Kinds,
        spot: Numbers,
        strike: Numbers,
        years: Numbers,
        rate: Numbers,
        volatility: Numbers,
        dividend_yield: Numbers = 0.0,
        dividends: Dividends | None = None,
    ) -> Floats: ...


_COMPUTED: dict[str, Callable[[Terms], Floats]] = {}  # every formula by its name, filled as they are defined


def _formula(compute: Callable[[Terms], Floats]) -> Formula:
    """`compute` as a function of a contract, under its own name and docstring."""

    def formula(
        kind: Kinds,
        spot: Numbers,
        strike: Numbers,
        years: Numbers,
        rate: Numbers,
        volatility: Numbers,
        dividend_yield: Numbers = 0.0,
        dividends: Dividends | None = None,
    ) -> float | Floats:
        terms = Terms(kind, spot, strike, years, rate, volatility, dividend_yield, dividends)
        return _shaped(compute(terms), terms)

    _COMPUTED[compute.__name__] = compute
    formula.__name__ = formula.__qualname__ = compute.__name__
    formula.__doc__ = compute.__doc__
    return formula  # type: ignore[return-value]  # the overloads say which of the two it is


def _shaped(values: Floats, terms: Terms) -> float | Floats:
    return float(values[0]) if terms.shape == () else values.reshape(terms.shape)


@_formula
def price(of: Terms) -> Floats:
    """η (P Φ(η d1) − Q Φ(η d2)), as intrinsic value max(η (P − Q), 0) plus time value, in units of the spot.

    So call − put = P − Q to the last digit, and with no time or volatility left the price is the intrinsic value.
    """
    intrinsic = np.maximum(of.sign * (of.forward_pv - of.strike_pv), 0.0)
    apart = np.abs(log_ratio(of.forward_pv, of.strike_pv))
    return np.asarray(intrinsic + np.minimum(of.forward_pv, of.strike_pv) * time_value(apart, of.s))


@_formula
def delta(of: Terms) -> Floats:
    """∂V/∂S = η e^(−qT) Φ(η d1)."""
    return np.asarray(of.sign * of.carry * of.in_forward)


@_formula
def gamma(of: Terms) -> Floats:
    """∂²V/∂S² = e^(−qT) φ(d1) / (S* s)."""
    return _gamma(of)


@_formula
def vega(of: Terms) -> Floats:
    """∂V/∂σ = P φ(d1) √T, per 1.00 of volatility."""
    return _vega(of)


@_formula
def theta(of: Terms) -> Floats:
    """∂V/∂now = −P φ(d1) σ/(2√T) − η r Q Φ(η d2) + η q P Φ(η d1) − (r − q) E ∂V/∂S, per year that passes."""
    return _theta(of)


@_formula
def theta_per_day(of: Terms) -> Floats:
    """`theta` / 365: what a calendar day that passes adds, to first order."""
    return np.asarray(_theta(of) / DAYS_IN_YEAR)


@_formula
def rho(of: Terms) -> Floats:
    """∂V/∂r = η T Q Φ(η d2) + ∂V/∂S ∂S*/∂r, per 1.00 of rate."""
    return np.asarray(
        of.sign * (of.years * of.strike_pv * of.in_strike + of.carry * of.in_forward * of.escrowed_by_rate)
    )


@_formula
def vanna(of: Terms) -> Floats:
    """∂²V/∂S∂σ = −e^(−qT) φ(d1) d2/σ."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # at the forward, d2/σ is −√T/2 whatever σ is
        slope = np.where(of.x == 0.0, -0.5 * of.root_years, of.d2 / of.volatility)
    return of.times_density(-of.carry * slope)


@_formula
def volga(of: Terms) -> Floats:
    """∂²V/∂σ² = P φ(d1) √T d1 d2/σ."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        bend = np.where(of.x == 0.0, -0.25 * of.volatility * of.years, of.d1 * of.d2 / of.volatility)
        return of.times_density(of.forward_pv * of.root_years * bend)


@_formula
def charm(of: Terms) -> Floats:
    """∂²V/∂S∂now = η q e^(−qT) Φ(η d1) − e^(−qT) φ(d1) ∂d1/∂T − (r − q) E ∂²V/∂S², per year that passes."""
    return _charm(of)


@_formula
def speed(of: Terms) -> Floats:
    """∂³V/∂S³ = −∂²V/∂S² (1 + d1/s)/S*."""
    return _speed(of)


@_formula
def colour(of: Terms) -> Floats:
    """∂³V/∂S²∂now = ∂²V/∂S² (q + 1/(2T) + d1 ∂d1/∂T) − (r − q) E ∂³V/∂S³, per year that passes."""
    return _colour(of)


def _gamma(of: Terms) -> Floats:
    with np.errstate(divide="ignore", over="ignore"):
        return of.times_density(of.carry / (of.spot * of.s))


def _vega(of: Terms) -> Floats:
    return np.asarray(of.forward_pv * of.density * of.root_years)


def _theta(of: Terms) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        decay = of.times_density(of.forward_pv * of.volatility / (2.0 * of.root_years))
    held = of.dividend_yield * of.forward_pv * of.in_forward - of.rate * of.strike_pv * of.in_strike
    return np.asarray(of.sign * (held - of.drift * of.escrowed * of.carry * of.in_forward) - decay)


def _charm(of: Terms) -> Floats:
    moving = of.times_density(of.carry * of.d1_by_years)
    held = of.sign * of.dividend_yield * of.carry * of.in_forward - moving
    return np.asarray(held - _escrowed_move(of, _gamma(of)))


def _speed(of: Terms) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        bend = np.where(of.d1 == 0.0, 1.0, 1.0 + of.d1 / of.s)
        return of.times_density(-of.carry * bend / (of.spot**2 * of.s))


def _colour(of: Terms) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        turning = np.where(of.d1 == 0.0, 0.0, of.d1 * of.d1_by_years)
        rising = of.dividend_yield + 0.5 / of.years + turning
        moving = of.times_density(of.carry / (of.spot * of.s) * rising)
    return np.asarray(moving - _escrowed_move(of, _speed(of)))


def _escrowed_move(of: Terms, slope: Floats) -> Floats:
    """What the escrowed part, as it grows at r − q, takes from a quantity with this slope in S*."""
    growth = of.drift * of.escrowed
    with np.errstate(invalid="ignore"):
        return np.where(growth == 0.0, 0.0, growth * slope)


@dataclass(frozen=True, slots=True)
class Greeks:
    """All of them of each contract: floats for one contract of numbers, else arrays of one shape."""

    price: float | Floats
    delta: float | Floats
    gamma: float | Floats
    vega: float | Floats
    theta: float | Floats
    rho: float | Floats
    vanna: float | Floats
    volga: float | Floats
    charm: float | Floats
    speed: float | Floats
    colour: float | Floats

    def columns(self) -> dict[str, npt.NDArray[np.float64]]:
        """The fields by name, each as an array: what a table is made of."""
        return {field.name: np.atleast_1d(getattr(self, field.name)) for field in fields(self)}


def greeks(
    kind: Kinds,
    spot: Numbers,
    strike: Numbers,
    years: Numbers,
    rate: Numbers,
    volatility: Numbers,
    dividend_yield: Numbers = 0.0,
    dividends: Dividends | None = None,
) -> Greeks:
    """Price and all Greeks at once: the same figures as one by one, for less than their sum."""
    terms = Terms(kind, spot, strike, years, rate, volatility, dividend_yield, dividends)
    return Greeks(**{field.name: _shaped(_COMPUTED[field.name](terms), terms) for field in fields(Greeks)})
