"""Stored cTrader credentials: what an entry must look like, and its parts. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bridge.brokers.base import BrokerFault, Credential, Environment, FaultKind, Reason, ReasonCode
from bridge.brokers.entries import other_environment, secret_field, text_field
from core.errors import InvalidInput
from core.secret import Secret

_ACCOUNT_ID = re.compile(r"[0-9]{1,19}")  # int64
_FIELDS = frozenset({"accessToken", "refreshToken", "environment", "accountId"})


def read(grant_id: str, entry: Mapping[str, object]) -> Credential:
    """Check `{"accessToken", "refreshToken"?, "environment", "accountId"?}`. Raises InvalidInput naming the field.

    The environment is required: a live account is never assumed (nor a demo one).
    """
    for name in entry:
        if name not in _FIELDS:
            raise InvalidInput(f"unknown field {name!r} in a ctrader credential", field=name)
    access = secret_field(entry, "accessToken")
    if access is None:
        raise InvalidInput("accessToken is missing", field="accessToken")
    word = text_field(entry, "environment")
    if word not in tuple(Environment):
        raise InvalidInput('environment must be "demo" or "live"', field="environment")
    account_id = text_field(entry, "accountId")
    if account_id is not None and not _ACCOUNT_ID.fullmatch(account_id):
        raise InvalidInput("accountId must be a string of digits, 19 at most", field="accountId")
    secrets = {"accessToken": access}
    refresh = secret_field(entry, "refreshToken")
    if refresh is not None:
        secrets["refreshToken"] = refresh
    return Credential(grant_id, Environment(word), secrets, account_id)


def entry_of_settings(value: Mapping[str, object]) -> dict[str, object]:
    """What `read` takes, of an app's own settings row `{"accessToken", "refreshToken", "accountId", …}`.

    One of isLive, isDemo and environment must say where the account is, and those that are there must agree: neither
    live nor demo is ever assumed. Other fields are the app's own. Raises InvalidInput naming the field.
    """
    account_id = value.get("accountId")
    if isinstance(account_id, int) and not isinstance(account_id, bool):
        account_id = str(account_id)
    entry = {"environment": _environment_of_settings(value).value, "accountId": account_id or None}
    return entry | {name: value.get(name) for name in ("accessToken", "refreshToken")}


def _environment_of_settings(value: Mapping[str, object]) -> Environment:
    said: set[Environment] = set()
    for name, meant in (("isLive", Environment.LIVE), ("isDemo", Environment.DEMO)):
        flag = value.get(name)
        if flag is None:
            continue
        if not isinstance(flag, bool):
            raise InvalidInput(f"{name} must be true or false", field=name)
        said.add(meant if flag else other_environment(meant))
    word = value.get("environment")
    if word is not None:
        if not isinstance(word, str) or word.strip().lower() not in tuple(Environment):
            raise InvalidInput('environment must be "demo" or "live"', field="environment")
        said.add(Environment(word.strip().lower()))
    if len(said) != 1:
        how = "says" if not said else "agrees on"
        raise InvalidInput(f"none of isLive, isDemo and environment {how} whether it is live", field="environment")
    return said.pop()


def access_token(credential: Credential) -> Secret:
    """The access token. Raises a TOKEN fault when there is none, so that it is refreshed."""
    token = credential.secrets.get("accessToken")
    if token is None:
        raise BrokerFault(FaultKind.TOKEN, Reason(ReasonCode.TOKEN_EXPIRED, "There is no access token."))
    return token


def cannot_refresh() -> BrokerFault:
    """No refresh token is stored: only the user can help."""
    reason = Reason(ReasonCode.TOKEN_EXPIRED, "The consent has expired and cannot be renewed; please connect again.")
    return BrokerFault(FaultKind.FATAL_USER, reason)
