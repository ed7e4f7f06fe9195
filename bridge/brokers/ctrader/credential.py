"""Stored cTrader credentials: what an entry must look like, and its parts. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from bridge.brokers.base import BrokerFault, Credential, Environment, FaultKind, Reason, ReasonCode
from core.errors import InvalidInput
from core.secret import Secret

_FIELDS = frozenset({"accessToken", "refreshToken", "environment", "accountId"})


def read(grant_id: str, entry: Mapping[str, object]) -> Credential:
    """Check `{"accessToken", "refreshToken"?, "environment", "accountId"?}`. Raises InvalidInput naming the field.

    The environment is required: a live account is never assumed (nor a demo one).
    """
    for name in entry:
        if name not in _FIELDS:
            raise InvalidInput(f"unknown field {name!r} in a ctrader credential", field=name)
    access = _text(entry, "accessToken")
    if access is None:
        raise InvalidInput("accessToken is missing", field="accessToken")
    word = _text(entry, "environment")
    if word not in tuple(Environment):
        raise InvalidInput('environment must be "demo" or "live"', field="environment")
    account_id = _text(entry, "accountId")
    if account_id is not None and not (account_id.isascii() and account_id.isdecimal()):
        raise InvalidInput("accountId must be a string of digits", field="accountId")
    secrets = {"accessToken": Secret(access)}
    refresh = _text(entry, "refreshToken")
    if refresh is not None:
        secrets["refreshToken"] = Secret(refresh)
    return Credential(grant_id, Environment(word), secrets, account_id)


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


def _text(entry: Mapping[str, object], name: str) -> str | None:
    """An optional text field; null counts as absent."""
    value = entry.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(f"{name} must be a string that is not empty", field=name)
    return value.strip()
