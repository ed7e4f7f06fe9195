"""What must hold of any option: parity, bounds, monotony, homogeneity, exact limits; and what bad input gets."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import greeks as g
from core.errors import InvalidInput

SPOTS = st.floats(0.01, 1e5)
MONEYNESS = st.floats(0.05, 20.0)
YEARS = st.floats(1e-6, 40.0)
RATES = st.floats(-0.1, 0.25)
YIELDS = st.floats(-0.05, 0.2)
VOLATILITIES = st.floats(1e-4, 4.0)
TERMS = st.tuples(SPOTS, MONEYNESS, YEARS, RATES, VOLATILITIES, YIELDS).map(
    lambda drawn: (drawn[0], drawn[0] * drawn[1], *drawn[2:])
)


@given(TERMS)
def test_call_less_put_is_the_forward_when_both_have_one_strike(terms: tuple[float, ...]) -> None:
    spot, strike, years, rate, _, dividend_yield = terms
    call, put = (g.price(kind, *terms) for kind in ("call", "put"))
    forward, bond = spot * math.exp(-dividend_yield * years), strike * math.exp(-rate * years)
    assert call - put == pytest.approx(forward - bond, rel=0, abs=4 * 2**-52 * (forward + bond))
    difference = g.delta("call", *terms) - g.delta("put", *terms)
    assert difference == pytest.approx(math.exp(-dividend_yield * years), rel=1e-14)
    for name in ("gamma", "vega", "vanna", "volga", "speed"):
        assert getattr(g, name)("call", *terms) == getattr(g, name)("put", *terms)


@given(TERMS, st.sampled_from(["call", "put"]))
def test_price_stays_within_its_bounds_when_terms_vary(terms: tuple[float, ...], kind: str) -> None:
    spot, strike, years, rate, _, dividend_yield = terms
    found = g.price(kind, *terms)
    forward, bond = spot * math.exp(-dividend_yield * years), strike * math.exp(-rate * years)
    least = max(forward - bond if kind == "call" else bond - forward, 0.0)
    rounding = 4 * 2**-52 * (forward + bond)
    assert least - rounding <= found <= (forward if kind == "call" else bond) + rounding
    assert g.gamma(kind, *terms) >= 0.0
    assert g.vega(kind, *terms) >= 0.0


@given(TERMS, st.sampled_from(["call", "put"]), st.floats(1.001, 3.0))
def test_price_rises_with_volatility_and_falls_away_from_the_strike(
    terms: tuple[float, ...], kind: str, factor: float
) -> None:
    spot, strike, years, rate, volatility, dividend_yield = terms
    found = g.price(kind, *terms)
    slack = 8 * 2**-52 * (spot + strike) * math.exp(0.25 * years)
    assert g.price(kind, spot, strike, years, rate, volatility * factor, dividend_yield) >= found - slack
    higher = g.price(kind, spot, strike * factor, years, rate, volatility, dividend_yield)
    assert (higher <= found + slack) if kind == "call" else (higher >= found - slack)


@given(TERMS, st.sampled_from(["call", "put"]), st.floats(0.01, 100.0))
def test_price_scales_when_spot_and_strike_do(terms: tuple[float, ...], kind: str, factor: float) -> None:
    spot, strike, *rest = terms
    found, scaled = g.price(kind, spot, strike, *rest), g.price(kind, spot * factor, strike * factor, *rest)
    assert scaled == pytest.approx(found * factor, rel=1e-9, abs=1e-13 * factor * (spot + strike))
    assert g.delta(kind, spot * factor, strike * factor, *rest) == pytest.approx(
        g.delta(kind, *terms), rel=1e-7, abs=1e-12
    )


@pytest.mark.parametrize("kind", ["call", "put"])
@pytest.mark.parametrize(("years", "volatility"), [(0.0, 0.2), (0.5, 0.0), (0.0, 0.0)])
@pytest.mark.parametrize("strike", [80.0, 100.0, 125.0])
def test_price_is_intrinsic_when_no_time_or_volatility_is_left(
    kind: str, years: float, volatility: float, strike: float
) -> None:
    forward, bond = 100.0 * math.exp(-0.01 * years), strike * math.exp(-0.03 * years)
    sign = 1.0 if kind == "call" else -1.0
    terms = (kind, 100.0, strike, years, 0.03, volatility, 0.01)
    assert g.price(*terms) == max(sign * (forward - bond), 0.0)
    if forward != bond:
        assert g.delta(*terms) == (sign * forward / 100.0 if sign * (forward - bond) > 0 else 0.0)
        for name in ("gamma", "vega", "vanna", "volga", "speed", "colour"):
            assert getattr(g, name)(*terms) == 0.0


@pytest.mark.parametrize(
    ("years", "volatility", "rate"), [(0.0, 0.2, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 0.05), (0.0, 0.3, 0.05)]
)
def test_kink_has_no_nan_when_forward_and_strike_are_equal(years: float, volatility: float, rate: float) -> None:
    found = g.greeks("call", 100.0, 100.0, years, rate, volatility)
    assert not any(np.isnan(column).any() for column in found.columns().values())
    assert (found.price, found.delta, found.gamma) == (0.0, 0.5, math.inf)
    assert found.speed == -math.inf


@pytest.mark.parametrize("kind", ["call", "put"])
def test_deep_wings_are_worth_nothing_or_the_forward_when_far_away(kind: str) -> None:
    far, deep = (1e9, 1e-9) if kind == "call" else (1e-9, 1e9)
    assert g.price(kind, 100.0, far, 0.1, 0.0, 0.2) == 0.0
    assert g.price(kind, 100.0, deep, 0.1, 0.0, 0.2) == abs(100.0 - deep)
    assert abs(g.delta(kind, 100.0, deep, 0.1, 0.0, 0.2)) == 1.0
    columns = g.greeks(kind, [1e-300, 1e300, 100.0], 100.0, [1e-300, 1.0, 1e-12], 0.0, [1e-300, 1e3, 1e-9]).columns()
    assert not any(np.isnan(column).any() for column in columns.values())


def test_numbers_give_floats_and_arrays_broadcast_when_mixed() -> None:
    assert type(g.price("call", 100, 100, 1, 0.01, 0.2)) is float
    assert type(g.greeks("put", 100, 90, 1, 0.01, 0.2).colour) is float
    strikes, years = np.array([90.0, 100.0, 110.0]), np.array([[0.5], [1.0]])
    found = g.price(["call", "put", g.OptionKind.CALL], 100, strikes, years, 0.01, 0.2)
    assert found.shape == (2, 3)
    assert found[1, 1] == g.price("put", 100, 100, 1, 0.01, 0.2)
    assert g.greeks("call", 100, strikes, years, 0.01, 0.2).theta.shape == (2, 3)
    assert g.price("call", 100, [], 1, 0.01, 0.2).shape == (0,)


def test_theta_per_day_is_a_365th_when_asked_for() -> None:
    terms = ("put", 100.0, 95.0, 0.4, 0.02, 0.3, 0.01)
    assert g.theta_per_day(*terms) == g.theta(*terms) / 365


@pytest.mark.parametrize(
    ("changed", "field", "words"),
    [
        ({"spot": 0.0}, "spot", "spot must be finite and above 0, not 0.0"),
        ({"spot": [1.0, -3.0]}, "spot", "spot in row 1 must be finite and above 0, not -3.0"),
        ({"strike": [[1.0, math.nan]]}, "strike", "strike in row (0, 1) must be finite and above 0, not nan"),
        ({"years": -1e-9}, "years", "years must be finite and not below 0"),
        ({"rate": math.inf}, "rate", "rate must be a finite number, not inf"),
        ({"rate": -800.0}, "rate", "times years must lie within"),
        ({"volatility": -0.1}, "volatility", "volatility must be finite and not below 0, not -0.1"),
        ({"dividend_yield": "x"}, "dividend_yield", "must be a number"),
        ({"kind": "straddle"}, "kind", "kind must be 'call' (+1) or 'put' (-1), not 'straddle'"),
        ({"kind": ["call", "Put"]}, "kind", "kind in row 1 must be"),
        ({"kind": [1.0, 0.0]}, "kind", "kind in row 1 must be"),
        ({"spot": [1.0, 2.0], "strike": [1.0, 2.0, 3.0]}, "strike", "does not broadcast"),
        ({"dividends": g.Dividends([0.5], [120.0])}, "spot", "worth more than the dividends"),
    ],
)
def test_input_is_refused_whole_when_it_breaks_a_rule(changed: dict[str, object], field: str, words: str) -> None:
    terms = {"kind": "call", "spot": 100.0, "strike": 100.0, "years": 1.0, "rate": 0.0, "volatility": 0.2} | changed
    with pytest.raises(InvalidInput) as refused:
        g.price(**terms)  # type: ignore[arg-type]
    assert refused.value.field == field
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("years", "amounts", "field"),
    [([1.0], [], "dividends.amounts"), ([math.nan], [1.0], "dividends.years"), ([1.0], [-1.0], "dividends.amounts")],
)
def test_dividends_are_refused_when_they_break_a_rule(years: list[float], amounts: list[float], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        g.Dividends(years, amounts)
    assert refused.value.field == field
