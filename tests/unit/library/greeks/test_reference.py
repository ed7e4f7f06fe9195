"""Price and Greeks are QuantLib's and mpmath's, on contracts from the centre far into the wings."""

import numpy as np
import pytest

from core.greeks import greeks
from tests.unit.library.greeks.contracts import NAMES, Contracts, Floats, assert_agree, exact, random_contracts

ql = pytest.importorskip("QuantLib")
MANY = 100_000


def quantlib(contracts: Contracts) -> dict[str, Floats]:
    """What QuantLib's Black-Scholes-Merton formula has."""
    names = ("price", "delta", "gamma", "vega", "theta", "rho")
    rows = []
    for sign, spot, strike, years, rate, volatility, dividend_yield in zip(*contracts.columns(), strict=True):
        payoff = ql.PlainVanillaPayoff(ql.Option.Call if sign > 0 else ql.Option.Put, float(strike))
        forward = spot * np.exp((rate - dividend_yield) * years)
        found = ql.BlackCalculator(
            payoff, float(forward), float(volatility * np.sqrt(years)), float(np.exp(-rate * years))
        )
        rows.append(
            (
                *(found.value(), found.delta(float(spot)), found.gamma(float(spot)), found.vega(float(years))),
                *(found.theta(float(spot), float(years)), found.rho(float(years))),
            )
        )
    return dict(zip(names, np.array(rows).T, strict=True))


@pytest.mark.slow
def test_greeks_are_quantlibs_when_contracts_are_random() -> None:
    contracts = random_contracts(MANY, seed=6)
    ours = greeks(*contracts.columns())
    # QuantLib's theta divides the logarithm of a rounded forward by the years, so it has no eight digits in the last
    # hours; those rows are compared with mpmath below
    long = contracts.years > 1e-3
    for name, theirs in quantlib(contracts).items():
        found = getattr(ours, name)
        assert_agree(name, found, np.where(long, theirs, found) if name == "theta" else theirs, contracts)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_greeks_are_mpmaths_when_contracts_are_random() -> None:
    contracts = random_contracts(MANY, seed=7)
    ours = greeks(*contracts.columns())
    rows = [exact(*terms) for terms in zip(*contracts.columns(), strict=True)]
    for name in NAMES:
        assert_agree(name, getattr(ours, name), np.array([row[name] for row in rows]), contracts)


def test_price_keeps_its_digits_when_an_option_is_nearly_worthless() -> None:
    """Not only to a part of the spot: relative to itself, with prices down to 1e-200."""
    contracts = random_contracts(2_000, seed=8)
    ours = greeks(*contracts.columns()).price
    theirs = np.array([exact(*terms)["price"] for terms in zip(*contracts.columns(), strict=True)])
    worth = (theirs > 1e-200) & (theirs < 1e-3 * contracts.spot)
    assert worth.sum() > 200
    np.testing.assert_allclose(ours[worth], theirs[worth], rtol=1e-9)


def test_speed_keeps_its_digits_when_minutes_are_left_at_the_money() -> None:
    terms = (-1.0, 401.8252730772017, 401.8252730772017, 6e-5, 0.0810310726327317, 0.0059, 0.08130120286806058)
    assert greeks(*terms).speed == pytest.approx(exact(*terms)["speed"], rel=1e-10)
