"""Credentials of cTrader as they are entered and stored."""

from typing import Any

import pytest

from bridge.brokers.base import Environment
from bridge.brokers.ctrader import credential
from core.errors import InvalidInput
from core.secret import Secret

ENTRY = {"accessToken": "a", "refreshToken": "r", "environment": "demo", "accountId": "12345"}


def test_credential_is_read_when_it_is_complete() -> None:
    read = credential.read("g", ENTRY)
    assert (read.grant_id, read.environment, read.account_id) == ("g", Environment.DEMO, "12345")
    assert read.secrets == {"accessToken": Secret("a"), "refreshToken": Secret("r")}
    assert repr(read.secrets["accessToken"]) == "***"


def test_credential_is_read_when_optional_fields_are_absent_or_null() -> None:
    read = credential.read("g", {"accessToken": "a", "environment": "live", "accountId": None})
    assert read.account_id is None
    assert set(read.secrets) == {"accessToken"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"accessToken": None}, "accessToken"),
        ({"accessToken": 5}, "accessToken"),
        ({"accessToken": "  "}, "accessToken"),
        ({"accessToken": "\ud800token"}, "accessToken"),
        ({"accessToken": "tok\0en"}, "accessToken"),
        ({"accessToken": "to\r\nken"}, "accessToken"),
        ({"accessToken": '","level":"'}, "accessToken"),
        ({"accessToken": "t" * 4097}, "accessToken"),
        ({"refreshToken": "tök"}, "refreshToken"),
        ({"refreshToken": ["r"]}, "refreshToken"),
        ({"environment": None}, "environment"),
        ({"environment": "paper"}, "environment"),
        ({"environment": True}, "environment"),
        ({"accountId": 12345}, "accountId"),
        ({"accountId": "12a"}, "accountId"),
        ({"accountId": "9" * 20}, "accountId"),
        ({"accountId": "١٢"}, "accountId"),
        ({"acountId": "1"}, "acountId"),
    ],
)
def test_credential_is_refused_with_the_field_when_it_is_wrong(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        credential.read("g", {**ENTRY, **change})
    assert refused.value.field == field
