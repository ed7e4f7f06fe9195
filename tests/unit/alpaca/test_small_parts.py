"""Times, ids, single values, settings and credentials of the Alpaca adapter."""

import contextlib
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.brokers.alpaca import credential, times, values
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.base import BrokerFault, Credential, Environment, FaultKind
from core.errors import InvalidInput, ProtocolViolation
from core.secret import Secret

# ---------------------------------------------------------------- times and ids


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


# ---------------------------------------------------------------- values


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


# ---------------------------------------------------------------- settings


def test_stream_addresses_follow_the_rest_ones_when_not_said() -> None:
    plain = AlpacaSettings()
    assert plain.stream_url(Environment.LIVE) == "wss://api.alpaca.markets/stream"
    assert plain.stream_url(Environment.DEMO) == "wss://paper-api.alpaca.markets/stream"
    local = AlpacaSettings(paper_url="http://127.0.0.1:5/", live_stream_url="wss://elsewhere/x")
    assert local.rest_url(Environment.DEMO) == "http://127.0.0.1:5"
    assert local.stream_url(Environment.DEMO) == "ws://127.0.0.1:5/stream"
    assert local.stream_url(Environment.LIVE) == "wss://elsewhere/x"


def test_there_is_no_data_stream_when_the_feed_is_off() -> None:
    assert AlpacaSettings(data_feed="sip").stock_data_url() == "wss://stream.data.alpaca.markets/v2/sip"
    assert AlpacaSettings().crypto_data_url() == "wss://stream.data.alpaca.markets/v1beta3/crypto/us"
    off = AlpacaSettings(data_feed="off")
    assert off.stock_data_url() is off.crypto_data_url() is None


def test_prices_are_the_houses_and_users_may_consent_when_both_halves_are_configured() -> None:
    assert not AlpacaSettings(data_key_id=Secret("k")).house_data
    assert AlpacaSettings(data_key_id=Secret("k"), data_secret=Secret("s")).house_data
    assert not AlpacaSettings(client_id="c").consents
    assert AlpacaSettings(client_id="c", client_secret=Secret("s")).consents


# ---------------------------------------------------------------- credentials

PAIR = {"keyId": "SIMKEY1", "secretKey": "sim-alpaca-secret-1", "environment": "paper"}
TOKEN = {"accessToken": "sim-alpaca-oauth-1", "environment": "live"}
ACCOUNT = "E6FE16F3-64a4-4921-8928-cadf02f92f98"


def test_a_key_pair_is_shown_at_each_door_when_read() -> None:
    found = credential.read("g", PAIR | {"accountId": f" {ACCOUNT} "})
    assert (found.environment, found.account_id) == (Environment.DEMO, ACCOUNT.lower())
    assert credential.headers(found) == {
        "APCA-API-KEY-ID": "SIMKEY1",
        "APCA-API-SECRET-KEY": "sim-alpaca-secret-1",
    }
    data = {"key_id": "SIMKEY1", "secret_key": "sim-alpaca-secret-1"}
    assert credential.stream_auth(found) == {"action": "authenticate", "data": data}
    assert credential.data_auth(found) == {"action": "auth", "key": "SIMKEY1", "secret": "sim-alpaca-secret-1"}
    assert not credential.is_oauth(found)
    assert "sim-alpaca" not in repr(found)


def test_a_token_is_shown_at_each_door_when_read() -> None:
    found = credential.read("g", TOKEN)
    assert (found.environment, found.account_id) == (Environment.LIVE, None)
    assert credential.headers(found) == {"Authorization": "Bearer sim-alpaca-oauth-1"}
    assert credential.stream_auth(found) == {"action": "authenticate", "data": {"oauth_token": "sim-alpaca-oauth-1"}}
    assert credential.data_auth(found) == {"action": "auth", "key": "oauth", "secret": "sim-alpaca-oauth-1"}
    assert credential.is_oauth(found)


