"""Single values as Alpaca writes them: times, ids and numbers."""

import contextlib
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.brokers.alpaca import times, values
from core.errors import ProtocolViolation


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("2026-11-20T14:30:00Z", 1_795_185_000_000_000_000),
        ("2026-11-20T14:30:00.123456789Z", 1_795_185_000_123_456_789),
        ("2026-11-20T09:30:00.123456789-05:00", 1_795_185_000_123_456_789),
        ("2026-11-20T09:30:00.1-0500", 1_795_185_000_100_000_000),
        ("2026-11-20t14:30:00.000001Z", 1_795_185_000_000_001_000),
        ("2026-11-20 20:00:00,5+05:30", 1_795_185_000_500_000_000),
        ("2026-11-20T14:30:00.1234567891Z", 1_795_185_000_123_456_789),
    ],
)
def test_a_time_is_read_to_the_nanosecond_when_written_in_any_zone(text: str, ns: int) -> None:
    assert times.to_ns(text) == ns
    assert times.to_ms(text) == ns // 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-20",
        "2026-11-20T14:30:00",
        "2026-13-20T14:30:00Z",
        "2026-11-20T25:30:00Z",
        "1999-12-31T23:59:59Z",
        "2100-01-01T00:00:00Z",
        "2026-11-20T14:30:00+99:00",
        "٢026-11-20T14:30:00Z",
        "0001-01-01T00:00:00+23:59",
        "x" * 100,
    ],
)
def test_a_time_is_refused_when_it_is_none(text: str) -> None:
    with pytest.raises(ProtocolViolation):
        times.to_ns(text)


@given(st.integers(946_800_000, 4_102_300_000), st.integers(0, 999_999_999), st.integers(-1439, 1439))
def test_a_time_is_the_same_moment_when_written_with_any_offset(second: int, ns: int, minutes: int) -> None:
    whole = datetime.fromtimestamp(second, timezone(timedelta(minutes=minutes)))
    text = whole.isoformat()
    found = times.to_ns(f"{text[:19]}.{ns:09d}{text[19:]}")
    assert found == second * 1_000_000_000 + ns
    ms = found // 1_000_000
    assert times.to_ms(times.from_ms(ms)) == ms
    assert datetime.fromisoformat(times.from_ms(ms)) == datetime.fromtimestamp(ms // 1000, UTC).replace(
        microsecond=ms % 1000 * 1000
    )


@given(st.text() | st.none() | st.integers() | st.binary())
def test_nothing_else_is_raised_when_a_time_is_anything(value: object) -> None:
    with contextlib.suppress(ProtocolViolation):
        times.to_ms(value)


def test_no_time_is_none_when_it_is_null_or_empty() -> None:
    assert times.to_ms(None) is times.to_ms("") is None


def test_the_execution_is_the_second_half_when_an_activity_names_it() -> None:
    assert times.execution_id("20260716093000123::7922ab44-5b33-4049") == "7922ab44-5b33-4049"
    assert times.execution_id("7922ab44") == "7922ab44"
    for wrong in (None, 7, "", "20260716093000123::", "a::b c", "a::" + "x" * 200):
        with pytest.raises(ProtocolViolation):
            times.execution_id(wrong)


@given(st.decimals(-(10**14), 10**14, places=9, allow_nan=False, allow_infinity=False))
def test_a_decimal_is_exact_when_it_comes_as_text(value: Decimal) -> None:
    assert values.number(f"{value:f}") == value


@given(st.decimals(0, 10**8, places=9))
def test_a_price_is_exact_when_kept_as_a_quote(value: Decimal) -> None:
    assert Decimal(values.raw_price(value)).scaleb(-values.QUOTE_DIGITS) == value


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()))
def test_a_number_is_sane_or_refused_when_it_is_anything(value: object) -> None:
    try:
        found = values.number(value)
    except ProtocolViolation:
        return
    assert found is None or (found.is_finite() and abs(found) < 10**15)


@given(
    second=st.sampled_from(
        ["2026-11-20T14:30:05", "2026-W47-5T14:30:05", "20261120T143005", "1999-12-31T23:59:59", "x" * 19]
    ),
    point=st.sampled_from([".", ",", ":", ""]),
    fraction=st.one_of(
        st.text("0123456789", max_size=10), st.sampled_from(["12\u00b2", "\u0661\u0662\u0663", "-12", "1 2"])
    ),
    zone=st.sampled_from(["Z", "z", "+00:00", "-05:00", ""]),
)
def test_time_is_the_same_by_the_short_way_when_it_is_written_as_most_are(
    second: str, point: str, fraction: str, zone: str
) -> None:
    def told(read: object) -> object:
        try:
            return read(f"{second}{point}{fraction}{zone}")  # type: ignore[operator]
        except ProtocolViolation as violation:
            return str(violation)

    assert told(times.to_ms) == told(times._any_time)
