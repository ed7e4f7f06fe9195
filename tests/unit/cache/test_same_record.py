"""The record made quickly is the plain one, to the last byte: `tests/support/plain_record.py` is the oracle.

Names hold what templates trip over. Each account is shown, moved on and shown again, so that what is kept of it must
be found out of date.
"""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.brokers.base import Reason, ReasonCode
from bridge.cache.record import Reading, RecordStatus, make_record
from core.account import AccountMirror, EquityRule, Quote
from core.instruments import Catalogue, Hop, Instrument
from core.orders import Order, OrderType, Side
from core.positions import Position
from core.stakes import stakes_of
from tests.support.plain_record import plain_document, value_account
from tests.unit.cache.builders import NOW_MS, account

ASSETS = ("USD", "JPY", "GBP")
CHAINS = (None, (), *[(Hop(one, way),) for one in "123" for way in (True, False)], (Hop("1", True), Hop("2", False)))
CHANGED = (
    *("balance", "used_margin", "currency", "money_digits", "quote_digits", "leverage", "equity_rule"),
    *("positions", "orders", "catalogue", "in place", "instruments", "chains"),
)
SIZES = st.sampled_from([1, 3, 8, 15, 18, 27])
RAW = st.one_of(st.none(), st.integers(0, 30), st.integers(1, 10**7), st.integers(1, 10**11), st.integers(-9, 10**18))


@st.composite
def decimals(draw: st.DrawFn, *, signed: bool = False, most: int = 12) -> Decimal:
    """Of any size; often short, so that the middle between two roundings is met."""
    digits = draw(SIZES)
    coefficient = draw(st.integers(-(10**digits) if signed else 0, 10**digits))
    return Decimal(coefficient).scaleb(-draw(st.integers(0, most)))


@st.composite
def positions(draw: st.DrawFn, number: int, money_digits: int) -> Position:
    maybe = st.one_of(st.none(), decimals())
    return Position(
        str(number),
        draw(st.sampled_from("1234")),
        draw(st.sampled_from(Side)),
        draw(st.one_of(decimals(), st.sampled_from([Decimal(1000), Decimal("0.5"), Decimal(25)]))),
        draw(decimals(most=6)),
        draw(maybe),
        draw(maybe),
        draw(decimals(signed=True, most=money_digits)),
        draw(decimals(signed=True, most=money_digits)),
        draw(maybe),
        draw(st.one_of(st.none(), st.just(NOW_MS))),
        cost=draw(maybe),
    )


@st.composite
def quotes(draw: st.DrawFn) -> dict[str, Quote]:
    return {number: Quote(draw(RAW), draw(RAW)) for number in draw(st.sets(st.sampled_from("123")))}


@st.composite
def catalogues(draw: st.DrawFn) -> Catalogue:
    made = Catalogue()
    for number in draw(st.sets(st.sampled_from("123"))):
        lot = draw(st.one_of(st.none(), st.sampled_from([Decimal(100_000), Decimal(7)])))
        quote, multiplier = draw(st.sampled_from(ASSETS)), draw(st.sampled_from([Decimal(1), Decimal(100)]))
        made.instruments[number] = Instrument(number, f"S%b{number}\0", 5, "EUR", quote, lot, multiplier=multiplier)
    for asset in ASSETS[1:]:
        chain = draw(st.sampled_from(CHAINS))
        if chain is not None:
            made.chains[(asset, "USD")] = chain
    return made


@st.composite
def mirrors(draw: st.DrawFn) -> AccountMirror:
    digits = draw(st.integers(0, 8))
    held = AccountMirror("demo", "1", draw(catalogues()), draw(st.sampled_from([0, 2, 5, 9, 11])))
    held.equity_rule = draw(st.sampled_from([EquityRule.PROFIT, EquityRule.PROFIT, EquityRule.VALUE]))
    held.currency = draw(st.sampled_from([None, "USD", "USD", "USD"]))
    held.money_digits = digits
    held.leverage = draw(st.one_of(st.none(), st.just(Decimal(100))))
    held.used_margin = draw(st.one_of(st.none(), st.none(), decimals(signed=True)))
    held.balance = draw(st.one_of(st.none(), decimals(signed=True, most=digits)))
    held.content_at_ms = NOW_MS
    held.confirmed_at_ms = draw(st.sampled_from([None, NOW_MS, NOW_MS, NOW_MS]))
    for number in range(draw(st.integers(0, 3))):
        held.positions[str(number)] = draw(positions(number, digits))
    if draw(st.booleans()):
        held.orders["9"] = Order("9", "1", Side.BUY, OrderType.LIMIT, draw(decimals()), limit_price=draw(decimals()))
    held.quotes = draw(quotes())
    return held


