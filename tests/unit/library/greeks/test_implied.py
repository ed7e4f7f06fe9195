"""Implied volatility: round trips wherever a price still knows it, and the reason wherever there is none."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import greeks as g
from core.errors import InvalidInput
from core.greeks import NoVolatility, implied_volatility
from core.greeks.normal import mills_difference, time_value
from core.greeks.rootfinder import find
from core.greeks.usual import GUESS_ABOVE, LONGEST_L, guess_ratio, mills_usual, usual
from tests.unit.library.greeks.contracts import Contracts, Floats, exact, random_contracts


def known(price: Floats, vega: Floats) -> Floats:
    """Where a price's last digit moves the volatility by less than 1e-11, and it has all its digits."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.asarray((price * 2.0**-52 / vega < 1e-11) & (price > 1e-300))


def implied(contracts: Contracts, price: Floats) -> g.ImpliedVolatility:
    sign, spot, strike, years, rate, _, dividend_yield = contracts.columns()
    return implied_volatility(sign, price, spot, strike, years, rate, dividend_yield)


@pytest.mark.parametrize("seed", range(3))
def test_volatility_comes_back_when_the_price_knows_it(seed: int) -> None:
    contracts = random_contracts(100_000, seed)
    found = g.greeks(*contracts.columns())
    asked = known(found.price, found.vega)
    assert asked.mean() > 0.45
    back = implied(contracts, found.price)
    assert (back.reason[asked] == NoVolatility.NONE).all()
    assert np.abs(back.volatility - contracts.volatility)[asked].max() < 1e-10
    assert np.isnan(back.volatility[back.reason != NoVolatility.NONE]).all()
    assert np.isfinite(back.volatility[back.reason == NoVolatility.NONE]).all()


@given(
    st.sampled_from([1.0, -1.0]),
    st.floats(-8.0, 8.0),
    st.floats(-16.0, 4.0),
    st.floats(-7.0, 2.0),
    st.sampled_from([(0.0, 0.0), (0.05, 0.01), (-0.01, 0.03)]),
)
def test_volatility_comes_back_when_terms_are_far_out(
    sign: float, moneyness: float, log_years: float, log_volatility: float, rates: tuple[float, float]
) -> None:
    """Seconds to decades, strikes e⁻⁸ to e⁸ of the spot, a thousandth to seven hundred percent."""
    terms = (100.0, 100.0 * math.exp(moneyness), math.exp(log_years), rates[0])
    volatility = math.exp(log_volatility)
    price, vega = (of(sign, *terms, volatility, rates[1]) for of in (g.price, g.vega))
    found = implied_volatility(sign, price, *terms, rates[1])
    if known(np.asarray(price), np.asarray(vega)):
        assert found.reason is NoVolatility.NONE
        assert found.volatility == pytest.approx(volatility, rel=0, abs=1e-10)
    assert math.isnan(found.volatility) == (found.reason is not NoVolatility.NONE)


def test_volatility_is_found_when_the_price_is_not_our_own() -> None:
    """Prices of 30 digits, rounded once."""
    contracts = random_contracts(2_000, seed=5)
    rows = [exact(*terms) for terms in zip(*contracts.columns(), strict=True)]
    price, vega = (np.array([row[name] for row in rows]) for name in ("price", "vega"))
    # besides the price, the discounted forward and strike of a row are rounded
    asked = known(contracts.spot + contracts.strike, vega)
    assert asked.mean() > 0.3
    back = implied(contracts, price)
    assert np.abs(back.volatility - contracts.volatility)[asked].max() < 1e-10


