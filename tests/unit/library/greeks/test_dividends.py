"""Escrowed dividends: QuantLib's dividend engine, and Greeks that are the slopes of the price they come with."""

import mpmath
import numpy as np
import pytest

from core import greeks as g

PAID = g.Dividends([-0.2, 0.1, 0.35, 0.6, 2.0], [9.0, 1.5, 1.5, 2.0, 2.5])
TERMS = {"spot": 100.0, "strike": 104.0, "years": 0.75, "rate": 0.05, "volatility": 0.27, "dividend_yield": 0.015}


def shifted(kind: str, *, now: float = 0.0, **by: float) -> mpmath.mpf:
    """The price in 40 digits with terms changed, and with `now` years passed."""
    terms = {name: mpmath.mpf(value) + by.get(name, 0) for name, value in TERMS.items()}
    carry = terms["rate"] - terms["dividend_yield"]
    years = terms["years"]
    coming = [(t - now, a) for t, a in zip(PAID.years, PAID.amounts, strict=True) if 0 < t <= TERMS["years"]]
    star = terms["spot"] - sum(a * mpmath.exp(-carry * t) for t, a in coming)
    left = years - now
    s = terms["volatility"] * mpmath.sqrt(left)
    d1 = (mpmath.log(star / terms["strike"]) + carry * left) / s + s / 2
    sign = 1 if kind == "call" else -1
    forward = star * mpmath.exp(-terms["dividend_yield"] * left)
    bond = terms["strike"] * mpmath.exp(-terms["rate"] * left)
    return sign * (forward * mpmath.ncdf(sign * d1) - bond * mpmath.ncdf(sign * (d1 - s)))


@pytest.mark.parametrize("kind", ["call", "put"])
@pytest.mark.parametrize(
    ("name", "along"),
    [
        ("price", ()),
        ("delta", ("spot",)),
        ("gamma", ("spot", "spot")),
        ("vega", ("volatility",)),
        ("theta", ("now",)),
        ("rho", ("rate",)),
        ("vanna", ("spot", "volatility")),
        ("volga", ("volatility", "volatility")),
        ("charm", ("spot", "now")),
        ("speed", ("spot", "spot", "spot")),
        ("colour", ("spot", "spot", "now")),
    ],
)
def test_greek_is_the_slope_of_the_price_when_dividends_are_to_come(
    kind: str, name: str, along: tuple[str, ...]
) -> None:
    with mpmath.workdps(40):
        names = sorted(set(along))
        if names:
            orders = tuple(along.count(one) for one in names)
            slope = mpmath.diff(
                lambda *by: shifted(kind, **dict(zip(names, by, strict=True))), (0,) * len(names), orders
            )
        else:
            slope = shifted(kind)
    ours = getattr(g, name)(kind, **TERMS, dividends=PAID)
    assert ours == pytest.approx(float(slope), rel=1e-9)


def test_only_dividends_before_expiry_count_when_a_chain_has_many_expiries() -> None:
    years = np.array([0.05, 0.1, 0.5, 1.0])
    terms = ("put", 100.0, 100.0, years, 0.05, 0.3)
    carry = np.exp(-0.05 * np.array([0.1, 0.35, 0.6])) * [1.5, 1.5, 2.0]
    stars = 100.0 - np.array([0.0, carry[0], carry[:2].sum(), carry.sum()])
    assert g.price(*terms, 0.0, PAID) == pytest.approx(g.price("put", stars, *terms[2:]), rel=1e-14)


def test_price_is_quantlibs_when_its_engine_escrows_dividends() -> None:
    ql = pytest.importorskip("QuantLib")
    today = ql.Date(2, 1, 2026)
    ql.Settings.instance().evaluationDate = today
    counter = ql.Actual365Fixed()
    curve = {
        rate: ql.YieldTermStructureHandle(ql.FlatForward(today, rate, counter))
        for rate in (TERMS["rate"], TERMS["dividend_yield"])
    }
    volatility = ql.BlackVolTermStructureHandle(
        ql.BlackConstantVol(today, ql.NullCalendar(), TERMS["volatility"], counter)
    )
    process = ql.BlackScholesMertonProcess(
        ql.QuoteHandle(ql.SimpleQuote(100.0)), curve[TERMS["dividend_yield"]], curve[TERMS["rate"]], volatility
    )
    days, amounts = (40, 120, 220), (1.5, 1.5, 2.0)
    schedule = ql.DividendVector([today + day for day in days], amounts)
    ours = g.Dividends([day / 365 for day in days], amounts)
    for kind, flavour in (("call", ql.Option.Call), ("put", ql.Option.Put)):
        option = ql.VanillaOption(ql.PlainVanillaPayoff(flavour, 104.0), ql.EuropeanExercise(today + 270))
        option.setPricingEngine(ql.AnalyticDividendEuropeanEngine(process, schedule))
        terms = TERMS | {"years": 270 / 365}
        found = g.greeks(kind, **terms, dividends=ours)
        for name in ("delta", "gamma", "vega", "rho", "theta"):
            assert getattr(found, name) == pytest.approx(getattr(option, name)(), rel=1e-9), name
        assert found.price == pytest.approx(option.NPV(), rel=1e-10)
