"""Credentials of Alpaca: how they are entered, stored, told apart and shown at each door."""

from typing import Any

import pytest

from bridge.brokers.alpaca import credential
from bridge.brokers.base import BrokerFault, Credential, Environment, FaultKind
from core.errors import InvalidInput

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