@pytest.mark.parametrize("word", ["paper", "demo", "PAPER", " demo "])
def test_paper_and_demo_are_one_when_named(word: str) -> None:
    assert credential.read("g", PAIR | {"environment": word}).environment is Environment.DEMO


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        (PAIR | {"environment": None}, "environment"),
        (PAIR | {"environment": "sandbox"}, "environment"),
        (PAIR | {"environment": 1}, "environment"),
        (PAIR | {"keyId": None}, "keyId"),
        (PAIR | {"keyId": "a b"}, "keyId"),
        (PAIR | {"secretKey": ""}, "secretKey"),
        (PAIR | {"secretKey": None}, "secretKey"),
        (PAIR | {"secretKey": "x" * 5000}, "secretKey"),
        (PAIR | {"accountId": "PA10000001"}, "accountId"),
        (PAIR | {"refreshToken": "r"}, "refreshToken"),
        (PAIR | {"accessToken": "t"}, "keyId"),
        (TOKEN | {"secretKey": "s"}, "secretKey"),
        (TOKEN | {"accessToken": "naïve"}, "accessToken"),
        ({"environment": "paper"}, "keyId"),
        ({}, "keyId"),
    ],
)
def test_an_entry_is_refused_with_its_field_when_it_cannot_be_used(entry: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        credential.read("g", entry)
    assert caught.value.field == name
    assert "sim-alpaca" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "entry"),
    [
        ({"apiKey": "K", "apiSecret": "S", "isPaper": True}, {"keyId": "K", "secretKey": "S", "environment": "paper"}),
        ({"api_key": "K", "secret_key": "S", "paper": False}, {"keyId": "K", "secretKey": "S", "environment": "live"}),
        ({"keyId": "K", "secretKey": "S", "isLive": True}, {"keyId": "K", "secretKey": "S", "environment": "live"}),
        ({"key_id": "K", "api_secret": "S", "environment": "Demo", "theme": "dark"},
         {"keyId": "K", "secretKey": "S", "environment": "paper"}),
        ({"access_token": "T", "environment": "live", "isPaper": False, "account_id": "x"},
         {"accessToken": "T", "environment": "live", "accountId": "x"}),
        ({"apiKey": "K", "keyId": "K", "paper": True, "apiSecret": ""}, {"keyId": "K", "environment": "paper"}),
    ],
)  # fmt: skip
def test_a_settings_row_becomes_an_entry_when_it_says_all(row: dict[str, Any], entry: dict[str, Any]) -> None:
    assert credential.entry_of_settings(row) == entry


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"apiKey": "K", "apiSecret": "S"}, "environment"),
        ({"apiKey": "PK1", "isPaper": True, "isLive": True}, "environment"),
        ({"isPaper": True, "environment": "live"}, "environment"),
        ({"isPaper": "yes"}, "isPaper"),
        ({"environment": "sandbox"}, "environment"),
        ({"apiKey": "K", "keyId": "L", "isPaper": True}, "keyId"),
    ],
)
def test_nothing_is_assumed_when_a_settings_row_does_not_say_it(row: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        credential.entry_of_settings(row)
    assert caught.value.field == name


def test_two_credentials_are_told_apart_by_their_secrets_when_named_in_memory() -> None:
    def name(entry: dict[str, Any]) -> str:
        return credential.fingerprint(credential.read("g", entry))

    assert name(PAIR) == name(dict(PAIR))
    assert len({name(PAIR), name(PAIR | {"secretKey": "other"}), name(PAIR | {"keyId": "OTHER"}), name(TOKEN)}) == 4
    assert "SIMKEY1" not in name(PAIR)


def test_a_credential_without_secrets_is_a_fault_of_the_user_when_used() -> None:
    with pytest.raises(BrokerFault) as caught:
        credential.headers(Credential("g", Environment.DEMO, {}))
    assert caught.value.kind is FaultKind.FATAL_USER
