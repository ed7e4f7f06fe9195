"""Exactness of money, from the wire's integers to the record's JSON numbers."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ProtocolViolation
from core.money import MAX_MINOR_UNITS, from_minor, json_number, round_money, to_minor

amounts = st.integers(-MAX_MINOR_UNITS, MAX_MINOR_UNITS)
digits = st.integers(0, 8)


@given(amounts, digits)
def test_minor_units_survive_when_converted_both_ways(amount: int, places: int) -> None:
    assert to_minor(from_minor(amount, places), places) == amount


@given(amounts, digits)
def test_a_json_reader_sees_exactly_the_brokers_value_when_rendered(amount: int, places: int) -> None:
    shown = json.loads(json.dumps(json_number(from_minor(amount, places))), parse_float=Decimal, parse_int=Decimal)
    assert shown == Decimal(amount).scaleb(-places)


@pytest.mark.parametrize(("amount", "places"), [(10**15, 2), (-(10**15), 0), (1, -1), (1, 13)])
def test_absurd_money_is_refused_when_read(amount: int, places: int) -> None:
    with pytest.raises(ProtocolViolation):
        from_minor(amount, places)


def test_rounding_is_half_even_when_a_tie() -> None:
    assert [round_money(Decimal(x), 2) for x in ("0.125", "0.135", "-0.125")] == [
        Decimal("0.12"),
        Decimal("0.14"),
        Decimal("-0.12"),
    ]


def test_absent_stays_absent_when_rendered() -> None:
    assert json_number(None) is None
