"""Bodies and queries as the simulated Alpaca reads them."""

from contextlib import suppress
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.simulator.alpaca.refusals import ApiRefusal
from bridge.simulator.alpaca.rest.exact import read_object, truth_value


@given(st.decimals(min_value=-(10**8), max_value=10**8, places=6, allow_nan=False, allow_infinity=False))
def test_a_number_means_what_was_written_when_it_has_up_to_fifteen_digits(number: Decimal) -> None:
    assert read_object(f'{{"qty": {number:f}}}'.encode())["qty"] == number


def test_every_value_keeps_its_kind_when_read() -> None:
    raw = b'{"a": "1.50", "b": 1, "c": 1e-9, "d": true, "e": null, "f": [{"g": 0.1}]}'
    read = read_object(raw)
    assert read == {
        "a": "1.50",
        "b": Decimal(1),
        "c": Decimal("1e-9"),
        "d": True,
        "e": None,
        "f": [{"g": Decimal("0.1")}],
    }
    assert isinstance(read["b"], Decimal)
    assert read["d"] is True
    assert read_object(b"") == {}


@pytest.mark.parametrize(
    "raw",
    [b"{", b"[]", b'"x"', b"1", b"null", b"NaN", b'{"a": 1e999', b"\xff", b'{"a":' + b"[" * 40 + b"]" * 40 + b"}"],
)
def test_a_body_is_refused_when_it_is_no_plain_object(raw: bytes) -> None:
    with pytest.raises(ApiRefusal) as refused:
        read_object(raw)
    assert (refused.value.status, refused.value.code) == (422, 40010001)


@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), st.lists))
def test_reading_ends_well_or_in_a_refusal_when_the_body_is_anything(value: Any) -> None:
    try:
        raw = orjson.dumps({"x": value})
    except orjson.JSONEncodeError:
        return
    with suppress(ApiRefusal):
        read_object(raw)


@pytest.mark.parametrize(
    ("text", "means"), [("true", True), ("True", True), ("1", True), ("False", False), ("", False)]
)
def test_a_boolean_is_read_in_json_and_python_words_when_in_a_query(text: str, means: bool) -> None:
    assert truth_value({"nested": text}, "nested") is means
    assert truth_value({}, "nested") is False


def test_a_boolean_is_refused_when_it_is_none() -> None:
    with pytest.raises(ApiRefusal):
        truth_value({"nested": "perhaps"}, "nested")
