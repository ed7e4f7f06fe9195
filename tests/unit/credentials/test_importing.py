"""Existing settings: what a row says, what is refused, and what a look at it leads to."""

from typing import Any

import pytest

from bridge.brokers.base import Environment
from bridge.brokers.ctrader.credential import entry_of_settings, read
from bridge.credentials.grant_table import Grant, Source
from bridge.credentials.importing import NOTHING_THERE, FoundSettings, Step, next_step, read_value
from core.errors import InvalidInput

TOKENS = {"accessToken": "a", "refreshToken": "r", "accountId": "12"}


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({"isLive": True}, Environment.LIVE),
        ({"isLive": False}, Environment.DEMO),
        ({"isDemo": True}, Environment.DEMO),
        ({"isDemo": False}, Environment.LIVE),
        ({"environment": "live"}, Environment.LIVE),
        ({"environment": " Demo "}, Environment.DEMO),
        ({"isLive": False, "isDemo": True, "environment": "demo"}, Environment.DEMO),
        ({"isLive": None, "environment": "demo"}, Environment.DEMO),
    ],
)
def test_the_environment_is_taken_as_the_row_says_it(said: dict[str, Any], meant: Environment) -> None:
    credential = read("x", entry_of_settings({**TOKENS, **said, "theme": "dark"}))
    assert credential.environment is meant
    assert credential.account_id == "12"
    assert {name: secret.reveal() for name, secret in credential.secrets.items()} == {
        "accessToken": "a",
        "refreshToken": "r",
    }


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({}, "environment"),
        ({"isLive": None}, "environment"),
        ({"isLive": True, "isDemo": True}, "environment"),
        ({"isLive": True, "environment": "demo"}, "environment"),
        ({"isLive": "true"}, "isLive"),
        ({"isLive": 1}, "isLive"),
        ({"isDemo": 0}, "isDemo"),
        ({"environment": "paper"}, "environment"),
        ({"environment": ""}, "environment"),
        ({"environment": 3}, "environment"),
        ({"isLive": True, "accessToken": None}, "accessToken"),
        ({"isLive": True, "accessToken": ["x"]}, "accessToken"),
        ({"isLive": True, "accountId": "1.5"}, "accountId"),
        ({"isLive": True, "accountId": True}, "accountId"),
    ],
)
def test_a_row_is_refused_by_field_when_it_does_not_say_enough(said: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        read("x", entry_of_settings({**TOKENS, **said}))
    assert refusal.value.field == field


@pytest.mark.parametrize(("account", "meant"), [(12, "12"), ("12", "12"), (None, None), ("", None)])
def test_an_account_is_a_number_a_text_or_absent(account: object, meant: str | None) -> None:
    assert read("x", entry_of_settings({**TOKENS, "isDemo": True, "accountId": account})).account_id == meant


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '"text"', '"[1]"'])
def test_a_value_is_refused_when_it_is_no_object(text: str) -> None:
    with pytest.raises(InvalidInput):
        read_value(text)


def test_a_value_may_be_an_object_or_a_text_of_one() -> None:
    assert read_value('{"a": 1}') == {"a": 1}
    assert read_value('"{\\"a\\": 1}"') == {"a": 1}
    assert read_value("null") is None


def grant(seen: str | None, *, source: Source = Source.SETTINGS, sealed: bytes | None = b"x") -> Grant:
    return Grant(
        id="g",
        user_key="u",
        broker="broker",
        environment=Environment.DEMO,
        account_id=None,
        scope=None,
        accounts=(),
        accounts_at_ms=None,
        sealed=sealed,
        version=2,
        expires_at_ms=None,
        leased=False,
        refresh_attempts=0,
        refusal=None,
        source=source,
        source_print=seen,
        created_at_ms=0,
        updated_at_ms=0,
    )


FOUND = FoundSettings({}, read("x", entry_of_settings({**TOKENS, "isDemo": True})), "tokens.choice")


@pytest.mark.parametrize(
    ("present", "found", "step"),
    [
        (None, None, Step.NOTHING),
        (None, FOUND, Step.IMPORT),
        (grant(None), None, Step.REMEMBER),
        (grant(NOTHING_THERE), None, Step.NOTHING),
        (grant("tokens.choice"), None, Step.NOTHING),
        (grant(None, source=Source.CONSENT), FOUND, Step.REMEMBER),  # the vault wins over what may be older
        (grant(NOTHING_THERE, source=Source.CONSENT), FOUND, Step.IMPORT),  # it came later
        (grant("tokens.choice"), FOUND, Step.NOTHING),
        (grant("tokens.other"), FOUND, Step.CHOOSE),
        (grant("tokens.other", source=Source.ENTERED), FOUND, Step.REMEMBER),
        (grant("tokens.other", sealed=None), FOUND, Step.REMEMBER),
        (grant("older.choice"), FOUND, Step.IMPORT),
        (grant("older.choice", source=Source.CONSENT), FOUND, Step.IMPORT),
        (grant("older.choice", sealed=None), FOUND, Step.IMPORT),
        (grant("tokens.choice", sealed=None), FOUND, Step.NOTHING),  # removed stays removed
    ],
)
def test_a_look_at_the_row_leads_to_one_step(present: Grant | None, found: FoundSettings | None, step: Step) -> None:
    assert next_step(present, found) is step