@pytest.mark.parametrize("s", [1e-12, 1e-8, 1e-4, 1.9e-3, 2.1e-3, 0.01, 0.1, 0.5, 1.0, 1.2, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("a", [0.0, 1e-9, 1e-3, 0.1, 1.0, 3.0, 5.0, 8.0, 12.0, 25.0, 36.0])
def test_rootfinder_ends_at_the_root_when_the_contract_is_anywhere(a: float, s: float) -> None:
    u = np.array([a * s])
    with mpmath.workdps(50):
        low, high = (mpmath.mpf(u[0]) / s + part * mpmath.mpf(s) / 2 for part in (-1, 1))
        c = mpmath.ncdf(-low) - mpmath.exp(mpmath.mpf(u[0])) * mpmath.ncdf(-high)
        by_s = float(mpmath.npdf(low))
        rest = float(1 - c)
    price = float(c)
    if price == 0.0 or rest == 0.0:
        pytest.skip("beyond what a float holds")
    found = find(np.array([price]), np.array([rest]), u)[0]
    assert found == pytest.approx(s, rel=1e-13 + 8 * 2.0**-52 * min(price, rest) / (by_s * s))


def test_one_step_is_enough_when_an_option_is_said_to_be_usual() -> None:
    draw = np.random.default_rng(1)
    s = np.exp(draw.uniform(np.log(1e-7), np.log(3.0), 200_000))
    u = np.where(draw.random(s.size) < 0.5, s * draw.uniform(0.0, 6.0, s.size), draw.uniform(0.0, 6.0, s.size))
    u = np.maximum(u, 1e-300)
    c = time_value(u, s)
    with np.errstate(all="ignore"):
        found, good = usual(c, u, np.expm1(u))
    assert good[(s > 0.01) & (s < 0.5) & (u < 4.0 * s)].mean() > 0.99
    assert np.abs(found / s - 1.0)[good].max() < 1e-12


def test_time_value_keeps_its_digits_when_time_runs_out() -> None:
    for a in (0.0, 0.3, 2.0, 9.0, 20.0, 33.0):
        for s in (1e-14, 1e-7, 1e-3, 0.039, 0.041, 0.5, 3.0):
            u = a * s
            with mpmath.workdps(60):
                low, high = (mpmath.mpf(u) / s + part * mpmath.mpf(s) / 2 for part in (-1, 1))
                theirs = mpmath.ncdf(-low) - mpmath.exp(mpmath.mpf(u)) * mpmath.ncdf(-high)
            assert time_value(np.array([u]), np.array([s]))[0] == pytest.approx(float(theirs), rel=1e-11), (a, s)
    assert mills_difference(np.array([0.0]), np.array([1e-15]))[0] == pytest.approx(2e-15, rel=1e-13)


def test_quotients_are_what_they_stand_for_when_compared_in_30_digits() -> None:
    with mpmath.workdps(30):
        z = np.linspace(-0.6, 8.0, 500)
        mills = [float(mpmath.erfc(x / mpmath.sqrt(2)) * mpmath.exp(mpmath.mpf(x) ** 2 / 2) / 2) for x in z]
        np.testing.assert_allclose(mills_usual(z), mills, rtol=4e-15)
        for a in np.linspace(0.01, 4.5, 60):
            worth = mpmath.npdf(a) / a - mpmath.ncdf(-a)
            length = mpmath.log(1 + 1 / (2 * worth))
            assert length < LONGEST_L
            expected = 1 / (a * (worth + mpmath.mpf(1) / 2))
            assert guess_ratio(np.array([float(length)]))[0] == pytest.approx(float(expected), rel=3e-5)
    assert GUESS_ABOVE[0] == pytest.approx(math.sqrt(2 * math.pi), rel=3e-5)


@pytest.mark.parametrize(
    ("kind", "price", "strike", "years", "reason"),
    [
        ("call", 5.0, 100.0, 0.0, NoVolatility.EXPIRED),
        ("put", 5.0, 100.0, -0.5, NoVolatility.EXPIRED),
        ("call", 19.999, 80.0, 1.0, NoVolatility.BELOW_INTRINSIC),
        ("put", 19.999, 120.0, 1.0, NoVolatility.BELOW_INTRINSIC),
        ("put", -0.001, 80.0, 1.0, NoVolatility.BELOW_INTRINSIC),
        ("call", 100.0, 80.0, 1.0, NoVolatility.ABOVE_BOUND),
        ("put", 80.0, 80.0, 1.0, NoVolatility.ABOVE_BOUND),
        ("call", 1e9, 80.0, 1.0, NoVolatility.ABOVE_BOUND),
        ("call", 20.0, 80.0, 1.0, NoVolatility.NO_TIME_VALUE),
        ("call", 0.0, 120.0, 1.0, NoVolatility.NO_TIME_VALUE),
        ("call", math.nextafter(20.0, 0.0), 80.0, 1.0, NoVolatility.NO_TIME_VALUE),
        ("call", 25.0, 80.0, 1.0, NoVolatility.NONE),
        ("call", math.nextafter(100.0, 0.0), 120.0, 1.0, NoVolatility.NONE),
        ("call", 1e-300, 120.0, 1.0, NoVolatility.NONE),
    ],
)
def test_reason_is_told_when_no_volatility_fits(
    kind: str, price: float, strike: float, years: float, reason: NoVolatility
) -> None:
    found = implied_volatility(kind, price, 100.0, strike, years, 0.0)
    assert type(found.volatility) is float
    assert found.reason is reason
    assert math.isnan(found.volatility) == (reason is not NoVolatility.NONE)
    row = implied_volatility(kind, [price, 12.0], 100.0, [strike, 100.0], [years, 1.0], 0.0)
    assert row.reason.tolist() == [reason, NoVolatility.NONE]
    assert math.isnan(row.volatility[0]) == math.isnan(found.volatility)
    assert row.volatility[1] == pytest.approx(0.3, abs=0.01)


def test_blocks_leave_no_trace_when_arrays_are_long() -> None:
    years, strikes = np.linspace(0.02, 2.0, 700)[:, None], np.linspace(70.0, 130.0, 35)
    price = g.price("put", 100.0, strikes, years, 0.03, 0.25, 0.01)
    price[::7, 3] = -1.0
    whole = implied_volatility("put", price, 100.0, strikes, years, 0.03, 0.01)
    assert whole.volatility.shape == whole.reason.shape == (700, 35)
    assert (whole.reason == NoVolatility.BELOW_INTRINSIC).sum() == 100
    for row in (0, 1, 233, 234, 350, 699):
        alone = implied_volatility("put", price[row], 100.0, strikes, years[row], 0.03, 0.01)
        np.testing.assert_array_equal(whole.reason[row], alone.reason)
        np.testing.assert_allclose(whole.volatility[row], alone.volatility, rtol=1e-13)
    flat = implied_volatility("put", price.ravel(), 100.0, np.tile(strikes, 700), np.repeat(years, 35), 0.03, 0.01)
    np.testing.assert_array_equal(flat.reason.reshape(700, 35), whole.reason)
    assert implied_volatility("put", [], 100.0, [], 1.0, 0.0).volatility.shape == (0,)


def test_volatility_comes_back_when_dividends_are_escrowed() -> None:
    dividends = g.Dividends([0.1, 0.6], [2.0, 3.0])
    years = np.array([0.05, 0.5, 1.0])
    price = g.price("call", 100.0, 95.0, years, 0.04, 0.3, 0.0, dividends)
    found = implied_volatility("call", price, 100.0, 95.0, years, 0.04, 0.0, dividends)
    np.testing.assert_allclose(found.volatility, 0.3, rtol=1e-12)


def test_price_is_refused_when_it_is_no_number() -> None:
    with pytest.raises(InvalidInput, match=r"price in row 1 must be a finite number, not nan") as refused:
        implied_volatility("call", [5.0, math.nan], 100.0, 100.0, 1.0, 0.0)
    assert refused.value.field == "price"


def test_chain_gives_columns_when_quotes_are_put_in() -> None:
    kinds = ["put", "put", "call", "call"]
    chain = g.Chain.of(
        kinds, [90.0, 95.0, 105.0, 110.0], [0.5, 0.5, 0.5, 0.0], spot=100.0, rate=0.02, dividend_yield=0.01
    )
    price = chain.greeks([0.3, 0.28, 0.26, 0.25]).price
    found = chain.implied_volatility(price)
    assert found.reason.tolist() == [0, 0, 0, NoVolatility.EXPIRED]
    np.testing.assert_allclose(found.volatility[:3], [0.3, 0.28, 0.26], rtol=1e-12)
    table = chain.table(0.25)
    assert list(table["kind"]) == kinds
    assert {len(column) for column in table.values()} == {len(chain)} == {4}
    with pytest.raises(InvalidInput) as refused:
        g.Chain.of("call", [90.0, 95.0], [0.1, 0.2, 0.3], spot=100.0, rate=0.0)
    assert refused.value.field == "strike"