def answer(reading: Reading, *, plain: bool) -> bytes | type[Exception]:
    """The document, or how it failed: what no JSON number holds cannot be told either way."""
    try:
        if plain:
            return plain_document(reading, fence=7, version=3, now_ms=NOW_MS)
        return make_record(reading, fence=7, version=3, now_ms=NOW_MS).document
    except (ArithmeticError, TypeError) as error:
        return type(error)


def same(mirror: AccountMirror) -> None:
    reason = Reason(ReasonCode.STARTING, "soon") if mirror.confirmed_at_ms is None else None
    reading = Reading("b", "demo", "1", RecordStatus.LIVE, reason, mirror, NOW_MS)
    assert answer(reading, plain=False) == answer(reading, plain=True)


@given(st.data())
@settings(max_examples=120)
def test_the_record_is_the_plain_one_when_anything_has_changed_since_the_last(data: st.DataObject) -> None:
    mirror = data.draw(mirrors())
    same(mirror)
    mirror.quotes = data.draw(quotes())
    same(mirror)
    other = data.draw(mirrors())
    name = data.draw(st.sampled_from(CHANGED))
    if name in ("instruments", "chains"):
        held = getattr(mirror.catalogue, name)
        held.clear()
        held.update(getattr(other.catalogue, name))
    elif name != "in place":
        setattr(mirror, name, getattr(other, name))
    for position in mirror.positions.values() if name == "in place" else ():
        position.used_margin, position.stop_loss = Decimal("1.5"), Decimal("1.25")
    same(mirror)


@pytest.mark.parametrize("name", ["used_margin", "stop_loss"])
def test_the_record_is_the_plain_one_when_a_position_was_changed_in_place(name: str) -> None:
    mirror = account()
    same(mirror)
    setattr(mirror.positions["p"], name, Decimal("1.25"))
    same(mirror)


@given(
    st.sampled_from(Side),
    st.integers(1, 10**6),
    st.integers(1, 10**4),
    st.integers(-50, 50),
    st.sampled_from([None, True, False]),
    st.integers(1, 400),
    st.integers(0, 3),
)
@settings(max_examples=200)
def test_whole_numbers_say_what_decimals_say_when_an_account_is_usual(
    side: Side, raw: int, units: int, fee: int, inverse: bool | None, rate: int, digits: int
) -> None:
    """Small numbers, so that many results lie in the middle between two minor units; never the plain way."""
    mirror = account()
    mirror.money_digits = mirror.quote_digits = digits
    mirror.positions["p"] = Position("p", "1", side, Decimal(units) / 8, Decimal(3), used_margin=Decimal(2))
    mirror.positions["p"].swap = Decimal(fee).scaleb(-digits)
    if inverse is not None:
        mirror.catalogue.instruments["1"] = Instrument("1", "X", 5, "EUR", "JPY")
        mirror.catalogue.chains[("JPY", "USD")] = (Hop("2", inverse),)
    mirror.quotes = {"1": Quote(raw, raw + 1), "2": Quote(rate, None)}
    stakes, value = stakes_of(mirror), value_account(mirror)
    assert stakes is not None
    worth = stakes.worth(mirror.quotes)
    assert worth is not None
    assert [Decimal(worth.profit).scaleb(-digits), Decimal(worth.equity).scaleb(-digits)] == [
        value.unrealized_pnl,
        value.equity,
    ]
    assert worth.level is not None
    assert Decimal(worth.level).scaleb(-2) == value.margin_level
    same(mirror)


@pytest.mark.parametrize("raw", [10**10 - 1, 10**10, 10**15, 10**30])
def test_the_record_is_the_plain_one_when_numbers_are_at_the_limit_of_whole_numbers(raw: int) -> None:
    mirror = account()
    mirror.quotes["1"] = Quote(raw, raw)
    same(mirror)
    mirror.catalogue.instruments["1"] = Instrument("1", "X", 5, "EUR", "JPY")
    for inverse in (True, False):
        mirror.catalogue.chains[("JPY", "USD")] = (Hop("1", inverse),)
        same(mirror)
